# SPDX-License-Identifier: Apache-2.0
"""The frames of the tunnel benchmarks, before and behind the tunnel, and where in them the varying part begins."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from pydp.bench import programs
from pydp.bench.frames import Sent, Sought
from pydp.bench.tunnel_paths import VNI
from pydp.lab import Container, Node

_ETHERNET, _IPV4, _UDP, _VXLAN = 14, 20, 8, 8
_PORT, _SOURCE_PORT = 4789, 49152
_OUTER = _ETHERNET + _IPV4 + _UDP + _VXLAN
# Where the inner frame, or the inner packet, is.
IN_VXLAN = Sought(_OUTER)
IN_FRAME = Sought(0)
IN_IPIP = Sought(_ETHERNET + _IPV4, packet=True)
IN_ETHERNET = Sought(_ETHERNET, packet=True)
_HOSTS = 254


def plain(size: int) -> Sent:
    """A frame of so many bytes."""
    return Sent(programs.frame(size), 0)


def vxlan(sender: Node, receiver: Node, *, source: str = "", inner: bytes = b"") -> Sent:
    """The 64-byte frame, or another INNER one, in VXLAN, from the sender's address or another SOURCE; RFC 7348."""
    inner = inner or programs.frame()
    header = struct.pack("!BxxxI", 0x08, VNI << 8)
    udp = struct.pack("!4H", _SOURCE_PORT, _PORT, _UDP + _VXLAN + len(inner), 0)
    outer = programs.ipv4(source or sender.address4, receiver.address4, socket.IPPROTO_UDP, udp + header + inner)
    return Sent(ethernet(receiver.mac, sender.mac) + outer, _OUTER)


def ipip(sender: Node, receiver: Node) -> Sent:
    """The IPv4 packet of a 64-byte frame in IPv4; RFC 2003."""
    inner = programs.packet("0.0.0.0", "0.0.0.0")
    outer = programs.ipv4(sender.address4, receiver.address4, socket.IPPROTO_IPIP, inner)
    return Sent(ethernet(receiver.mac, sender.mac) + outer, _ETHERNET + _IPV4, packet=True)


def to_router(sender: Container, router: Node, size: int = programs.SHORTEST) -> Sent:
    """A frame of so many bytes from a container to its node."""
    mac = router.ns.ipr().link("get", ifname=sender.port)[0].get("address")
    return Sent(ethernet(mac, sender.mac) + programs.packet("0.0.0.0", "0.0.0.0", size), _ETHERNET, packet=True)


def from_one_to_subnet(sender: Container, other: Container) -> programs.Draws:
    """Pairs of addresses: from one container to every address of the other one's subnet in turn."""
    return [(int(IPv4Address(sender.address4)), host) for host in _subnet(other)]


def from_subnet_to_one(other: Container, receiver: Container) -> programs.Draws:
    """The way back."""
    return [(host, int(IPv4Address(receiver.address4))) for host in _subnet(other)]


def ethernet(dest: str, source: str) -> bytes:
    """An Ethernet header for IPv4."""
    return bytes.fromhex((dest + source).replace(":", "")) + b"\x08\x00"


def _subnet(container: Container) -> list[int]:
    """Addresses of a /24, again and again: as many as the generator takes in turn."""
    base = int(IPv4Address(container.address4)) & ~0xFF
    return [base + 1 + number % _HOSTS for number in range(programs.DRAWS)]
