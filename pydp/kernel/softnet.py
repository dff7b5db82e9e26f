# SPDX-License-Identifier: Apache-2.0
"""Where the kernel spends itself on packets: softnet of each CPU, and CPU time by kind. Both are the whole machine's,
in whichever namespace they are asked for. No rights are needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# /proc/net is the namespace of the process's first thread, which need not be the caller's.
_SOFTNET = Path("/proc/thread-self/net/softnet_stat")
_STAT = Path("/proc/stat")
_BPF_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
_CPU = 12  # which word is the CPU's number, since Linux 5.10
# The first words of a line of /proc/stat (proc(5)); guests' time is within user and nice.
STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True, slots=True)
class Softnet:
    """A CPU's backlog: frames taken, frames dropped as it was full, and times that there was more to do when its time
    was up (net.core.netdev_budget).
    """

    cpu: str
    packets: int
    dropped: int
    squeezed: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What is counted for the whole machine; ``seconds`` of CPU time by `STATES`, of all CPUs together."""

    softnet: Sequence[Softnet] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    program_stats: bool = False


def read_machine() -> Machine:
    """Raises OSError."""
    stats = _BPF_STATS.read_text().strip() != "0" if _BPF_STATS.exists() else False
    return Machine(decode_softnet(_SOFTNET.read_text()), decode_times(_STAT.read_text()), stats)


def decode_softnet(text: str) -> list[Softnet]:
    """A line of hexadecimal numbers for each CPU that is online."""
    found = []
    for number, line in enumerate(text.splitlines()):
        words = [int(word, 16) for word in line.split()]
        cpu = words[_CPU] if len(words) > _CPU else number
        found.append(Softnet(str(cpu), *words[:3]))
    return found


def decode_times(text: str) -> dict[str, float]:
    """Seconds by state, of the first line: all CPUs."""
    words = text.partition("\n")[0].split()[1:]
    ticks = os.sysconf("SC_CLK_TCK")
    return {state: int(word) / ticks for state, word in zip(STATES, words, strict=False)}
