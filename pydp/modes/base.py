# SPDX-License-Identifier: Apache-2.0
"""What a mode is: pure functions from options and a picture of the kernel to what its maps should hold.

Nothing here opens a socket or a file, or knows eBPF. Keys and values are plain integers, tuples and bytes in the order
of the C struct's members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Protocol

from pydp.model import Bridge, Defaults, FdbEntry, Group, Link, Route, Tunnel, Vxlan, VxlanFdbEntry

Entries = Mapping[str, Mapping[Any, Any]]
Interface = IPv4Interface | IPv6Interface


class View(Protocol):
    """The picture of the kernel (pydp.kernel.View), as far as modes look at it."""

    @property
    def links(self) -> Mapping[int, Link]: ...
    @property
    def bridges(self) -> Mapping[int, Bridge]: ...
    @property
    def vxlans(self) -> Mapping[int, Vxlan]: ...
    @property
    def tunnels(self) -> Mapping[int, Tunnel]: ...
    def name(self, ifindex: int) -> str: ...
    def link(self, name: str) -> Link: ...


class Role(IntEnum):
    """What a port is to its instance (enum role in abi.h)."""

    PORT = 0
    UNDERLAY = 1
    COMPANION = 2
    PARENT = 3


@dataclass(frozen=True, slots=True)
class Companion:
    """A VXLAN device of the kernel that is made for an instance and goes with it: see ARCHITECTURE.md.

    Where the kernel has its own devices it is not ``serving``: it stays down and is only what routes are looked up by.
    """

    name: str
    port: int
    port_range: tuple[int, int] = (0, 0)
    serving: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """What an attach is about: the ports, and the kernel device that is adopted, if any (0 for none).

    ``roles`` has the ports that are more than a port; ``companion`` is a device to be made.
    """

    ports: tuple[int, ...]
    adopted: int = 0
    roles: Mapping[int, Role] = field(default_factory=dict)
    companion: Companion | None = None

    def role(self, ifindex: int) -> Role:
        return self.roles.get(ifindex, Role.PORT)


@dataclass(frozen=True, slots=True)
class Context:
    """What a mode may look at when it says what its maps should hold.

    ``slots``: slot of each port by ifindex. ``hook``: "xdp", "xdp-generic" or "tc". ``peers``: ports that are veths
    whose other end may be handed frames at once. ``fdb``: of the adopted bridges, ``vxlan_fdb`` of the adopted vxlan
    devices. ``foreign_routes``: those of the kernel, where IP tunnel devices are adopted. ``companion``: index of the
    device that was made. ``numbers``: of the members by kind and name; ``released``: those that an earlier attach had
    given to members that are gone. ``addresses``: of this host by ifindex, the primary ones of a device first.
    ``takers``: devices that take the frames that programs on HOOK redirect to them. ``ends``: MAC address of the other
    end of ports that are veths, where it can be seen.
    """

    view: View
    target: Target
    slots: Mapping[int, int]
    hook: str
    peers: frozenset[int] = frozenset()
    fdb: Sequence[FdbEntry] = ()
    vxlan_fdb: Sequence[VxlanFdbEntry] = ()
    defaults: Defaults = field(default_factory=Defaults)
    companion: int = 0
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    released: Mapping[str, frozenset[int]] = field(default_factory=dict)
    foreign_routes: Sequence[Route] = ()
    addresses: Mapping[int, Sequence[Interface]] = field(default_factory=dict)
    takers: frozenset[int] = frozenset()
    ends: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Control:
    """A program that is never attached: it takes requests from one map, counting in another, one per run."""

    program: str
    requests: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What the house must know of a mode's C file.

    ``order``: stages run in this order (filter 10, nat 20, tunnel 30, bridge 40). ``depth``: how deep packets are
    parsed (2 to 4, see packet.h). ``maps``: the maps that belong to the stage. ``learned``: those that the datapath
    writes, which survive a replace; of these, ``counted`` are arrays of counters by number, which survive it also when
    the replace makes them larger. ``tails``: prog array -> program to put at index 0, on hook tc.
    ``finishes``: it has a NAME_finish(). ``claims``: it decides about packets, so that two such modes
    would compete for a port's traffic. ``promiscuous``: its ports of these roles must take frames for
    others.
    ``alone``: why packets cannot be left to the kernel for a comparison where nothing of the kernel's is adopted.
    ``separate``: each port gets the hook that suits it best, whatever the others get. ``short``: kinds of hooks where
    it has a NAME_short(), which comes before NAME_stage(), and if it is the first stage, before the packet is parsed:
    it sets the length and, with a verdict other than PASS_UNCLAIMED, where the packet goes. ``again``: by kind of hook,
    programs that begin anew with a packet, with NAME_stage_X() in the place of NAME_stage() for each X; ``again_map``
    is the prog array that they are called by, of which each port and hook has its own: the port's own program is at
    index 0, then they come in order. ``written``: the PYDP_* macros of up to 32 bits that are numbers for the code to
    reckon with, not what it or its maps are shaped by. They are written into the compiled code, so that clang has
    nothing to do when they change.
    """

    order: int
    depth: int
    maps: frozenset[str]
    learned: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    tails: Mapping[str, str] = field(default_factory=dict)
    control: Control | None = None
    finishes: bool = False
    claims: bool = True
    promiscuous: frozenset[Role] = frozenset()
    separate: bool = False
    short: frozenset[str] = frozenset()
    again: Mapping[str, Sequence[str]] = field(default_factory=dict)
    again_map: str = ""
    written: tuple[str, ...] = ()
    alone: str = "nothing of the kernel's would forward its packets in the meantime"


class Mode:
    """One way to treat packets. ``Options`` is a frozen dataclass whose fields are made with pydp.options.option()."""

    name: str
    traits: Traits
    Options: type[Any]

    def target(self, options: Any, names: Sequence[str], view: View) -> Target:
        """Which ports the interfaces named mean. Raises UsageError."""
        raise NotImplementedError

    def hooks(self, options: Any, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """The hooks its programs go to on one port, when the ports' frames are taken at HOOK."""
        return (hook,)

    def constants(self, options: Any, context: Context) -> Mapping[str, int]:
        """PYDP_* macros of its C file."""
        return {}

    def sizes(self, options: Any, context: Context) -> Mapping[str, int]:
        """Number of entries of maps that are not as large as the C file says."""
        return {}

    def entries(self, options: Any, context: Context) -> Entries:
        """What the maps that Python writes should hold: {map: {key: value}}."""
        return {}

    def members(self, options: Any, context: Context) -> Mapping[str, Sequence[str]]:
        """Names, by kind, of what keeps its number in maps when the instance is replaced, as ports do: VTEPs."""
        return {}

    def requests(self, options: Any, context: Context) -> Sequence[tuple[Any, ...]]:
        """What to ask of the control program once the maps are there."""
        return ()

    def routes(self, options: Any, context: Context) -> Sequence[Route]:
        """Routes to be set while the instance is attached. ``via`` is an address that is to be reached, from which the
        next hop follows.
        """
        return ()

    def groups(self, options: Any, context: Context) -> Sequence[Group]:
        """Multicast groups that devices have to join while the instance is attached."""
        return ()
