# SPDX-License-Identifier: Apache-2.0
"""The FDB of an instance that bridges: read it, and have the datapath change it."""

from __future__ import annotations

import socket
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

from pydp import tunnels
from pydp.datapath.api import Datapath
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import compare_layouts, dict_options
from pydp.datapath.state import Instance
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.modes import MODES
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
    slot = _slot(instance, device)
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


def instance_of(datapath: Datapath, name: str = "", device: str = "") -> Instance:
    """The instance of that name, or the only one that has an FDB, or of several the only one that has this port. Raises
    NothingAttached, UsageError.
    """
    state = datapath.read()
    if name:
        found = datapath.instance(name)
        if not _has_fdb(found):
            raise UsageError(f"{name} is of mode {found.mode}: it has no FDB")
        return found
    there = [one for one in state.instances.values() if _has_fdb(one)]
    if not there:
        raise NothingAttached(
            "nothing that has an FDB is attached in this namespace", hint="pydp attach --mode bridge IFACE..."
        )
    if len(there) > 1 and device:
        names = ", ".join(one.name for one in there)
        there = [one for one in there if _is_port(device, one)]
        if not there:
            raise UsageError(f"{device} is a port of none that has an FDB", hint=f"these have: {names}")
    if len(there) > 1:
        raise UsageError("which FDB?", hint=f"--name one of {', '.join(one.name for one in there)}")
    return there[0]


def _is_port(device: str, instance: Instance) -> bool:
    try:
        return socket.if_nametoindex(device) in instance.slots
    except OSError:
        return False


def _has_fdb(instance: Instance) -> bool:
    return "fdb" in MODES[instance.mode].traits.maps


def parse_mac(text: str) -> bytes:
    """Six bytes of "02:00:00:00:00:01" (also with -). Raises UsageError, also for addresses that nobody can have."""
    parts = text.replace("-", ":").split(":")
    try:
        mac = bytes(int(part, 16) for part in parts if 1 <= len(part) <= 2)
    except ValueError:
        mac = b""
    if len(mac) != 6 or len(parts) != 6:
        raise UsageError(f"{text}: not a MAC address")
    if mac[0] & 1 or not any(mac):
        raise UsageError(f"{text}: a multicast or zero address has no place in an FDB")
    return mac


def add(
    datapath: Datapath,
    instance: Instance,
    mac: bytes,
    device: str = "",
    *,
    vid: int = 0,
    vni: int | None = None,
    dst: str = "",
    sticky: bool = False,
) -> None:
    """Enter a permanent address behind a port, or with DST behind a VTEP. Raises UsageError for a device that is no
    port or a VTEP that is not known, PydpError when there is no place.
    """
    with datapath.store.locked():
        if tunnels.has_segments(instance):
            with Reader.open(datapath) as reader:
                index, number, remote = find_place(reader, instance, device, dst, vni)
        else:
            index, number, remote = _slot(instance, device), vid, False
        done = datapath.control(instance, [table.add_request(mac, number, index, sticky=sticky, remote=remote)])
    if not done[0].result:
        raise PydpError(
            "no place: all that this address could have hold permanent addresses",
            hint="attach with a larger --fdb-size",
        )


def find_place(
    reader: Reader, instance: Instance, device: str, dst: str, vni: int | None = None
) -> tuple[int, int, bool]:
    """(slot or index of the VTEP, number of the segment, whether it is a VTEP) of a local port or of a VTEP of an
    instance that keeps its FDB by VNI. Raises UsageError, EbpfError.
    """
    if dst:
        one = tunnels.find_one(reader, instance, dst, vni)
        return one.index, one.segment, True
    slot = _slot(instance, device)
    ifindex = next(ifindex for ifindex, other in instance.slots.items() if other == slot)
    if instance.roles.get(ifindex, Role.PORT) != Role.PORT:
        raise UsageError(
            f"{device}: it is the {instance.roles[ifindex].name.lower()} of {instance.name}, no local port",
            hint="an address elsewhere is behind a VTEP: dst ADDR",
        )
    return slot, tunnels.segments(reader, instance).number_of(ifindex, device, vni), False


def delete(datapath: Datapath, instance: Instance, mac: bytes, *, vid: int = 0, vni: int | None = None) -> None:
    """Take an address out. Raises PydpError when it is not there, UsageError for a VNI that is not there."""
    with datapath.store.locked():
        done = datapath.control(instance, [table.delete_request(mac, _number(datapath, instance, vni) or vid)])
    if not done[0].result:
        where = f" vni {vni}" if vni is not None else f" vlan {vid}" if vid else ""
        raise PydpError(f"{mac.hex(':')}{where} is not in the FDB of {instance.name}")


def flush(
    datapath: Datapath,
    instance: Instance,
    *,
    device: str = "",
    vid: int | None = None,
    vni: int | None = None,
    dst: str = "",
    permanent: bool = False,
) -> int:
    """Take out learned addresses (with PERMANENT those too that were added), of a port, a VTEP, a VLAN, a VNI or all;
    gives how many. Raises UsageError, EbpfError.
    """
    gone = 0
    with datapath.store.locked():
        number = vid if vni is None else _number(datapath, instance, vni)
        for slot, remote in _flushed(datapath, instance, device, dst, vni):
            wanted = table.flush_request(slot=slot, vid=number, static=permanent, remote=remote)
            gone += int(datapath.control(instance, [wanted])[0].result)
    return gone


def _flushed(
    datapath: Datapath, instance: Instance, device: str, dst: str, vni: int | None
) -> list[tuple[int | None, bool | None]]:
    """(slot or index of a VTEP, which of the two) of all that the addresses to be flushed are behind."""
    if dst:
        with Reader.open(datapath) as reader:
            return [(one.index, True) for one in tunnels.find(reader, instance, dst, vni)]
    if not device:
        return [(None, None)]
    slot = _slot(instance, device)
    if tunnels.has_segments(instance) and slot == instance.slots[underlay(instance)]:
        return [(None, True)]
    return [(slot, False)]


def _number(datapath: Datapath, instance: Instance, vni: int | None) -> int | None:
    if vni is None:
        return None
    with Reader.open(datapath) as reader:
        return tunnels.segments(reader, instance).number(vni)


def _slot(instance: Instance, device: str) -> int:
    for ifindex, name in instance.names.items():
        if name == device and ifindex in instance.slots:
            return instance.slots[ifindex]
    raise UsageError(f"{device} is not a port of {instance.name}", hint=f"ports: {', '.join(port_names(instance))}")


def port_names(instance: Instance) -> list[str]:
    """Names of the ports that addresses can be behind."""
    own = (ifindex for ifindex in instance.slots if instance.roles.get(ifindex) != Role.COMPANION)
    return [instance.names[ifindex] for ifindex in own]


assert sys.byteorder == "little", "the FDB's keys are read as little-endian numbers"
