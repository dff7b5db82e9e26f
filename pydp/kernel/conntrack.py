# SPDX-License-Identifier: Apache-2.0
"""What the kernel counts of its own conntrack table, per namespace. No rights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# /proc/net is the namespace of the process's first thread, which need not be the caller's.
_STATISTICS = Path("/proc/thread-self/net/stat/nf_conntrack")
_SYSCTL = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True)
class KernelConntrack:
    """nf_conntrack of this namespace. ``evicted``: entries of connections that had to go for new ones (early_drop);
    ``failures``: that found no room or another one in their place (drop, insert_failed); ``invalid``: packets of none.
    """

    entries: int
    max_entries: int
    evicted: int
    failures: int
    invalid: int


def read_conntrack() -> KernelConntrack | None:
    """None where the kernel has no conntrack, or does not show it. Raises OSError."""
    try:
        lines = _STATISTICS.read_text().splitlines()
        most = int((_SYSCTL / "nf_conntrack_max").read_text())
    except FileNotFoundError:
        return None
    return decode(lines, most)


def decode(lines: list[str], most: int) -> KernelConntrack:
    """A heading and a line of hexadecimal numbers for each CPU; the number of entries is the same in each."""
    names = lines[0].split()
    cpus = [dict(zip(names, (int(word, 16) for word in line.split()), strict=False)) for line in lines[1:]]

    def total(*keys: str) -> int:
        return sum(cpu.get(key, 0) for cpu in cpus for key in keys)

    return KernelConntrack(
        entries=cpus[0].get("entries", 0) if cpus else 0,
        max_entries=most,
        evicted=total("early_drop"),
        failures=total("drop", "insert_failed"),
        invalid=total("invalid"),
    )
