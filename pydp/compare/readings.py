# SPDX-License-Identifier: Apache-2.0
"""Counters at an instant, and what was counted between two of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ebpf.maps import Map
from pydp.datapath import Reader, Verdict
from pydp.kernel.linkstats import LinkStats, read_link_stats
from pydp.kernel.softnet import Machine, read_machine

KERNEL, EBPF = "kernel", "ebpf"
PATHS = (KERNEL, EBPF)  # enum compare_path
SCALE, STEPS = 320, 8  # COMPARE_SCALE, COMPARE_STEPS
_BUSY = ("system", "irq", "softirq")
_LEFT = ("punt", "compare")

Key = tuple[int, str, str, str]  # ifindex, hook, kind, reason


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is counted, at one instant: verdicts of the instance, its devices, the machine, times of answers."""

    time: float
    verdicts: Mapping[Key, Verdict]
    links: Mapping[int, LinkStats]
    machine: Machine
    answers: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one path did for some time. ``packets`` and ``bytes`` came in by the ports; ``carried`` are those that eBPF
    sent on, ``dropped`` those it dropped; ``answers`` how many came after which time, by steps of the scale.
    ``cpu_seconds``: in the kernel, by all CPUs; ``device_drops``: by the devices and the backlog of the CPUs; None
    where another path had a part in it.
    """

    seconds: float
    packets: int
    bytes: int
    carried: int
    dropped: int
    answers: tuple[int, ...]
    cpu_seconds: float | None = None
    device_drops: int | None = None


def read(reader: Reader, instance: str, times: Map, devices: Iterable[int]) -> Reading:
    """TIMES is the instance's map of that name, open: it takes longer than all else to find out what is in it. Raises
    EbpfError, OSError.
    """
    answers = times.sums()
    links = read_link_stats()
    return Reading(
        time.monotonic(),
        {(one.ifindex, one.hook, one.kind, one.reason): one for one in reader.verdicts()
         if one.instance == instance},
        {ifindex: links[ifindex] for ifindex in devices if ifindex in links},
        read_machine(),
        {
            path: tuple(answers.get(number * SCALE + step, (0,))[0] for step in range(SCALE))
            for number, path in enumerate(PATHS)
        },
    )  # fmt: skip


def turn(path: str, before: Reading, after: Reading) -> Sample:
    """What was counted in a turn of PATH, in which all packets were its."""
    return _sample(
        path, before, after, lambda _: True, cpu_seconds=_cpu(after) - _cpu(before),
        device_drops=max(_device_drops(after) - _device_drops(before), 0),
    )  # fmt: skip


def shared(before: Reading, after: Reading) -> dict[str, Sample]:
    """What was counted by path while both had flows."""
    return {
        KERNEL: _sample(KERNEL, before, after, lambda one: (one.kind, one.reason) == _LEFT),
        EBPF: _sample(EBPF, before, after, lambda one: (one.kind, one.reason) != _LEFT),
    }


def quantile(answers: tuple[int, ...], share: float) -> float:
    """The time in seconds after which SHARE of the answers had come, of which there is one at least."""
    wanted, seen = share * sum(answers), 0
    for step, count in enumerate(answers):
        if count and seen + count >= wanted:
            low, width = _bounds(step)
            return (low + width * (wanted - seen) / count) / 1e9
        seen += count
    raise ValueError("no answers")


def _bounds(step: int) -> tuple[float, float]:
    """The least time of a step of the scale and how much more the greatest is, in ns: see compare_count()."""
    power, part = divmod(step, STEPS)
    width = 2.0 ** (power - 3)
    return (STEPS + part) * width, width


def _sample(
    path: str, before: Reading, after: Reading, mine: Callable[[Verdict], bool], *, cpu_seconds: float | None = None,
    device_drops: int | None = None,
) -> Sample:  # fmt: skip
    packets = size = carried = dropped = 0
    for key, one in after.verdicts.items():
        if not mine(one):
            continue
        earlier = before.verdicts.get(key)
        more = one.packets - (earlier.packets if earlier else 0)
        packets += more
        size += one.bytes - (earlier.bytes if earlier else 0)
        carried += more if one.carried else 0
        dropped += more if one.kind == "drop" else 0
    answers = tuple(now - then for now, then in zip(after.answers[path], before.answers[path], strict=True))
    return Sample(
        after.time - before.time, packets, size, carried, dropped, answers, cpu_seconds=cpu_seconds,
        device_drops=device_drops,
    )  # fmt: skip


def _cpu(reading: Reading) -> float:
    return sum(reading.machine.seconds.get(state, 0.0) for state in _BUSY)


def _device_drops(reading: Reading) -> int:
    devices = sum(one.rx_dropped + one.tx_dropped for one in reading.links.values())
    return devices + sum(one.dropped for one in reading.machine.softnet)
