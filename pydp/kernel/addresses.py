# SPDX-License-Identifier: Apache-2.0
"""IP addresses of the devices of a namespace."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections import defaultdict
from collections.abc import Mapping

from ebpf.netlink import NETLINK_ROUTE, attribute, attributes, dump
from pydp.errors import UsageError
from pydp.kernel.batch import CREATE, EXCL, Command, Requests
from pydp.kernel.values import address_family, u32

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR, _RTM_DELROUTE = 20, 21, 22, 25
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF = 1, 4
_IFA_F_NOPREFIXROUTE, _IFA_F_MCAUTOJOIN = 0x200, 0x400
_SCOPE_UNIVERSE, _SCOPE_HOST, _SCOPE_NOWHERE = 0, 254, 255
_TABLE_LOCAL, _RTN_LOCAL = 255, 2


def read_addresses() -> Mapping[int, tuple[Interface, ...]]:
    """The addresses of the current namespace by ifindex, of each device in the kernel's order (primary ones first).

    Devices without an address are not in it. Raises OSError.
    """
    return decode_addresses(dump(NETLINK_ROUTE, _RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0)))


def decode_addresses(messages: list[tuple[bytes, int, int]]) -> Mapping[int, tuple[Interface, ...]]:
    """RTM_NEWADDR messages as (datagram, start, end) -> addresses by ifindex."""
    found: defaultdict[int, list[Interface]] = defaultdict(list)
    for datagram, start, end in messages:
        family, length, _, _, ifindex = _IFADDRMSG.unpack_from(datagram, start)
        values = attributes(datagram, start + _IFADDRMSG.size, end)
        # Where the two differ, IFA_ADDRESS is the other end of a point-to-point link.
        value = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if value and family == socket.AF_INET:
            found[ifindex].append(ipaddress.IPv4Interface((value, length)))
        elif value and family == socket.AF_INET6:
            found[ifindex].append(ipaddress.IPv6Interface((value, length)))
    return {ifindex: tuple(addresses) for ifindex, addresses in found.items()}


def add_address(ifindex: int, address: str, *, autojoin: bool = False) -> bool:
    """Give the device an address ("192.0.2.1/24"); False when it has it already.

    A group address with ``autojoin`` makes the device a member of the group, without a process that keeps a socket
    open. The kernel then also takes the address for one of its own and delivers to itself what it sends to the group;
    so the local route that does this is removed (it comes back when the device goes down and up). Raises UsageError for
    what is no address, PydpError.
    """
    interface = _interface(address)
    scope, flags = _SCOPE_UNIVERSE, 0
    if autojoin and interface.is_multicast:  # of scope host: never chosen as a source address
        scope, flags = _SCOPE_HOST, _IFA_F_MCAUTOJOIN | _IFA_F_NOPREFIXROUTE
    body = _body(interface, ifindex, scope) + u32(_IFA_FLAGS, flags)
    with Requests() as requests:
        answer = requests.one(Command(_RTM_NEWADDR, body, CREATE | EXCL))
        if answer.code not in (0, errno.EEXIST):
            raise answer.error(f"cannot add address {interface} to interface {ifindex}")
        if flags:
            gone = requests.one(Command(_RTM_DELROUTE, _local_route(interface, ifindex)))
            if gone.code not in (0, errno.ESRCH):
                if not answer.code:
                    requests.one(Command(_RTM_DELADDR, body))
                raise gone.error(f"cannot remove the local route of group {interface.ip}")
    return not answer.code


def remove_address(ifindex: int, address: str) -> bool:
    """Take the address from the device; False when it has no such address, or is gone. Raises UsageError, PydpError."""
    interface = _interface(address)
    with Requests() as requests:
        answer = requests.one(Command(_RTM_DELADDR, _body(interface, ifindex, _SCOPE_UNIVERSE)))
    if answer.code not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
        raise answer.error(f"cannot remove address {interface} from interface {ifindex}")
    return not answer.code


def _interface(address: str) -> Interface:
    try:
        return ipaddress.ip_interface(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is not an address with a prefix length") from error


def _body(interface: Interface, ifindex: int, scope: int) -> bytes:
    head = _IFADDRMSG.pack(address_family(interface.packed), interface.network.prefixlen, 0, scope, ifindex)
    return head + attribute(_IFA_LOCAL, interface.packed) + attribute(_IFA_ADDRESS, interface.packed)


def _local_route(interface: Interface, ifindex: int) -> bytes:
    family = address_family(interface.packed)
    head = _RTMSG.pack(family, interface.max_prefixlen, 0, 0, _TABLE_LOCAL, 0, _SCOPE_NOWHERE, _RTN_LOCAL, 0)
    return head + attribute(_RTA_DST, interface.packed) + u32(_RTA_OIF, ifindex)
