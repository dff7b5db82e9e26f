# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is, as the datapath is told: which share of flows goes by eBPF, and until when.

A turn ends by itself a little after it should have been followed by another one: see bpf_src/lib/compare.h.
"""

from __future__ import annotations

import time

from ebpf.maps import Map
from pydp.datapath import comparing
from pydp.datapath.reader import coarse_clock

_SHIFT = 24  # CLOCK_TICK_SHIFT: ns to ticks
_TICK = (1 << _SHIFT) / 1e9  # s
_LEAST_GRACE = 0.05  # s


class Turns:
    """Gives turns. REST is the share by eBPF when nobody says anything: 1 for what was attached before."""

    _turns: Map

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self._until = 0.0

    def open(self, turns: Map) -> None:
        """The map to write, or another descriptor of it."""
        self._turns = turns

    def give(self, share: float, seconds: float) -> None:
        """From now on, SHARE of the flows goes by eBPF, the others by the kernel. Raises MapError."""
        if share == self._rest:
            self.end()
            return
        ticks = ((coarse_clock() >> _SHIFT) + 1 + int((seconds + grace(seconds)) / _TICK)) & 0xFFFFFFFF
        self._until = time.monotonic() + seconds + grace(seconds)
        self._turns.set(0, (ticks or 1, round(share * comparing.WHOLE)))

    def end(self) -> None:
        """As if nobody said anything. Raises MapError."""
        self._turns.set(0, (0, 0))
        self._until = 0.0

    @property
    def late(self) -> bool:
        """Whether the turn may have ended by itself meanwhile."""
        return bool(self._until) and time.monotonic() >= self._until - _TICK


def grace(seconds: float) -> float:
    """How much longer a turn of so many seconds may last."""
    return max(_LEAST_GRACE, seconds / 5)
