# SPDX-License-Identifier: Apache-2.0
"""The programs of bpf_src/bench: who sends, who counts, and who redirects without a thought."""

from __future__ import annotations

import functools
import itertools
import random
import socket
import struct
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from ebpf.compiler import Compiled, compile_source
from ebpf.maps import Map
from ebpf.source import flatten
from pydp.sources import bpf_src

DRAWS = 65536  # BENCH_DRAWS
SOURCE, DEST = 0x02B0, 0x02B1  # enum bench_side
_HEAD = 56  # BENCH_HEAD
_PORT = 9  # BENCH_PORT
SHORTEST = 64  # bytes of a frame
_HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP

Draws = Sequence[tuple[int, int]]


@functools.cache
def compiled(name: str, hook: str = "") -> Compiled:
    """A file of bpf_src/bench, compiled; with HOOK for "xdp" or "tc". Raises EbpfError."""
    head = f'#include "config.h"\n#include "abi.h"\n#include "hook/{hook}.h"\n' if hook else ""
    text = f'{head}#include "bench/{name}.c"\n'
    virtual = {"config.h": "#define PYDP_FRAGS 0\n"}
    return compile_source(flatten(text, name="main.c", include_dirs=[bpf_src()], virtual=virtual))


def create_maps(made_from: Compiled, program: str, stack: ExitStack, *, draws: int = DRAWS) -> dict[str, Map]:
    """New maps for PROGRAM, open until STACK ends, with room for so many draws. Raises MapError."""
    specs = {name: made_from.maps[name] for name in sorted(made_from.programs[program].map_names)}
    if "bench_draws" in specs:
        specs["bench_draws"] = specs["bench_draws"].sized(draws)
    return {name: stack.enter_context(Map.create(spec)) for name, spec in specs.items()}


def frame(size: int = SHORTEST) -> bytes:
    """A frame of so many bytes, as it lies in memory (a veth has no check sequence), whose addresses, number and check
    the generator writes.
    """
    return bytes(12) + b"\x08\x00" + packet("10.1.0.1", "10.1.0.2", size)


def packet(source: str, dest: str, size: int = SHORTEST) -> bytes:
    """What is in such a frame, between two IPv4 addresses: an IPv4 header and UDP without check sum."""
    payload = size - _HEADERS
    return ipv4(source, dest, socket.IPPROTO_UDP, struct.pack("!4H", _PORT, _PORT, 8 + payload, 0) + bytes(payload))


def ipv4(source: str, dest: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet without options."""
    addresses = socket.inet_aton(source) + socket.inet_aton(dest)
    header = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, addresses)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def checksum(words: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def address(side: int, number: int) -> bytes:
    """A MAC address of the generator's."""
    return struct.pack("!HI", side, number)


def enough(keys: int) -> int:
    """How many draws so many keys take: a power of two, and no fewer than there are keys."""
    return max(DRAWS, 1 << (keys - 1).bit_length())


def uniform(entries: int, *, seed: int = 1, count: int = DRAWS) -> Draws:
    """Pairs from half as many sources and half as many destinations as there are ENTRIES, each as likely."""
    draw = random.Random(seed)
    half = entries // 2
    return [(draw.randrange(half), draw.randrange(half)) for _ in range(count)]


def zipf(entries: int, *, seed: int = 1, count: int = DRAWS) -> Draws:
    """As `uniform`, the n-th address of each side being 1/n as likely as the first: most traffic has few addresses."""
    draw = random.Random(seed)
    half = entries // 2
    weights = list(itertools.accumulate(1 / number for number in range(1, half + 1)))
    return list(zip(*(draw.choices(range(half), cum_weights=weights, k=count) for _ in range(2)), strict=True))


def everyone(half: int) -> Draws:
    """Every address of both sides in turn."""
    return [(number % half, number % half) for number in range(DRAWS)]


def write_draws(maps: Mapping[str, Map], draws: Draws) -> None:
    """Tell a varying program what to take. Raises MapError."""
    words = array("I", itertools.chain.from_iterable(draws))
    maps["bench_draws"].update_raw(array("I", range(len(draws))).tobytes(), words.tobytes())


def write_head(maps: Mapping[str, Map], frame: bytes) -> None:
    """Tell a program that varies tunnelled frames how they begin. Raises MapError."""
    maps["bench_heads"].set(0, (struct.unpack_from(f"={_HEAD // 8}Q", frame),))
