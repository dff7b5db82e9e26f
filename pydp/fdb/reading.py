# SPDX-License-Identifier: Apache-2.0
"""What is in the FDB of an instance, from its maps."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

from pydp import tunnels
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import compare_layouts, dict_options
from pydp.datapath.state import Instance
from pydp.errors import UsageError
from pydp.modes import fdb as table
from pydp.modes.base import Role

_VALID, _PLACE_MASK, _SHIFT, _TICKS = 0x10000, table.SLOT_MASK | table.REMOTE, 24, 0xFFFFFFFF
# struct fdb_bucket of lib/fdb.h, and where its parts begin, in bytes and in words of 64 and 32 bits.
_LAYOUT = [["key", 0, 32], ["where", 32, 16], ["seen", 48, 16]]
_BUCKET, _QUADS, _WORDS = 64, 8, 16
_WHERE, _SEEN = 8, 12
_FLAGS = 34  # the byte of the first `where` that has all flags in it
_LEARNED, _PERMANENT, _LOCAL = b"\1", b"\2", b"\3"
# That byte to one of these kinds, or 0 for a place that is being written.
_KINDS = bytes(
    0 if not flags & _VALID >> 16
    else (_LOCAL if flags & table.LOCAL >> 16 else _PERMANENT)[0] if flags & table.STATIC >> 16
    else _LEARNED[0]
    for flags in range(256)
)  # fmt: skip
_IS_LEARNED = bytes(kind == _LEARNED[0] for kind in range(256))
EVENTS = ("learned", "moved", "aged", "evicted", "full")  # enum fdb_event


@dataclass(frozen=True, slots=True)
class FdbRow:
    """An address. ``idle``: seconds since its station last sent something (0 for permanent ones, which do not age).
    ``local``: an address of this host, its frames go to the kernel. ``owned``: written by the attach and by nobody else
    taken out: addresses of the ports, permanent entries of an adopted bridge. ``vni`` is None where FDBs are kept by
    VLAN and not by VNI; an address behind the VTEP ``dst`` has the underlay for its device.
    """

    mac: bytes
    vid: int
    ifindex: int
    device: str
    permanent: bool
    local: bool
    sticky: bool
    idle: float
    owned: bool = False
    vni: int | None = None
    dst: str = ""


@dataclass(frozen=True, slots=True)
class Census:
    """Live addresses by kind: learned by the datapath, permanent (written by a person or the kernel), this host's."""

    learned: int
    permanent: int
    local: int


def rows(reader: Reader, instance: Instance) -> list[FdbRow]:
    """All live addresses, those that are too old left out. Raises EbpfError."""
    places = {slot: (ifindex, instance.names[ifindex], "") for ifindex, slot in instance.slots.items()}
    vnis: Mapping[int, int] = {}
    under = 0
    if segmented := tunnels.has_segments(instance):
        vnis, under = tunnels.segments(reader, instance).vnis, underlay(instance)
        for one in (*tunnels.tunnels(reader, instance), *tunnels.guests(reader, instance)):
            places[one.index | table.REMOTE] = (under, instance.names[under], one.remote)
    found = []
    for key, where, idle in _live(reader, instance):
        number, place = key >> 48, places.get(where & _PLACE_MASK)
        if segmented and (place is None or number not in vnis):
            continue  # of a VTEP or VNI that an earlier attach had
        ifindex, device, dst = place or (0, "", "")
        local, permanent = bool(where & table.LOCAL), bool(where & table.STATIC)
        if segmented and local and ifindex == under:
            ifindex, device = 0, ""  # of the adopted bridge itself
        mac = (key & (1 << 48) - 1).to_bytes(6, "little")
        seconds = 0.0 if permanent else idle * table.TICK
        sticky, owned = bool(where & table.STICKY), bool(where & table.OWNED)
        vid, vni = (0, vnis[number]) if segmented else (number, None)
        found.append(FdbRow(mac, vid, ifindex, device, permanent, local, sticky, seconds, owned, vni, dst))
    return sorted(found, key=lambda row: (row.vni or 0, row.vid, row.mac))


def underlay(instance: Instance) -> int:
    """The ifindex of the port that carries what is encapsulated."""
    return next(ifindex for ifindex, role in instance.roles.items() if role == Role.UNDERLAY)


def census(reader: Reader, instance: Instance) -> Census:
    """How many live addresses there are of each kind; much quicker than `rows`. Raises EbpfError."""
    raw = _table(reader, instance)
    words = array("I", raw)
    now, ageing = _now(), instance.constants["PYDP_FDB_AGEING"]
    learned = permanent = local = 0
    for way in range(table.WAYS):
        # One step of Python per address is too slow for 100,000 of them: whole columns go through C loops. Keys are not
        # looked at: a place without one has no flags, but for an instant while it changes hands.
        kinds = raw[_FLAGS + 4 * way :: _BUCKET].translate(_KINDS)
        permanent += kinds.count(_PERMANENT)
        local += kinds.count(_LOCAL)
        learned += _young(list(compress(words[_SEEN + way :: _WORDS], kinds.translate(_IS_LEARNED))), now, ageing)
    return Census(learned, permanent, local)


def count(reader: Reader, instance: Instance) -> tuple[int, int]:
    """(addresses that are live, of these permanent ones); quicker than `rows`."""
    found = census(reader, instance)
    return found.learned + found.permanent + found.local, found.permanent + found.local


def events(reader: Reader, instance: Instance) -> dict[str, int]:
    """How often addresses were learned, moved, ..., since the instance was attached."""
    words = memoryview(reader.raw(instance, "fdb_events")[1]).cast("Q").tolist()
    cpus = len(words) // len(EVENTS)
    return {name: sum(words[number * cpus : (number + 1) * cpus]) for number, name in enumerate(EVENTS)}


def vlans(reader: Reader, instance: Instance, device: str) -> list[int] | None:
    """VLANs that a port is a member of; None where VLANs are not kept apart. Raises UsageError, EbpfError."""
    slot = slot_of(instance, device)
    if not instance.constants["PYDP_BRIDGE_VLAN_FILTERING"]:
        return None
    members = reader.map(instance, "bridge_vlans").items()
    return [vid for vid, vlan in members if vlan.member[slot // 64] >> slot % 64 & 1]


def capacity(instance: Instance) -> int:
    """Addresses the table was made for (--fdb-size)."""
    return int(dict_options(instance).fdb_size)


def places(instance: Instance) -> int:
    """Places the table has: more than addresses it was made for."""
    return int(instance.constants["PYDP_FDB_BUCKETS"]) * table.WAYS


def _table(reader: Reader, instance: Instance) -> bytes:
    """All buckets. Raises LayoutMismatch when they are not as here."""
    compare_layouts(f"{instance.name}-fdb", instance.maps["fdb"], {"layout": _LAYOUT})
    return reader.raw(instance, "fdb")[1]


def _now() -> int:
    return coarse_clock() >> _SHIFT & _TICKS


def _young(seen: list[int], now: int, ageing: int) -> int:
    """How many of these stamps are at most AGEING ticks old. Stamps wrap around; one in the half of the circle that
    lies ahead is younger than our clock, since the datapath writes while we read.
    """
    first, last = now - (_TICKS >> 1) & _TICKS, now - ageing - 1 & _TICKS  # the stamps that are too old
    old = sum(map(first.__le__, seen)) + sum(map(last.__ge__, seen)) - (len(seen) if first <= last else 0)
    return len(seen) - old


def _live(reader: Reader, instance: Instance) -> Iterator[tuple[int, int, int]]:
    """(key, where, idle ticks) of every live place."""
    raw = _table(reader, instance)
    keys, words = memoryview(raw).cast("Q"), memoryview(raw).cast("I")
    now, ageing = _now(), instance.constants["PYDP_FDB_AGEING"]
    for way in range(table.WAYS):
        taken = keys[way::_QUADS].tolist()
        columns = (taken, words[_WHERE + way :: _WORDS].tolist(), words[_SEEN + way :: _WORDS].tolist())
        for key, where, seen in compress(zip(*columns, strict=True), taken):
            # Read while the datapath writes: a stamp may be younger than our clock.
            idle = now - seen & _TICKS
            idle = 0 if idle >> 31 else idle
            if where & _VALID and (where & table.STATIC or idle <= ageing):
                yield key, where, idle


def slot_of(instance: Instance, device: str) -> int:
    """The slot of a port. Raises UsageError."""
    for ifindex, name in instance.names.items():
        if name == device and ifindex in instance.slots:
            return instance.slots[ifindex]
    raise UsageError(f"{device} is not a port of {instance.name}", hint=f"ports: {', '.join(port_names(instance))}")


def port_names(instance: Instance) -> list[str]:
    """Names of the ports that addresses can be behind."""
    own = (ifindex for ifindex in instance.slots if instance.roles.get(ifindex) != Role.COMPANION)
    return [instance.names[ifindex] for ifindex in own]


assert sys.byteorder == "little", "the FDB's keys are read as little-endian numbers"
