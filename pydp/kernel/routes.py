# SPDX-License-Identifier: Apache-2.0
"""Routes: where a packet of this host goes, and routes of our own beside those of others."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ebpf.netlink import NETLINK_ROUTE, ask, dump
from pydp.errors import PydpError, UsageError
from pydp.kernel.addresses import add_address, remove_address
from pydp.kernel.batch import CREATE, EXCL, REPLACE, Answer, Requests
from pydp.kernel.routemessages import (
    RTM_GETROUTE,
    Key,
    canonical,
    decode_routes,
    dump_body,
    family_of,
    key,
    lookup_body,
    next_hop_of,
    set_command,
    unset_command,
)
from pydp.model import ROUTE_PROTOCOL, Group, NextHop, Route

# As `ip route` has them.
_PROTOCOLS = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", 186: "bgp", 188: "ospf", 189: "rip"}
_NOT_THERE = (errno.ESRCH, errno.ENODEV)


def next_hop(address: str, *, oif: int = 0) -> NextHop:
    """Where a packet of this host to the address goes, with ``oif`` one that is bound to that device.

    An address of this host goes by way of lo. Raises UsageError for what is no address, PydpError when there is no
    route to it.
    """
    try:
        target = ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is not an IP address") from error
    try:
        return next_hop_of(ask(NETLINK_ROUTE, RTM_GETROUTE, lookup_body(target.packed, oif)))
    except OSError as error:
        where = f" through interface {oif}" if oif else ""
        why = os.strerror(error.errno or 0)
        hint = f"ip route get {address}"
        if target.is_link_local and error.errno == errno.ENETUNREACH:
            hint = "IPv6 has to be on there: sysctl net.ipv6.conf.DEV.disable_ipv6=0"
        raise PydpError(f"no route to {address}{where}: {why}", hint=hint) from error


def resolved(routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes with the next hop on the way to their ``via``, an address anywhere: itself where it is a neighbour.
    Everything else is as `read_routes` will tell it.

    ``dev`` is the device to go out by, 0 for whichever leads there. An IPv6 route cannot have an IPv4 gateway, so one
    whose next hop is IPv4 has the device only. Raises UsageError, PydpError like `next_hop`.
    """
    hops: dict[tuple[str, int], NextHop] = {}
    found = []
    for route in routes:
        place = (route.via, route.dev)
        if route.via and place not in hops:
            hops[place] = next_hop(route.via, oif=route.dev)
        if hop := hops.get(place):
            gateway = hop.via or route.via
            crossed = ":" in route.prefix and ":" not in gateway
            route = replace(route, dev=hop.ifindex, via="" if crossed else gateway)
        found.append(canonical(route))
    return tuple(found)


def read_routes(protocol: int = ROUTE_PROTOCOL, *, family: int = socket.AF_UNSPEC) -> tuple[Route, ...]:
    """The unicast routes with one next hop that this protocol made, of both families unless told, in all tables.

    Protocol 0 stands for all protocols. Raises OSError.
    """
    families = (family,) if family else (socket.AF_INET, socket.AF_INET6)
    return tuple(
        route
        for one in families
        for route in decode_routes(dump(NETLINK_ROUTE, RTM_GETROUTE, dump_body(one, protocol)), one, protocol)
    )


def add_routes(routes: Collection[Route]) -> None:
    """Set these routes, all or none: new ones, and those of ours with the same prefix, metric and table anew.

    What is there exactly so already stays. The kernel removes routes when their device goes down, and does not bring
    them back. Raises UsageError for what is no route of ours or given twice, PydpError when another protocol has a
    route of the same prefix and metric or the kernel refuses one; then everything is as it was before.
    """
    wanted = _by_key(routes)
    ours = _ours(wanted.values())
    todo = [(route, ours.get(place)) for place, route in wanted.items() if ours.get(place) != route]
    commands = [set_command(route, REPLACE if before else CREATE | EXCL) for route, before in todo]
    try:
        with Requests() as requests:
            for index, answer in requests.send(commands):
                if answer.code:
                    raise _refused(todo[index][0], answer)
    except BaseException as error:
        try:
            _undo(todo)
        except (OSError, PydpError) as another:
            error.add_note(f"and taking back the routes set before it failed: {another}")
        raise


def remove_routes(routes: Collection[Route]) -> None:
    """Remove these routes; what is not there exactly so is left alone. Raises UsageError, PydpError."""
    wanted = _by_key(routes)
    ours = _ours(wanted.values())
    there = [route for place, route in wanted.items() if ours.get(place) == route]
    failed: PydpError | None = None
    with Requests() as requests:
        for index, answer in requests.send([unset_command(route) for route in there]):
            if answer.code and answer.code not in _NOT_THERE:
                failed = failed or answer.error(f"cannot remove the route to {there[index].prefix}")
    if failed:
        raise failed


def join(group: Group) -> None:
    """Make the device a member of the multicast group until `leave`; see `add_address`. Raises PydpError."""
    add_address(group.dev, _host(group.address), autojoin=True)


def leave(group: Group) -> None:
    """End what `join` began; harmless when there is nothing to end. Raises PydpError."""
    remove_address(group.dev, _host(group.address))


def _undo(todo: Sequence[tuple[Route, Route | None]]) -> None:
    """Put back what `add_routes` replaced and remove what it added, as far as it came to that."""
    now = _ours(route for route, _ in todo)
    back = [before for route, before in todo if before and now.get(key(route)) == route]
    failed: PydpError | None = None
    with Requests() as requests:
        for index, answer in requests.send([set_command(route, REPLACE) for route in back]):
            if answer.code:
                failed = failed or answer.error(f"cannot put back the route to {back[index].prefix}")
    remove_routes([route for route, before in todo if not before])
    if failed:
        raise failed


def _refused(route: Route, answer: Answer) -> PydpError:
    if answer.code != errno.EEXIST:
        hint = "the gateway must be a neighbour, or the route onlink" if "gateway" in answer.said else ""
        return answer.error(f"cannot set the route to {route.prefix}", hint)
    others = (one for one in read_routes(0, family=family_of(route)) if key(one) == key(route))
    other = next((f" (protocol {_PROTOCOLS.get(one.protocol, one.protocol)})" for one in others), "")
    return PydpError(
        f"there is a route to {route.prefix} already that pydp did not make{other}",
        hint=f"ip route show {route.prefix} table {route.table}",
    )


def _by_key(routes: Iterable[Route]) -> Mapping[Key, Route]:
    """The routes as the kernel would tell them back."""
    found: dict[Key, Route] = {}
    for route in map(canonical, routes):
        if found.setdefault(key(route), route) != route:
            raise UsageError(f"two different routes to {route.prefix}")
    return found


def _ours(routes: Iterable[Route]) -> Mapping[Key, Route]:
    """Our routes that are there, of the families of these."""
    families = {family_of(route) for route in routes}
    return {key(route): route for family in families for route in read_routes(family=family)}


def _host(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
