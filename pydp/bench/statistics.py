# SPDX-License-Identifier: Apache-2.0
"""Medians with intervals, ratios of what was measured side by side, and what may be claimed from them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

MIN_BLOCKS = 5  # with fewer, the smallest and the largest of a sample enclose its median in less than 93.75 % of cases
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the interval that holds the true one with the confidence asked for."""

    median: float
    low: float
    high: float

    def map(self, scale: float) -> Interval:
        """The same in another unit."""
        return Interval(self.median * scale, self.low * scale, self.high * scale)


class Finding(StrEnum):
    """What a measurement says about a target."""

    MET = "met"
    NOT_MET = "not met"
    UNCLEAR = "noise too high to tell"


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that is to be reached."""

    at_least: float

    def judge(self, ratio: Interval, blocks: int) -> Finding:
        """Met or missed when the whole interval is on one side, and there are blocks enough to have an interval."""
        if blocks < MIN_BLOCKS:
            return Finding.UNCLEAR
        if ratio.low >= self.at_least:
            return Finding.MET
        return Finding.NOT_MET if ratio.high < self.at_least else Finding.UNCLEAR


def bootstrap(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The median, and its percentile bootstrap interval (Efron 1979). Equal values give an equal interval again: SEED.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values to take a median of")
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = (1 - confidence) / 2
    low, high = medians[math.floor(tail * (_RESAMPLES - 1))], medians[math.ceil((1 - tail) * (_RESAMPLES - 1))]
    return Interval(median(values), low, high)


def block_ratio(mine: Sequence[float], other: Sequence[float]) -> float:
    """The ratio of two paths within one block: of the geometric means, which weigh 2 and 1/2 alike."""
    return math.exp(_mean_log(mine) - _mean_log(other))


def ratio(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """The median over blocks of one path's ratio to another: PAIRS holds both paths' values block by block.

    Taken of logarithms, so that A to B is exactly one over B to A. Raises ValueError without blocks.
    """
    logs = bootstrap([math.log(block_ratio(mine, other)) for mine, other in pairs])
    return Interval(math.exp(logs.median), math.exp(logs.low), math.exp(logs.high))


def _mean_log(values: Sequence[float]) -> float:
    return math.fsum(math.log(value) for value in values) / len(values)
