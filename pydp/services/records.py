# SPDX-License-Identifier: Apache-2.0
"""Services as records of the datapath's maps (bpf_src/nat/maps.h)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydp.services.model import ENDINGS, NUMBERS, Ending, Frontend, Service
from pydp.services.rows import HOST, HOST_EXEMPT, LOCAL_ONLY, BackendRow, FrontendRow, ServiceRow, frontend_of, padded

# Their layout is compared with the maps' before anything is written.
NAME = struct.Struct("=16s2sBB")
FRONTEND = struct.Struct("=IIIIII")
BACKEND = struct.Struct("=16s2sBBIII")
INDEX = struct.Struct("=I")
LAYOUTS = {
    "nat_frontends": [["service", 0, 4], ["first", 4, 4], ["count", 8, 4], ["flags", 12, 4], ["affinity", 16, 4],
                      ["row", 20, 4]],
    "nat_backends": [["address", 0, 16], ["port", 16, 2], ["version", 18, 1], ["flags", 19, 1], ["generation", 20, 4],
                     ["service", 24, 4], ["deadline", 28, 4]],
    "nat_slots": [],
    "nat_hints": [],
    "nat_wild": [],
}  # fmt: skip
HINT_BITS = 24  # enum nat_limit
_FACTORS = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # nat_hint_place()
_WORD = (1 << 64) - 1
_NAME_WORDS, _COUNT_AND_ROW = struct.Struct("=QQI"), struct.Struct("=8xI8xI")
# enum nat_frontend_flag and nat_backend_flag
AFFINITY, CONSISTENT, MASQUERADE, DSR, REDIRECT, ELSEWHERE, HOST_HAS_OTHER = 1, 2, 4, 8, 16, 32, 64
FOR_HOST = 128  # NAT_NAME_HOST, in a name's version
PRESENT, DRAINING, MOVE, RESET = 1, 2, 4, 8

ENDING_FLAGS = tuple({"move": MOVE, "reset": RESET}[ending] for ending in ENDINGS)
_PORTS = [port.to_bytes(2, "big") for port in range(65536)]
TICK = (1 << 24) / 1e9  # seconds


class NameRow(NamedTuple):
    """What stands in nat_frontends: struct nat_name, the kind of run it has, and the flags; ``wild`` is the port of a
    frontend for every address of this host.
    """

    key: bytes
    kind: int
    flags: int
    wild: int | None


def name_rows(row: ServiceRow, frontends: Sequence[FrontendRow], backends: Sequence[BackendRow]) -> list[NameRow]:
    """What is to stand in nat_frontends for a service."""
    common = common_flags(row)
    if backends and backends[0].address == HOST:
        common |= REDIRECT
    found = []
    for front in frontends:
        versions: Iterable[int] = (front.version,)
        if not front.version:
            versions = sorted({back.version for back in backends}) or (4, 6)
        flags = common | (MASQUERADE if front.masquerade else 0)
        for version in versions:
            key = name_key(front.address, front.port, front.protocol, version)
            wild = front.port if front.address == HOST else None
            if front.local_only == HOST_EXEMPT:
                own = name_key(front.address, front.port, front.protocol, version | FOR_HOST)
                found.append(NameRow(own, version, common | MASQUERADE, wild))
                flags |= HOST_HAS_OTHER
            found.append(NameRow(key, version | (LOCAL_ONLY if front.local_only else 0), flags, wild))
    return found


def common_flags(one: ServiceRow | Service) -> int:
    """Flags that all frontends of a service have."""
    flags = (CONSISTENT if one.scheduler == "maglev" else 0) | (AFFINITY if one.affinity else 0)
    return flags | (MASQUERADE if one.masquerade else 0) | (DSR if one.dsr else 0)


def affinity_ticks(seconds: float) -> int:
    return max(round(seconds / TICK), 1) if seconds else 0


def row_of(slots: Sequence[int]) -> int:
    """A frontend's `row`: a first packet need not look into nat_slots, a line of memory that nobody has at hand."""
    first = slots[0] if slots else 0
    return first + 1 if slots and list(slots) == list(range(first, first + len(slots))) else 0


def hints(names: bytes, frontends: bytes, size: int) -> tuple[bytes, bytes]:
    """Keys and values of nat_hints, which has that SIZE, a power of two, for these structs nat_name and nat_frontend.
    Of several names in one place one gets it.
    """
    shift = 64 - (size - 1).bit_length()
    one, other, last = _FACTORS
    words = _NAME_WORDS.iter_unpack(names)
    hashes = (first * one + second * other + end * last & _WORD for first, second, end in words)
    places = array("I", (((hash_ ^ hash_ >> 32) * one & _WORD) >> shift for hash_ in hashes))
    values = array("I", (
        count << HINT_BITS | row - 1 if row and count < 256 and row < 1 << HINT_BITS else 0
        for count, row in _COUNT_AND_ROW.iter_unpack(frontends)
    ))  # fmt: skip
    return places.tobytes(), values.tobytes()


def name_key(address: bytes, port: int, protocol: int, version: int) -> bytes:
    """struct nat_name."""
    return NAME.pack(address, _PORTS[port], protocol, version)


def keys_of(one: Frontend) -> list[bytes]:
    """The structs nat_name that may stand for a frontend."""
    address = HOST if one.address is None else padded(one.address)
    return [name_key(address, one.port, NUMBERS[one.protocol], version) for version in one.versions]


def frontend_of_key(key: bytes) -> Frontend:
    """The frontend that a struct nat_name stands for."""
    packed, port, protocol, version = NAME.unpack(key)
    return frontend_of(FrontendRow(protocol, version & ~FOR_HOST, packed, int.from_bytes(port, "big"), False, False))


def record(one: BackendRow, service: int) -> bytes:
    """struct nat_backend of one that gets connections."""
    flags = PRESENT | ENDING_FLAGS[one.ending]
    return BACKEND.pack(one.address, _PORTS[one.port], one.version, flags, one.generation, service, 0)


def record_of_quiet(one: BackendRow, service: int, ticks: int, now: float) -> bytes:
    """struct nat_backend of one that gets no connections any more, whatever the reason; those that it has may end at
    its deadline. TICKS and NOW are the same instant for the datapath and for people.
    """
    deadline = 0
    if one.deadline:
        deadline = ticks + max(round((one.deadline - now) / TICK), 0) & 0xFFFFFFFF or 1
    flags = PRESENT | DRAINING | ENDING_FLAGS[one.ending]
    return BACKEND.pack(one.address, _PORTS[one.port], one.version, flags, one.generation, service, deadline)


def record_of_gone(one: BackendRow, service: int, ending: Ending | None = None) -> bytes:
    """struct nat_backend of one that is no more: it tells what becomes of its connections."""
    flags = ENDING_FLAGS[ENDINGS.index(ending) if ending else one.ending]
    return BACKEND.pack(one.address, _PORTS[one.port], one.version, flags, one.generation, service, 0)
