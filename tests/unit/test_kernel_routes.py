# SPDX-License-Identifier: Apache-2.0
"""Routes, addresses and answers as netlink messages, without a kernel."""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import replace
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.netlink import attribute, attributes
from pydp.errors import NotAllowed, PydpError, UsageError
from pydp.kernel import batch, routes
from pydp.kernel.addresses import decode_addresses
from pydp.kernel.batch import Answer, Command
from pydp.kernel.made import make_vxlan
from pydp.kernel.routemessages import (
    canonical,
    decode_routes,
    key,
    lookup_body,
    next_hop_of,
    set_command,
    unset_command,
)
from pydp.model import NextHop, Route

PLAIN = Route("1.2.4.0/24", 3)
PLAIN6 = Route("2001:db8:1::/48", 3, metric=1024)


def back(command: Command, family: int) -> list[Route]:
    """What the kernel would tell of the route if it took the message as it is."""
    return decode_routes([(b"\xff" * 16 + command.body, 16, 16 + len(command.body))], family)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"via": "192.0.2.2"},
        {"via": "2001:db8::2"},
        {"src": "192.0.2.1"},
        {"mtu": 1480},
        {"via": "192.0.2.2", "onlink": True},
        {"metric": 7},
        {"table": 100},
        {"table": 100000},
        {"prefix": "0.0.0.0/0"},
        {"prefix": "1.2.4.5/32"},
        {"dev": 0x7FFFFFFF},
    ],
)
def test_ipv4_there_and_back(change: dict[str, Any]) -> None:
    route = replace(PLAIN, **change)
    assert canonical(route) == route
    assert back(set_command(route, 0), AF_INET) == [route]
    assert back(unset_command(route), AF_INET) == [route]
    assert back(set_command(route, 0), AF_INET6) == []


@pytest.mark.parametrize(
    "change", [{}, {"via": "fe80::2"}, {"src": "2001:db8::1", "mtu": 1460}, {"prefix": "::/0", "metric": 1}]
)
def test_ipv6_there_and_back(change: dict[str, Any]) -> None:
    route = replace(PLAIN6, **change)
    assert back(set_command(route, 0), AF_INET6) == [route]


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_any_prefix_there_and_back(address: Any, length: int, via: Any) -> None:
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    gateway = "" if network.version == 6 and via.version == 4 else str(via)
    route = canonical(Route(str(network), 1, gateway))
    assert ipaddress.ip_network(route.prefix) == network
    assert canonical(route) == route
    assert back(set_command(route, 0), AF_INET if network.version == 4 else AF_INET6) == [route]


@pytest.mark.parametrize(
    ("route", "scope", "unset"),
    [(PLAIN, 253, 255), (replace(PLAIN, via="192.0.2.2"), 0, 255), (PLAIN6, 0, 255)],
)
def test_scope(route: Route, scope: int, unset: int) -> None:
    """Without a gateway an IPv4 route is of scope link, as `ip route add` has it; a removal matches any scope."""
    assert (set_command(route, 0).body[6], unset_command(route).body[6]) == (scope, unset)


def test_numbers_are_those_of_the_kernel() -> None:
    """Family, length, table, protocol 219, unicast, RTNH_F_ONLINK; then the attributes."""
    command = set_command(replace(PLAIN, via="192.0.2.2", onlink=True, mtu=1480), 0x600)
    assert (command.kind, command.flags) == (24, 0x600)
    assert command.body[:12] == struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 219, 0, 1, 4)
    assert attributes(command.body, 12, len(command.body)) == {
        1: inet_pton(AF_INET, "1.2.4.0"),
        4: struct.pack("=I", 3),
        5: inet_pton(AF_INET, "192.0.2.2"),
        8: struct.pack("=HHI", 8, 2, 1480),
        15: struct.pack("=I", 254),
    }
    assert unset_command(PLAIN).kind == 25


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (Route("2001:DB8::/32", 1, "FE80::0:2"), Route("2001:db8::/32", 1, "fe80::2", metric=1024)),
        (Route("2001:db8::/32", 1, metric=5), Route("2001:db8::/32", 1, metric=5)),
        (Route("10.0.0.0/255.0.0.0", 1), Route("10.0.0.0/8", 1)),
        (Route("10.0.0.1", 1), Route("10.0.0.1/32", 1)),
    ],
)
def test_canonical(route: Route, expected: Route) -> None:
    assert canonical(route) == expected
    assert key(canonical(route)) == (254, expected.prefix, expected.metric)


@pytest.mark.parametrize(
    ("route", "why"),
    [
        (Route("1.2.4.1/24", 1), "has host bits set"),
        (Route("nowhere", 1), "nowhere"),
        (Route("1.2.4.0/24", 1, "gateway"), "gateway"),
        (Route("1.2.4.0/24", 1, src="1.2"), "1.2"),
        (Route("2001:db8::/32", 1, "192.0.2.2"), "cannot have the IPv4 gateway"),
        (Route("1.2.4.0/24", 1, protocol=4), "protocol 4"),
    ],
)
def test_no_route_of_ours(route: Route, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        canonical(route)


def test_two_routes_in_one_place() -> None:
    with pytest.raises(UsageError, match=r"two different routes to 1\.2\.4\.0/24"):
        routes.add_routes([PLAIN, replace(PLAIN, dev=4)])


def test_routes_that_are_left_out() -> None:
    """Of another family or protocol, no unicast, cached clones, several next hops, none."""
    body = set_command(PLAIN, 0).body

    def changed(at: int, value: int) -> bytes:
        return body[:at] + bytes([value]) + body[at + 1 :]

    cloned = body[:8] + struct.pack("=I", 0x200) + body[12:]
    blackhole = body[:12] + attribute(1, b"\1\2\4\0")
    bodies = [changed(0, 10), changed(5, 4), changed(7, 6), cloned, body + attribute(9, bytes(8)), blackhole]
    assert decode_routes([(one, 0, len(one)) for one in bodies], AF_INET, 219) == []
    assert decode_routes([(body, 0, len(body))], AF_INET, 219) == [PLAIN]


def test_protocol_zero_is_any() -> None:
    body = set_command(PLAIN, 0).body
    static = body[:5] + b"\4" + body[6:]
    assert decode_routes([(static, 0, len(static))], AF_INET, 0) == [replace(PLAIN, protocol=4)]


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (b"", ""),
        (attribute(5, inet_pton(AF_INET, "192.0.2.2")), "192.0.2.2"),
        (attribute(18, struct.pack("=H", AF_INET6) + inet_pton(AF_INET6, "fe80::2")), "fe80::2"),
    ],
)
def test_next_hop(via: bytes, expected: str) -> None:
    body = bytes(12) + attribute(4, struct.pack("=I", 3)) + attribute(7, inet_pton(AF_INET, "192.0.2.1")) + via
    assert next_hop_of((body, 0, len(body))) == NextHop(3, expected, "192.0.2.1")


def test_question_for_the_next_hop() -> None:
    packed = inet_pton(AF_INET6, "2001:db8::2")
    assert lookup_body(packed, 0) == bytes([10, 128]) + bytes(10) + attribute(1, packed)
    assert lookup_body(packed, 3) == lookup_body(packed, 0) + attribute(4, struct.pack("=I", 3))


@pytest.mark.parametrize("text", ["", "eth0", "192.0.2.0/24"])
def test_next_hop_to_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address"):
        routes.next_hop(text)


def test_addresses() -> None:
    """Of a point-to-point link the own address counts, which for IPv6 is IFA_LOCAL only when there is another end."""

    def said(family: int, length: int, ifindex: int, *values: tuple[int, str]) -> tuple[bytes, int, int]:
        data = bytes(4) + struct.pack("=BBBBI", family, length, 0, 0, ifindex)
        data += b"".join(attribute(kind, inet_pton(family, text)) for kind, text in values)
        return data, 4, len(data)

    found = decode_addresses(
        [
            said(AF_INET, 24, 2, (1, "192.0.2.1"), (2, "192.0.2.1")),
            said(AF_INET, 32, 2, (1, "192.0.2.9"), (2, "198.51.100.1")),
            said(AF_INET6, 64, 2, (1, "2001:db8::1")),
            said(AF_INET6, 128, 3, (1, "2001:db8::9"), (2, "2001:db8::1")),
            said(AF_INET, 24, 4),
        ]
    )
    assert {ifindex: [str(one) for one in addresses] for ifindex, addresses in found.items()} == {
        2: ["192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64"],
        3: ["2001:db8::1/128"],
    }


def error(number: int, code: int, *, flags: int = 0, asked: bytes = b"", tail: bytes = b"") -> bytes:
    """struct nlmsgerr in its message; what was asked comes back whole unless NLM_F_CAPPED."""
    body = struct.pack("=i", -code) + struct.pack("=IHHII", 16 + len(asked), 24, 5, number, 0) + asked + tail
    return struct.pack("=IHHII", 16 + len(body), 2, flags, number, 0) + body


def test_answers() -> None:
    said = attribute(1, b"Invalid prefix\0")
    datagram = error(0, 0) + error(1, errno.EEXIST, flags=0x100) + error(2, errno.EINVAL, flags=0x300, tail=said)
    datagram += error(3, errno.EINVAL, flags=0x200, asked=b"\1" * 20, tail=said)
    assert list(batch._answers(datagram)) == [
        (0, Answer(0)),
        (1, Answer(errno.EEXIST)),
        (2, Answer(errno.EINVAL, "Invalid prefix")),
        (3, Answer(errno.EINVAL, "Invalid prefix")),
    ]


def test_errors_of_answers() -> None:
    refused = Answer(errno.EINVAL, "Invalid prefix").error("cannot do it", "do so")
    assert (type(refused), str(refused), refused.hint) == (
        PydpError, "cannot do it: Invalid argument (Invalid prefix)", "do so",
    )  # fmt: skip
    assert isinstance(Answer(errno.EPERM).error("cannot do it"), NotAllowed)


def test_an_alias_without_the_mark_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="does not begin"):
        make_vxlan("v0", port=4789, alias="mine")
