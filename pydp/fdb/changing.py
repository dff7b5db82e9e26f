# SPDX-License-Identifier: Apache-2.0
"""Have an instance's datapath change its FDB: nobody else writes it."""

from __future__ import annotations

from pydp import tunnels
from pydp.datapath.api import Datapath
from pydp.datapath.reader import Reader
from pydp.datapath.state import Instance
from pydp.errors import PydpError, UsageError
from pydp.fdb.reading import slot_of, underlay
from pydp.modes import fdb as table
from pydp.modes.base import Role


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
            index, number, remote = slot_of(instance, device), vid, False
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
    slot = slot_of(instance, device)
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
    slot = slot_of(instance, device)
    if tunnels.has_segments(instance) and slot == instance.slots[underlay(instance)]:
        return [(None, True)]
    return [(slot, False)]


def _number(datapath: Datapath, instance: Instance, vni: int | None) -> int | None:
    if vni is None:
        return None
    with Reader.open(datapath) as reader:
        return tunnels.segments(reader, instance).number(vni)
