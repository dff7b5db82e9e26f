# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: ICMP errors about packets that were translated (RFC 5508 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.datapath.conftest import MakeNat
from tests.datapath.frames import (
    ICMP,
    IP,
    UDP,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    Packet,
    Raw,
)
from tests.datapath.harness import DROP, PASS
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
    segment,
)
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

UNTOUCHED = ("PASS_UNCLAIMED", PASS)
ERRORS = {
    "too big": ({"type": 3, "code": 4, "nexthopmtu": 1400}, ICMPv6PacketTooBig(mtu=1400)),
    "time exceeded": ({"type": 11, "code": 0}, ICMPv6TimeExceeded(code=0)),
    "port unreachable": ({"type": 3, "code": 3}, ICMPv6DestUnreach(code=4)),
    "host unreachable": ({"type": 3, "code": 1}, ICMPv6DestUnreach(code=3)),
}
MASQUERADE = {"masquerade": tuple(net.inside for net in NETS.values())}
ROUTER = {4: "203.0.113.1", 6: "2001:db8:f::1"}  # somewhere on the way


def error(name: str, source: str, dest: str, packet: Packet, size: int = 0) -> Packet:
    """SOURCE tells DEST about PACKET, of which SIZE bytes are quoted, or all."""
    quote = bytes(packet.payload)
    four, six = ERRORS[name]
    frame = ip(Ends(source, 0, dest, 0), **({"ttl": 60} if ":" not in dest else {"hlim": 60}))
    return frame / (six if ":" in dest else ICMP(**four)) / Raw(quote[: size or len(quote)])


@pytest.fixture(params=ERRORS)
def name(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def test_about_what_a_client_sent_to_a_service(nat: MakeNat, net: Net, name: str) -> None:
    """From a router before the backend, or from that itself: to the client both are the service."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    seen = error(name, net.vip, net.client, segment(net.asked, data=b"data"))
    for source in (net.backend, ROUTER[net.version]):
        told = error(name, source, net.client, segment(net.given, data=b"data"))
        check_forwarded(rig, told, FIRST, seen, WORLD)


def test_about_what_a_backend_answered(nat: MakeNat, net: Net, name: str) -> None:
    """From the client or a router before it, who keeps its address."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    for source in (net.client, ROUTER[net.version]):
        told = error(name, source, net.vip, segment(net.asked.inverse))
        seen = error(name, source, net.backend, segment(net.given.inverse))
        check_forwarded(rig, told, WORLD, seen, FIRST)


def outward(net: Net) -> tuple[Ends, Ends]:
    return Ends(net.backend, 1234, net.client, 53), Ends(net.own[WORLD], 1234, net.client, 53)


def test_about_what_was_masqueraded(nat: MakeNat, net: Net, name: str) -> None:
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked, given = outward(net)
    check_forwarded(rig, datagram(asked), FIRST, datagram(given), WORLD)
    router = ROUTER[net.version]
    told, seen = error(name, router, given.source, datagram(given)), error(name, router, asked.source, datagram(asked))
    check_forwarded(rig, told, WORLD, seen, FIRST)


def test_about_answers_to_what_was_masqueraded(nat: MakeNat, net: Net, name: str) -> None:
    """A router inside stays hidden behind this host."""
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked, given = outward(net)
    check_forwarded(rig, datagram(asked), FIRST, datagram(given), WORLD)
    for source in (net.backend, ROUTER[net.version]):
        told = error(name, source, net.client, datagram(asked.inverse))
        seen = error(name, net.own[WORLD], net.client, datagram(given.inverse))
        check_forwarded(rig, told, FIRST, seen, WORLD)


def test_another_port_is_translated_back(nat: MakeNat, net: Net) -> None:
    """A flow that could not keep its port."""
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked, given = outward(net)
    other = replace(asked, source=asked.source + "2")
    rig.route(other.source, FIRST)
    check_forwarded(rig, datagram(asked), FIRST, datagram(given), WORLD)
    carry(rig, datagram(other), FIRST)
    (flow,) = (flow for flow in rig.flows() if flow.original[0] == other.source)
    given = replace(given, sport=flow.reply[3])
    router = ROUTER[net.version]
    told = error("time exceeded", router, given.source, datagram(given))
    check_forwarded(rig, told, WORLD, error("time exceeded", router, other.source, datagram(other)), FIRST)


def test_about_a_ping(nat: MakeNat, net: Net, name: str) -> None:
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked, given = outward(net)
    echo = ICMP(id=5, seq=1) if net.version == 4 else ICMPv6EchoRequest(id=5, seq=1)
    check_forwarded(rig, ip(asked) / echo, FIRST, ip(given) / echo, WORLD)
    router = ROUTER[net.version]
    told = error(name, router, given.source, ip(given) / echo)
    check_forwarded(rig, told, WORLD, error(name, router, asked.source, ip(asked) / echo), FIRST)


@pytest.mark.parametrize("behind", [8, 20, 36])
def test_quotes_are_cut(nat: MakeNat, net: Net, behind: int) -> None:
    """To BEHIND bytes of what follows the quoted IP header: to no more than ports and sequence number."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    size = behind + (20 if net.version == 4 else 40)
    told = error("time exceeded", net.backend, net.client, segment(net.given, data=bytes(40)), size)
    seen = error("time exceeded", net.vip, net.client, segment(net.asked, data=bytes(40)), size)
    check_forwarded(rig, told, FIRST, seen, WORLD)


def test_datagrams_without_a_checksum(nat: MakeNat) -> None:
    rig, net = nat(), NETS[4]
    net.serve(rig, "udp")
    given, asked = datagram(net.given), datagram(net.asked)
    given[UDP].chksum = asked[UDP].chksum = 0
    check_forwarded(rig, asked, WORLD, given, FIRST)
    told = error("port unreachable", net.backend, net.client, given)
    check_forwarded(rig, told, FIRST, error("port unreachable", net.vip, net.client, asked), WORLD)


def left_alone(rig: NatRig, frame: bytes, port: int) -> None:
    result = rig.carry(frame, port)
    assert (outcome(result), result.frame) == (UNTOUCHED, frame)


def test_errors_do_not_keep_a_flow_alive(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig, "udp")
    check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
    rig.age(20)  # of 30 s
    (before,) = rig.flows()
    carry(rig, error("port unreachable", net.backend, net.client, datagram(net.given)), FIRST)
    (after,) = rig.flows()
    assert (after.kind, after.flags) == (before.kind, before.flags)
    assert after.life <= before.life


def test_about_nothing_that_is_known(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    for packet in (
        segment(replace(net.given, sport=4321)),
        datagram(net.given),
        segment(net.given.inverse),
        segment(Ends(net.client, 1, net.second, 2)),
    ):
        left_alone(rig, arriving(error("time exceeded", net.backend, net.client, packet), FIRST), FIRST)


def test_about_a_flow_that_is_over(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig, "udp")
    carry(rig, datagram(net.asked), WORLD)
    rig.age(31)
    left_alone(rig, arriving(error("time exceeded", net.backend, net.client, datagram(net.given)), FIRST), FIRST)


def test_to_somebody_else_than_the_quoted_sender(nat: MakeNat, net: Net) -> None:
    """nf_conntrack_inet_error() takes it for invalid, too: it would be sent to whom the quote names."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    left_alone(
        rig, arriving(error("time exceeded", net.client, net.own[WORLD], segment(net.asked.inverse)), WORLD), WORLD
    )


def test_a_wrong_checksum(nat: MakeNat, net: Net) -> None:
    """Of the message: its receiver would drop it, and until then it would show the backend."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    frame = bytearray(arriving(error("time exceeded", net.backend, net.client, segment(net.given)), FIRST))
    frame[-1] ^= 1
    result = rig.carry(bytes(frame), FIRST)
    assert outcome(result) == ("DROP_CHECKSUM", DROP)


def test_a_wrong_checksum_in_the_quoted_header(nat: MakeNat) -> None:
    rig, net = nat(), NETS[4]
    net.serve(rig)
    connect(rig, net)
    quoted = Ether(bytes(segment(net.given)))
    quoted[IP].chksum ^= 1
    left_alone(rig, arriving(error("time exceeded", net.backend, net.client, quoted), FIRST), FIRST)


def test_errors_about_errors(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    inner = error("time exceeded", net.client, net.backend, segment(net.given.inverse))
    left_alone(rig, arriving(error("time exceeded", net.backend, net.client, inner), FIRST), FIRST)


def test_an_error_with_used_up_ttl(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    told = error("time exceeded", net.backend, net.client, segment(net.given))
    told[IPv6 if net.version == 6 else IP].fields["hlim" if net.version == 6 else "ttl"] = 1
    frame = arriving(told, FIRST)
    result = rig.carry(frame, FIRST)
    assert (outcome(result), result.frame) == (("PUNT_TTL", PASS), frame)
