# SPDX-License-Identifier: Apache-2.0
"""The kernel's own counters of network devices, read as fast as netlink gives them: no rights needed."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ebpf.netlink import NETLINK_ROUTE, attribute, attributes, dump, nested, text

_RTM_GETLINK, _RTM_GETSTATS = 18, 94
_IFINFOMSG = struct.Struct("=BxHiII")
_IF_STATS_MSG = struct.Struct("=BxHII")
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 10, 18, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VXLAN_LINK = 1, 2, 3
_IFLA_BR_FDB_N_LEARNED, _IFLA_BR_FDB_MAX = 48, 49  # since Linux 6.7
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_IFLA_STATS_LINK_64 = 1
_FILTER_LINK_64 = 1 << (_IFLA_STATS_LINK_64 - 1)
_LINK_STATS64 = struct.Struct("=8Q")  # the first members of struct rtnl_link_stats64


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters of a device since it was made, as its driver counts: frames, bytes, frames dropped and in error."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int = 0
    tx_errors: int = 0


def read_link_stats() -> dict[int, LinkStats]:
    """Counters of all devices of the current namespace by ifindex. Raises OSError.

    RTM_GETSTATS carries nothing but counters: a tenth of the bytes of a dump of links.
    """
    body = _IF_STATS_MSG.pack(0, 0, 0, _FILTER_LINK_64)
    return dict(_decoded(dump(NETLINK_ROUTE, _RTM_GETSTATS, body)))


def _decoded(messages: list[tuple[bytes, int, int]]) -> Iterator[tuple[int, LinkStats]]:
    for datagram, start, end in messages:
        _, _, ifindex, _ = _IF_STATS_MSG.unpack_from(datagram, start)
        found = attributes(datagram, start + _IF_STATS_MSG.size, end).get(_IFLA_STATS_LINK_64)
        if found:
            rx, tx, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_lost, tx_lost = _LINK_STATS64.unpack_from(found)
            yield ifindex, LinkStats(rx, tx, rx_bytes, tx_bytes, rx_lost, tx_lost, rx_errors, tx_errors)


@dataclass(frozen=True, slots=True)
class VxlanDevice:
    """A vxlan device: its name, the bridge it is a port of and the device it sends by, 0 for none."""

    name: str
    master: int
    lower: int


@dataclass(frozen=True, slots=True)
class BridgeDevice:
    """A kernel bridge: its name, the addresses it has learned and how many it may learn (0: no limit); None before
    Linux 6.7, which did not count them.
    """

    name: str
    learned: int | None = None
    max_learned: int | None = None


def read_bridges() -> Mapping[int, BridgeDevice]:
    """The kernel's bridges in the current namespace by ifindex. Raises OSError."""
    devices = {}
    for ifindex, found in _links_of("bridge"):
        data = nested(nested(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_DATA, b""))
        devices[ifindex] = BridgeDevice(
            text(found[_IFLA_IFNAME]), _number(data.get(_IFLA_BR_FDB_N_LEARNED)), _number(data.get(_IFLA_BR_FDB_MAX))
        )
    return devices


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, sys.byteorder)


def read_bridge_names() -> Mapping[int, str]:
    """Names of the kernel's bridges in the current namespace by ifindex. Raises OSError."""
    return {ifindex: one.name for ifindex, one in read_bridges().items()}


def read_vxlan_devices() -> Mapping[int, VxlanDevice]:
    """The kernel's vxlan devices in the current namespace by ifindex. Raises OSError."""
    devices = {}
    for ifindex, found in _links_of("vxlan"):
        data = nested(nested(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_DATA, b""))
        master = int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder)
        lower = int.from_bytes(data.get(_IFLA_VXLAN_LINK, b""), sys.byteorder)
        devices[ifindex] = VxlanDevice(text(found[_IFLA_IFNAME]), master, lower)
    return devices


def _links_of(kind: str) -> Iterator[tuple[int, dict[int, bytes]]]:
    """(ifindex, attributes) of the devices of a kind."""
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind.encode() + b"\0"))
    body += attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    for datagram, start, end in dump(NETLINK_ROUTE, _RTM_GETLINK, body):
        _, _, ifindex, _, _ = _IFINFOMSG.unpack_from(datagram, start)
        yield ifindex, attributes(datagram, start + _IFINFOMSG.size, end)
