# SPDX-License-Identifier: Apache-2.0
"""Direct server return: packets reach their backend whole, in an IP header of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydp.services.text import parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.frames import ICMP, IP, UDP, Ether, ICMPv6PacketTooBig, IPv6, Packet, Raw
from tests.datapath.harness import DROP, PASS, REDIRECT, port_mac
from tests.datapath.nat_net import FIRST, WORLD, Net, carry, ip, outcome, segment, sent_on
from tests.datapath.nat_rig import NEIGHBOUR, NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

ENCAPSULATED = ("FORWARD_ENCAP", REDIRECT)
OUTER = {4: 20, 6: 40}
TTL = 64  # of the outer header
ECN = {0: 0, 1: 1, 2: 2, 3: 2}  # RFC 3168 9.1.1: of the inner header, of the outer one


@pytest.fixture
def rig(nat: MakeNat, net: Net) -> NatRig:
    """One backend behind FIRST, for TCP and UDP."""
    made = nat()
    frontend, backend = net.end(net.vip, 80), net.end(net.backend, 80)
    made.serve(*(replace(parse_service(f"{protocol}:{frontend}={backend}"), dsr=True) for protocol in ("tcp", "udp")))
    net.routes(made)
    return made


def wrapped(net: Net, packet: Packet, frame: bytes | None) -> bytes:
    """PACKET as it leaves by FIRST. The outer id is anything: that of FRAME."""
    inner = Ether(sent_on(packet, FIRST)).payload
    given = inner.tc if net.version == 6 else inner.tos
    tos = given & ~3 | ECN[given & 3]
    if net.version == 6:
        outer = IPv6(src=net.own[FIRST], dst=net.backend, hlim=TTL, nh=41, tc=tos)
    else:
        number = int.from_bytes(frame[18:20]) if frame else 0
        outer = IP(src=net.own[FIRST], dst=net.backend, ttl=TTL, proto=4, id=number, tos=tos, flags=packet[IP].flags)
    return bytes(Ether(src=port_mac(FIRST).hex(":"), dst=NEIGHBOUR.format(FIRST)) / outer / inner)


def check(rig: NatRig, net: Net, packet: Packet) -> None:
    result = carry(rig, packet, WORLD)
    assert (outcome(result), result.frame) == (ENCAPSULATED, wrapped(net, packet, result.frame))


@pytest.mark.parametrize("length", [0, 1, 7, 1300])
def test_tcp(rig: NatRig, net: Net, length: int) -> None:
    """Of a connection this host sees the client's half alone, which has to do."""
    for flags, data in ("S", b""), ("A", b""), ("PA", bytes(length)), ("FA", b""), ("A", b""):
        check(rig, net, segment(net.asked, flags, data))


def test_udp(rig: NatRig, net: Net) -> None:
    """With and without a checksum, which is for who gets it to look at (RFC 8200 8.1)."""
    packet = ip(net.asked) / UDP(sport=net.asked.sport, dport=net.asked.dport) / Raw(b"question")
    check(rig, net, packet)
    packet[UDP].chksum = 0
    check(rig, net, packet)


@pytest.mark.parametrize("ecn", ECN)
def test_tos_and_ecn(rig: NatRig, net: Net, ecn: int) -> None:
    """The outer header says what the inner one does, but for congestion that it has met."""
    fields = {"tos": 0xB8 | ecn} if net.version == 4 else {"tc": 0xB8 | ecn}
    check(rig, net, ip(net.asked, **fields) / UDP(sport=5, dport=80) / Raw(b"x"))


def test_answers_pass_as_they_are(rig: NatRig, net: Net) -> None:
    """They come from the service's address, and are none of ours."""
    check(rig, net, segment(net.asked, "S"))
    assert outcome(carry(rig, segment(net.asked.inverse, "SA"), FIRST)) == ("PASS_UNCLAIMED", PASS)


def test_at_the_end_of_its_life(rig: NatRig, net: Net) -> None:
    """The stack says so, as for any packet that it forwards."""
    last = {"ttl": 1} if net.version == 4 else {"hlim": 1}
    assert outcome(carry(rig, ip(net.asked, **last) / UDP(sport=5, dport=80), WORLD)) == ("PUNT_TTL", PASS)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("may_be_cut", [False, True], ids=["whole", "cut"])
def test_as_long_as_the_way_takes(rig: NatRig, net: Net, may_be_cut: bool, more: int) -> None:
    """The outer header counts; the client is told what is left for it (RFC 2003 3.1)."""
    room, header = 1400 - OUTER[net.version], {4: 40, 6: 60}[net.version]
    check(rig, net, segment(net.asked, "S"))
    rig.route(net.backend, FIRST, mtu=1400)
    packet = segment(net.asked, "PA", bytes(room - header + more))
    if net.version == 4 and not may_be_cut:
        packet[IP].flags = "DF"
    if not more:
        check(rig, net, packet)
        return
    result = carry(rig, packet, WORLD)
    if net.version == 4 and may_be_cut:
        assert outcome(result) == ("DROP_MTU", DROP)
        return
    assert outcome(result) == ("FORWARD_REPLY", REDIRECT)
    said = Ether(result.frame)
    if net.version == 4:
        assert (said[ICMP].type, said[ICMP].code, said[ICMP].nexthopmtu) == (3, 4, room)
    else:
        assert said[ICMPv6PacketTooBig].mtu == room
    assert (said.payload.dst, said.dst) == (net.client, NEIGHBOUR.format(WORLD))


def test_nobody_knows_the_way(rig: NatRig, net: Net) -> None:
    rig.routes = {}
    assert outcome(carry(rig, segment(net.asked, "S"), WORLD)) == ("PUNT_ROUTE", PASS)


def test_the_clients_of_one_service_are_told_apart(rig: NatRig, net: Net) -> None:
    """Each stays with its backend, whatever others do."""
    backends = ",".join(net.end(address, 80) for address in (net.backend, net.second))
    rig.serve(replace(parse_service(f"tcp:{net.end(net.vip, 80)}={backends}"), dsr=True))
    chosen: dict[int, str] = {}
    for _ in range(2):
        for sport in range(1000, 1032):
            result = carry(rig, segment(Ends(net.client, sport, net.vip, 80), "S"), WORLD)
            assert outcome(result) == ENCAPSULATED
            dest = Ether(result.frame).payload.dst
            assert chosen.setdefault(sport, dest) == dest
    assert set(chosen.values()) == {net.backend, net.second}
