# SPDX-License-Identifier: Apache-2.0
"""The records that a short way keeps (bpf_src/lib/recent.h), in a map with an element for each CPU."""

from __future__ import annotations

import mmap
from typing import Any

from ebpf.abi import Abi
from ebpf.maps import Map

PLACES = 4096  # RECENT_PLACES


def place(key: int) -> int:
    """Where the record with this key is: recent_place()."""
    return (key * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40 & PLACES - 1


def set_id(one: Map, ident: int) -> None:
    """Have the next outer header of mode vxlan get this number, on every CPU."""
    size = one.spec.value.size
    with mmap.mmap(one.fd, size * one.spec.max_entries) as memory:
        for base in range(0, len(memory), size):
            memory[base : base + 8] = (ident | 1 << 32).to_bytes(8, "little")


def ids(one: Map) -> set[int]:
    """The numbers that come next, those of CPUs that have sent nothing left out."""
    size = one.spec.value.size
    with mmap.mmap(one.fd, size * one.spec.max_entries) as memory:
        found = {int.from_bytes(memory[base : base + 8], "little") for base in range(0, len(memory), size)}
    return {each & 0xFFFF for each in found if each}


class Recents:
    """Records of the C type NAME, which are the member FIELD of a map's elements."""

    def __init__(self, one: Map, abi: Abi, field: str, name: str) -> None:
        element = abi.record(one.spec.value.name)  # type: ignore[attr-defined]
        self._record = abi.record(name)
        self._memory = mmap.mmap(one.fd, element.size * one.spec.max_entries)
        offset = next(each.offset for each in element.fields if each.name == field)
        self._bases = range(offset, element.size * one.spec.max_entries, element.size)

    def get(self, at: int) -> list[Any]:
        """The record at a place, for each CPU."""
        step = self._record.size
        return [self._record.unpack(self._memory[base + at * step : base + at * step + step]) for base in self._bases]

    def set(self, at: int, record: Any) -> None:
        """Have it on every CPU."""
        raw = self._record.pack(*record)
        for base in self._bases:
            self._memory[base + at * len(raw) : base + (at + 1) * len(raw)] = raw

    def clear(self, at: int) -> None:
        """As if there had never been one."""
        self.set(at, self._record.unpack(bytes(self._record.size)))
