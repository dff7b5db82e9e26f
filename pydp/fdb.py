# SPDX-License-Identifier: Apache-2.0
"""The FDB of an instance of mode bridge: read it, and have the datapath change it."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

from pydp.datapath.api import Datapath
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import compare_layouts, dict_options
from pydp.datapath.state import Instance
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.modes import fdb as table
from pydp.modes.bridge import BridgeOptions

_VALID, _SLOT_MASK, _SHIFT, _TICKS = 0x10000, 0xFFFF, 24, 0xFFFFFFFF
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
    taken out: addresses of the ports, permanent entries of an adopted bridge.
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


@dataclass(frozen=True, slots=True)
class Census:
    """Live addresses by kind: learned by the datapath, permanent (written by a person or the kernel), this host's."""

    learned: int
    permanent: int
    local: int


def rows(reader: Reader, instance: Instance) -> list[FdbRow]:
    """All live addresses, those that are too old left out. Raises EbpfError."""
    ports = {slot: (ifindex, instance.names[ifindex]) for ifindex, slot in instance.slots.items()}
    found = []
    for key, where, idle in _live(reader, instance):
        ifindex, device = ports.get(where & _SLOT_MASK, (0, ""))
        local, permanent = bool(where & table.LOCAL), bool(where & table.STATIC)
        mac = (key & (1 << 48) - 1).to_bytes(6, "little")
        seconds = 0.0 if permanent else idle * table.TICK
        sticky, owned = bool(where & table.STICKY), bool(where & table.OWNED)
        found.append(FdbRow(mac, key >> 48, ifindex, device, permanent, local, sticky, seconds, owned))
    return sorted(found, key=lambda row: (row.vid, row.mac))


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
    options: BridgeOptions = dict_options(instance)
    return options.fdb_size


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


def instance_of(datapath: Datapath, name: str = "") -> Instance:
    """The bridge instance of that name, or the only one. Raises NothingAttached, UsageError."""
    state = datapath.read()
    if name:
        found = datapath.instance(name)
        if found.mode != "bridge":
            raise UsageError(f"{name} is of mode {found.mode}: it has no FDB")
        return found
    bridges = [one for one in state.instances.values() if one.mode == "bridge"]
    if not bridges:
        raise NothingAttached("no bridge is attached in this namespace", hint="pydp attach --mode bridge IFACE...")
    if len(bridges) > 1:
        raise UsageError("which bridge?", hint=f"--name one of {', '.join(one.name for one in bridges)}")
    return bridges[0]


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


def add(datapath: Datapath, instance: Instance, mac: bytes, device: str, *, vid: int = 0, sticky: bool = False) -> None:
    """Enter a permanent address. Raises UsageError for a device that is no port, PydpError when there is no place."""
    slot = _slot(instance, device)
    with datapath.store.locked():
        done = datapath.control(instance, [table.add_request(mac, vid, slot, sticky=sticky)])
    if not done[0].result:
        raise PydpError(
            "no place: all that this address could have hold permanent addresses",
            hint="attach with a larger --fdb-size",
        )


def delete(datapath: Datapath, instance: Instance, mac: bytes, *, vid: int = 0) -> None:
    """Take an address out. Raises PydpError when it is not there."""
    with datapath.store.locked():
        done = datapath.control(instance, [table.delete_request(mac, vid)])
    if not done[0].result:
        raise PydpError(f"{mac.hex(':')}{f' vlan {vid}' if vid else ''} is not in the FDB of {instance.name}")


def flush(
    datapath: Datapath, instance: Instance, *, device: str = "", vid: int | None = None, permanent: bool = False
) -> int:
    """Take out learned addresses (with PERMANENT those too that were added), of a port, a VLAN or all; gives how
    many.
    """
    slot = _slot(instance, device) if device else None
    with datapath.store.locked():
        done = datapath.control(instance, [table.flush_request(slot=slot, vid=vid, static=permanent)])
    return int(done[0].result)


def _slot(instance: Instance, device: str) -> int:
    for ifindex, name in instance.names.items():
        if name == device and ifindex in instance.slots:
            return instance.slots[ifindex]
    raise UsageError(f"{device} is not a port of {instance.name}", hint=f"ports: {', '.join(instance.names.values())}")


assert sys.byteorder == "little", "the FDB's keys are read as little-endian numbers"
