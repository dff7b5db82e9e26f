# SPDX-License-Identifier: Apache-2.0
"""Which CPU does what: left alone, the scheduler moves the work about, and the numbers with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydp.lab import LabError, Namespace

_IDLE = 3  # field of /proc/stat: behind it are iowait, irq, softirq
_PRIORITY = 1  # the lowest of SCHED_FIFO: above all that is not real time


def pair() -> tuple[int, int]:
    """Two CPUs of those this process may use; the same twice when there is one. The last first: CPU 0 tends to have
    the interrupts.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[-2 if len(allowed) > 1 else -1]


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread, and what it starts, on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let nobody else have the CPU of this thread, and of what it starts, while there is something to do."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def poll_on(ns: Namespace, dev: str, cpu: int) -> None:
    """Have a device, which polls with NAPI, polled by threads on one CPU until it is gone, which go before all else
    there. Raises LabError where the kernel makes none (before 5.12).
    """
    before = _pollers(dev)
    # /sys shows the devices of the namespace that it was mounted in.
    script = 'mount -t sysfs sysfs /sys && echo 1 > "/sys/class/net/$1/threaded"'
    ns.run(["unshare", "--mount", "sh", "-c", script, "sh", dev])
    found = _pollers(dev) - before
    if not found:
        raise LabError(f"{dev} in {ns.name}: no thread polls it")
    for thread in found:
        os.sched_setaffinity(thread, {cpu})
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_PRIORITY))


def _pollers(dev: str) -> set[int]:
    """Threads that poll devices of that name: the kernel calls them napi/DEVICE-NUMBER."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_text().startswith(f"napi/{dev}-"):
                found.add(int(path.parent.name))
    return found


class Busy:
    """The CPU time that one CPU has spent since this was made, on whomever, by the kernel's ticks."""

    def __init__(self, cpu: int) -> None:
        self._name = f"cpu{cpu}"
        self._begun = self._ticks()

    def nanoseconds(self) -> float:
        """So far."""
        return (self._ticks() - self._begun) * 1e9 / os.sysconf("SC_CLK_TCK")

    def _ticks(self) -> int:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name == self._name:
                return sum(map(int, ticks[:_IDLE])) + sum(map(int, ticks[_IDLE + 2 : _IDLE + 4]))
        raise LabError(f"/proc/stat has no {self._name}")
