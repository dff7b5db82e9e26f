# SPDX-License-Identifier: Apache-2.0
"""A parent device and its children, as modes macvlan and ipvlan have them: which ports, and records of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydp.errors import UsageError
from pydp.model import Link
from pydp.modes.base import Context, Role, Target, View

MAPS = frozenset({"child_ports", "child_tails"})
TAILS = {"child_tails": "child_copies"}
MAX_PORTS = 256  # CHILD_PORTS
PRESENT, PEER = 1, 2  # enum child_flag
ETHERNET_AND_TAG = 18  # a frame may be longer than the MTU by both (is_skb_forwardable, net/core/dev.c)


def parse_children(texts: Sequence[str], mode: str) -> dict[str, str]:
    """What was said of each child by the device's name: DEV=WHAT, or DEV alone. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, what = text.partition("=")
        if not name:
            raise UsageError(f"--child {text}: which device?")
        if name in found:
            raise UsageError(f"--child {name}: it is named twice")
        found[name] = what
    if not found:
        raise UsageError(f"mode {mode} needs --child", hint=f"pydp attach --mode {mode} --child DEV PARENT")
    if len(found) + 1 > MAX_PORTS:
        raise UsageError(f"--child: {MAX_PORTS - 1} children at most, not {len(found)}")
    return found


def target_of(children: Mapping[str, str], names: Sequence[str], view: View, mode: str) -> Target:
    """The parent, which is the one interface named, and its children. Raises UsageError."""
    if len(names) != 1:
        raise UsageError(f"mode {mode} has one parent", hint="devices that lead to containers: --child DEV")
    parent = view.link(names[0])
    _check(parent, view, parent.name)
    links = [view.link(name) for name in children]
    for link in links:
        _check(link, view, f"--child {link.name}")
        if link.ifindex == parent.ifindex:
            raise UsageError(f"--child {link.name}: it is the parent")
    return Target((parent.ifindex, *(link.ifindex for link in links)), roles={parent.ifindex: Role.PARENT})


def _check(link: Link, view: View, what: str) -> None:
    if link.loopback:
        raise UsageError(f"{what}: the loopback device cannot be a port")
    if link.master:
        raise UsageError(
            f"{what}: it is a port of {view.name(link.master)}, which takes its frames",
            hint=f"ip link set {link.name} nomaster",
        )


def parent_of(context: Context) -> Link:
    """The parent device."""
    return context.view.links[parent_index(context)]


def parent_index(context: Context) -> int:
    return next(ifindex for ifindex, role in context.target.roles.items() if role == Role.PARENT)


def child_indices(context: Context) -> list[int]:
    """The children's interface indices, in the order of the slots."""
    return [ifindex for ifindex in context.slots if context.target.role(ifindex) != Role.PARENT]


def records(context: Context, macs: Mapping[int, bytes]) -> dict[int, tuple[Any, ...]]:
    """struct child_port by slot. MACS has the address of each port."""
    found = {}
    for ifindex, slot in context.slots.items():
        flags = PRESENT | (PEER if ifindex in context.peers else 0)
        link = context.view.links[ifindex]
        both = (int.from_bytes(one, "little") for one in (macs[ifindex], link.mac))
        found[slot] = (*both, ifindex, link.mtu + ETHERNET_AND_TAG, flags)
    return found


def constants_of(context: Context) -> dict[str, int]:
    """What lib/child.h needs: the parent's slot, and how many slots there are to loop over."""
    return {
        "PYDP_CHILD_PARENT": context.slots[parent_index(context)],
        "PYDP_CHILD_SLOTS": max(context.slots.values()) + 1,
    }
