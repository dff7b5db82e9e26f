# SPDX-License-Identifier: Apache-2.0
"""Who speaks through a NatRig, and frames as scapy has them before and after a router that translates."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pydp.services.text import parse_service
from tests.datapath.frames import TCP, UDP, Packet, Raw
from tests.datapath.harness import REDIRECT, Result, port_mac
from tests.datapath.nat_rig import NEIGHBOUR, NatRig
from tests.datapath.rewrite_packets import v4, v6
from tests.datapath.rewrite_rig import Ends

WORLD, FIRST, SECOND = 0, 1, 2  # ports of the rig
FORWARDED = ("FORWARD_NAT", REDIRECT)


@dataclass(frozen=True, slots=True)
class Net:
    """One IP version: a client behind port 0, backends behind ports 1 and 2, addresses of the host on each port."""

    version: int
    client: str
    vip: str
    backend: str
    second: str
    own: tuple[str, str, str]
    inside: str  # prefix of what is behind port 1

    def end(self, address: str, port: int) -> str:
        """As services are written."""
        return f"[{address}]:{port}" if self.version == 6 else f"{address}:{port}"

    def routes(self, rig: NatRig) -> None:
        rig.route(self.client, WORLD)
        rig.route(self.backend, FIRST)
        rig.route(self.second, SECOND)

    def serve(self, rig: NatRig, protocol: str = "tcp") -> None:
        """A service with one backend, and routes to all."""
        text = f"{protocol}:{self.end(self.vip, 80)}={self.end(self.backend, 8080)}"
        rig.serve(parse_service(text))
        self.routes(rig)

    @property
    def asked(self) -> Ends:
        """What the client sends to the service."""
        return Ends(self.client, 1234, self.vip, 80)

    @property
    def given(self) -> Ends:
        """What the backend gets."""
        return Ends(self.client, 1234, self.backend, 8080)


NETS = {
    4: Net(4, "198.51.100.7", "10.96.0.1", "10.0.1.2", "10.0.2.2",
           ("192.0.2.1", "10.0.1.254", "10.0.2.254"), "10.0.1.0/24"),
    6: Net(6, "2001:db8:ffff::7", "fd96::1", "fd01::2", "fd02::2",
           ("2001:db8::1", "fd01::fe", "fd02::fe"), "fd01::/64"),
}  # fmt: skip


def ip(ends: Ends, **fields: Any) -> Packet:
    """A frame up to its network header."""
    return v6(ends, **fields) if ip_address(ends.dest).version == 6 else v4(ends, **fields)


def segment(ends: Ends, flags: str = "PA", data: bytes = b"", **fields: Any) -> Packet:
    """A frame of TCP."""
    packet = ip(ends) / TCP(sport=ends.sport, dport=ends.dport, flags=flags, seq=1000, ack=2000, **fields)
    return packet / Raw(data) if data else packet


def datagram(ends: Ends, data: bytes = b"question") -> Packet:
    """A frame of UDP."""
    return ip(ends) / UDP(sport=ends.sport, dport=ends.dport) / Raw(data)


def arriving(packet: Packet, port: int) -> bytes:
    """As the neighbour behind PORT sends it to this host."""
    packet = packet.copy()
    packet.src, packet.dst = NEIGHBOUR.format(port), port_mac(port).hex(":")
    return bytes(packet)


def sent_on(packet: Packet, port: int) -> bytes:
    """As a router sends it out of PORT: to the neighbour, with a TTL less by one."""
    packet = packet.copy()
    packet.src, packet.dst = port_mac(port).hex(":"), NEIGHBOUR.format(port)
    inner = packet.payload
    if inner.version == 6:
        inner.hlim -= 1
    else:
        inner.ttl -= 1
        del inner.chksum
    return bytes(packet)


def outcome(result: Result) -> tuple[str, str]:
    return result.verdict, result.action


def carry(rig: NatRig, packet: Packet, port: int) -> Result:
    """The packet comes in by PORT; what XDP leaves to tc goes on there. ``mode`` is the hook that had the last word."""
    return rig.carry(arriving(packet, port), port)


def check_forwarded(rig: NatRig, packet: Packet, port: int, expected: Packet, to: int) -> Result:
    """A packet that comes in by PORT has to leave by TO, looking like EXPECTED after one more hop."""
    result = carry(rig, packet, port)
    assert (outcome(result), result.frame) == (FORWARDED, sent_on(expected, to))
    return result


def connect(rig: NatRig, net: Net, asked: Ends | None = None, given: Ends | None = None) -> None:
    """Three-way handshake of the client behind port 0 with the backend behind port 1."""
    asked, given = asked or net.asked, given or net.given
    check_forwarded(rig, segment(asked, "S"), WORLD, segment(given, "S"), FIRST)
    check_forwarded(rig, segment(given.inverse, "SA"), FIRST, segment(asked.inverse, "SA"), WORLD)
    check_forwarded(rig, segment(asked, "A"), WORLD, segment(given, "A"), FIRST)


def ports_changed(frame: bytes, *, sport: int | None = None, dport: int | None = None) -> bytes:
    """An IPv4 frame without options and without a checksum of its ports, with other ports: quicker than scapy."""
    source = frame[34:36] if sport is None else sport.to_bytes(2)
    dest = frame[36:38] if dport is None else dport.to_bytes(2)
    return frame[:34] + source + dest + frame[38:]


def unsummed(ends: Ends, port: int) -> bytes:
    """A datagram without checksum that comes in by PORT."""
    packet = datagram(ends)
    packet[UDP].chksum = 0
    return arriving(packet, port)


def tuple_of(ends: Ends) -> tuple[str, int, str, int]:
    """As `Flow` has them."""
    return ends.source, ends.sport, ends.dest, ends.dport
