# SPDX-License-Identifier: Apache-2.0
"""Frames of the tests of stage ipvlan. Stations are named by number or MAC address."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr

from tests.datapath.frames import ARP, IP, TCP, UDP, Ether, IPv6, Packet, Raw, mac


def made(dst: int | str, src: int | str, *layers: Any) -> bytes:
    """A frame between stations, by number or address, padded to 60 bytes."""
    to, by = (mac(one) if isinstance(one, int) else one for one in (dst, src))
    packet: Packet = Ether(dst=to, src=by)
    for layer in layers:
        packet /= layer
    return bytes(packet).ljust(60, b"\0")


def ipv4(dst: int | str, src: int | str, to: str, by: str, *tags: Any, size: int = 18) -> bytes:
    return made(dst, src, *tags, IP(src=by, dst=to), UDP(sport=1, dport=2), Raw(b"\5" * size))


def ipv6(dst: int | str, src: int | str, to: str, by: str, *tags: Any) -> bytes:
    return made(dst, src, *tags, IPv6(src=by, dst=to), TCP(sport=1, dport=2))


def raw(dst: int | str, src: int | str, ethertype: int = 0x88B6) -> bytes:
    """A frame of some protocol, its payload nothing that means anything."""
    return made(dst, src)[:12] + ethertype.to_bytes(2, "big") + b"\1" * 46


def arp(dst: int | str, src: int | str, op: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    return made(dst, src, ARP(op=op, hwsrc=sender[0], psrc=sender[1], hwdst=target[0], pdst=target[1]))


def nd(dst: int | str, src: int | str, by: str, to: str, *layers: Any, hlim: int = 255) -> bytes:
    return made(dst, src, IPv6(src=by, dst=to, hlim=hlim), *layers)


def solicit(dst: int | str, src: int | str, by: str, target: str, own: str, to: str = "ff02::1:ff00:9") -> bytes:
    return nd(dst, src, by, to, ICMPv6ND_NS(tgt=target), ICMPv6NDOptSrcLLAddr(lladdr=own))


def advertise(dst: int | str, src: int | str, by: str, to: str, own: str, **flags: int) -> bytes:
    return nd(
        dst, src, by, to, ICMPv6ND_NA(tgt=by, **{"R": 0, "S": 1, "O": 1, **flags}), ICMPv6NDOptDstLLAddr(lladdr=own)
    )
