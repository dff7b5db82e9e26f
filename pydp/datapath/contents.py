# SPDX-License-Identifier: Apache-2.0
"""What a mode may look at when it is attached, and what it makes of that: constants, sizes, routes and numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from ebpf.hooks import holders
from ebpf.maps import Map
from pydp.datapath.hooks import takes_peer
from pydp.datapath.specs import dict_options
from pydp.datapath.state import Instance, State
from pydp.kernel import (
    Device,
    XdpFeature,
    read_addresses,
    read_defaults,
    read_fdb,
    read_vxlan_fdb,
    read_xdp_features,
)
from pydp.model import Route
from pydp.modes import MODES
from pydp.modes.base import Context, Role, Target, View

Name = TypeVar("Name", int, str)


class Filler(Protocol):
    """Who fills the maps that are changed while an instance runs, and keeps what they should hold in a file of its own.

    Both are called within the lock, before anything is switched; BEFORE is the instance that is replaced, if any.
    """

    def room(self, before: Instance | None) -> Mapping[str, int]:
        """How many entries maps must have room for, at the least. Raises PydpError."""

    def fill(self, instance: Instance, before: Instance | None, maps: Mapping[str, Map]) -> None:
        """Fill MAPS, which are all of the instance's by name, and write the file. Raises PydpError, EbpfError."""


def with_contents(
    instance: Instance, context: Context, before: Instance | None, room: Mapping[str, int]
) -> tuple[Instance, Context]:
    """The instance with what its mode makes of all that is known now. ROOM: entries that maps must have room for.

    Raises PydpError, OSError.
    """
    mode, options = MODES[instance.mode], dict_options(instance)
    context = _with_addresses(with_fdb(context), instance.all_hooks)
    had = before.numbers if before else {}
    numbers = {kind: numbered(names, had.get(kind, {})) for kind, names in mode.members(options, context).items()}
    released = {kind: frozenset(had.get(kind, {}).values()) - set(numbers[kind].values()) for kind in numbers}
    context = replace(context, numbers=numbers, released=released)
    routes = mode.routes(options, context)
    if routes:
        from pydp.kernel.routes import resolved

        routes = resolved(routes)
    sizes = mode.sizes(options, context)
    instance = replace(
        instance,
        constants=mode.constants(options, context),
        sizes={**sizes, **{name: max(sizes.get(name, 0), entries) for name, entries in room.items()}},
        routes=tuple(routes),
        groups=tuple(mode.groups(options, context)),
        numbers=numbers,
    )
    return instance, context


def slots_of(ports: Sequence[int], before: Instance | None) -> dict[int, int]:
    """The slot of each port."""
    return numbered(ports, before.slots if before else {})


def numbered(names: Sequence[Name], before: Mapping[Name, int]) -> dict[Name, int]:
    """Who has a number keeps it, the others get the lowest that was not in use: what was learned points to them."""
    kept = {name: before[name] for name in names if name in before}
    taken = set(before.values())
    free = (number for number in itertools.count() if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in names}


def peers_of(devices: Mapping[int, Device], name: str, old: State) -> frozenset[int]:
    """The ports whose other end may be handed frames at once by the instance of that name. A program of its own on the
    way out of them is in nobody's way: it has seen to these frames where they came in.
    """
    own = {one.ifindex for one in old.attachments.values() if one.hook == "tc-egress" and set(one.stages) == {name}}
    veths = [ifindex for ifindex, device in devices.items() if device.link.kind == "veth"]
    egress = {
        ifindex: holders(ifindex, "tc-egress", name=devices[ifindex].link.name)[ifindex in own :] for ifindex in veths
    }
    return frozenset(ifindex for ifindex in veths if takes_peer(devices[ifindex], egress))


def with_fdb(context: Context) -> Context:
    """With what the adopted devices of the kernel have learned. Raises OSError."""
    bridges, vxlans = adopted(context.target, context.view)
    return replace(
        context,
        fdb=[entry for ifindex in bridges for entry in read_fdb(ifindex)],
        vxlan_fdb=[entry for ifindex in vxlans for entry in read_vxlan_fdb(ifindex)],
        foreign_routes=_routes_into_tunnels(context),
    )


def _routes_into_tunnels(context: Context) -> Sequence[Route]:
    """All routes of the kernel, if an IP tunnel device is adopted. Raises OSError."""
    if context.target.adopted not in context.view.tunnels:
        return ()
    from pydp.kernel.routes import read_routes

    return read_routes(0)


def adopted(target: Target, view: View) -> tuple[list[int], list[int]]:
    """The bridges and vxlan devices that are adopted: a bridge, or all vxlan devices on the underlay with theirs."""
    if target.adopted in view.bridges:
        return [target.adopted], []
    underlays = {ifindex for ifindex, role in target.roles.items() if role == Role.UNDERLAY}
    vxlans = [one for one in view.vxlans.values() if target.adopted in view.vxlans and one.lower in underlays]
    return sorted({one.master for one in vxlans} & set(view.bridges)), [one.ifindex for one in vxlans]


def _with_addresses(context: Context, hooks: Sequence[str]) -> Context:
    """With this host's addresses, and with the devices that take frames from programs on HOOKS. Raises OSError."""
    takers = frozenset[int]()
    if "xdp-generic" in hooks:  # such frames leave as any other do
        takers = frozenset(context.view.links)
    elif "xdp" in hooks:
        features = read_xdp_features() or {}
        takers = frozenset(ifindex for ifindex, found in features.items() if XdpFeature.NDO_XMIT in found)
    return replace(context, addresses=read_addresses(), defaults=read_defaults(), takers=takers)
