# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: packets in fragments, of which only the first says which flow it belongs to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.datapath.conftest import MakeNat
from tests.datapath.frames import (
    ICMP,
    SCTP,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPv6ExtHdrFragment,
    Packet,
    Raw,
    SCTPChunkData,
)
from tests.datapath.harness import PASS
from tests.datapath.nat_net import (
    FIRST,
    NETS,
    WORLD,
    Net,
    arriving,
    carry,
    check_forwarded,
    connect,
    datagram,
    ip,
    outcome,
)
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

UNTOUCHED = ("PASS_UNCLAIMED", PASS)
NUMBERS = {"tcp": 6, "udp": 17}
MASQUERADE = {"masquerade": tuple(net.inside for net in NETS.values())}


def pieces(ends: Ends, protocol: str, ident: int = 77) -> list[Packet]:
    """A packet of three fragments, whose checksum is over all of them."""
    v6 = ":" in ends.dest
    data = bytes(range(256)) * 2
    whole = ip(ends) / (
        UDP(sport=ends.sport, dport=ends.dport)
        if protocol == "udp"
        else TCP(sport=ends.sport, dport=ends.dport, flags="PA")
    )
    payload = bytes((whole / Raw(data)).payload.payload)
    found = []
    for at, more in ((0, True), (200, True), (400, False)):
        part = Raw(payload[at : at + 200] if more else payload[at:])
        number = NUMBERS[protocol]
        if v6:
            found.append(ip(ends) / IPv6ExtHdrFragment(id=ident, offset=at // 8, m=int(more), nh=number) / part)
        else:
            found.append(ip(ends, id=ident, frag=at // 8, flags="MF" if more else 0, proto=number) / part)
    return found


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_of_a_new_flow(nat: MakeNat, net: Net, protocol: str) -> None:
    rig = nat()
    net.serve(rig, protocol)
    for asked, given in zip(pieces(net.asked, protocol), pieces(net.given, protocol), strict=True):
        check_forwarded(rig, asked, WORLD, given, FIRST)
    assert len(rig.flows()) == 1


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_of_a_known_flow_both_ways(nat: MakeNat, net: Net, protocol: str) -> None:
    rig = nat()
    net.serve(rig, protocol)
    if protocol == "tcp":
        connect(rig, net)
    else:
        check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
    ways = ((net.asked, WORLD, net.given, FIRST), (net.given.inverse, FIRST, net.asked.inverse, WORLD))
    for came, port, leaves, to in ways:
        for asked, given in zip(pieces(came, protocol), pieces(leaves, protocol), strict=True):
            check_forwarded(rig, asked, port, given, to)


def test_of_what_is_masqueraded(nat: MakeNat, net: Net) -> None:
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked = Ends(net.backend, 1234, net.client, 53)
    given = replace(asked, source=net.own[WORLD])
    for one, other in zip(pieces(asked, "udp"), pieces(given, "udp"), strict=True):
        check_forwarded(rig, one, FIRST, other, WORLD)
    for one, other in zip(pieces(given.inverse, "udp"), pieces(asked.inverse, "udp"), strict=True):
        check_forwarded(rig, one, WORLD, other, FIRST)


def left_alone(rig: NatRig, packet: Packet, port: int) -> None:
    result = carry(rig, packet, port)
    assert (outcome(result), result.frame) == (UNTOUCHED, arriving(packet, port))


def test_a_later_one_that_comes_first(nat: MakeNat, net: Net) -> None:
    """Nobody knows its ports yet: it is the stack's. Those behind the first one are translated."""
    rig = nat()
    net.serve(rig, "udp")
    first, second, third = pieces(net.asked, "udp")
    left_alone(rig, second, WORLD)
    expected = pieces(net.given, "udp")
    check_forwarded(rig, first, WORLD, expected[0], FIRST)
    check_forwarded(rig, third, WORLD, expected[2], FIRST)
    check_forwarded(rig, second, WORLD, expected[1], FIRST)


def test_of_another_packet(nat: MakeNat, net: Net) -> None:
    """Another identification, another sender, another protocol."""
    rig = nat()
    net.serve(rig, "udp")
    carry(rig, pieces(net.asked, "udp")[0], WORLD)
    left_alone(rig, pieces(net.asked, "udp", 78)[1], WORLD)
    left_alone(rig, pieces(replace(net.asked, source=net.client[:-1] + "9"), "udp")[1], WORLD)
    left_alone(rig, pieces(net.asked, "tcp")[1], WORLD)


def test_a_number_that_is_used_again(nat: MakeNat, net: Net) -> None:
    """The fragments of the later packet go with that one's first fragment, and after 30 seconds with nobody's."""
    rig = nat()
    net.serve(rig, "udp")
    carry(rig, pieces(net.asked, "udp")[0], WORLD)
    asked, given = replace(net.asked, sport=999), replace(net.given, sport=999)
    for one, other in zip(pieces(asked, "udp"), pieces(given, "udp"), strict=True):
        check_forwarded(rig, one, WORLD, other, FIRST)
    rig.age(29)
    check_forwarded(rig, pieces(asked, "udp")[1], WORLD, pieces(given, "udp")[1], FIRST)
    rig.age(2)
    left_alone(rig, pieces(asked, "udp")[1], WORLD)


def test_of_a_flow_whose_record_is_another_ones(nat: MakeNat, net: Net) -> None:
    """A later fragment of a flow that is over is not sent where that record's new flow goes."""
    rig = nat()
    net.serve(rig, "udp")
    first, second, _ = pieces(net.asked, "udp")
    carry(rig, first, WORLD)
    ((number, one),) = [(number, one) for number, one in rig.maps["nat_flows"] if one.life]
    other = one._replace(original=one.original._replace(saddr=(1, 0, 0, 0)))
    rig.maps["nat_flows"].set(number, other)
    left_alone(rig, second, WORLD)


def test_of_no_flow(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig, "tcp")
    for packet in pieces(net.asked, "udp"):
        left_alone(rig, packet, WORLD)


def test_of_a_long_ping(nat: MakeNat, net: Net) -> None:
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked = Ends(net.backend, 0, net.client, 0)
    given = replace(asked, source=net.own[WORLD])
    for one, other in zip(ping(asked), ping(given), strict=True):
        check_forwarded(rig, one, FIRST, other, WORLD)


def ping(ends: Ends) -> list[Packet]:
    if ":" in ends.dest:
        whole = bytes((ip(ends) / ICMPv6EchoRequest(id=7, data=bytes(300))).payload.payload)
        parts = [IPv6ExtHdrFragment(id=9, m=1, nh=58), IPv6ExtHdrFragment(id=9, offset=25, nh=58)]
        return [ip(ends) / part / Raw(data) for part, data in zip(parts, (whole[:200], whole[200:]), strict=True)]
    whole = bytes(ICMP(id=7) / Raw(bytes(300)))
    return [
        ip(ends, id=9, flags="MF", proto=1) / Raw(whole[:200]),
        ip(ends, id=9, frag=25, proto=1) / Raw(whole[200:]),
    ]


def test_of_sctp(nat: MakeNat, net: Net) -> None:
    """Its checksum is over all of the packet, whose length nobody knows yet: with another port it is the stack's."""
    rig = nat()
    net.serve(rig, "sctp")
    packet = SCTP(sport=1234, dport=80, tag=99) / SCTPChunkData(data=bytes(300))
    if net.version == 6:
        first = ip(net.asked) / IPv6ExtHdrFragment(id=9, m=1, nh=132) / Raw(bytes(packet)[:200])
    else:
        first = ip(net.asked, id=9, flags="MF", proto=132) / Raw(bytes(packet)[:200])
    frame = arriving(first, WORLD)
    result = rig.carry(frame, WORLD)
    assert (outcome(result), result.frame) == (("PUNT_FRAGMENT", PASS), frame)
