# SPDX-License-Identifier: Apache-2.0
"""What a comparison found, in the shape that `--json` gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydp.bench.noise import statement
from pydp.bench.statistics import MIN_BLOCKS, Interval, block_ratio, bootstrap, ratio
from pydp.compare.readings import EBPF, KERNEL, PATHS, Sample, quantile
from pydp.compare.run import IDLE, LATE, Block, Plan, Series
from pydp.datapath import comparing

_MEDIAN, _TAIL = 0.5, 0.99
_ANSWERS = {_MEDIAN: 10, _TAIL: 100}  # so many it takes to tell a quantile


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is compared: ``of`` gives it for a sample, None where it cannot be told. ``less``: less is
    better.
    """

    name: str
    title: str
    of: Callable[[Sample], float | None]
    less: bool = False


def _answer(share: float) -> Callable[[Sample], float | None]:
    return lambda sample: quantile(sample.answers, share) if sum(sample.answers) >= _ANSWERS[share] else None


def _cpu(sample: Sample) -> float | None:
    return sample.cpu_seconds / sample.packets * 1e9 if sample.cpu_seconds and sample.packets else None


RATES = (
    Measure("packets_per_second", "packets/s", lambda sample: sample.packets / sample.seconds),
    Measure("bits_per_second", "bits/s", lambda sample: sample.bytes * 8 / sample.seconds),
    Measure("cpu_ns_per_packet", "CPU ns/packet", _cpu, less=True),
)
ANSWERS = (
    Measure("answer_median_seconds", "answered after, median", _answer(_MEDIAN), less=True),
    Measure("answer_p99_seconds", "answered after, 99 %", _answer(_TAIL), less=True),
)
MEASURES = (*RATES, *ANSWERS)


@dataclass(frozen=True, slots=True)
class PathResult:
    """One path over all turns that count. ``packets`` and ``bytes`` came in by the ports; ``carried`` is the share of
    them that eBPF sent on, ``dropped`` how many it dropped, ``device_drops`` how many the devices and the CPUs'
    backlogs did, None where that cannot be told for one path. ``values``: a median with its interval, by measure.
    """

    seconds: float
    packets: int
    bytes: int
    carried: float | None
    dropped: int
    device_drops: int | None
    answers: int
    values: Mapping[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """eBPF's path divided by the kernel's, block by block; None with fewer blocks than an interval takes."""

    measure: str
    ratio: Interval | None
    finding: str
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many count, and how many do not for which reason."""

    kept: int
    idle: int
    late: int


@dataclass(slots=True)
class Results:
    """All of a comparison. ``share`` of the flows went by eBPF at once; None: by turns of ``slice`` seconds."""

    instance: str = ""
    mode: str = ""
    hook: str = ""
    why: str = ""
    adopted: str = ""
    attached_for_it: bool = False
    seconds: float = 0.0
    slice: float = 0.0
    share: float | None = None
    begun: str = ""
    ended: str = ""
    interrupted: bool = False
    fault: str = ""
    noise: str = ""
    blocks: Blocks = Blocks(0, 0, 0)
    paths: dict[str, PathResult] = field(default_factory=dict)
    comparisons: list[Ratio] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"comparison": asdict(self)}


def evaluate(plan: Plan, series: Series, adopted: str) -> Results:
    """Turn blocks into medians, ratios and findings. ADOPTED is the name of the device of the kernel's."""
    one = series.instance
    found = Results(seconds=plan.seconds, slice=plan.slice, share=plan.share, fault=series.fault)
    if one is not None:
        found.instance, found.mode, found.hook, found.why = one.name, one.mode, one.hook, one.why
        found.adopted, found.attached_for_it = adopted, comparing.is_made(one)
    kept = series.kept
    found.blocks = Blocks(len(kept), series.because(IDLE), series.because(LATE))
    found.noise = statement([block.noise for block in series.blocks]) if series.blocks else ""
    measures = MEASURES if plan.share is None else ANSWERS
    # What was idle is shown, too, if there is nothing else.
    for path in PATHS:
        samples = [sample for block in kept or series.blocks for sample in block.samples[path]]
        if samples:
            found.paths[path] = _path(samples)
    found.comparisons = [_ratio(measure, kept, found.blocks) for measure in measures]
    return found


def _path(samples: Sequence[Sample]) -> PathResult:
    packets = sum(sample.packets for sample in samples)
    drops = [sample.device_drops for sample in samples if sample.device_drops is not None]
    return PathResult(
        seconds=math.fsum(sample.seconds for sample in samples),
        packets=packets,
        bytes=sum(sample.bytes for sample in samples),
        carried=sum(sample.carried for sample in samples) / packets if packets else None,
        dropped=sum(sample.dropped for sample in samples),
        device_drops=sum(drops) if drops else None,
        answers=sum(sum(sample.answers) for sample in samples),
        values={measure.name: _median(measure, samples) for measure in MEASURES},
    )


def _median(measure: Measure, samples: Sequence[Sample]) -> Interval | None:
    values = [value for value in map(measure.of, samples) if value is not None]
    return bootstrap(values) if values else None


def _ratio(measure: Measure, kept: Sequence[Block], blocks: Blocks) -> Ratio:
    pairs = []
    for block in kept:
        mine = [value for value in map(measure.of, block.samples[EBPF]) if value]
        other = [value for value in map(measure.of, block.samples[KERNEL]) if value]
        if len(mine) == len(block.samples[EBPF]) and len(other) == len(block.samples[KERNEL]):
            pairs.append((mine, other))
    ratios = tuple(block_ratio(*pair) for pair in pairs)
    if len(pairs) < MIN_BLOCKS:
        return Ratio(measure.name, None, _too_few(measure, kept, blocks), ratios)
    interval = ratio(pairs)
    if interval.low <= 1 <= interval.high:
        return Ratio(measure.name, interval, "no difference seen", ratios)
    return Ratio(measure.name, interval, "more" if interval.low > 1 else "less", ratios)


def _too_few(measure: Measure, kept: Sequence[Block], blocks: Blocks) -> str:
    if len(kept) >= MIN_BLOCKS:
        return "too few answers to tell" if measure in ANSWERS else "cannot be told"
    return "too little traffic to tell" if blocks.idle > blocks.late else "too few blocks to tell"
