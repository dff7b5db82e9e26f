# SPDX-License-Identifier: Apache-2.0
"""Mode macvlan: what the maps of bpf_src/macvlan.c should hold.

A child's MAC address is that of the container's end of its veth, as it is a property of the kernel's device: taken from
there when attaching, or given. A container that changes its address needs another attach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydp.errors import UsageError
from pydp.modes import table
from pydp.modes.base import Context, Entries, Mode, Role, Target, Traits, View
from pydp.modes.children import (
    MAPS,
    TAILS,
    child_indices,
    constants_of,
    is_mac,
    parent_index,
    parent_of,
    parse_children,
    records,
    station_mac,
    target_of,
)
from pydp.options import option

TYPES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}  # enum macvlan_type


@dataclass(frozen=True, slots=True)
class MacvlanOptions:
    """Options of --mode macvlan. The interface named is the parent."""

    child: tuple[str, ...] = option(
        (), "texts", "device that leads to a container, and the MAC address of the container's end, found where it can "
        "be seen", metavar="DEV[=MAC]",
    )  # fmt: skip
    type: str = option("bridge", "choice", "as with ip link add type macvlan mode TYPE", choices=tuple(TYPES))


class MacvlanMode(Mode):
    """See bpf_src/macvlan.c."""

    name = "macvlan"
    traits = Traits(
        order=40,
        depth=2,
        maps=MAPS | {"macvlan_known"},
        tails=TAILS,
        finishes=True,
        promiscuous=frozenset({Role.PORT, Role.PARENT}),
        written=("PYDP_CHILD_PARENT", "PYDP_MACVLAN_FIRST", "PYDP_MACVLAN_KNOWN"),
    )
    Options = MacvlanOptions

    def target(self, options: MacvlanOptions, names: Sequence[str], view: View) -> Target:
        children = parse_children(options.child, self.name)
        if options.type == "passthru" and len(children) > 1:
            raise UsageError("--type passthru: it has one child", hint="the other types have several")
        for name, what in children.items():
            _check_mac(name, what)
        return target_of(children, names, view, self.name)

    def hooks(self, options: MacvlanOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """XDP cannot copy a frame: a tc program beside it does."""
        return (hook,) if hook == "tc" else (hook, "tc")

    def constants(self, options: MacvlanOptions, context: Context) -> Mapping[str, int]:
        children = child_indices(context)
        return {
            **constants_of(context),
            "PYDP_MACVLAN_TYPE": TYPES[options.type],
            "PYDP_MACVLAN_FIRST": context.slots[children[0]],
            "PYDP_MACVLAN_KNOWN": len(_known(options, context)),
        }

    def sizes(self, options: MacvlanOptions, context: Context) -> Mapping[str, int]:
        return {"macvlan_known": len(_known(options, context))}

    def entries(self, options: MacvlanOptions, context: Context) -> Entries:
        macs = {**_macs(options, context), parent_index(context): parent_of(context).mac}
        return {
            "child_ports": records(context, macs),
            "macvlan_known": dict(enumerate(_known(options, context))),
        }


def _check_mac(name: str, text: str) -> None:
    if text and not is_mac(text):
        raise UsageError(
            f"--child {name}={text}: {text} is not a MAC address", hint=f"--child {name}=02:00:00:00:00:01"
        )
    if text and not station_mac(text):
        raise UsageError(f"--child {name}={text}: not the address of one device")


def _macs(options: MacvlanOptions, context: Context) -> dict[int, bytes]:
    """The MAC address of each child by ifindex. Raises UsageError where one is not known or not its own."""
    given = parse_children(options.child, "macvlan")
    parent, passthru = parent_of(context), options.type == "passthru"
    found: dict[int, bytes] = {}
    for ifindex in child_indices(context):
        name = context.view.name(ifindex)
        mac = station_mac(given[name]) if given.get(name) else context.ends.get(ifindex, b"")
        if not mac and passthru:  # the kernel's device has its parent's
            mac = parent.mac
        if not mac:
            raise UsageError(
                f"--child {name}: the MAC address of its other end is not to be seen from here",
                hint=f"--child {name}=MAC",
            )
        if mac == parent.mac and not passthru:
            raise UsageError(f"--child {name}: {mac.hex(':')} is the address of {parent.name}")
        if mac in found.values():
            raise UsageError(f"--child {name}: another child has its address {mac.hex(':')}")
        found[ifindex] = mac
    return found


def _known(options: MacvlanOptions, context: Context) -> list[tuple[object, ...]]:
    """struct table_bucket: the slot of each child by its address."""
    macs = _macs(options, context)
    return table.buckets(
        {int.from_bytes(mac, "little") | 1 << 63: context.slots[ifindex] for ifindex, mac in macs.items()}
    )
