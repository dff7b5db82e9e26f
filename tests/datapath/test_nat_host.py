# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: what this host sends, as a client of services or one of their backends, and what it forwards
for devices without a program.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

import pytest

from pydp.services.text import parse_redirect, parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.frames import ICMP, IP, Ether, ICMPv6PacketTooBig, IPv6, Packet, Raw
from tests.datapath.harness import DROP, PASS, REDIRECT, Result, empty, port_mac
from tests.datapath.nat_net import (
    FIRST,
    FORWARDED,
    NETS,
    SECOND,
    WORLD,
    Net,
    arriving,
    carry,
    check_forwarded,
    datagram,
    outcome,
    segment,
    sent_on,
    tuple_of,
)
from tests.datapath.nat_rig import NEIGHBOUR, NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

UNTOUCHED = ("PASS_UNCLAIMED", PASS)
HANDED_ON = ("PASS_NAT", PASS)
MASQUERADE = {"masquerade": tuple(net.inside for net in NETS.values())}
ELSEWHERE = 9  # a device that has no program
FLOW_HOST = 8  # enum nat_flow_flag
PRESENT, LOOSE = 1, 2  # enum nat_port_flag


def leaving(packet: Packet, port: int) -> bytes:
    """As the stack sends it out of PORT."""
    packet = packet.copy()
    packet.src, packet.dst = port_mac(port).hex(":"), NEIGHBOUR.format(port)
    return bytes(packet)


def turned(packet: Packet, came_by: int, port: int) -> bytes:
    """As if the neighbour behind CAME_BY had sent it to PORT."""
    packet = packet.copy()
    packet.src, packet.dst = NEIGHBOUR.format(came_by), port_mac(port).hex(":")
    return bytes(packet)


def check(result: Result, expected: tuple[str, str], frame: bytes) -> None:
    assert (outcome(result), result.frame) == (expected, frame)


def mine(net: Net) -> tuple[Ends, Ends]:
    """What this host asks a service, and what the backend gets."""
    return Ends(net.own[WORLD], 40000, net.vip, 80), Ends(net.own[WORLD], 40000, net.backend, 8080)


# A client on this host


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
def test_a_client_whose_backend_is_elsewhere(nat: MakeNat, net: Net, strict: bool) -> None:
    """Its route leads out of port 0, the backend is behind port 1. With a strict rp_filter, of which IPv6 has none,
    answers are turned back to where the stack waits for them.
    """
    rig = nat()
    net.serve(rig)
    asked, given = mine(net)
    ports = dict(rig.maps["nat_ports"])
    rig.maps["nat_ports"].set(FIRST, ports[FIRST]._replace(flags=PRESENT if strict else PRESENT | LOOSE))
    for flags in ("S", "A"):
        check(rig.host(leaving(segment(asked, flags), WORLD), WORLD), FORWARDED, leaving(segment(given, flags), WORLD))
        back, seen = carry(rig, segment(given.inverse, "SA"), FIRST), segment(asked.inverse, "SA")
        if strict and net.version == 4:
            check(back, FORWARDED, turned(seen, FIRST, WORLD))
        else:
            check(back, HANDED_ON, arriving(seen, FIRST))
    rig.maps["nat_ports"].update(ports)
    (flow,) = rig.flows()
    assert (flow.state, flow.flags & FLOW_HOST) == ("ESTABLISHED", FLOW_HOST)


def test_a_client_gets_backends_that_are_only_for_this_host(nat: MakeNat, net: Net) -> None:
    """As kube-proxy has externalTrafficPolicy Local: backends on other nodes answer this host, nobody else."""
    rig = nat()
    service = parse_service(f"udp:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}")
    frontend = replace(service.frontends[0], local_only=True, host_exempt=True)
    programmer = rig.serve(replace(service, frontends=(frontend,)))
    net.routes(rig)
    (asked, given), others = mine(net), Ends(net.client, 40001, net.vip, 80)
    check(rig.host(leaving(datagram(asked), WORLD), WORLD), FORWARDED, leaving(datagram(given), WORLD))
    refused = ("DROP_ELSEWHERE", DROP)
    assert outcome(carry(rig, datagram(others), WORLD)) == refused
    assert outcome(rig.send(leaving(datagram(others), WORLD), WORLD, hook="tc-egress", came_by=ELSEWHERE)) == refused
    assert rig.maps["nat_failures"].sums() == {0: (2, 0, 0, 0)}
    programmer.apply({service.name: None})
    assert rig.maps["nat_frontends"].items() == []


def test_a_client_whose_backend_is_on_the_way(nat: MakeNat, net: Net) -> None:
    """Answers come by the port that the request left by."""
    rig = nat()
    net.serve(rig)
    rig.route(net.backend, WORLD)
    asked, given = mine(net)
    check(rig.host(leaving(segment(asked, "S"), WORLD), WORLD), FORWARDED, leaving(segment(given, "S"), WORLD))
    back = carry(rig, segment(given.inverse, "SA"), WORLD)
    check(back, HANDED_ON, arriving(segment(asked.inverse, "SA"), WORLD))


@pytest.mark.parametrize("may_be_cut", [False, True], ids=["whole", "cut"])
def test_a_client_whose_packets_are_too_long_for_the_way(nat: MakeNat, net: Net, may_be_cut: bool) -> None:
    """The stack has kept to the way to the service. It heeds the answer also where it may cut the packet up."""
    rig = nat()
    net.serve(rig)
    rig.route(net.backend, FIRST, mtu=1400)
    asked, given = mine(net)
    data = bytes(1400 - 40 - (20 if net.version == 6 else 0))
    packet, fits = segment(asked, "PA", data), segment(given, "PA", data)
    if net.version == 4 and not may_be_cut:
        packet[IP].flags = fits[IP].flags = "DF"
    check(rig.host(leaving(packet, WORLD), WORLD), FORWARDED, leaving(fits, WORLD))
    frame = leaving(packet / Raw(b"!"), WORLD)
    if net.version == 6:
        said = IPv6(src=net.vip, dst=asked.source, hlim=64) / ICMPv6PacketTooBig(mtu=1400) / Raw(frame[14:][:1232])
    else:
        header = IP(src=net.vip, dst=asked.source, ttl=64, tos=0xC0, id=0, flags="DF")
        said = header / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(frame[14:][:548])
    check(rig.host(frame, WORLD), ("FORWARD_REPLY", REDIRECT), turned(Ether() / said, WORLD, WORLD))


def test_what_is_forwarded_for_others_is_too_long_for_the_way(nat: MakeNat, net: Net) -> None:
    """Of devices without a program; whoever sent it is not told."""
    rig = nat()
    net.serve(rig)
    rig.route(net.backend, FIRST, mtu=1400)
    frame = leaving(segment(net.asked, "A", bytes(1400)), WORLD)
    assert outcome(rig.host(frame, WORLD, ingress_ifindex=ELSEWHERE)) == ("DROP_MTU", DROP)


def test_a_client_whose_backend_is_nowhere(nat: MakeNat, net: Net) -> None:
    """The stack gets the request back, and says so."""
    rig = nat()
    net.serve(rig)
    rig.routes.clear()
    asked, given = mine(net)
    frame = leaving(segment(given, "S"), WORLD)
    result = rig.host(leaving(segment(asked, "S"), WORLD), WORLD)
    check(result, FORWARDED, port_mac(WORLD) + frame[6:])


def test_client_and_backend_are_this_host(nat: MakeNat, net: Net) -> None:
    """The stack takes no packet that seems to be from itself: it is from the service."""
    rig = nat()
    rig.serve(parse_service(f"tcp:{net.end(net.vip, 80)}={net.end(net.own[FIRST], 8080)}"))
    asked = Ends(net.own[WORLD], 40000, net.vip, 80)
    given = Ends(net.vip, 40000, net.own[FIRST], 8080)
    for packet, expected in ((segment(asked, "S"), segment(given, "S")),
                             (segment(given.inverse, "SA"), segment(asked.inverse, "SA"))):  # fmt: skip
        frame = leaving(expected, WORLD)
        check(rig.host(leaving(packet, WORLD), WORLD), FORWARDED, port_mac(WORLD) + frame[6:])
    (flow,) = rig.flows()
    assert (flow.original, flow.reply) == (tuple_of(asked), tuple_of(given.inverse))


def test_a_client_of_a_service_without_backends(nat: MakeNat, net: Net) -> None:
    rig = nat()
    rig.serve(parse_service(f"tcp:{net.end(net.vip, 80)}"))
    frame = leaving(segment(mine(net)[0], "S"), WORLD)
    result = rig.host(frame, WORLD)
    assert result.verdict == "FORWARD_REJECT"
    told = Ether(result.frame)
    assert told.dst == port_mac(WORLD).hex(":")
    assert (told.payload.src, told.payload.dst) == (net.vip, net.own[WORLD])
    assert result.frame.endswith(frame[14:])


# A backend on this host


def test_what_a_backend_on_this_host_answers(nat: MakeNat, net: Net) -> None:
    rig = nat()
    rig.serve(parse_redirect("udp:53=5353"))
    asked = Ends(net.client, 1234, net.own[WORLD], 53)
    given = replace(asked, dport=5353)
    check(carry(rig, datagram(asked), WORLD), HANDED_ON, arriving(datagram(given), WORLD))
    for port in (WORLD, SECOND):  # whichever way the answer takes
        back = rig.host(leaving(datagram(given.inverse), port), port)
        check(back, HANDED_ON, leaving(datagram(asked.inverse), port))


def test_what_else_this_host_sends(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    frame = leaving(segment(Ends(net.own[WORLD], 40000, net.client, 443), "S"), WORLD)
    check(rig.host(frame, WORLD), UNTOUCHED, frame)
    assert rig.flows() == []


# Sources on the way out


def test_masquerade_of_what_came_by_another_device(nat: MakeNat, net: Net) -> None:
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked = Ends(net.backend, 1234, net.client, 80)
    given = replace(asked, source=net.own[WORLD])
    for flags in ("S", "A"):
        result = rig.host(leaving(segment(asked, flags), WORLD), WORLD, came_by=ELSEWHERE)
        check(result, HANDED_ON, leaving(segment(given, flags), WORLD))
        check_forwarded(rig, segment(given.inverse, "SA"), WORLD, segment(asked.inverse, "SA"), FIRST)


def test_what_a_port_left_to_the_stack_is_masqueraded_there(nat: MakeNat, net: Net) -> None:
    """A way that is not known: the stack finds it, and the source changes on the way out."""
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked = Ends(net.backend, 1234, net.client, 80)
    given = replace(asked, source=net.own[WORLD])
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), WORLD)
    rig.routes.clear()
    empty(rig.maps["nat_ways"])
    frame = arriving(segment(asked, "A"), FIRST)
    result = rig.carry(frame, FIRST)
    check(result, ("PUNT_ROUTE", PASS), frame)
    result = rig.host(leaving(segment(asked, "A"), WORLD), WORLD, came_by=FIRST)
    check(result, HANDED_ON, leaving(segment(given, "A"), WORLD))


def test_answers_that_came_by_another_device(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    check_forwarded(rig, segment(net.asked, "S"), WORLD, segment(net.given, "S"), FIRST)
    result = rig.host(leaving(segment(net.given.inverse, "SA"), WORLD), WORLD, came_by=ELSEWHERE)
    check(result, HANDED_ON, leaving(segment(net.asked.inverse, "SA"), WORLD))


def test_what_was_looked_at_where_it_came_in(nat: MakeNat, net: Net) -> None:
    """A packet for a service that a port left alone has no business with it on the way out."""
    rig = nat()
    net.serve(rig)
    frame = leaving(segment(net.asked, "S"), SECOND)
    check(rig.host(frame, SECOND, came_by=WORLD), UNTOUCHED, frame)


def test_connections_of_this_host_keep_their_port(nat: MakeNat, net: Net) -> None:
    """They are noted, so that nobody else gets it."""
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    own = Ends(net.own[WORLD], 1234, net.client, 80)
    frame = leaving(segment(own, "S"), WORLD)
    check(rig.host(frame, WORLD), UNTOUCHED, frame)
    (flow,) = rig.flows()
    assert (flow.original, flow.reply, flow.flags) == (tuple_of(own), tuple_of(own.inverse), 0)
    asked = Ends(net.backend, 1234, net.client, 80)
    carry(rig, segment(asked, "S"), FIRST)
    (other,) = (flow for flow in rig.flows() if flow.original == tuple_of(asked))
    assert other.reply[3] != 1234
    back = arriving(segment(own.inverse, "SA"), WORLD)
    check(rig.send(back, WORLD), UNTOUCHED, back)


def test_a_port_that_a_container_has(nat: MakeNat, net: Net) -> None:
    """A connection of this host, to the same destination, gets another one."""
    rig = nat(options=MASQUERADE)
    net.routes(rig)
    asked = Ends(net.backend, 1234, net.client, 80)
    carry(rig, segment(asked, "S"), FIRST)
    own = Ends(net.own[WORLD], 1234, net.client, 80)
    result = rig.host(leaving(segment(own, "S"), WORLD), WORLD)
    (flow,) = (flow for flow in rig.flows() if flow.original == tuple_of(own))
    given = replace(own, sport=flow.reply[3])
    assert given.sport != 1234
    check(result, HANDED_ON, leaving(segment(given, "S"), WORLD))
    back = carry(rig, segment(given.inverse, "SA"), WORLD)
    check(back, HANDED_ON, arriving(segment(own.inverse, "SA"), WORLD))


@pytest.mark.parametrize("fixed", [False, True], ids=["device", "snat"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_the_kernels_nat_gives(nat: MakeNat, net: Net, protocol: str, fixed: bool) -> None:
    """To somebody else, and with it an address that containers are given: no two are answered alike, whoever was first,
    and each gets its own answers.
    """
    address = net.vip if fixed else net.own[WORLD]
    rig = nat(options={"snat": (f"{net.inside}={address}",)} if fixed else MASQUERADE)
    net.routes(rig)

    def packet(ends: Ends, *, back: bool = False) -> Packet:
        return segment(ends, "SA" if back else "S") if protocol == "tcp" else datagram(ends)

    def by_kernel(port: int) -> tuple[Result, int]:
        """And the port that it leaves with."""
        ends = Ends(address, port, net.client, 80)
        result = rig.host(leaving(packet(ends), WORLD), WORLD, came_by=ELSEWHERE)
        (flow,) = (flow for flow in rig.flows() if flow.original == tuple_of(ends))
        return result, flow.reply[3]

    def by_container(port: int) -> int:
        ends = Ends(net.backend, port, net.client, 80)
        carry(rig, packet(ends), FIRST)
        (flow,) = (flow for flow in rig.flows() if flow.original == tuple_of(ends))
        return flow.reply[3]

    first = Ends(address, 1234, net.client, 80)
    check(by_kernel(1234)[0], UNTOUCHED, leaving(packet(first), WORLD))
    assert by_container(1234) != 1234
    back = arriving(packet(first.inverse, back=True), WORLD)
    check(rig.send(back, WORLD), UNTOUCHED, back)

    assert by_container(1235) == 1235
    second = replace(first, sport=1235)
    result, port = by_kernel(1235)
    assert port not in (1234, 1235)
    check(result, HANDED_ON, leaving(packet(replace(second, sport=port)), WORLD))
    answered = carry(rig, packet(replace(second, sport=port).inverse, back=True), WORLD)
    check(answered, HANDED_ON, arriving(packet(second.inverse, back=True), WORLD))


def test_a_port_that_neither_a_container_nor_a_socket_has(nat_on: MakeNat, net: Net) -> None:
    """The only one of ten that no other socket of this host has: answers are to reach the one that asked."""
    rig = nat_on("tc", options={**MASQUERADE, "ports": "40000-40009"})
    net.routes(rig)
    carry(rig, datagram(Ends(net.backend, 1234, net.client, 53)), FIRST)
    with contextlib.ExitStack() as stack:
        others = []
        for port in range(40000, 40010):
            one = stack.enter_context(socket.socket(family_of(net), socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):  # somebody else has it, which is as good
                one.bind(("", port))
                others.append((port, one))
        port, one = others[len(others) // 2]
        one.close()
        own = Ends(net.own[WORLD], 1234, net.client, 53)
        result = rig.host(leaving(datagram(own), WORLD), WORLD)
    check(result, HANDED_ON, leaving(datagram(replace(own, sport=port)), WORLD))


def family_of(net: Net) -> int:
    return socket.AF_INET6 if net.version == 6 else socket.AF_INET


def test_a_neighbour_gets_the_frame_as_it_is(nat_on: MakeNat, net: Net) -> None:
    """Redirected to a veth's other end, with the addresses of hardware that it would have got."""
    rig: NatRig = nat_on("tc", peers=(FIRST,))
    net.serve(rig)
    result = carry(rig, segment(net.asked, "S"), WORLD)
    check(result, FORWARDED, sent_on(segment(net.given, "S"), FIRST))
