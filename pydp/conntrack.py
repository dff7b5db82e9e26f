# SPDX-License-Identifier: Apache-2.0
"""The conntrack table of an instance of mode nat: read it, count it, and have the datapath end flows.

Reading goes by the layout that the instance notes, so that a process without rights can do it. Tables are read in runs:
one of a million flows takes 128 MB.
"""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice
from typing import Any, NamedTuple

from pydp.datapath.api import Datapath
from pydp.datapath.control import run_requests
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import compare_layouts
from pydp.datapath.state import Instance
from pydp.errors import UsageError
from pydp.modes import MODES
from pydp.modes.fdb import TICK

Network = IPv4Network | IPv6Network

# struct nat_flow and struct nat_request of bpf_src/nat.
_LAYOUT = [
    ["life", 0, 8], ["original", 8, 36], ["reply", 44, 36], ["protocol", 80, 1], ["version", 81, 1], ["state", 82, 1],
    ["flags", 83, 1], ["backend", 84, 4], ["generation", 88, 4], ["device", 92, 4], ["packets", 96, 16],
    ["bytes", 112, 16],
]  # fmt: skip
_REQUEST = [["original", 0, 36], ["number", 36, 4], ["protocol", 40, 1], ["version", 41, 1], ["result", 42, 2]]
_FLOW = struct.Struct("<II 16s16s2s2s 16s16s2s2s BBBB III QQQQ")
_ENTRY = struct.Struct("<36sIBBH")
_RESULT = 42
_QUADS = _FLOW.size // 8
_BACKEND = 21  # which word of 32 bits
_TICKS, _SHIFT, _BEHIND = 0xFFFFFFFF, 24, 1 << 31
_NEW, _ASSURED, _CLOSING = 2, 3, 4  # enum nat_class
_REPLIED = 1  # enum nat_flow_flag
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_PROTOCOLS = {number: name for name, number in PROTOCOLS.items()}
_ECHO = (PROTOCOLS["icmp"], PROTOCOLS["icmpv6"])
# enum nat_state, in the words of conntrack(8); flows of UDP have none, but enum nat_udp in its place
STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE")
EVENTS = ("created", "expired", "evicted", "full", "exhausted", "late", "picked_up", "moved", "reset")  # enum nat_event


class Ends(NamedTuple):
    """A tuple: addresses packed, ports as numbers. For an echo both ports are its identifier."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int

    @property
    def source(self) -> str:
        return _address(self.saddr)

    @property
    def dest(self) -> str:
        return _address(self.daddr)


def _address(packed: bytes) -> str:
    """A fifth of the time that `ipaddress` takes: there may be four million in a table."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


class Flow(NamedTuple):
    """A flow that lives. ``left``: seconds that it lives on if nothing more is heard of it; ``backend``: its number, or
    None; ``device``: for one of this host's the ifindex that it left by. ``packets`` and ``bytes`` by direction, where
    they are counted.
    """

    number: int
    protocol: int
    version: int
    state: str
    assured: bool
    replied: bool
    left: float
    original: Ends
    reply: Ends
    backend: int | None
    device: int
    packets: tuple[int, int]
    bytes: tuple[int, int]

    @property
    def protocol_name(self) -> str:
        return _PROTOCOLS.get(self.protocol, str(self.protocol))

    @property
    def is_echo(self) -> bool:
        return self.protocol in _ECHO


@dataclass(frozen=True, slots=True)
class Filter:
    """What flows are wanted: all that is not None has to hold. ``backends`` are numbers."""

    protocol: int | None = None
    state: str | None = None
    source: Network | None = None
    dest: Network | None = None
    sport: int | None = None
    dport: int | None = None
    reply_source: Network | None = None
    reply_dest: Network | None = None
    backends: frozenset[int] | None = None

    def tests(self) -> list[Callable[[Flow], bool]]:
        """What a flow has to pass."""
        equal: tuple[tuple[object, Callable[[Flow], object]], ...] = (
            (self.protocol, lambda flow: flow.protocol),
            (self.state, lambda flow: flow.state),
            (self.sport, lambda flow: flow.original.sport),
            (self.dport, lambda flow: flow.original.dport),
        )
        inside: tuple[tuple[Network | None, Callable[[Flow], bytes]], ...] = (
            (self.source, lambda flow: flow.original.saddr),
            (self.dest, lambda flow: flow.original.daddr),
            (self.reply_source, lambda flow: flow.reply.saddr),
            (self.reply_dest, lambda flow: flow.reply.daddr),
        )
        found = [_equals(value, pick) for value, pick in equal if value is not None]
        found += [_within(network, pick) for network, pick in inside if network is not None]
        if self.backends is not None:
            found.append(lambda flow: flow.backend in (self.backends or ()))
        return found


def _equals(value: object, pick: Callable[[Flow], object]) -> Callable[[Flow], bool]:
    return lambda flow: pick(flow) == value


def _within(network: Network, pick: Callable[[Flow], bytes]) -> Callable[[Flow], bool]:
    size, shift = network.max_prefixlen // 8, network.max_prefixlen - network.prefixlen
    start = int(network.network_address) >> shift

    def test(flow: Flow) -> bool:
        address = pick(flow)
        return len(address) == size and int.from_bytes(address, "big") >> shift == start

    return test


@dataclass(frozen=True, slots=True)
class Census:
    """How many flows live: those that make room when it is needed, and those that are assured, of which only the ones
    that are ending ever do. ``backends``: how many have which one, by its number.
    """

    new: int
    assured: int
    backends: Mapping[int, int] = field(default_factory=dict, compare=False)

    @property
    def entries(self) -> int:
        return self.new + self.assured

    @classmethod
    def of(cls, found: Iterable[Flow]) -> Census:
        kinds = [flow.assured for flow in found]
        return cls(kinds.count(False), kinds.count(True))


def flows(reader: Reader, instance: Instance, wanted: Filter | None = None) -> Iterator[Flow]:
    """The flows that live, in no order. Raises EbpfError."""
    _check(instance, "nat_flows", _LAYOUT)
    tests = (wanted or Filter()).tests()
    first = 0
    for _, records in reader.chunks(instance, "nat_flows"):
        now = _now()
        lives = records.cast("Q")[::_QUADS].tolist()
        for number, life in enumerate(lives):
            if life >> 32 >= _NEW:
                flow = _decode(first + number, _FLOW.unpack_from(records, number * _FLOW.size), now)
                if flow and all(test(flow) for test in tests):
                    yield flow
        first += len(lives)


def census(reader: Reader, instance: Instance) -> Census:
    """How many flows live; much quicker than `flows`. Raises EbpfError."""
    _check(instance, "nat_flows", _LAYOUT)
    kinds, backends = Counter[int](), Counter[int]()
    for _, records in reader.chunks(instance, "nat_flows"):
        now = _now()
        lives = records.cast("Q")[::_QUADS].tolist()
        if any(lives):
            theirs = records.cast("I")[_BACKEND :: 2 * _QUADS].tolist()
            live = [
                (life >> 32, backend)
                for life, backend in zip(lives, theirs, strict=True)
                if life >> 32 >= _NEW and (life - now & _TICKS) < _BEHIND
            ]
            kinds.update(kind for kind, _ in live)
            backends.update(backend for _, backend in live)
    del backends[0]
    assured = kinds[_ASSURED] + kinds[_CLOSING]
    return Census(kinds[_NEW], assured, {number - 1: count for number, count in backends.items()})


def events(reader: Reader, instance: Instance) -> dict[str, int]:
    """How often what happened in the table, since the instance was attached. Raises EbpfError."""
    words = memoryview(reader.raw(instance, "nat_events")[1]).cast("Q").tolist()
    cpus = len(words) // len(EVENTS)
    return {name: sum(words[number * cpus : (number + 1) * cpus]) for number, name in enumerate(EVENTS)}


def capacity(instance: Instance) -> int:
    """Flows that there is room for."""
    return int(instance.constants["PYDP_NAT_FLOWS"])


def end_flows(datapath: Datapath, name: str, wanted: Filter | None = None) -> Census:
    """Have the datapath end the flows that are WANTED; gives how many they were. Flows that begin meanwhile stay.

    Raises NothingAttached, UsageError, EbpfError.
    """
    gone = [0, 0]
    with datapath.store.locked():
        instance = datapath.of_mode("nat", name)
        _check(instance, "nat_requests", _REQUEST)
        with Reader.open(datapath) as reader, datapath.controlling(instance) as (program, requests, cursor):
            found = flows(reader, instance, wanted)
            while part := list(islice(found, requests.spec.max_entries)):
                indices = array("I", range(len(part)))
                requests.update_raw(indices.tobytes(), b"".join(map(_request, part)))
                run_requests(program, cursor, len(part))
                done = requests.raw()[1][_RESULT :: _ENTRY.size]
                for flow, ended in zip(part, done, strict=False):
                    gone[flow.assured] += ended
    return Census(new=gone[False], assured=gone[True])


def has_flows(instance: Instance) -> bool:
    """Whether the instance is of mode nat."""
    return "nat_flows" in MODES[instance.mode].traits.maps


def parse_network(text: str, where: str) -> Network:
    """ADDR or ADDR/LENGTH. Raises UsageError."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(f"{where} {text}: {error}") from None


def parse_protocol(text: str, where: str) -> int:
    """A name or a number. Raises UsageError."""
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    if text.isdecimal() and int(text) < 256:
        return int(text)
    raise UsageError(f"{where} {text}: no protocol", hint=f"{', '.join(PROTOCOLS)}, or a number")


def _check(instance: Instance, name: str, layout: list[list[object]]) -> None:
    """Raise LayoutMismatch for a map that another version made."""
    compare_layouts(f"{instance.name}-{name}", instance.maps[name], {"layout": layout})


def _now() -> int:
    return coarse_clock() >> _SHIFT & _TICKS


def _decode(number: int, fields: tuple[Any, ...], now: int) -> Flow | None:
    """A struct nat_flow; None for one whose time is over."""
    until, kind, *tuples, protocol, version, state, flags, backend, _, device = fields[:17]
    left = until - now & _TICKS
    if left >= _BEHIND:
        return None
    return Flow(
        number=number,
        protocol=protocol,
        version=version,
        state=_state(protocol, state),
        assured=kind in (_ASSURED, _CLOSING),
        replied=bool(flags & _REPLIED),
        left=left * TICK,
        original=_ends(tuples[:4], version),
        reply=_ends(tuples[4:], version),
        backend=backend - 1 if backend else None,
        device=device,
        packets=fields[17:19],
        bytes=fields[19:21],
    )


def _state(protocol: int, state: int) -> str:
    if protocol == PROTOCOLS["udp"]:
        return STATES[0]
    return STATES[state] if state < len(STATES) else str(state)


def _ends(fields: Sequence[bytes], version: int) -> Ends:
    """A struct nat_tuple."""
    saddr, daddr, sport, dport = fields
    size = 16 if version == 6 else 4
    return Ends(saddr[:size], daddr[:size], int.from_bytes(sport, "big"), int.from_bytes(dport, "big"))


def _request(flow: Flow) -> bytes:
    """A struct nat_request."""
    ends = flow.original
    ports = ends.sport.to_bytes(2, "big") + ends.dport.to_bytes(2, "big")
    original = ends.saddr.ljust(16, b"\0") + ends.daddr.ljust(16, b"\0") + ports
    return _ENTRY.pack(original, flow.number, flow.protocol, flow.version, 0)


assert sys.byteorder == "little", "records are read as little-endian numbers"
