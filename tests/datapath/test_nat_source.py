# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: masquerade and other new sources, and the ports that these get."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.datapath.conftest import MakeNat
from tests.datapath.frames import ICMP, UDP, ICMPv6EchoReply, ICMPv6EchoRequest, Packet, Raw
from tests.datapath.harness import DROP, PASS, ticks_now
from tests.datapath.nat_net import (
    FIRST,
    NETS,
    SECOND,
    WORLD,
    Net,
    arriving,
    carry,
    check_forwarded,
    datagram,
    ip,
    outcome,
    segment,
    tuple_of,
    unsummed,
)
from tests.datapath.nat_rig import Flow, NatRig
from tests.datapath.rewrite_packets import IPV4, IPV6
from tests.datapath.rewrite_rig import Ends
from tests.kernels.needs import at_full_speed

pytestmark = pytest.mark.usefixtures("requires_root")

BOTH = {"masquerade": tuple(net.inside for net in NETS.values())}
TEN = {**BOTH, "ports": "40000-40009"}
FIXED = {
    "snat": ("10.0.1.0/24=192.0.2.7", "10.0.1.128/25=192.0.2.8", "fd01::/64=2001:db8::7"),
    "masquerade": ("10.0.1.0/24@p2", "fd01::/64@p2"),
}
KINDS = [
    (version, name)
    for version, builds in ((4, IPV4), (6, IPV6))
    for name in builds
    if not any(one in name for one in ("ICMP", "first", "later", "last"))
]
UNTOUCHED = ("PASS_UNCLAIMED", PASS)


def outward(net: Net, sport: int = 1234) -> tuple[Ends, Ends]:
    """What a container sends to the world, and what the world gets."""
    return Ends(net.backend, sport, net.client, 80), Ends(net.own[WORLD], sport, net.client, 80)


def neighbours(net: Net, count: int) -> Iterable[str]:
    """Other containers behind port 1."""
    return (f"10.0.1.{10 + number}" if net.version == 4 else f"fd01::1:{number:x}" for number in range(count))


def of(rig: NatRig, ends: Ends) -> Flow:
    (found,) = (flow for flow in rig.flows() if flow.original == tuple_of(ends))
    return found


@pytest.mark.parametrize(("version", "name"), KINDS, ids=lambda one: str(one))
def test_masquerade(nat: MakeNat, version: int, name: str) -> None:
    rig, net = nat(options=BOTH), NETS[version]
    net.routes(rig)
    build = {4: IPV4, 6: IPV6}[version][name]
    asked, given = outward(net)
    for _ in range(2):
        check_forwarded(rig, build(asked), FIRST, build(given), WORLD)
    check_forwarded(rig, build(given.inverse), WORLD, build(asked.inverse), FIRST)
    assert len(rig.flows()) == 1


def echo(ends: Ends, ident: int, *, reply: bool = False) -> Packet:
    if ":" in ends.dest:
        return ip(ends) / (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=ident, seq=1, data=b"ping")
    return ip(ends) / ICMP(type=0 if reply else 8, id=ident, seq=1) / Raw(b"ping")


def test_ping(nat: MakeNat, net: Net) -> None:
    """Two that ping with one identifier: the second gets another one."""
    rig = nat(options=BOTH)
    net.routes(rig)
    asked, given = outward(net)
    check_forwarded(rig, echo(asked, 77), FIRST, echo(given, 77), WORLD)
    check_forwarded(rig, echo(given.inverse, 77, reply=True), WORLD, echo(asked.inverse, 77, reply=True), FIRST)
    (other,) = neighbours(net, 1)
    rig.route(other, FIRST)
    carry(rig, echo(replace(asked, source=other), 77), FIRST)
    (flow,) = (flow for flow in rig.flows() if flow.original[0] == other)
    ident = flow.reply[3]
    assert flow.reply == (net.client, ident, net.own[WORLD], ident)
    assert ident != 77
    back = echo(Ends(net.client, 0, other, 0), 77, reply=True)
    check_forwarded(rig, echo(given.inverse, ident, reply=True), WORLD, back, FIRST)
    check_forwarded(rig, echo(given.inverse, 77, reply=True), WORLD, echo(asked.inverse, 77, reply=True), FIRST)


def test_an_echo_reply_begins_nothing(nat: MakeNat, net: Net) -> None:
    rig = nat(options=BOTH)
    net.routes(rig)
    frame = arriving(echo(outward(net)[0], 77, reply=True), FIRST)
    result = rig.send(frame, FIRST)
    assert (outcome(result), result.frame, rig.flows()) == (UNTOUCHED, frame, [])


def test_what_is_not_masqueraded(nat: MakeNat, net: Net) -> None:
    """Sources outside the prefix, and destinations inside of it."""
    rig = nat(options=BOTH)
    net.routes(rig)
    (inside,) = neighbours(net, 1)
    rig.route(inside, FIRST)
    for port, ends in ((SECOND, Ends(net.second, 1, net.client, 80)), (FIRST, Ends(net.backend, 1, inside, 80))):
        frame = arriving(segment(ends, "S"), port)
        result = carry(rig, segment(ends, "S"), port)
        assert (outcome(result), result.frame) == (UNTOUCHED, frame)
    assert rig.flows() == []


def test_connections_from_the_world_are_not_masqueraded_on_their_way_back(nat: MakeNat, net: Net) -> None:
    """What a container answers has no flow and begins none, unless the ACK of a connection that nobody remembers."""
    rig = nat(options=BOTH)
    net.routes(rig)
    result = carry(rig, segment(outward(net)[0], "SA"), FIRST)
    assert (outcome(result), rig.flows()) == (UNTOUCHED, [])


def test_a_service_for_a_masqueraded_client(nat: MakeNat, net: Net) -> None:
    """The source of what is for a service is its own: a backend sees the container."""
    rig = nat(options=BOTH)
    net.serve(rig)
    asked, given = Ends(net.backend, 5, net.vip, 80), Ends(net.own[FIRST], 5, net.backend, 8080)
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), FIRST)


# Fixed sources


def test_fixed_sources(nat: MakeNat) -> None:
    rig = nat(options=FIXED)
    for net, to in ((NETS[4], "192.0.2.7"), (NETS[6], "2001:db8::7")):
        net.routes(rig)
        asked, given = outward(net)
        given = replace(given, source=to)
        check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), WORLD)
        check_forwarded(rig, segment(given.inverse, "SA"), WORLD, segment(asked.inverse, "SA"), FIRST)
        assert of(rig, asked).state == "SYN_RECV"


def test_the_longest_prefix_counts(nat: MakeNat) -> None:
    rig, net = nat(options=FIXED), NETS[4]
    net.routes(rig)
    asked = Ends("10.0.1.200", 1234, net.client, 80)
    rig.route(asked.source, FIRST)
    given = replace(asked, source="192.0.2.8")
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), WORLD)


def test_a_rule_for_a_device(nat: MakeNat, net: Net) -> None:
    rig = nat(options=FIXED)
    net.routes(rig)
    asked = Ends(net.backend, 1234, net.second, 80)
    given = replace(asked, source=net.own[SECOND])
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), SECOND)


# Ports


def test_a_port_is_kept_and_shared_by_destination(nat: MakeNat, net: Net) -> None:
    rig = nat(options=BOTH)
    net.routes(rig)
    asked, given = outward(net)
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), WORLD)
    (other,) = neighbours(net, 1)
    elsewhere = replace(asked, source=other, dport=443)
    check_forwarded(rig, segment(elsewhere, "S"), FIRST, segment(replace(given, dport=443), "S"), WORLD)


def test_another_port_for_the_second(nat: MakeNat, net: Net) -> None:
    rig = nat(options=BOTH)
    net.routes(rig)
    (other,) = neighbours(net, 1)
    rig.route(other, FIRST)
    asked, given = outward(net)
    connect_out(rig, asked, given)
    again = replace(asked, source=other)
    carry(rig, segment(again, "S"), FIRST)
    port = of(rig, again).reply[3]
    assert port != 1234
    assert 1024 <= port <= 65535
    connect_out(rig, again, replace(given, sport=port))
    check_forwarded(rig, segment(given.inverse), WORLD, segment(asked.inverse), FIRST)


def connect_out(rig: NatRig, asked: Ends, given: Ends) -> None:
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), WORLD)
    check_forwarded(rig, segment(given.inverse, "SA"), WORLD, segment(asked.inverse, "SA"), FIRST)
    check_forwarded(rig, segment(asked, "A"), FIRST, segment(given, "A"), WORLD)


@at_full_speed
def test_no_two_flows_are_answered_alike(nat: MakeNat) -> None:
    rig, net = nat(options=BOTH), NETS[4]
    net.routes(rig)
    for source in neighbours(net, 40):
        rig.sends([unsummed(Ends(source, sport, net.client, 53), FIRST) for sport in range(1024, 1034)], FIRST)
    flows = rig.flows()
    assert len({flow.original for flow in flows}) == 400
    assert len({flow.reply for flow in flows}) == 400
    assert {flow.reply[:3] for flow in flows} == {(net.client, 53, net.own[WORLD])}


def test_ports_run_out(nat: MakeNat) -> None:
    """The first one keeps its port, ten get those of the range, and the twelfth none: to this destination."""
    rig, net = nat(options=TEN), NETS[4]
    net.routes(rig)
    sources = list(neighbours(net, 13))
    for source in sources[:11]:
        carry(rig, datagram(Ends(source, 1234, net.client, 53)), FIRST)
    assert sorted(flow.reply[3] for flow in rig.flows()) == [1234, *range(40000, 40010)]
    result = carry(rig, datagram(Ends(sources[11], 1234, net.client, 53)), FIRST)
    assert outcome(result) == ("DROP_PORTS", DROP)
    assert rig.events() == {"created": 11, "exhausted": 1}
    elsewhere, given = Ends(sources[12], 1234, net.client, 54), Ends(net.own[WORLD], 1234, net.client, 54)
    check_forwarded(rig, datagram(elsewhere), FIRST, datagram(given), WORLD)


def test_the_one_port_that_is_free_is_found(nat_on: MakeNat) -> None:
    """Also that of a flow whose time is over and whose record nobody needed yet."""
    rig, net = nat_on("tc", options=TEN), NETS[4]
    net.routes(rig)
    sources = list(neighbours(net, 31))
    for source in sources[:11]:
        carry(rig, datagram(Ends(source, 1234, net.client, 53)), FIRST)
    for source, port in zip(sources[11:], [1234, *range(40000, 40010)] * 2, strict=False):
        for number, one in rig.maps["nat_flows"]:
            if one.life and int.from_bytes(one.reply.dport.to_bytes(2, "little"), "big") == port:
                rig.maps["nat_flows"].set(number, one._replace(life=one.life & ~0xFFFFFFFF | ticks_now() - 100))
        asked = Ends(source, 1234, net.client, 53)
        carry(rig, datagram(asked), FIRST)
        assert of(rig, asked).reply[3] == port
    assert len({flow.reply for flow in rig.flows()}) == 11
    assert all(len(places) == 2 for places in rig.index().values()), "what is over is out of the index"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["UDP", "TCP"])
def test_ports_of_sockets_are_left_alone(nat_on: MakeNat, net: Net, kind: int) -> None:
    """A socket of this host that takes packets for the port would get the answers."""
    rig = nat_on("tc", options=BOTH)
    net.routes(rig)
    family = socket.AF_INET if net.version == 4 else socket.AF_INET6
    build = datagram if kind == socket.SOCK_DGRAM else lambda ends: segment(ends, "S")
    with socket.socket(family, kind) as mine:
        mine.bind(("", 0))
        if kind == socket.SOCK_STREAM:
            mine.listen()
        asked, _ = outward(net, mine.getsockname()[1])
        carry(rig, build(asked), FIRST)
        assert of(rig, asked).reply[3] != asked.sport
    asked = replace(asked, source=next(iter(neighbours(net, 1))))
    carry(rig, build(asked), FIRST)
    assert of(rig, asked).reply[3] == asked.sport, "nobody has it any more"


def test_a_tuple_that_is_over_begins_as_before(nat: MakeNat, net: Net) -> None:
    """With the port that it had: its own record is not in its way."""
    rig = nat(options=BOTH)
    net.routes(rig)
    asked, given = outward(net)
    for _ in range(3):
        check_forwarded(rig, datagram(asked), FIRST, datagram(given), WORLD)
        rig.age(31)
        assert rig.flows() == []
    assert rig.events() == {"created": 3, "expired": 2}
    assert [len(places) for places in rig.index().values()] == [2]


def test_datagrams_keep_their_length(nat: MakeNat, net: Net) -> None:
    """Odd and even, with a checksum of 0xffff, which stands for 0."""
    rig = nat(options=BOTH)
    net.routes(rig)
    asked, given = outward(net)
    check_forwarded(rig, datagram(asked, b""), FIRST, datagram(given, b""), WORLD)
    ones = datagram(given, bytes(2))
    fill = 0xFFFF - (~UDP(bytes(ones[UDP])).chksum & 0xFFFF)
    data = fill.to_bytes(2)
    assert UDP(bytes(datagram(given, data)[UDP])).chksum == 0xFFFF
    check_forwarded(rig, datagram(asked, data), FIRST, datagram(given, data), WORLD)
