# SPDX-License-Identifier: Apache-2.0
"""How long frames were under way, as the sink has it: a histogram (bpf_src/bench/delay.h)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydp.bench.frames import Sink

_STEPS = 6  # BENCH_STEPS
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Delays:
    """How many frames fell into each bucket."""

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, sink: Sink) -> Delays:
        """All there were at a sink that is timed. Raises MapError."""
        return cls({bucket: count for bucket, (count,) in sink.maps["bench_delays"].sums().items()})

    def since(self, before: Delays) -> Delays:
        """Those that came after BEFORE."""
        return Delays({bucket: count - before.counts.get(bucket, 0) for bucket, count in self.counts.items()})

    def percentile(self, percent: float) -> float:
        """The delay in ns that so many percent of the frames do not exceed, to within 1/64 of it. Raises ValueError
        without frames.
        """
        wanted = math.ceil(sum(self.counts.values()) * percent / 100)
        seen = 0
        for bucket, count in sorted(self.counts.items()):
            seen += count
            if seen >= max(wanted, 1):
                return middle(bucket)
        raise ValueError("no delays to take a percentile of")

    def percentiles(self) -> dict[str, float]:
        """Those of PERCENTILES, in seconds."""
        return {f"{percent:g}": self.percentile(percent) / 1e9 for percent in PERCENTILES}


def middle(bucket: int) -> float:
    """Of what falls into a bucket, in ns."""
    power, rest = divmod(bucket, 1 << _STEPS)
    if power < 2:  # buckets that are 1 ns wide
        return float(bucket)
    width = 1 << (power - 1)
    return (1 << _STEPS | rest) * width + (width - 1) / 2
