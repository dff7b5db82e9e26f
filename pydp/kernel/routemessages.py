# SPDX-License-Identifier: Apache-2.0
"""Routes to netlink messages and back. Pure."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ebpf.netlink import attribute, attributes, nested
from pydp.errors import UsageError
from pydp.kernel.batch import Command
from pydp.kernel.values import address_family, address_text, number, u32
from pydp.model import ROUTE_PROTOCOL, NextHop, Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 6, 7, 8, 9, 15, 18
_RTAX_MTU = 2
_ONLINK, _CLONED = 0x4, 0x200  # RTNH_F_ONLINK, RTM_F_CLONED
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_UNICAST = 1
_METRIC6 = 1024  # IP6_RT_PRIO_USER: what the kernel takes for 0

Key = tuple[int, str, int]
Message = tuple[bytes, int, int]


def key(route: Route) -> Key:
    """What the kernel has one route of: table, prefix, metric."""
    return route.table, route.prefix, route.metric


def canonical(route: Route) -> Route:
    """The route as the kernel would tell it back. Raises UsageError for one that it could not take from us."""
    try:
        network = ipaddress.ip_network(route.prefix)
        via, src = (address_text(ipaddress.ip_address(one).packed if one else None) for one in (route.via, route.src))
    except ValueError as error:
        raise UsageError(f"route to {route.prefix!r} via {route.via!r}: {error}") from error
    if route.protocol != ROUTE_PROTOCOL:
        raise UsageError(f"the route to {route.prefix} is of protocol {route.protocol}, not one of pydp's")
    if network.version == 6 and via and ":" not in via:
        raise UsageError(f"an IPv6 route such as {route.prefix} cannot have the IPv4 gateway {via}")
    prefix = f"{address_text(network.network_address.packed)}/{network.prefixlen}"
    metric = route.metric or (_METRIC6 if network.version == 6 else 0)
    return replace(route, prefix=prefix, via=via, src=src, metric=metric)


def family_of(route: Route) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in route.prefix else socket.AF_INET


def set_command(route: Route, flags: int) -> Command:
    """RTM_NEWROUTE of a canonical route."""
    scope = _SCOPE_LINK if family_of(route) == socket.AF_INET and not route.via else _SCOPE_UNIVERSE
    return Command(RTM_NEWROUTE, _body(route, scope), flags)


def unset_command(route: Route) -> Command:
    """RTM_DELROUTE of a canonical route. For IPv4 metric 0 stands for any: of several the kernel takes the lowest."""
    return Command(RTM_DELROUTE, _body(route, _SCOPE_NOWHERE))


def dump_body(family: int, protocol: int) -> bytes:
    """Of an RTM_GETROUTE for all routes; kernels before 4.20 take no notice of the protocol."""
    return _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)


def lookup_body(target: bytes, oif: int) -> bytes:
    """Of an RTM_GETROUTE for the way to one packed address."""
    body = _RTMSG.pack(address_family(target), 8 * len(target), 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, target)
    return body + (u32(_OIF, oif) if oif else b"")


def next_hop_of(message: Message) -> NextHop:
    """The answer to it, an RTM_NEWROUTE as (datagram, start, end)."""
    datagram, start, end = message
    found = attributes(datagram, start + _RTMSG.size, end)
    return NextHop(number(found, _OIF), _gateway(found), address_text(found.get(_PREFSRC)))


def decode_routes(messages: Iterable[Message], family: int, protocol: int = 0) -> list[Route]:
    """RTM_NEWROUTE messages as (datagram, start, end) -> unicast routes with one next hop, of that family and protocol
    (0: any).
    """
    found = []
    for datagram, start, end in messages:
        of, length, _, _, table, made_by, _, kind, flags = _RTMSG.unpack_from(datagram, start)
        if of != family or kind != _UNICAST or flags & _CLONED or protocol not in (0, made_by):
            continue
        values = attributes(datagram, start + _RTMSG.size, end)
        if _OIF not in values or _MULTIPATH in values:
            continue
        metrics = nested(values[_METRICS]) if _METRICS in values else {}
        found.append(
            Route(
                prefix=f"{address_text(values.get(_DST, bytes(4 if family == socket.AF_INET else 16)))}/{length}",
                dev=number(values, _OIF),
                via=_gateway(values),
                src=address_text(values.get(_PREFSRC)),
                mtu=number(metrics, _RTAX_MTU),
                onlink=bool(flags & _ONLINK),
                metric=number(values, _PRIORITY),
                table=number(values, _TABLE, table),
                protocol=made_by,
            )
        )
    return found


def _body(route: Route, scope: int) -> bytes:
    family = family_of(route)
    address, _, length = route.prefix.partition("/")
    table = route.table if route.table < 256 else 0
    onlink = _ONLINK if route.onlink else 0
    body = _RTMSG.pack(family, int(length), 0, 0, table, ROUTE_PROTOCOL, scope, _UNICAST, onlink)
    body += attribute(_DST, socket.inet_pton(family, address)) + u32(_OIF, route.dev) + u32(_TABLE, route.table)
    if route.via:
        other = socket.AF_INET6 if ":" in route.via else socket.AF_INET
        gateway = socket.inet_pton(other, route.via)
        body += attribute(_GATEWAY, gateway) if other == family else attribute(_VIA, struct.pack("=H", other) + gateway)
    if route.src:
        body += attribute(_PREFSRC, socket.inet_pton(family, route.src))
    if route.mtu:
        body += attribute(_METRICS, u32(_RTAX_MTU, route.mtu))
    return body + (u32(_PRIORITY, route.metric) if route.metric else b"")


def _gateway(found: Mapping[int, bytes]) -> str:
    """RTA_VIA is a family and an address of it: a gateway of the other family."""
    return address_text(found.get(_GATEWAY) or found.get(_VIA, b"")[2:])
