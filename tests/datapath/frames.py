# SPDX-License-Identifier: Apache-2.0
"""Frames of the packet tests, all by scapy."""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy imports ciphers that cryptography is about to drop
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
    from scapy.layers.inet6 import (
        ICMPv6DestUnreach,
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        ICMPv6PacketTooBig,
        ICMPv6TimeExceeded,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.ipsec import AH
    from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
    from scapy.layers.sctp import SCTP, SCTPChunkData
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Packet, Raw

__all__ = [
    "AH", "ARP", "BROADCAST", "ICMP", "IP", "MULTICAST", "SCTP", "TCP", "UDP", "VXLAN", "Dot1AD", "Dot1Q", "Ether",
    "ICMPv6DestUnreach", "ICMPv6EchoReply", "ICMPv6EchoRequest", "ICMPv6PacketTooBig", "ICMPv6TimeExceeded",
    "IPOption_NOP", "IPv6", "IPv6ExtHdrDestOpt", "IPv6ExtHdrFragment", "IPv6ExtHdrHopByHop", "IPv6ExtHdrRouting",
    "Packet", "Raw", "SCTPChunkData", "eth", "mac", "tagged",
]  # fmt: skip

BROADCAST = "ff:ff:ff:ff:ff:ff"
MULTICAST = "01:00:5e:00:00:fb"


def mac(number: int) -> str:
    """Address of a station behind some port; ports themselves have others."""
    return f"02:00:00:00:0a:{number:02x}"


def eth(dst: int | str, src: int | str, *tags: Any, size: int = 60) -> bytes:
    """A frame of UDP over IPv4 between stations (by number or address), with TAGS (Dot1Q, Dot1AD), SIZE bytes without
    them.
    """
    to, by = (mac(one) if isinstance(one, int) else one for one in (dst, src))
    packet = Ether(dst=to, src=by)
    for tag in tags:
        packet /= tag
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000, dport=2000)
    return bytes(packet / inner / Raw(bytes(i & 0xFF for i in range(size - 14 - 28))))


def tagged(vlan: int, *, prio: int = 0, dei: int = 0) -> Any:
    """An 802.1Q tag."""
    return Dot1Q(vlan=vlan, prio=prio, dei=dei)
