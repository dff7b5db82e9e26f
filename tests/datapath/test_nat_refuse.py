# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: packets that are answered, and backends that leave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pydp.modes.fdb import TICK
from pydp.services.model import Backend, BackendState, Service
from pydp.services.text import parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.frames import ICMP, IP, TCP, Ether, ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, Packet, Raw
from tests.datapath.harness import DROP, PASS, REDIRECT, port_mac
from tests.datapath.nat_net import (
    FIRST,
    SECOND,
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
from tests.datapath.nat_rig import NEIGHBOUR, NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

REFUSED = ("FORWARD_REJECT", REDIRECT)
MTU = 1400


def answered(net: Net, port: int, source: str, frame: bytes, message: Packet, most: int) -> bytes:
    """An ICMP error about a frame that came in by PORT, of which MOST bytes are quoted, for its sender."""
    ether = Ether(src=port_mac(port).hex(":"), dst=NEIGHBOUR.format(port))
    came = Ether(frame).payload
    if net.version == 6:
        return bytes(ether / IPv6(src=source, dst=came.src, hlim=64) / message / Raw(frame[14:][:most]))
    header = IP(src=source, dst=came.src, ttl=64, tos=came.tos & 0x1E | 0xC0, id=0, flags="DF")
    return bytes(ether / header / message / Raw(frame[14:][:most]))


def unreachable(net: Net) -> Packet:
    return ICMPv6DestUnreach(code=4) if net.version == 6 else ICMP(type=3, code=3)


def too_big(net: Net) -> Packet:
    return ICMPv6PacketTooBig(mtu=MTU) if net.version == 6 else ICMP(type=3, code=4, nexthopmtu=MTU)


# Nobody answers


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_without_backends(nat: MakeNat, net: Net, protocol: str) -> None:
    rig = nat()
    service = parse_service(f"{protocol}:{net.end(net.vip, 80)}")
    programmer = rig.serve(service)
    packet = segment(net.asked, "S") if protocol == "tcp" else datagram(net.asked)
    for count in (1, 2):
        result = carry(rig, packet, WORLD)
        assert outcome(result) == REFUSED
        assert result.frame == answered(net, WORLD, net.own[WORLD], arriving(packet, WORLD), unreachable(net), 1232)
        assert rig.maps["nat_failures"].sums() == {0: (count, 0, 0, 0)}
    assert rig.flows() == []
    back = Backend(parse_service(f"tcp:{net.end(net.backend, 1)}").frontends[0].address, 8080)
    programmer.apply({service.name: replace(service, backends=(back,))})
    net.routes(rig)
    given = segment(net.given, "S") if protocol == "tcp" else datagram(net.given)
    check_forwarded(rig, packet, WORLD, given, FIRST)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_to_be_answered_here_whose_backends_are_elsewhere(nat: MakeNat, net: Net, protocol: str) -> None:
    """Dropped as by kube-proxy, by either policy Local; refused once nobody could answer anywhere."""
    rig = nat()
    service = parse_service(f"{protocol}:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}")
    service = replace(service, frontends=(replace(service.frontends[0], local_only=True),))
    programmer = rig.serve(service)
    packet = segment(net.asked, "S") if protocol == "tcp" else datagram(net.asked)
    net.routes(rig)
    for count in (1, 2):
        assert outcome(carry(rig, packet, WORLD)) == ("DROP_ELSEWHERE", DROP)
        assert rig.maps["nat_failures"].sums() == {0: (count, 0, 0, 0)}
    assert rig.flows() == []
    (there,) = service.backends
    programmer.apply({service.name: replace(service, backends=())})
    assert outcome(carry(rig, packet, WORLD)) == REFUSED
    programmer.apply({service.name: replace(service, backends=(replace(there, local=True),))})
    given = segment(net.given, "S") if protocol == "tcp" else datagram(net.given)
    check_forwarded(rig, packet, WORLD, given, FIRST)


def test_a_service_that_is_deleted(nat: MakeNat, net: Net) -> None:
    """Its connections are reset. New ones are not for a service any more."""
    rig = nat()
    service = parse_service(f"tcp:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}")
    programmer = rig.serve(service)
    net.routes(rig)
    connect(rig, net)
    programmer.apply({service.name: None})
    time.sleep(2 * TICK)  # what was found on XDP is good for so long
    assert outcome(carry(rig, segment(net.asked, "A"), WORLD)) == REFUSED
    new = carry(rig, segment(replace(net.asked, sport=99), "S"), WORLD)
    assert outcome(new) == ("PASS_UNCLAIMED", PASS)


# Backends that leave


def backends(net: Net, *states: tuple[str, BackendState, float, str]) -> tuple[Backend, ...]:
    addresses = {"first": net.backend, "second": net.second}
    found = []
    for name, state, deadline, ending in states:
        address = parse_service(f"tcp:{net.end(addresses[name], 1)}").frontends[0].address
        one = Backend(address, 8080, state=state, deadline=time.time() + deadline if deadline else None)
        found.append(replace(one, on_end=ending))  # type: ignore[arg-type]
    return tuple(found)


def draining(net: Net, deadline: float, ending: str) -> tuple[Backend, ...]:
    """The first backend leaves, the second one is there."""
    return backends(
        net, ("first", BackendState.DRAINING, deadline, ending), ("second", BackendState.READY, 0.0, "reset")
    )


def begin(rig: NatRig, net: Net, protocol: str) -> tuple[Service, Sequence[Packet]]:
    """A flow to the first backend, and its next packet as it is sent and as the second backend would get it."""
    service = parse_service(f"{protocol}:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}")
    rig.serve(service)
    net.routes(rig)
    moved = replace(net.given, dest=net.second)
    if protocol == "tcp":
        connect(rig, net)
        return service, (segment(net.asked, "A"), segment(net.given, "A"), segment(moved, "A"))
    check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
    return service, (datagram(net.asked), datagram(net.given), datagram(moved))


def change(rig: NatRig, service: Service, new: tuple[Backend, ...]) -> None:
    programmer = rig.programmer
    assert programmer
    programmer.apply({service.name: replace(service, backends=new)})


def test_a_draining_backend_keeps_its_connections(nat: MakeNat, net: Net) -> None:
    rig = nat()
    service, (asked, given, _) = begin(rig, net, "tcp")
    change(rig, service, draining(net, 0.0, "reset"))
    check_forwarded(rig, asked, WORLD, given, FIRST)
    for port in range(40):
        ends = replace(net.asked, sport=2000 + port)
        there = replace(net.given, sport=2000 + port, dest=net.second)
        check_forwarded(rig, segment(ends, "S"), WORLD, segment(there, "S"), SECOND)


def test_datagrams_of_a_draining_backend_move_at_once(nat: MakeNat, net: Net) -> None:
    rig = nat()
    service, (asked, _, moved) = begin(rig, net, "udp")
    change(rig, service, draining(net, 0.0, "reset"))
    for _ in range(2):
        check_forwarded(rig, asked, WORLD, moved, SECOND)
    assert rig.events() == {"created": 2, "expired": 1, "moved": 1}
    assert len(rig.flows()) == 1


@pytest.mark.parametrize("gone", [False, True], ids=["deadline", "deleted"])
def test_connections_of_a_backend_that_left_are_reset(nat: MakeNat, net: Net, gone: bool) -> None:
    """When the client says something more. What the backend still says goes on to it, so that it does; and what the
    client says to end it goes on to the backend.
    """
    rig = nat()
    service, _ = begin(rig, net, "tcp")
    change(rig, service, draining(net, -5.0, "reset"))
    time.sleep(2 * TICK)
    if gone:
        change(rig, service, backends(net, ("second", BackendState.READY, 0.0, "reset")))
    back = segment(net.given.inverse, "A", b"more")
    check_forwarded(rig, back, FIRST, segment(net.asked.inverse, "A", b"more"), WORLD)
    result = carry(rig, segment(net.asked, "A", b"more"), WORLD)
    assert (outcome(result), result.frame) == (REFUSED, reset(net.asked, WORLD))
    assert rig.events()["reset"] == 1
    check_forwarded(rig, segment(net.asked, "R"), WORLD, segment(net.given, "R"), FIRST)


def reset(ends: Ends, port: int) -> bytes:
    """What answers an ACK of 2000."""
    flags = {"hlim": 64, "tc": 0} if ":" in ends.dest else {"ttl": 64, "id": 0, "flags": "DF"}
    tcp = TCP(sport=ends.dport, dport=ends.sport, seq=2000, ack=0, flags="R", window=0)
    packet = ip(ends.inverse, **flags) / tcp
    packet.src, packet.dst = port_mac(port).hex(":"), NEIGHBOUR.format(port)
    return bytes(packet)


@pytest.mark.parametrize("gone", [False, True], ids=["deadline", "deleted"])
def test_connections_of_a_backend_that_left_are_moved(nat: MakeNat, net: Net, gone: bool) -> None:
    rig = nat()
    service, (asked, _, moved) = begin(rig, net, "tcp")
    change(rig, service, draining(net, -5.0, "move"))
    time.sleep(2 * TICK)
    if gone:
        change(rig, service, backends(net, ("second", BackendState.READY, 0.0, "reset")))
    for _ in range(2):
        check_forwarded(rig, asked, WORLD, moved, SECOND)
    assert rig.events() == {"created": 2, "expired": 1, "moved": 1, "picked_up": 1}


def test_a_deleted_backends_number_is_anothers(nat: MakeNat, net: Net) -> None:
    """Flows know the generation, too: what comes for the one that left is not the other one's."""
    rig = nat()
    service, (asked, given, _) = begin(rig, net, "tcp")
    check_forwarded(rig, asked, WORLD, given, FIRST)
    ((number, record),) = [(number, one) for number, one in rig.maps["nat_backends"] if one.flags]
    other = record._replace(generation=record.generation + 1)
    rig.maps["nat_backends"].set(number, other)
    time.sleep(2 * TICK)  # what was found on XDP is good for so long
    check_forwarded(rig, asked, WORLD, given, FIRST)
    (flow,) = rig.flows()
    assert rig.events() == {"created": 2, "expired": 1, "moved": 1, "picked_up": 1}
    assert flow.backend == number + 1
    assert service.backends


# Too long, or too old


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_too_long_for_the_way(nat: MakeNat, net: Net, known: bool) -> None:
    rig = nat()
    net.serve(rig)
    if known:
        connect(rig, net)
    rig.route(net.backend, FIRST, mtu=MTU)
    data = bytes(MTU - 40 - (20 if net.version == 6 else 0))
    packet = segment(net.asked, "PA", data)
    if net.version == 4:
        packet[IP].flags = "DF"
        fits = segment(net.given, "PA", data)
        fits[IP].flags = "DF"
    else:
        fits = segment(net.given, "PA", data)
    check_forwarded(rig, packet, WORLD, fits, FIRST)
    longer = packet / Raw(b"!")
    result = carry(rig, longer, WORLD)
    assert outcome(result) == ("FORWARD_REPLY", REDIRECT)
    most = 1232 if net.version == 6 else 548
    assert result.frame == answered(net, WORLD, net.own[WORLD], arriving(longer, WORLD), too_big(net), most)


def test_too_long_and_may_be_cut(nat: MakeNat, net: Net) -> None:
    """The stack does that, with the packet as its receiver is to have it."""
    if net.version == 6:
        return
    rig = nat()
    net.serve(rig)
    rig.route(net.backend, FIRST, mtu=MTU)
    packet, given = segment(net.asked, "A", bytes(MTU)), segment(net.given, "A", bytes(MTU))
    result = carry(rig, packet, WORLD)
    assert (outcome(result), result.frame) == (("PASS_NAT", PASS), arriving(given, WORLD))


def test_time_to_live_is_used_up(nat: MakeNat, net: Net) -> None:
    """The stack tells the sender, with the packet as that sent it."""
    rig = nat()
    net.serve(rig)
    packet = segment(net.asked, "S")
    if net.version == 6:
        packet[IPv6].hlim = 1
    else:
        packet[IP].ttl = 1
    frame = arriving(packet, WORLD)
    result = rig.carry(frame, WORLD)
    assert (outcome(result), result.frame) == (("PUNT_TTL", PASS), frame)
