# SPDX-License-Identifier: Apache-2.0
"""Measuring several paths in turn, so that what drifts meets all of them alike."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydp.bench.errors import BenchError
from pydp.bench.noise import Noise, NoiseMeter
from pydp.lab import LabError


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``value`` is in the scenario's unit; ``cpu_ns`` is the CPU time it cost per packet or per
    kilobyte, ``lost`` the share that did not arrive, ``disordered`` the share that came after a later one, ``offered``
    how many a second were sent by the clock: None where that is not known. ``percentiles`` are those of delays, in
    seconds, by their names, such as "99.9".
    """

    value: float
    cpu_ns: float | None = None
    lost: float | None = None
    disordered: float | None = None
    offered: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Every path measured twice. ``why`` says why it does not count, and is empty when it does."""

    samples: Mapping[str, tuple[Sample, Sample]]
    noise: Noise
    why: str = ""

    def values(self, path: str, *, per_cpu: bool = False) -> tuple[float, float]:
        """Both measurements of a path; with ``per_cpu`` how much a second of CPU time did."""
        first, second = self.samples[path]
        if per_cpu:
            return 1 / (first.cpu_ns or math.inf), 1 / (second.cpu_ns or math.inf)
        return first.value, second.value


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. ``seconds`` is the length of one measurement. A block in which others had more than the
    share ``noise`` of the CPUs does not count, and up to ``spare`` such blocks are measured again. No block begins that
    would probably not be finished ``within`` so many seconds from the first, but for the first one.
    """

    blocks: int
    seconds: float
    spare: int
    noise: float = 0.6
    within: float = math.inf


@dataclass(slots=True)
class Series:
    """The blocks of a scenario so far; ``kept`` are those that count."""

    blocks: list[Block] = field(default_factory=list)

    @property
    def kept(self) -> list[Block]:
        return [block for block in self.blocks if not block.why]

    @property
    def discarded(self) -> int:
        return len(self.blocks) - len(self.kept)

    def samples(self, path: str) -> list[Sample]:
        """All measurements of one path that count."""
        return [sample for block in self.kept for sample in block.samples[path]]

    def pairs(
        self, path: str, other: str, *, per_cpu: bool = False
    ) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """Both paths' values, block by block."""
        return [(block.values(path, per_cpu=per_cpu), block.values(other, per_cpu=per_cpu)) for block in self.kept]


Measure = Callable[[float], Sample]
Progress = Callable[[int], None]  # told how many blocks count so far, before each


def palindrome(names: Sequence[str]) -> list[str]:
    """Forwards and backwards: a drift that is linear in time adds as much to each."""
    return [*names, *reversed(names)]


def measure_block(subjects: Mapping[str, Measure], plan: Plan) -> Block:
    """Measure every subject twice, for as many seconds as the plan says."""
    meter = NoiseMeter()
    found: dict[str, list[Sample]] = {name: [] for name in subjects}
    try:
        for name in palindrome(list(subjects)):
            found[name].append(_measured(name, subjects[name], plan.seconds))
    except LabError as error:  # a tool gave up, as sockperf does when it hardly gets to run
        return Block({}, meter.read(), str(error))
    noise = meter.read()
    why = "" if noise.worst <= plan.noise else "others wanted the CPUs"
    return Block({name: (first, second) for name, (first, second) in found.items()}, noise, why)


def _measured(name: str, measure: Measure, seconds: float) -> Sample:
    try:
        return measure(seconds)
    except BenchError as error:  # it does not know which path it is one of
        raise BenchError(f"{name}: {error}", hint=error.hint) from error


def run(subjects: Mapping[str, Measure], plan: Plan, series: Series, progress: Progress) -> None:
    """Fill SERIES, which holds what was measured also after an interrupt."""
    for name, measure in subjects.items():
        with contextlib.suppress(LabError):  # warm: caches, learned addresses, the generator's idea of its rate
            _measured(name, measure, min(plan.seconds, 0.2))
    begin = time.monotonic()
    while len(series.kept) < plan.blocks and series.discarded <= plan.spare:
        each = (time.monotonic() - begin) / max(len(series.blocks), 1)
        if series.blocks and time.monotonic() - begin + each > plan.within:
            return
        progress(len(series.kept))
        series.blocks.append(measure_block(subjects, plan))
