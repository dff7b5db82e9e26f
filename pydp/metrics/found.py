# SPDX-License-Identifier: Apache-2.0
"""What collectors get from what they read, before samples are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydp import conntrack
from pydp.fdb import Census
from pydp.kernel.conntrack import KernelConntrack
from pydp.kernel.linkstats import BridgeDevice, LinkStats, VxlanDevice
from pydp.tunnels import Tunnel
from pydp.tunnels.fates import Fate

Sample = tuple[str, tuple[str, ...], float]
"""(metric, values of its labels in the order of its family, value)."""


@dataclass(frozen=True, slots=True)
class Links:
    """The kernel's side: counters of all devices, and which of them are bridges and vxlan devices, by ifindex."""

    stats: Mapping[int, LinkStats]
    bridges: Mapping[int, BridgeDevice] = field(default_factory=dict)
    vxlans: Mapping[int, VxlanDevice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FdbTable:
    """The FDB of an instance. ``max_entries``: addresses it was made for; ``places`` there are; ``events`` by name."""

    instance: str
    census: Census
    max_entries: int
    places: int
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tunnels:
    """The tunnels of an instance, and how many VTEPs that nobody named it knows and may know."""

    instance: str
    mode: str
    tunnels: Sequence[Tunnel]
    guests: int = 0
    max_guests: int = 0
    fates: Sequence[Fate] = ()


@dataclass(frozen=True, slots=True)
class Conntrack:
    """The conntrack table of an instance; ``events`` by name."""

    instance: str
    census: conntrack.Census
    max_entries: int
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Conntracks:
    """The tables of all instances, and the kernel's own if it has one."""

    tables: Sequence[Conntrack]
    kernel: KernelConntrack | None = None
