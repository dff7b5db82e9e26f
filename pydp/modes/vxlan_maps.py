# SPDX-License-Identifier: Apache-2.0
"""Records of mode vxlan's maps, by the segments of an instance."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from pydp.modes import table
from pydp.modes.base import Context, Role
from pydp.modes.bridge import ETHERNET_AND_TAG
from pydp.modes.fdb import power_of_two
from pydp.modes.segments import Address, Segment

PRESENT, PEER, PUNT, LEARNING = 1, 2, 4, 8  # enum vxlan_port_flag
VTEP_PRESENT, VTEP_GROUP, VTEP_LEARNING = 1, 2, 4  # enum vxlan_vtep_flag


def number_of(context: Context, segment: Segment) -> int:
    """The number of a segment."""
    return context.numbers["segment"][str(segment.vni)]


def vtep_number(context: Context, segment: Segment, address: Address) -> int:
    """The number of a VTEP of a segment."""
    return context.numbers["vtep"][f"{segment.vni} {address}"]


def known_vteps(segments: Sequence[Segment], context: Context) -> dict[int, int]:
    """Number of each VTEP by its key in the table; of the groups, which send nothing, none. With address 0, that of
    each segment that believes VTEPs which nobody named.
    """
    found = {}
    for segment in segments:
        for address in segment.vteps:
            if not address.is_multicast:
                found[table.table_key(address, segment.vni)] = vtep_number(context, segment, address)
        if segment.any_source:
            nobody = ip_address(bytes(len(segment.local.packed)))
            found[table.table_key(nobody, segment.vni)] = number_of(context, segment)
    return found


def vteps(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_vtep."""
    found: dict[int, tuple[Any, ...]] = {}
    for segment in segments:
        low, high = segment.port_range
        for address in segment.vteps:
            flags = VTEP_PRESENT | (VTEP_GROUP if address.is_multicast else 0)
            flags |= VTEP_LEARNING if segment.learning else 0
            owner = table.table_key(address, segment.vni)
            found[vtep_number(context, segment, address)] = (
                table.address_words(address), owner, number_of(context, segment), segment.vni, segment.flags,
                segment.tos, segment.ttl, low, high, flags,
            )  # fmt: skip
    return found


def ports(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_port of each slot; the underlay's has its address only."""
    of = {ifindex: segment for segment in segments for ifindex in segment.ports}
    found = {}
    for ifindex, slot in context.slots.items():
        if context.target.role(ifindex) == Role.COMPANION:
            continue
        link = context.view.links[ifindex]
        flags = 0
        if ifindex in of:
            segment = of[ifindex]
            flags = PRESENT | (PEER if ifindex in context.peers else 0)
            flags |= PUNT if ifindex in segment.punted else 0
            flags |= LEARNING if ifindex not in segment.deaf else 0
        mac = int.from_bytes(link.mac, "little")
        number = number_of(context, of[ifindex]) if ifindex in of else 0
        found[slot] = (ifindex, link.mtu + ETHERNET_AND_TAG, number, flags, mac)
    return found


def segment_records(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_segment."""
    found, first = {}, 0
    for segment in segments:
        members = sum(1 << context.slots[ifindex] for ifindex in segment.ports if ifindex in context.slots)
        words = tuple(members >> 64 * word & (1 << 64) - 1 for word in range(4))
        low, high = segment.port_range
        guests = (VTEP_PRESENT | (VTEP_LEARNING if segment.learning else 0)) if segment.any_source else 0
        found[number_of(context, segment)] = (
            segment.vni, segment.flags, segment.tos, segment.ttl, low, high, guests,
            first, len(segment.copies), words,
        )  # fmt: skip
        first += len(segment.copies)
    return found


def neighbours(segments: Sequence[Segment], context: Context) -> dict[tuple[Any, ...], int]:
    """MAC address by struct vxlan_name."""
    return {
        (table.address_words(address), number_of(context, segment)): int.from_bytes(mac, "little")
        for segment in segments
        for address, mac in segment.neighbours.items()
    }


def replicas(segments: Sequence[Segment], context: Context) -> dict[int, int]:
    """Numbers of the VTEPs that get copies, segment by segment."""
    copies = [(segment, address) for segment in segments for address in segment.copies]
    return {at: vtep_number(context, segment, address) for at, (segment, address) in enumerate(copies)}


def room(context: Context, kind: str) -> int:
    """Places for members of a kind: a power of two, so that a few more do not make other maps."""
    return power_of_two(max(context.numbers[kind].values(), default=0) + 1)
