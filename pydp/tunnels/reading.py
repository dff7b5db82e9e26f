# SPDX-License-Identifier: Apache-2.0
"""The tunnels of an instance: who is at their other ends, and what went each way. One picture for all modes that
encapsulate.

It is read from the instance's maps, by the layouts that the instance notes: no C text and no other file is asked for,
so that a process without rights can do it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ebpf.errors import LayoutMismatch
from pydp.datapath.reader import Reader
from pydp.datapath.state import Instance
from pydp.errors import UsageError
from pydp.modes.vxlan import MAX_GUESTS
from pydp.modes.vxlan_maps import PRESENT, VTEP_GROUP, VTEP_PRESENT

_SHOWN = 8  # names in a hint
_WORDS = {2: "H", 4: "I", 8: "Q"}  # size of a number -> its code in a memoryview
_COUNTS = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")  # struct tunnel_count


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A VTEP as one VNI sees it, or a peer. ``index`` is its place in the maps; ``vni`` is None for a peer without a
    key; ``segment`` the number of the VNI in the instance. Nothing comes from a ``group``, a multicast group.

    Counters are of inner frames (of mode ipip, of packets) as they were at the hook, so that a GSO frame counts once.
    """

    index: int
    remote: str
    vni: int | None = None
    segment: int = 0
    group: bool = False
    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of an instance of mode vxlan: VNIs by number, and the number by ifindex of each local port."""

    name: str
    vnis: Mapping[int, int]
    ports: Mapping[int, int]

    def number(self, vni: int) -> int:
        """Raises UsageError for a VNI that is none of them."""
        for number, one in self.vnis.items():
            if one == vni:
                return number
        raise UsageError(f"--vni {vni}: {self.name} has no such VNI", hint=f"VNIs: {_some(self.vnis.values())}")

    def number_of(self, ifindex: int, device: str, vni: int | None = None) -> int:
        """The number of a port's segment. Raises UsageError if that is not VNI."""
        number = self.ports[ifindex]
        if vni is not None and self.number(vni) != number:
            raise UsageError(f"--vni {vni}: {device} is a port of VNI {self.vnis[number]}")
        return number


def has_tunnels(instance: Instance) -> bool:
    """Whether the instance encapsulates."""
    return "vxlan_counts" in instance.maps or "ipip_counts" in instance.maps


def has_segments(instance: Instance) -> bool:
    """Whether its FDB is kept by VNI, and knows VTEPs."""
    return "vxlan_segments" in instance.maps


def segments(reader: Reader, instance: Instance) -> Segments:
    """Raises EbpfError."""
    flags = _numbers(reader, instance, "vxlan_ports", "flags")
    numbers = _numbers(reader, instance, "vxlan_ports", "segment")
    ports = {ifindex: numbers[slot] for ifindex, slot in instance.slots.items() if flags[slot] & PRESENT}
    return Segments(instance.name, _vnis_of(instance), ports)


def _vnis_of(instance: Instance) -> dict[int, int]:
    return {number: int(vni) for vni, number in instance.numbers["segment"].items()}


def tunnels(reader: Reader, instance: Instance) -> list[Tunnel]:
    """All tunnels of an instance, VTEPs in the order they were given, peers by address; none for a mode that does not
    encapsulate. Raises EbpfError.
    """
    if "vxlan_counts" in instance.maps:
        return _vteps(reader, instance)
    if "ipip_counts" in instance.maps:
        return _peers(reader, instance)
    return []


def find(reader: Reader, instance: Instance, dst: str, vni: int | None = None) -> list[Tunnel]:
    """The tunnels to the VTEP with the address DST, of one VNI or of all that it is in. Raises UsageError if there are
    none, EbpfError.
    """
    try:
        address = str(ip_address(dst))
    except ValueError:
        raise UsageError(f"--dst {dst}: not an IP address") from None
    if vni is not None:
        segments(reader, instance).number(vni)
    there = [one for one in tunnels(reader, instance) if vni in (None, one.vni)]
    found = [one for one in there if one.remote == address]
    if not found:
        where = f"{instance.name}{f' in VNI {vni}' if vni is not None else ''}"
        raise UsageError(
            f"--dst {dst}: no VTEP of {where}",
            hint=f"VTEPs: {_some(dict.fromkeys(one.remote for one in there))}; a new one is given when attaching",
        )
    return found


def find_one(reader: Reader, instance: Instance, dst: str, vni: int | None = None) -> Tunnel:
    """The tunnel to a VTEP that addresses can be behind. Raises UsageError, EbpfError."""
    found = find(reader, instance, dst, vni)
    if found[0].group:
        raise UsageError(f"--dst {dst}: a multicast group, which nobody is behind")
    if len(found) > 1:
        raise UsageError(f"--dst {dst}: it is a VTEP of several VNIs", hint=f"--vni one of {_some(_vnis(found))}")
    return found[0]


def _vnis(found: list[Tunnel]) -> list[int | None]:
    return [one.vni for one in found]


def _some(names: object) -> str:
    """Names for a hint, which is one line."""
    texts = [str(one) for one in names]  # type: ignore[attr-defined]
    return ", ".join([*texts[:_SHOWN], *(["..."] if len(texts) > _SHOWN else [])]) or "none"


def _vteps(reader: Reader, instance: Instance, name: str = "vxlan_vteps", first: int = 0) -> list[Tunnel]:
    """The VTEPs in a map whose records have the indices from FIRST on."""
    vnis = _vnis_of(instance)
    addresses = _addresses(reader, instance, name)
    numbers = _numbers(reader, instance, name, "segment")
    flags = _numbers(reader, instance, name, "flags")
    counts = _counts(reader, instance, "vxlan_counts", [0] * first + _owners(reader, instance, name))
    columns = zip(addresses, numbers, flags, counts[first : first + len(addresses)], strict=True)
    return [
        Tunnel(first + at, _text(address), vnis[number], number, bool(flag & VTEP_GROUP), *count)
        for at, (address, number, flag, count) in enumerate(columns)
        if flag & VTEP_PRESENT
    ]


def guests(reader: Reader, instance: Instance) -> list[Tunnel]:
    """The VTEPs that nobody named (--any-source), in the order they came; one that two CPUs met at once has two places.
    Raises EbpfError.
    """
    first = instance.constants["PYDP_VXLAN_VTEPS"]  # they come behind those that were named
    return _vteps(reader, instance, "vxlan_guests", first) if max_guests(instance) else []


def count_guests(reader: Reader, instance: Instance) -> int:
    """How many there are; quicker than `guests`."""
    flags = _numbers(reader, instance, "vxlan_guests", "flags") if max_guests(instance) else []
    return sum(bool(flag & VTEP_PRESENT) for flag in flags)


def max_guests(instance: Instance) -> int:
    """How many there can be; 0 where nobody is believed but who was named."""
    return MAX_GUESTS if has_segments(instance) and instance.constants["PYDP_VXLAN_ANY_SOURCE"] else 0


def _peers(reader: Reader, instance: Instance) -> list[Tunnel]:
    addresses = _addresses(reader, instance, "ipip_peers")
    owners = _numbers(reader, instance, "ipip_peers", "owner")
    counts = _counts(reader, instance, "ipip_counts", owners)
    key = instance.constants["PYDP_IPIP_KEY"] if instance.constants["PYDP_IPIP_KEYED"] else None
    there = [index for index, owner in enumerate(owners) if owner]
    there.sort(key=addresses.__getitem__)
    return [Tunnel(index, _text(addresses[index]), key, 0, False, *counts[index]) for index in there]


def _text(address: bytes) -> str:
    return str(ip_address(address))


def _addresses(reader: Reader, instance: Instance, name: str) -> list[bytes]:
    """Member `address` of every record of a map, as it stands in a packet."""
    offset, size, step, values = _member(reader, instance, name, "address")
    size = size if instance.constants["PYDP_TUNNEL_IPV6"] else 4
    return [values[at : at + size] for at in range(offset, len(values), step)]


def _numbers(reader: Reader, instance: Instance, name: str, member: str) -> list[int]:
    """A member of every record of a map, which is a number."""
    offset, size, step, values = _member(reader, instance, name, member)
    numbers: list[int] = memoryview(values).cast(_WORDS[size])[offset // size :: step // size].tolist()  # type: ignore[call-overload]
    return numbers


def owners(reader: Reader, instance: Instance) -> list[int]:
    """Whose counters are at each index; 0 for nobody's. Raises EbpfError."""
    return _owners(reader, instance, "vxlan_vteps" if "vxlan_counts" in instance.maps else "ipip_peers")


def _owners(reader: Reader, instance: Instance, name: str) -> list[int]:
    """Member `owner` of every record of a map; none where records have no such member."""
    owned = any(member == "owner" for member, _, _ in instance.maps[name]["layout"])
    return _numbers(reader, instance, name, "owner") if owned else []


def _counts(reader: Reader, instance: Instance, name: str, owners: Sequence[int]) -> list[tuple[int, ...]]:
    """Every struct tunnel_count of a map, summed over the CPUs. Where there are OWNERS, a CPU that has not yet seen the
    present one has counted nothing.
    """
    keys, values = reader.raw(instance, name)
    places = {member: offset // 8 for member, offset, _ in instance.maps[name]["layout"]}
    words, fields = memoryview(values).cast("Q"), len(places)
    step = len(words) // max(len(keys) // 4, 1)
    owned = bool(owners)
    owners = [*owners, *[0] * (len(keys) // 4 - len(owners))]
    sums: list[list[int]] = [[0] * (len(keys) // 4) for _ in _COUNTS]
    for first in range(0, step, fields):
        columns = [words[first + places[member] :: step].tolist() for member in _COUNTS]
        if owned:
            mine = list(map(operator.eq, words[first + places["owner"] :: step].tolist(), owners))
            columns = [list(map(operator.mul, column, mine)) for column in columns]
        sums = [list(map(operator.add, *both)) for both in zip(sums, columns, strict=True)]
    return list(zip(*sums, strict=True))


def _member(reader: Reader, instance: Instance, name: str, member: str) -> tuple[int, int, int, bytes]:
    """(offset, size, bytes from one record to the next, all records) of a map's values."""
    places = {one: (offset, size) for one, offset, size in instance.maps[name]["layout"]}
    if member not in places:
        raise LayoutMismatch(
            f"{instance.name}-{name} has no member {member}: it is of another version of pydp",
            hint="pydp detach it, then attach again",
        )
    keys, values = reader.raw(instance, name)
    return *places[member], len(values) // max(len(keys) // 4, 1), values
