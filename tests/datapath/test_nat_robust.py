# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: packets of others, broken ones and long ones, and what holds for all."""

from __future__ import annotations

import random
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydp.services.text import parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.frames import (
    ARP,
    BROADCAST,
    ICMP,
    IP,
    MULTICAST,
    SCTP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    Packet,
    Raw,
    SCTPChunkData,
)
from tests.datapath.harness import PASS, REDIRECT, port_mac
from tests.datapath.nat_net import (
    FIRST,
    FORWARDED,
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
    sent_on,
)
from tests.datapath.nat_rig import NEIGHBOUR, NatRig
from tests.datapath.rewrite_packets import IPV4, IPV6
from tests.datapath.rewrite_rig import Ends
from tests.kernels.needs import examples

pytestmark = pytest.mark.usefixtures("requires_root")

UNTOUCHED = ("PASS_UNCLAIMED", PASS)
MASQUERADE = {"masquerade": tuple(net.inside for net in NETS.values())}
HEADERS = {4: 34, 6: 54}  # bytes up to the end of the IP header
SHORT = [name for name in IPV4 if name not in ("TCP, 1500 bytes", "SCTP, long", "options", "GRE")]


def left_alone(rig: NatRig, frame: bytes, port: int) -> None:
    result = rig.carry(frame, port)
    assert (outcome(result), result.frame) == (UNTOUCHED, frame)


# Not ours


def test_frames_for_others(nat: MakeNat, net: Net) -> None:
    """Another station's, everybody's, those with a VLAN tag: a bridge or the stack has them."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    for packet in (segment(net.asked, "S"), segment(net.asked)):
        ours = Ether(arriving(packet, WORLD))
        for dest in ("02:00:00:00:0b:77", BROADCAST, MULTICAST, port_mac(FIRST).hex(":")):
            other = ours.copy()
            other.dst = dest
            left_alone(rig, bytes(other), WORLD)
        tagged = Ether(src=ours.src, dst=ours.dst) / Dot1Q(vlan=5) / ours.payload
        left_alone(rig, bytes(tagged), WORLD)


def test_frames_without_ip(nat: MakeNat) -> None:
    rig = nat()
    NETS[4].serve(rig)
    to = {"src": NEIGHBOUR.format(0), "dst": port_mac(WORLD).hex(":")}
    for frame in (Ether(**to) / ARP(pdst="192.0.2.1"), Ether(**to, type=0x88CC) / Raw(bytes(46)), Ether(**to, type=60)):
        left_alone(rig, bytes(frame), WORLD)


@pytest.mark.parametrize(("version", "name"), [(4, name) for name in SHORT] + [(6, name) for name in IPV6], ids=str)
def test_cut_short_anywhere(nat: MakeNat, version: int, name: str) -> None:
    """Frames whose IP header promises more than there is."""
    rig, net = nat(), NETS[version]
    text = f"{{}}:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}"
    rig.serve(*(parse_service(text.format(protocol)) for protocol in ("tcp", "udp", "sctp")))
    net.routes(rig)
    frame = arriving({4: IPV4, 6: IPV6}[version][name](net.asked), WORLD)
    first = 14 if rig.hook == "xdp" else HEADERS[version]  # the kernel makes no frame for tc that ends before
    for size in range(first, len(frame)):
        result = rig.send(frame[:size], WORLD)
        assert (result.action, result.frame) == (PASS, frame[:size]), f"{size} bytes"
        assert result.verdict in ("PASS_UNCLAIMED", "PUNT_TRUNCATED"), f"{size} bytes"
    assert rig.flows() == []


def test_noise(nat: MakeNat, net: Net) -> None:
    """Random bytes behind an IP header that is right, and anywhere in a packet for a service."""
    rig, rng = nat(options=MASQUERADE), random.Random(7)
    net.serve(rig)
    connect(rig, net)
    good = arriving(segment(net.asked, data=bytes(30)), WORLD)
    for _ in range(examples(1500)):
        frame = bytearray(good)
        if rng.random() < 0.5:
            frame[HEADERS[net.version] :] = rng.randbytes(rng.randrange(80))
        else:
            for _ in range(rng.randrange(1, 6)):
                frame[rng.randrange(12, len(frame))] = rng.randrange(256)
        result = rig.send(bytes(frame), WORLD)
        assert result.action in (PASS, REDIRECT, "drop")
        if result.verdict in ("PASS_UNCLAIMED", "PUNT_TTL", "PUNT_NAT", "PUNT_TRUNCATED"):
            assert result.frame == bytes(frame)


def test_padding_stays(nat: MakeNat, net: Net) -> None:
    """Of a short frame: behind the packet, and no part of its checksums."""
    rig = nat()
    net.serve(rig, "udp")
    asked, given = datagram(net.asked, b"?"), datagram(net.given, b"?")
    padding = bytes(range(200, 220))
    for _ in range(2):
        result = rig.carry(arriving(asked, WORLD) + padding, WORLD)
        assert (outcome(result), result.frame) == (FORWARDED, sent_on(given, FIRST) + padding)


# Longer than a packet


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_frames_that_the_device_cuts_stay_whole(nat_on: MakeNat, net: Net, known: bool) -> None:
    """Each piece fits, the frame does not."""
    rig = nat_on("tc")
    net.serve(rig)
    if known:
        connect(rig, net)
    asked, given = segment(net.asked, "A", bytes(3000)), segment(net.given, "A", bytes(3000))
    result = rig.send(arriving(asked, WORLD), WORLD, gso_size=1440 - 20 * (net.version == 6), gso_segs=3)
    assert (outcome(result), result.frame) == (FORWARDED, sent_on(given, FIRST))


def test_pieces_that_do_not_fit(nat_on: MakeNat, net: Net) -> None:
    """The sender is told by how much, as of any packet that must not be cut."""
    rig = nat_on("tc")
    net.serve(rig)
    rig.route(net.backend, FIRST, mtu=1400)
    asked = segment(net.asked, "A", bytes(3000))
    if net.version == 4:
        asked[IP].flags = "DF"
    size = 1360 if net.version == 4 else 1340
    for fits, length in ((True, size), (False, size + 1)):
        result = rig.send(arriving(asked, WORLD), WORLD, gso_size=length, gso_segs=3)
        assert result.verdict == ("FORWARD_NAT" if fits else "FORWARD_REPLY")


def test_times_to_live_are_the_routers_business(nat: MakeNat, net: Net) -> None:
    """One less each time, at any value."""
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    for ttl in (2, 3, 64, 255):
        asked, given = segment(net.asked, "A"), segment(net.given, "A")
        for packet in (asked, given):
            packet.payload.setfieldval("hlim" if net.version == 6 else "ttl", ttl)
        check_forwarded(rig, asked, WORLD, given, FIRST)


# There and back is where one was


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is sent, to a SERVICE or outward, and answered; SUMMED: with a checksum where it may be left out."""

    net: Net
    service: bool
    protocol: str
    ends: Ends
    data: bytes
    summed: bool

    def packet(self, ends: Ends, *, back: bool = False) -> Packet:
        return packet_of(self.protocol, ends, self.data, self.summed, back)

    @property
    def ports(self) -> tuple[int, int]:
        """Where it comes in, and where the other one is."""
        return (WORLD, FIRST) if self.service else (FIRST, WORLD)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    net = NETS[draw(st.sampled_from((4, 6)))]
    service = draw(st.booleans())
    protocol = draw(st.sampled_from(("tcp", "udp", "sctp") if service else ("tcp", "udp", "sctp", "icmp")))
    client = str(
        draw(st.integers(0xCB007100, 0xCB0071FF).map(IPv4Address))
        if net.version == 4
        else draw(st.integers(1, (1 << 64) - 1).map(lambda low: IPv6Address((0x20010DB8 << 96 | 5 << 64) + low)))
    )
    sport, dport = draw(st.integers(1, 65535)), draw(st.integers(1, 65535))
    ends = Ends(client, sport, net.vip, 80) if service else Ends(net.backend, sport, client, dport)
    return Exchange(net, service, protocol, ends, draw(st.binary(max_size=100)), draw(st.booleans()))


def packet_of(protocol: str, ends: Ends, data: bytes, summed: bool, back: bool = False) -> Packet:
    frame = ip(ends)
    if protocol == "tcp":
        return frame / TCP(sport=ends.sport, dport=ends.dport, flags="SA" if back else "S") / Raw(data)
    if protocol == "udp":
        zero = {} if summed or ":" in ends.dest else {"chksum": 0}
        return frame / UDP(sport=ends.sport, dport=ends.dport, **zero) / Raw(data)
    if protocol == "sctp":
        return frame / SCTP(sport=ends.sport, dport=ends.dport) / SCTPChunkData(data=data + b"!")
    ident = ends.dport if back else ends.sport
    if ":" in ends.dest:
        return frame / (ICMPv6EchoReply if back else ICMPv6EchoRequest)(id=ident, data=data)
    return frame / ICMP(type=0 if back else 8, id=ident) / Raw(data)


def recomputed(frame: bytes) -> bytes:
    """With checksums as scapy has them; a UDP checksum that is absent stays so."""
    packet = Ether(frame)
    for layer in (IP, TCP, UDP, ICMP, SCTP, ICMPv6EchoRequest, ICMPv6EchoReply):
        if packet.haslayer(layer):
            for field in ("chksum", "cksum"):
                value = packet[layer].fields.get(field)
                if value is not None and not (layer is UDP and value == 0):
                    packet[layer].delfieldval(field)
    return bytes(packet)


@given(exchanged=st.lists(exchanges(), min_size=1, max_size=4))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
def test_there_and_back_is_the_identity(nat: MakeNat, exchanged: list[Exchange]) -> None:
    """Of several flows one among the other: what answers a translated packet comes back as what answers the packet
    itself, and checksums that were right are right.
    """
    rig = nat(options=MASQUERADE)
    rig.serve(
        *(
            parse_service(f"{one}:{net.end(net.vip, 80)}={net.end(net.backend, 8080)},{net.end(net.second, 8081)}")
            for net in NETS.values()
            for one in ("tcp", "udp", "sctp")
        )
    )
    sent = []
    for one in exchanged:
        rig.routes.clear()
        rig.route(one.ends.dest, WORLD)
        result = carry(rig, one.packet(one.ends), one.ports[0])
        assert result.verdict in ("FORWARD_NAT", "PASS_NAT")
        assert recomputed(result.frame) == result.frame
        sent.append(tuple_seen(one.protocol, Ether(result.frame), one.ends))
    for one, seen in zip(reversed(exchanged), reversed(sent), strict=True):
        assert seen != one.ends
        rig.routes.clear()
        rig.route(one.ends.source, one.ports[0])
        answer, expected = (one.packet(ends.inverse, back=True) for ends in (seen, one.ends))
        check_forwarded(rig, answer, one.ports[1], expected, one.ports[0])


def tuple_seen(protocol: str, sent: Packet, ends: Ends) -> Ends:
    """The ends of a packet, with the identifier of a ping as its source port."""
    network = sent[IPv6] if sent.haslayer(IPv6) else sent[IP]
    if protocol == "icmp":
        return Ends(network.src, network.payload.id, network.dst, ends.dport)
    return Ends(network.src, network.payload.sport, network.dst, network.payload.dport)
