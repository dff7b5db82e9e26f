# SPDX-License-Identifier: Apache-2.0
"""What this network namespace has where a tunnel is told nothing."""

from __future__ import annotations

from pathlib import Path

from pydp.model import Defaults

_SYSCTL = Path("/proc/sys/net")
_POSSIBLE = Path("/sys/devices/system/cpu/possible")  # as in 0-3
_RP_FILTER_STRICT = 1  # RFC 3704 2.2


def read_defaults() -> Defaults:
    """The sysctls of the calling thread's namespace; the kernel's own defaults for those that it does not have."""
    known = Defaults()
    low, high = _numbers("ipv4/ip_local_port_range", known.port_range)
    (ttl,) = _numbers("ipv4/ip_default_ttl", (known.ttl,))
    (hop_limit,) = _numbers("ipv6/conf/all/hop_limit", (known.hop_limit,))
    return Defaults(ttl, hop_limit, (low, high), _strict(), possible_cpus())


def possible_cpus() -> int:
    """How many CPUs there may ever be, those that are not there included: what per-CPU maps have values for."""
    return int(_POSSIBLE.read_text().strip().rpartition("-")[2]) + 1


def _strict() -> frozenset[str]:
    """The greater of a device's rp_filter and that of "all" holds (IN_DEV_RPFILTER)."""
    (for_all,) = _numbers("ipv4/conf/all/rp_filter", (0,))
    names = [path.name for path in (_SYSCTL / "ipv4/conf").glob("*") if path.name not in ("all", "default")]
    return frozenset(
        name for name in names if max(for_all, *_numbers(f"ipv4/conf/{name}/rp_filter", (0,))) == _RP_FILTER_STRICT
    )


def _numbers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in (_SYSCTL / name).read_text().split())
    except (OSError, ValueError):
        return default
