# SPDX-License-Identifier: Apache-2.0
"""Whether somebody else wanted the CPUs while we measured.

Pressure stall information is switched off at boot on many kernels; then the time stolen by the hypervisor and the
load average are all that there is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")
_STAT = Path("/proc/stat")
_STEAL = 7  # field of the line "cpu" of /proc/stat, behind user, nice, system, idle, iowait, irq, softirq


@dataclass(frozen=True, slots=True)
class Noise:
    """Shares of a stretch of time: ``pressure``, in which a task that could run waited for a CPU (None where the
    kernel does not tell), and ``steal``, of the CPUs' time given to other guests.
    """

    pressure: float | None
    steal: float

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.pressure or 0, self.steal)


class NoiseMeter:
    """Measures from when it was made."""

    def __init__(self) -> None:
        self._time = time.monotonic()
        self._stalled = _stalled()
        self._steal, self._ticks = _steal()

    def read(self) -> Noise:
        """What there was since the start."""
        stalled, (steal, ticks) = _stalled(), _steal()
        pressure = None
        if stalled is not None and self._stalled is not None:
            pressure = (stalled - self._stalled) / max(time.monotonic() - self._time, 1e-9)
        return Noise(pressure, (steal - self._steal) / max(ticks - self._ticks, 1))


def statement(noises: Sequence[Noise]) -> str:
    """What there was during some blocks, for people."""
    told = [noise.pressure for noise in noises if noise.pressure is not None]
    steal = max((noise.steal for noise in noises), default=0.0)
    if told:
        waited = f"tasks waited for a CPU {_percent(min(told))} to {_percent(max(told))} of the time"
    else:
        waited = "CPU pressure cannot be told (this kernel runs without PSI: boot with psi=1)"
    return f"{waited}, other guests took up to {_percent(steal)} of the CPUs"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _stalled() -> float | None:
    """Seconds in which some task waited, since boot; None where the kernel does not count them."""
    try:
        line = _PRESSURE.read_text().splitlines()[0]
    except OSError:  # no such file, or EOPNOTSUPP when it is switched off
        return None
    return int(line.rpartition("total=")[2]) / 1e6


def _steal() -> tuple[int, int]:
    """Ticks stolen, and all ticks, of all CPUs since boot."""
    ticks = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:]]
    return ticks[_STEAL], sum(ticks[: _STEAL + 1])
