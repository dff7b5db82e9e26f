# SPDX-License-Identifier: Apache-2.0
"""The FDB of a kernel bridge or vxlan device, read when asked for."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

from ebpf.netlink import NETLINK_ROUTE, attribute, attributes, dump
from pydp.kernel.values import address_text, big_endian, number
from pydp.model import FdbEntry, VxlanFdbEntry

_AF_BRIDGE = 7
_RTM_GETNEIGH = 30
_NDMSG = struct.Struct("=BBHiHBB")
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO, _NDA_VLAN, _NDA_MASTER = 1, 2, 3, 5, 9
_NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_SRC_VNI, _NDA_NH_ID = 6, 7, 8, 11, 13
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF, _NTF_EXT_LEARNED, _NTF_STICKY = 0x02, 0x10, 0x40
_NO_CACHE = bytes(16)


def read_fdb(bridge: int, *, port: int = 0) -> tuple[FdbEntry, ...]:
    """All FDB entries of the bridge with index ``bridge``, or only those of one port.

    The kernel walks the whole table once per port and once per 400 entries: 100,000 entries on 256 ports take it four
    seconds (`bridge fdb` as long), whatever reads them; the decoding here adds a tenth of that. Raises OSError.
    """
    body = _NDMSG.pack(_AF_BRIDGE, 0, 0, port, 0, 0, 0) + attribute(_NDA_MASTER, struct.pack("=I", bridge))
    return decode_fdb(dump(NETLINK_ROUTE, _RTM_GETNEIGH, body), bridge)


def decode_fdb(messages: list[tuple[bytes, int, int]], bridge: int) -> tuple[FdbEntry, ...]:
    """RTM_NEWNEIGH messages as (datagram, start, end) -> the entries that belong to the bridge.

    The dump also lists the unicast and multicast filters of the ports (`self` in `bridge fdb`): those have no
    NDA_MASTER.
    """
    tick = float(os.sysconf("SC_CLK_TCK"))
    master = struct.pack("=I", bridge)
    entries = []
    for datagram, start, end in messages:
        _, _, _, ifindex, state, flags, _ = _NDMSG.unpack_from(datagram, start)
        found = attributes(datagram, start + 12, end)
        if found.get(_NDA_MASTER) != master or _NDA_LLADDR not in found:
            continue
        _, used, updated, _ = struct.unpack("=IIII", found.get(_NDA_CACHEINFO, _NO_CACHE))
        vid = found.get(_NDA_VLAN)
        entries.append(
            FdbEntry(
                mac=found[_NDA_LLADDR],
                vid=int.from_bytes(vid, sys.byteorder) if vid else 0,
                ifindex=ifindex,
                bridge=bridge,
                local=bool(state & _NUD_PERMANENT),
                static=bool(state & _NUD_NOARP),
                extern_learn=bool(flags & _NTF_EXT_LEARNED),
                sticky=bool(flags & _NTF_STICKY),
                updated=updated / tick,
                used=used / tick,
            )
        )
    return tuple(entries)


def read_vxlan_fdb(ifindex: int) -> tuple[VxlanFdbEntry, ...]:
    """The FDB of the vxlan device with that index, one entry per address and VTEP. Raises OSError (ENODEV)."""
    messages = dump(NETLINK_ROUTE, _RTM_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, 0, 0, ifindex, 0, 0, 0))
    if not messages:  # an index that nobody has is no error to the kernel
        try:
            socket.if_indextoname(ifindex)
        except OSError as error:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
    return decode_vxlan_fdb(messages, ifindex)


def decode_vxlan_fdb(messages: list[tuple[bytes, int, int]], ifindex: int) -> tuple[VxlanFdbEntry, ...]:
    """RTM_NEWNEIGH messages as (datagram, start, end) -> the device's own entries.

    Where it is the port of a bridge, the dump has the bridge's entries for it too: those have NDA_MASTER.
    """
    tick = float(os.sysconf("SC_CLK_TCK"))
    entries = []
    for datagram, start, end in messages:
        _, _, _, index, state, flags, _ = _NDMSG.unpack_from(datagram, start)
        found = attributes(datagram, start + 12, end)
        if index != ifindex or not flags & _NTF_SELF or _NDA_MASTER in found or _NDA_LLADDR not in found:
            continue
        _, used, updated, _ = struct.unpack("=IIII", found.get(_NDA_CACHEINFO, _NO_CACHE))
        entries.append(
            VxlanFdbEntry(
                mac=found[_NDA_LLADDR],
                ifindex=ifindex,
                dst=address_text(found.get(_NDA_DST)),
                vni=number(found, _NDA_VNI),
                port=big_endian(found, _NDA_PORT),
                lower=number(found, _NDA_IFINDEX),
                src_vni=number(found, _NDA_SRC_VNI),
                nhid=number(found, _NDA_NH_ID),
                permanent=bool(state & _NUD_PERMANENT),
                static=bool(state & _NUD_NOARP),
                extern_learn=bool(flags & _NTF_EXT_LEARNED),
                updated=updated / tick,
                used=used / tick,
            )
        )
    return tuple(entries)
