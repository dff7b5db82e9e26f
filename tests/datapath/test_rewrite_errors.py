# SPDX-License-Identifier: Apache-2.0
"""ICMP errors and what they quote (tuple_read_quoted, rewrite_error): whole frames as scapy builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig

from tests.datapath.frames import ICMP, IPOption_NOP, Packet, Raw
from tests.datapath.rewrite_packets import IPV4, IPV6, PORTLESS, TO4, TO6, V4, V6, Build, tcp, udp, v4, v6
from tests.datapath.rewrite_rig import ERROR, LATER, OTHER, Ends, Rewriter

# A router says so to the sender of the packet, or what the translation makes of both.
ROUTER4, OTHER4 = Ends("203.0.113.9", 0, "10.0.1.2", 0), Ends("198.51.100.99", 0, "198.51.100.7", 0)
ROUTER6, OTHER6 = Ends("2001:db8:9::9", 0, "fd01::1:2", 0), Ends("2001:db8:9::99", 0, "2001:db8:ffff::7", 0)

Say = Callable[[Ends, bytes], Packet]


def say4(ends: Ends, quote: bytes, kind: int = 3, code: int = 3, **fields: Any) -> Packet:
    return v4(ends, **fields) / ICMP(type=kind, code=code) / Raw(quote)


def say6(ends: Ends, quote: bytes) -> Packet:
    return v6(ends) / ICMPv6DestUnreach(code=4) / Raw(quote)


def quoted(packet: Packet, length: int = 0) -> bytes:
    """What is behind the Ethernet header, or so much of it."""
    return bytes(packet)[14:][: length or None]


def cases() -> list[Any]:
    """Every packet, in full and with the 8 bytes behind its headers that there are at least."""
    found = []
    for version, table, say, ends in (
        (4, IPV4, say4, (V4, TO4, ROUTER4, OTHER4)),
        (6, IPV6, say6, (V6, TO6, ROUTER6, OTHER6)),
    ):
        for name, build in table.items():
            if "bytes" not in name and "long" not in name:
                found.append(pytest.param(build, say, *ends, id=f"IPv{version} {name}"))
    return found


every_error = pytest.mark.parametrize(("build", "say", "before", "after", "outer", "outer_after"), cases())


@every_error
@pytest.mark.parametrize("least", [False, True], ids=["", "least"])
def test_rewritten(
    rewriter: Rewriter, build: Build, say: Say, before: Ends, after: Ends, outer: Ends, outer_after: Ends,
    least: bool, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    name = request.node.callspec.id
    later = "fragment" in name and any(one in name for one in PORTLESS)
    size = 0
    if least:
        found = rewriter.read(bytes(build(before))).view
        size = found.transport - 14 + (0 if later else 8)
    frame = bytes(say(outer, quoted(build(before), size)))
    wanted = bytes(say(outer_after, quoted(build(after), size)))
    done = rewriter.error(frame, outer_after, after)
    assert done.view.kind == ERROR
    assert done.quote
    assert done.quoted.kind == LATER if later else done.quoted.kind == 0
    assert done.done
    assert done.frame == wanted
    assert rewriter.error(done.frame, outer, before).frame == frame


@every_error
def test_every_length(
    plain: Rewriter, build: Build, say: Say, before: Ends, after: Ends, outer: Ends, outer_after: Ends
) -> None:
    """A quote that ends before the 8 bytes behind its headers is none; whatever is longer is rewritten, but for a
    checksum that is cut in two.
    """
    packet = build(before)
    view = plain.read(bytes(packet)).view
    has_ports = view.kind != LATER and view.protocol in (1, 6, 17, 58, 132)
    needed = view.transport - 14 + (8 if has_ports else 0)
    check, size = {6: (16, 2), 132: (8, 4)}.get(view.protocol, (0, 0))
    check += view.transport - 14
    for length in range(1, min(len(packet) - 14, 120)):
        frame = bytes(say(outer, quoted(packet, length)))
        done = plain.error(frame, outer_after, after)
        assert done.quote == done.done == (length >= needed), length
        quote = quoted(build(after), length)
        if check < length < check + size:
            quote = quote[:check] + quoted(packet, length)[check:]
        assert done.frame == (bytes(say(outer_after, quote)) if done.done else frame), length


def test_an_echo_that_is_quoted(rewriter: Rewriter) -> None:
    """Read with its identifier, as the echo itself is."""
    done = rewriter.read(bytes(say4(ROUTER4, quoted(IPV4["ICMP echo"](V4)), kind=11, code=0)))
    assert done.quoted.tuple == done.quoted.tuple._make(Ends(V4.source, V4.sport, V4.dest, V4.sport).words())
    assert (done.view.icmp_type, done.view.icmp_code) == (11, 0)


def test_age_and_options(rewriter: Rewriter) -> None:
    options = [IPOption_NOP()] * 8
    frame = bytes(say4(ROUTER4, quoted(IPV4["TCP"](V4)), options=options))
    wanted = bytes(say4(OTHER4, quoted(IPV4["TCP"](TO4)), options=options, ttl=16))
    assert rewriter.error(frame, OTHER4, TO4, age=True).frame == wanted
    too_big = ICMPv6PacketTooBig(mtu=1280)
    frame = bytes(v6(ROUTER6) / too_big / Raw(quoted(IPV6["TCP"](V6))))
    wanted = bytes(v6(OTHER6, hlim=16) / too_big / Raw(quoted(IPV6["TCP"](TO6))))
    assert rewriter.error(frame, OTHER6, TO6, age=True).frame == wanted


@pytest.mark.parametrize("size", [29, 512, 540, 548, 1023, 1024, 1232, 1400])
def test_quotes_of_any_size(rewriter: Rewriter, size: int) -> None:
    """Their checksum is verified and brought up to date whatever their length is."""
    for make, say, before, after, outer, outer_after in (
        (v4, say4, V4, TO4, ROUTER4, OTHER4),
        (v6, say6, V6, TO6, ROUTER6, OTHER6),
    ):
        payload = Raw(bytes(range(256)) * 6)
        frame, wanted = (
            bytes(say(o, quoted(make(e) / udp(e) / payload, max(size, 48))))
            for o, e in ((outer, before), (outer_after, after))
        )
        assert rewriter.error(frame, outer_after, after).frame == wanted
        broken = bytearray(frame)
        broken[-1] ^= 1
        done = rewriter.error(bytes(broken), outer_after, after)
        assert not done.quote
        assert done.frame == broken


def test_more_than_is_summed_up(rewriter: Rewriter) -> None:
    """What is longer than any error should be is rewritten unverified: wrong it stays wrong."""
    payload = Raw(bytes(2100))
    frame, wanted = (bytes(say4(o, quoted(v4(e) / udp(e) / payload))) for o, e in ((ROUTER4, V4), (OTHER4, TO4)))
    assert rewriter.error(frame, OTHER4, TO4).frame == wanted


PACKET4, PACKET6 = quoted(IPV4["TCP"](V4)), quoted(IPV6["TCP"](V6))
NO_QUOTES = {
    "a wrong ICMP checksum": lambda: v4(ROUTER4) / ICMP(type=3, code=3, chksum=1) / Raw(PACKET4),
    "a wrong ICMPv6 checksum": lambda: v6(ROUTER6) / ICMPv6DestUnreach(code=4, cksum=1) / Raw(PACKET6),
    "a wrong checksum of the quoted header": lambda: say4(ROUTER4, quoted(v4(V4, chksum=1) / tcp(V4))),
    "an error about an error": lambda: say4(ROUTER4, quoted(say4(V4, PACKET4))),
    "an error about a message without a flow": lambda: say4(ROUTER4, quoted(v4(V4) / ICMP(type=10))),
    "another IP version": lambda: say4(ROUTER4, PACKET6),
    "another IP version in IPv6": lambda: say6(ROUTER6, PACKET4),
    "a header that is too short by its own account": lambda: say4(ROUTER4, quoted(v4(V4, ihl=4) / tcp(V4))),
    "nothing": lambda: say4(ROUTER4, b""),
}


@pytest.mark.parametrize("name", NO_QUOTES)
def test_what_is_no_quote(rewriter: Rewriter, name: str) -> None:
    frame = bytes(NO_QUOTES[name]())
    done = rewriter.error(frame, OTHER4, TO4)
    assert (done.read, done.view.kind) == (True, ERROR)
    assert (done.quote, done.quoted.kind) == (False, OTHER)
    assert done.frame == frame


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_every_kind_of_error(rewriter: Rewriter, kind: int) -> None:
    assert rewriter.read(bytes(say4(ROUTER4, PACKET4, kind=kind, code=0))).quote


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_every_kind_of_icmpv6_error(rewriter: Rewriter, kind: int) -> None:
    packet = v6(ROUTER6) / ICMPv6DestUnreach(type=kind) / Raw(PACKET6)
    assert rewriter.read(bytes(packet)).quote


def test_a_quoted_checksum_that_is_none(rewriter: Rewriter) -> None:
    """UDP's 0 stays, and one that comes out as 0 is written as 0xffff."""
    plain = bytes(v4(TO4) / udp(TO4) / Raw(b"\0\0"))
    frame, wanted = (
        bytes(say4(o, quoted(v4(e) / udp(e) / Raw(plain[40:42])))) for o, e in ((ROUTER4, V4), (OTHER4, TO4))
    )
    assert wanted[68:70] == b"\xff\xff"
    assert rewriter.error(frame, OTHER4, TO4).frame == wanted
