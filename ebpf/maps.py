# SPDX-License-Identifier: Apache-2.0
"""Typed maps: keys and values are records of the C text, entries travel in batches."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import functools
import mmap
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ebpf import libbpf
from ebpf.errors import LayoutMismatch, MapError, MapFull, NotPermitted
from ebpf.handle import Handle

BATCH = 4096
_SOMETHING = re.compile(rb"[^\0]").search
PER_CPU = frozenset({"percpu_hash", "percpu_array", "lru_percpu_hash"})
ARRAYS = frozenset({"array", "percpu_array", "devmap", "prog_array", "cpumap", "xskmap"})
# Device maps know neither batch operations on 6.1 nor values that can be compared with what was written.
ONE_BY_ONE = frozenset({"devmap", "devmap_hash", "cpumap", "xskmap", "prog_array", "lpm_trie", "hash_of_maps"})


class Codec(Protocol):
    """What turns a key or value into bytes and back: ebpf.abi.Record or one of its scalars."""

    @property
    def size(self) -> int: ...
    @property
    def pack(self) -> Callable[..., bytes]: ...
    @property
    def unpack(self) -> Callable[[bytes], Any]: ...
    @property
    def unpack_many(self) -> Callable[[bytes], list[Any]]: ...


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is before it exists. Sizes in bytes; `kind` as in libbpf.MAP_TYPES."""

    name: str
    kind: str
    key: Codec
    value: Codec
    max_entries: int
    flags: int = 0

    def sized(self, max_entries: int) -> MapSpec:
        return replace(self, max_entries=max_entries)


def _pack(codec: Codec, item: Any) -> bytes:
    """Records are tuples: spread them over pack's parameters."""
    return codec.pack(*item) if isinstance(item, tuple) else codec.pack(item)


def _wrapped(action: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn an OSError of a map operation into a MapError that names the map."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(self: Map, *args: Any, **kwargs: Any) -> Any:
            try:
                return function(self, *args, **kwargs)
            except OSError as error:
                raise _map_error(self.spec, action, error) from error

        return call

    return decorate


def _map_error(spec: MapSpec, action: str, error: OSError) -> MapError | NotPermitted:
    if error.errno in (errno.E2BIG, errno.ENOSPC):
        return MapFull(f"map {spec.name}: {action}: all {spec.max_entries} entries are taken")
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"map {spec.name}: {action}: not permitted", hint="run as root, or with CAP_BPF")
    return MapError(f"map {spec.name}: {action}: {error.strerror}")


class Map(Handle):
    """An open map. Owns its file descriptor. Per-CPU maps give the list of all CPUs' values per key."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        super().__init__(fd)
        self.spec = spec
        self.cpus = libbpf.cpu_count() if spec.kind in PER_CPU else 0
        # A per-CPU map hands out every value rounded up to 8 bytes, one per possible CPU (kernel/bpf/syscall.c).
        self._stride = -(-spec.value.size // 8) * 8 if self.cpus else spec.value.size
        self._slot_size = self._stride * (self.cpus or 1)

    @classmethod
    def create(cls, spec: MapSpec) -> Map:
        """Make the map in the kernel. Raises MapError, NotPermitted."""
        number = next(n for n, kind in libbpf.MAP_TYPES.items() if kind == spec.kind)
        try:
            fd = libbpf.map_create(number, spec.name, spec.key.size, spec.value.size, spec.max_entries, spec.flags)
        except OSError as error:
            raise _map_error(spec, f"create with {spec.max_entries} entries", error) from error
        return cls(spec, fd)

    @classmethod
    def open(cls, spec: MapSpec, path: str) -> Map:
        """Open a pin and compare it with SPEC. Raises LayoutMismatch naming each difference, MapError."""
        try:
            fd = libbpf.obj_get(path)
        except OSError as error:
            raise _map_error(spec, f"open {path}", error) from error
        try:
            found = layout_differences(spec, libbpf.map_info(fd))
        except OSError as error:
            os.close(fd)
            raise LayoutMismatch(f"{path} is not a map") from error
        if found:
            os.close(fd)
            raise LayoutMismatch(
                f"map {spec.name} pinned at {path} does not fit this program: " + "; ".join(found),
                hint="detach the instance with the version of pydp that made it, then attach again",
            )
        info_entries = libbpf.map_info(fd).max_entries
        return cls(spec.sized(info_entries), fd)

    def __repr__(self) -> str:
        return f"<Map {self.spec.name} {self.spec.kind} fd={self.fd}>"

    @property
    def id(self) -> int:
        return int(libbpf.map_info(self.fd).id)

    def _decode(self, raw: bytes) -> Any:
        size = self.spec.value.size
        if not self.cpus:
            return self.spec.value.unpack(raw[:size])
        return [self.spec.value.unpack(raw[at : at + size]) for at in range(0, self._slot_size, self._stride)]

    def _encode(self, value: Any) -> bytes:
        """A per-CPU map takes one value for all CPUs."""
        one = _pack(self.spec.value, value)
        return one.ljust(self._stride, b"\0") * self.cpus if self.cpus else one

    @_wrapped("look up")
    def get(self, key: Any) -> Any | None:
        """The value at KEY (a list of one per CPU for per-CPU maps), or None."""
        room = ct.create_string_buffer(self._slot_size)
        try:
            libbpf.map_lookup(self.fd, _pack(self.spec.key, key), room)
        except FileNotFoundError:
            return None
        return self._decode(room.raw)

    @_wrapped("update")
    def set(self, key: Any, value: Any, flags: int = libbpf.BPF_ANY) -> None:
        libbpf.map_update(self.fd, _pack(self.spec.key, key), self._encode(value), flags)

    @_wrapped("delete")
    def delete(self, key: Any) -> bool:
        """Remove KEY; False when it was not there."""
        try:
            libbpf.map_delete(self.fd, _pack(self.spec.key, key))
        except FileNotFoundError:
            return False
        return True

    @_wrapped("read")
    def raw(self) -> tuple[bytes, bytes]:
        """All keys and all values as two runs of bytes; the quickest way to read a large map."""
        if self.spec.kind in ONE_BY_ONE:
            return self._raw_one_by_one()
        keys, values = bytearray(), bytearray()
        for some, theirs in self._chunks():
            keys += some
            values += theirs
        return bytes(keys), bytes(values)

    def chunks(self) -> Iterator[tuple[memoryview, memoryview]]:
        """The same in runs of some thousand entries, for maps that are too large to be held. A run is good until the
        next is asked for. Not for maps that know no batches. Raises MapError, NotPermitted.
        """
        try:
            yield from self._chunks()
        except OSError as error:
            raise _map_error(self.spec, "read", error) from error

    def _chunks(self) -> Iterator[tuple[memoryview, memoryview]]:
        return self._chunks_of_memory() if self._is_mappable() else self._chunks_by_calls()

    def _is_mappable(self) -> bool:
        # Its own flags, not those of the spec: a pin may be of an older version.
        return self.spec.kind == "array" and bool(libbpf.map_info(self.fd).map_flags & libbpf.F_MMAPABLE)

    def _chunks_of_memory(self) -> Iterator[tuple[memoryview, memoryview]]:
        """From the kernel's own memory: a batch takes it some 300 ns an entry. Each begins at a multiple of 8 bytes
        (array_map_alloc() of kernel/bpf/arraymap.c).
        """
        size, step, count = self.spec.value.size, -(-self.spec.value.size // 8) * 8, self.spec.max_entries
        length = -(-count * step // mmap.PAGESIZE) * mmap.PAGESIZE
        with mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            for first in range(0, count, BATCH):
                end = min(first + BATCH, count)
                values = memory[first * step : end * step]  # a copy
                if step > size:
                    values = _without_gaps(values, size, step)
                yield memoryview(array("I", range(first, end))).cast("B"), memoryview(values)

    def _chunks_by_calls(self) -> Iterator[tuple[memoryview, memoryview]]:
        count = min(BATCH, self.spec.max_entries + 1)  # one more than there are: so the first call meets the end
        key_room = ct.create_string_buffer(self.spec.key.size * count)
        value_room = ct.create_string_buffer(self._slot_size * count)
        # Hash maps use a u32 bucket number as cursor, arrays a key: 8 bytes hold either.
        cursor, following = ct.create_string_buffer(8), ct.create_string_buffer(8)
        start = None
        while True:
            try:
                got, ended = libbpf.map_lookup_batch(self.fd, start, following, key_room, value_room, count)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                count *= 2  # one hash bucket alone held more than the room we gave
                key_room = ct.create_string_buffer(self.spec.key.size * count)
                value_room = ct.create_string_buffer(self._slot_size * count)
                continue
            keys, values = memoryview(key_room).cast("B"), memoryview(value_room).cast("B")
            yield keys[: got * self.spec.key.size], values[: got * self._slot_size]
            if ended:
                return
            cursor, following = following, cursor
            start = cursor

    def _raw_one_by_one(self) -> tuple[bytes, bytes]:
        keys, values = bytearray(), bytearray()
        key: bytes | None = None
        following = ct.create_string_buffer(self.spec.key.size)
        room = ct.create_string_buffer(self._slot_size)
        while True:
            try:
                libbpf.map_next_key(self.fd, key, following)
            except FileNotFoundError:
                return bytes(keys), bytes(values)
            key = following.raw
            try:
                libbpf.map_lookup(self.fd, key, room)
            except FileNotFoundError:
                continue  # an empty place of a device map, or gone in between
            keys += key
            values += room.raw

    def items(self) -> list[tuple[Any, Any]]:
        """All entries, read in batches."""
        keys, values = self.raw()
        return list(zip(self.spec.key.unpack_many(keys), self._decode_many(values), strict=True))

    def _decode_many(self, values: bytes) -> Iterable[Any]:
        if not self.cpus:
            return self.spec.value.unpack_many(values)
        size = self._slot_size
        return [self._decode(values[at : at + size]) for at in range(0, len(values), size)]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.items())

    def sums(self) -> dict[Any, tuple[int, ...]]:
        """Per-CPU map of u64 counters: every field summed over the CPUs, keys whose sum is all zero left out."""
        keys, values = self.raw()
        fields = self.spec.value.size // 8
        if self._stride != fields * 8 or not self.cpus:
            raise MapError(f"map {self.spec.name}: not a per-CPU map of 64-bit counters")
        words, size = memoryview(values).cast("Q"), self.spec.key.size
        found, at = {}, 0
        while first := _SOMETHING(values, at):
            number = first.start() // self._slot_size
            at = (number + 1) * self._slot_size
            mine = words[number * fields * self.cpus : at // 8].tolist()
            key = self.spec.key.unpack(keys[number * size : (number + 1) * size])
            found[key] = tuple(sum(mine[field::fields]) for field in range(fields))
        return found

    @_wrapped("update")
    def update(self, entries: Mapping[Any, Any]) -> None:
        """Write all ENTRIES, in batches where the map can."""
        packed = [(_pack(self.spec.key, key), self._encode(value)) for key, value in entries.items()]
        if self.spec.kind in ONE_BY_ONE:
            for key, value in packed:
                libbpf.map_update(self.fd, key, value)
            return
        for at in range(0, len(packed), BATCH):
            part = packed[at : at + BATCH]
            libbpf.map_update_batch(self.fd, b"".join(k for k, _ in part), b"".join(v for _, v in part), len(part))

    @_wrapped("update")
    def update_raw(self, keys: bytes, values: bytes) -> None:
        """Write entries that are packed one after the other: the quickest way to fill a large map. Not for per-CPU
        maps, nor for those that know no batches. Raises MapError.
        """
        size, step = self.spec.key.size, self._slot_size
        if self.cpus or self.spec.kind in ONE_BY_ONE or len(keys) // size * step != len(values) or len(keys) % size:
            raise MapError(f"map {self.spec.name}: {len(values)} bytes are not the values of {len(keys)} bytes of keys")
        count = len(keys) // size
        for at in range(0, count, BATCH):
            end = min(at + BATCH, count)
            libbpf.map_update_batch(self.fd, keys[at * size : end * size], values[at * step : end * step], end - at)

    @_wrapped("delete")
    def delete_raw(self, keys: bytes) -> None:
        """Remove keys that are packed one after the other from a hash map; fine if some are not there. Raises
        MapError.
        """
        size = self.spec.key.size
        for at in range(0, len(keys), BATCH * size):
            part = keys[at : at + BATCH * size]
            try:
                libbpf.map_delete_batch(self.fd, part, len(part) // size)
            except FileNotFoundError:  # the batch ends at a key that is not there
                for one in range(0, len(part), size):
                    with contextlib.suppress(FileNotFoundError):
                        libbpf.map_delete(self.fd, part[one : one + size])

    @_wrapped("update")
    def take_over(self, other: Map) -> None:
        """Have the records of another array of the same layout, as many as there is room for. Raises MapError."""
        keys, values = other.raw()
        if self.spec.kind not in ARRAYS or self.spec.kind in ONE_BY_ONE or other._slot_size != self._slot_size:
            raise MapError(f"map {self.spec.name}: not an array of the same records")
        count = min(len(keys) // self.spec.key.size, self.spec.max_entries)
        for at in range(0, count, BATCH):
            end = min(at + BATCH, count)
            part = values[at * self._slot_size : end * self._slot_size]
            libbpf.map_update_batch(self.fd, keys[at * self.spec.key.size : end * self.spec.key.size], part, end - at)


def _without_gaps(values: bytes, size: int, step: int) -> bytes:
    """Values of SIZE bytes that begin STEP bytes from each other, one after the other."""
    found = bytearray(len(values) // step * size)
    for at in range(size):
        found[at::size] = values[at::step]
    return bytes(found)


def layout_differences(spec: MapSpec, info: libbpf.MapInfo) -> list[str]:
    """What keeps an existing map from serving as SPEC, in words. Sizes may differ in max_entries only."""
    found = []
    kind = libbpf.MAP_TYPES.get(info.type, str(info.type))
    if kind != spec.kind:
        found.append(f"it is of type {kind}, not {spec.kind}")
    if info.key_size != spec.key.size:
        found.append(f"its keys have {info.key_size} bytes, not {spec.key.size}")
    if info.value_size != spec.value.size:
        found.append(f"its values have {info.value_size} bytes, not {spec.value.size}")
    return found
