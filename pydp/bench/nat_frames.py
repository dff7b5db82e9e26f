# SPDX-License-Identifier: Apache-2.0
"""The packets of many flows to services, and how these flows are begun (bpf_src/bench/nat_send.h, nat_take.h)."""

from __future__ import annotations

import itertools
import random
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pydp.bench import programs
from pydp.bench.frames import put_through, raw
from pydp.bench.nat_paths import BACKEND_PORT, BACKENDS, CLIENTS, SERVICE_PORT, SERVICES, Rig
from pydp.bench.tunnel_frames import ethernet
from pydp.services.model import Protocol

_CLIENTS, _FRESH = 0, 1  # constants of nat_send.h
_ENDS, _MASK, _PORT = 0, 1, 2  # and of nat_take.h
_PORT_BITS, _FIRST_PORT = 15, 0x8000  # BENCH_FLOW_PORTS
_PAYLOAD = {"udp": 22, "tcp": 16}  # a frame of 64 bytes, and the shortest that holds a number and a check
_SYN, _ACK, _SYN_ACK = 0x02, 0x10, 0x12
_WINDOW = 65535
_AT_ONCE = 128  # flows: half of what the ring of a veth holds
_CLIENT_SEQUENCE, _SERVER_SEQUENCE = 1000, 5000


@dataclass(frozen=True, slots=True)
class FlowsSent:
    """What the generator of flows sends; with ``fresh`` each packet begins one."""

    frame: bytes
    protocol: Protocol
    fresh: bool = False

    @property
    def program(self) -> str:
        return f"bench_send_{self.protocol}_flow"

    @property
    def constants(self) -> Mapping[int, int]:
        return {_CLIENTS: int(CLIENTS[0]), _FRESH: int(self.fresh)}


@dataclass(frozen=True, slots=True)
class FlowsSought:
    """What is counted of it: what is for a network, and a port."""

    protocol: Protocol
    ends: IPv4Network
    port: int

    @property
    def program(self) -> str:
        return f"bench_sink_{self.protocol}_flow"

    @property
    def constants(self) -> Mapping[int, int]:
        return {_ENDS: int(self.ends.network_address), _MASK: int(self.ends.netmask), _PORT: self.port}


def sent(rig: Rig, protocol: Protocol, *, fresh: bool = False, more: int = 0) -> FlowsSent:
    """From clients to services, by way of the router; with so many bytes MORE than the shortest."""
    head = _segment(protocol, "0.0.0.0", 0, "0.0.0.0", SERVICE_PORT, bytes(_PAYLOAD[protocol] + more), _ACK)
    return FlowsSent(ethernet(rig.port_mac(rig.client), rig.client.mac) + head, protocol, fresh)


def sought(protocol: Protocol, *, translated: bool = True) -> FlowsSought:
    """What reaches backends, or without translation what was for services."""
    if translated:
        return FlowsSought(protocol, BACKENDS, BACKEND_PORT)
    return FlowsSought(protocol, SERVICES, SERVICE_PORT)


def draws(flows: int, services: Iterable[IPv4Address]) -> programs.Draws:
    """Numbers of flows and the addresses of their services, all in turn."""
    ends = [int(one) for one in services]
    return [(number % flows, ends[number % len(ends)]) for number in range(programs.DRAWS)]


def drawn(flows: int, services: Sequence[IPv4Address], distribution: str) -> programs.Draws:
    """The same, flows and services drawn "uniform" or "zipf", the n-th being 1/n as likely as the first."""
    draw, count = random.Random(1), programs.enough(max(flows, len(services)))
    numbers, ends = (choices(draw, size, distribution, count) for size in (flows, len(services)))
    return [(number, int(services[end])) for number, end in zip(numbers, ends, strict=True)]


def choices(draw: random.Random, size: int, distribution: str, count: int) -> list[int]:
    weights = None if distribution == "uniform" else list(itertools.accumulate(1 / n for n in range(1, size + 1)))
    return draw.choices(range(size), cum_weights=weights, k=count)


def establish(rig: Rig, protocol: Protocol, flows: int, service: IPv4Address, backend: IPv4Address) -> None:
    """Send what begins the first FLOWS flows, from both ends. Nobody else answers: the addresses are nobody's."""
    forth = ethernet(rig.port_mac(rig.client), rig.client.mac)
    back = ethernet(rig.port_mac(rig.server), rig.server.mac)
    with raw(rig.client) as client, raw(rig.server) as server:
        for first in range(0, flows, _AT_ONCE):
            ends = [_client(number) for number in range(first, min(first + _AT_ONCE, flows))]
            to = [(*end, str(service), SERVICE_PORT) for end in ends]
            reply = [(str(backend), BACKEND_PORT, *end) for end in ends]
            put_through(client, [forth + _segment(protocol, *one, b"", _SYN) for one in to], rig.server)
            put_through(server, [back + _segment(protocol, *one, b"", _SYN_ACK) for one in reply], rig.client)
            put_through(client, [forth + _segment(protocol, *one, b"", _ACK) for one in to], rig.server)


def _client(number: int) -> tuple[str, int]:
    """The client's address and port of a flow."""
    return str(CLIENTS[number >> _PORT_BITS]), _FIRST_PORT | number & _FIRST_PORT - 1


def _segment(
    protocol: Protocol, source: str, sport: int, dest: str, dport: int, payload: bytes, flags: int
) -> bytes:  # fmt: skip
    """An IPv4 packet of a flow; of TCP, with FLAGS, one of a connection in which nothing has been said."""
    if protocol == "udp":
        number, at = socket.IPPROTO_UDP, 6
        header = struct.pack("!4H", sport, dport, 8 + len(payload), 0)
    else:
        number, at = socket.IPPROTO_TCP, 16
        ours, theirs = _CLIENT_SEQUENCE, _SERVER_SEQUENCE
        if flags == _SYN_ACK:
            ours, theirs = theirs, ours + 1
        elif flags == _SYN:
            theirs = 0
        else:
            ours, theirs = ours + 1, theirs + 1
        header = struct.pack("!HHIIBBHHH", sport, dport, ours, theirs, 0x50, flags, _WINDOW, 0, 0)
    whole = header + payload
    pseudo = socket.inet_aton(source) + socket.inet_aton(dest) + struct.pack("!HH", number, len(whole))
    check = struct.pack("!H", programs.checksum(pseudo + whole))
    return programs.ipv4(source, dest, number, whole[:at] + check + whole[at + 2 :])
