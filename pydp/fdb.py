# SPDX-License-Identifier: Apache-2.0
"""The FDB of an instance of mode bridge: read it, and have the datapath change it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf.maps import Map
from pydp.datapath.api import Datapath
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import dict_options
from pydp.datapath.state import Instance
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.modes import bridge

_VALID, _SLOT_MASK, _SHIFT = 0x10000, 0xFFFF, 24
EVENTS = ("learned", "moved", "aged", "evicted", "full")  # enum fdb_event


@dataclass(frozen=True, slots=True)
class FdbRow:
    """An address. ``idle``: seconds since its station last sent something (0 for permanent ones, which do not age).
    ``local``: an address of this host, its frames go to the kernel."""

    mac: bytes
    vid: int
    ifindex: int
    device: str
    permanent: bool
    local: bool
    sticky: bool
    idle: float


def rows(reader: Reader, instance: Instance) -> list[FdbRow]:
    """All live addresses, those that are too old left out. Raises EbpfError."""
    ports = {slot: (ifindex, instance.names[ifindex]) for ifindex, slot in instance.slots.items()}
    found = []
    for key, where, idle in _live(reader.map(instance, "fdb"), instance):
        ifindex, device = ports.get(where & _SLOT_MASK, (0, ""))
        local, permanent = bool(where & bridge.LOCAL), bool(where & bridge.STATIC)
        mac = (key & (1 << 48) - 1).to_bytes(6, "little")
        seconds = 0.0 if permanent else idle * bridge.TICK
        found.append(FdbRow(mac, key >> 48, ifindex, device, permanent, local, bool(where & bridge.STICKY), seconds))
    return sorted(found, key=lambda row: (row.vid, row.mac))


def count(reader: Reader, instance: Instance) -> tuple[int, int]:
    """(addresses that are live, of these permanent ones); quicker than `rows`."""
    live = [where for _, where, _ in _live(reader.map(instance, "fdb"), instance)]
    return len(live), sum(1 for where in live if where & bridge.STATIC)


def events(reader: Reader, instance: Instance) -> dict[str, int]:
    """How often addresses were learned, moved, ..., since the instance was attached."""
    sums = reader.map(instance, "fdb_events").sums()
    return {name: sums.get(number, (0,))[0] for number, name in enumerate(EVENTS)}


def capacity(instance: Instance) -> int:
    """Addresses the table was made for (--fdb-size)."""
    options: bridge.BridgeOptions = dict_options(instance)
    return options.fdb_size


def _live(table: Map, instance: Instance) -> Iterator[tuple[int, int, int]]:
    """(key, where, idle ticks) of every live place. A bucket is four keys of 64 bits, four `where`, four `seen` of 32."""
    raw = table.raw()[1]
    keys, words = memoryview(raw).cast("Q"), memoryview(raw).cast("I")
    now = coarse_clock() >> _SHIFT & 0xFFFFFFFF
    ageing = instance.constants["CONFIG_FDB_AGEING"]
    for at in range(0, len(keys), 8):
        for way in range(4):
            if key := keys[at + way]:
                where = words[2 * at + 8 + way]
                # Read while the datapath writes: a stamp may be younger than our clock.
                idle = now - words[2 * at + 12 + way] & 0xFFFFFFFF
                idle = 0 if idle >> 31 else idle
                if where & _VALID and (where & bridge.STATIC or idle <= ageing):
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
        done = datapath.control(instance, [bridge.add_request(mac, vid, slot, sticky=sticky)])
    if not done[0].result:
        raise PydpError(
            "no place: all that this address could have hold permanent addresses",
            hint="attach with a larger --fdb-size",
        )


def delete(datapath: Datapath, instance: Instance, mac: bytes, *, vid: int = 0) -> None:
    """Take an address out. Raises PydpError when it is not there."""
    with datapath.store.locked():
        done = datapath.control(instance, [bridge.delete_request(mac, vid)])
    if not done[0].result:
        raise PydpError(f"{mac.hex(':')}{f' vlan {vid}' if vid else ''} is not in the FDB of {instance.name}")


def flush(
    datapath: Datapath, instance: Instance, *, device: str = "", vid: int | None = None, permanent: bool = False
) -> int:
    """Take out learned addresses (with PERMANENT those too that were added), of a port, a VLAN or all; gives how many."""
    slot = _slot(instance, device) if device else None
    with datapath.store.locked():
        done = datapath.control(instance, [bridge.flush_request(slot=slot, vid=vid, static=permanent)])
    return int(done[0].result)


def _slot(instance: Instance, device: str) -> int:
    for ifindex, name in instance.names.items():
        if name == device and ifindex in instance.slots:
            return instance.slots[ifindex]
    raise UsageError(f"{device} is not a port of {instance.name}", hint=f"ports: {', '.join(instance.names.values())}")


assert sys.byteorder == "little", "the FDB's keys are read as little-endian numbers"
