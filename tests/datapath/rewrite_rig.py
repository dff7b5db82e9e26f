# SPDX-License-Identifier: Apache-2.0
"""The library of mode nat alone (lib/tuple.h, rewrite.h, answer.h): a packet in, what was read, the packet out."""

from __future__ import annotations

import contextlib
import copy
import ctypes as ct
import functools
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ebpf import libbpf
from ebpf.compiler import Compiled, compile_source
from ebpf.loader import load
from ebpf.maps import Map
from ebpf.source import flatten
from pydp.modes.table import address_words
from pydp.sources import bpf_src
from tests.datapath.harness import HERE, prelude_of

INCLUDES = ("config.h", "abi.h", "hook/{}.h", "lib/packet.h", "lib/rewrite.h", "lib/answer.h", "rewrite_probe.c")
CHECKSUM_COMPLETE = 1 << 2  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE: the device has summed up the frame (Linux 6.11)
FLOW, ERROR, LATER, OTHER = range(4)  # enum tuple_kind
PASSED = {"xdp": 2, "tc": 0xFFFFFFFF}
ROOM = 1 << 16


@dataclass(frozen=True, slots=True)
class Ends:
    """A tuple in words: source, its port or identifier, destination, its port."""

    source: str
    sport: int
    dest: str
    dport: int

    @property
    def inverse(self) -> Ends:
        return Ends(self.dest, self.dport, self.source, self.sport)

    def words(self) -> tuple[Any, ...]:
        """As struct nat_tuple has them."""
        ports = (int.from_bytes(port.to_bytes(2, "big"), "little") for port in (self.sport, self.dport))
        return (address_words(ip_address(self.source)), address_words(ip_address(self.dest)), *ports)


@dataclass(frozen=True, slots=True)
class Done:
    """``read``: the headers could be; ``quote``: and those of the quoted packet; ``done``: the packet was changed."""

    read: bool
    quote: bool
    done: bool
    view: Any
    quoted: Any
    frame: bytes


@functools.cache
def rewrite_probe_of(hook: str) -> Compiled:
    """The programs of rewrite_probe.c for a hook."""
    facts = ("DEPTH 2", "FRAGS 0", "COUNTERS 0", "EGRESS 0", "COMPARE 0")
    config = "".join(f"#define PYDP_{fact}\n" for fact in facts)
    text = "".join(f'#include "{name.format(hook)}"\n' for name in INCLUDES)
    return compile_source(flatten(text, include_dirs=[bpf_src(), HERE], virtual={"config.h": config}))


class Rewriter:
    """The programs of a hook. SUMMED: the device has summed up each frame, and the kernel checks that the sum is kept
    right (tc only).
    """

    def __init__(self, hook: str, summed: bool = False) -> None:
        self.hook, self.summed = hook, summed
        self._stack = contextlib.ExitStack()
        compiled = rewrite_probe_of(hook)
        self._maps = {name: self._stack.enter_context(Map.create(spec)) for name, spec in compiled.maps.items()}
        self._programs = {
            name.removeprefix("probe_"): self._stack.enter_context(load(compiled, name, hook, self._maps))
            for name in compiled.programs
        }
        if hook == "tc":
            prelude = prelude_of(hook)
            maps = {name: self._stack.enter_context(Map.create(spec)) for name, spec in prelude.maps.items()}
            self._next = maps["prelude_next"]
            self._cut = self._stack.enter_context(load(prelude, "prelude_cut", hook, maps))

    def close(self) -> None:
        self._stack.close()

    def unsummed(self) -> Rewriter:
        """The same programs, for what makes the kernel forget the sum."""
        one = copy.copy(self)
        one.summed = False
        return one

    def read(self, frame: bytes, **how: Any) -> Done:
        return self._run("tuple", frame, **how)

    def rewrite(self, frame: bytes, to: Ends, *, age: bool = False, **how: Any) -> Done:
        self._order(to=to, age=age)
        return self._run("rewrite", frame, **how)

    def error(self, frame: bytes, outer: Ends, quoted: Ends, *, age: bool = False, **how: Any) -> Done:
        self._order(to=quoted, outer=outer, age=age)
        return self._run("error", frame, **how)

    def unreachable(self, frame: bytes, kind: int, code: int, info: int = 0, source: str = "", **how: Any) -> Done:
        self._order(type=kind, code=code, info=info, source=address_words(ip_address(source)) if source else (0,) * 4)
        return self._run("unreachable", frame, **how)

    def reset(self, frame: bytes, *, back: bool = True, **how: Any) -> Done:
        self._order(back=back)
        return self._run("reset", frame, **how)

    def time(self, name: str, frame: bytes, to: Ends, count: int = 1_000_000) -> int:
        """Mean ns of one run."""
        self._order(to=to)
        return int(libbpf.test_run(self._programs[name].fd, repeat=count, **_data(frame)).duration)

    def _order(self, **what: Any) -> None:
        record = self._maps["rewrite_orders"].spec.value
        empty = record.unpack(bytes(record.size))
        for name in ("to", "outer"):
            if name in what:
                what[name] = getattr(empty, name)._replace(
                    **dict(zip(("saddr", "daddr", "sport", "dport"), what[name].words(), strict=True))
                )
        self._maps["rewrite_orders"].set(0, empty._replace(**what))

    def _run(self, name: str, frame: bytes, *, cut: int = 0, gso_size: int = 0) -> Done:
        """CUT leaves so many bytes of the frame, which may end within its headers. The kernel forgets its sum then."""
        program = self._programs[name]
        context: bytes = b""
        if cut and self.hook == "xdp":
            frame = frame[:cut]
        elif cut:
            self._next.set(0, program.fd)
            program, frame = self._cut, frame + bytes(max(0, 60 - len(frame)))
        if self.hook == "tc":
            given = bytearray(192)  # struct __sk_buff
            struct.pack_into("<I", given, 8, cut)  # mark
            struct.pack_into("<I", given, 176, gso_size)
            context = bytes(given)
        out = ct.create_string_buffer(ROOM)
        options = _data(frame) | {"data_out": ct.cast(out, ct.c_void_p), "data_size_out": ROOM}
        if context:
            options |= {"ctx_in": ct.cast(ct.c_char_p(context), ct.c_void_p), "ctx_size_in": len(context)}
        done = libbpf.test_run(
            program.fd, repeat=1, flags=CHECKSUM_COMPLETE if self.summed and not cut else 0, **options
        )
        assert done.retval == PASSED[self.hook]
        result = self._maps["rewrite_results"].get(0)
        left = out.raw[: done.data_size_out]
        return Done(bool(result.read), bool(result.quote), bool(result.done), result.view, result.quoted, left)


def _data(frame: bytes) -> dict[str, Any]:
    return {"data_in": ct.cast(ct.c_char_p(frame), ct.c_void_p), "data_size_in": len(frame)}
