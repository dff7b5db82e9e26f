# SPDX-License-Identifier: Apache-2.0
"""What this network namespace has where a tunnel is told nothing."""

from __future__ import annotations

from pathlib import Path

from pydp.model import Defaults

_SYSCTL = Path("/proc/sys/net")


def read_defaults() -> Defaults:
    """The sysctls of the calling thread's namespace; the kernel's own defaults for those that it does not have."""
    known = Defaults()
    low, high = _numbers("ipv4/ip_local_port_range", known.port_range)
    (ttl,) = _numbers("ipv4/ip_default_ttl", (known.ttl,))
    (hop_limit,) = _numbers("ipv6/conf/all/hop_limit", (known.hop_limit,))
    return Defaults(ttl, hop_limit, (low, high))


def _numbers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in (_SYSCTL / name).read_text().split())
    except (OSError, ValueError):
        return default
