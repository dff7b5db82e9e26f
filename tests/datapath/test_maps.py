# SPDX-License-Identifier: Apache-2.0
"""Maps in the kernel: every kind that is used, singly and in batches, and what a pin may not differ in."""

from __future__ import annotations

import os
import secrets
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpf import libbpf
from ebpf.abi import Abi, codec
from ebpf.errors import LayoutMismatch, MapError, MapFull
from ebpf.maps import BATCH, Map, MapSpec

TEXT = """
struct pair {
	__u32 first;
	__u16 second;
	__u8 mac[6];
};
struct counter {
	__u64 packets;
	__u64 bytes;
};
struct triple {
	__u32 first;
	__u32 second;
	__u32 third;
};
struct prefix {
	__u32 length;
	__u8 address[4];
};
"""
ABI = Abi(TEXT)
MANY = 100_000

MakeMap = Callable[..., Map]


def spec(kind: str, key: str, value: str, entries: int, flags: int = 0) -> MapSpec:
    return MapSpec("test", kind, codec(ABI, key), codec(ABI, value), entries, flags)


@pytest.fixture
def make(requires_root: None) -> Iterator[MakeMap]:
    """Makes maps: kind, key, value, number of entries."""
    made: list[Map] = []

    def create(*what: Any) -> Map:
        made.append(Map.create(spec(*what)))
        return made[-1]

    yield create
    for one in made:
        one.close()


@pytest.fixture
def pin(bpffs: Path) -> Iterator[Path]:
    path = bpffs / f"pydp_test_{os.getpid():x}_{secrets.token_hex(4)}"
    yield path
    path.unlink(missing_ok=True)


# One by one


def test_hash(make: MakeMap) -> None:
    one = make("hash", "struct pair", "__u64", 8)
    key = (1, 2, b"\2\0\0\0\0\1")
    assert one.get(key) is None
    one.set(key, 7)
    assert one.get(key) == 7
    assert one.items() == [(key, 7)]
    assert dict(one) == {key: 7}
    assert one.delete(key)
    assert not one.delete(key)
    assert one.items() == []


def test_values_are_records(make: MakeMap) -> None:
    one = make("hash", "__u32", "struct pair", 8)
    one.set(5, (1, 2, b"\2\0\0\0\0\1"))
    found = one.get(5)
    assert (found.first, found.second, found.mac) == (1, 2, b"\2\0\0\0\0\1")


def test_array(make: MakeMap) -> None:
    one = make("array", "__u32", "struct pair", 3)
    assert len(one.items()) == 3
    one.set(2, (1, 2, bytes(6)))
    assert [value.first for _, value in one] == [0, 0, 1]
    with pytest.raises(MapFull, match="all 3 entries"):
        one.set(3, (1, 2, bytes(6)))
    with pytest.raises(MapError, match="map test: delete"):
        one.delete(2)


def test_lpm_trie_takes_the_longest_prefix(make: MakeMap) -> None:
    one = make("lpm_trie", "struct prefix", "__u32", 8, libbpf.F_NO_PREALLOC)
    wanted = {(8, b"\x0a\0\0\0"): 1, (24, b"\x0a\1\2\0"): 2}
    one.update(wanted)
    assert dict(one.items()) == wanted
    assert one.get((32, b"\x0a\1\2\3")) == 2
    assert one.get((32, b"\x0a\7\2\3")) == 1
    assert one.get((32, b"\x0b\1\2\3")) is None
    assert one.delete((24, b"\x0a\1\2\0"))
    assert one.get((32, b"\x0a\1\2\3")) == 1


def test_devmap_has_empty_places(make: MakeMap) -> None:
    one = make("devmap", "__u32", "__u32", 4)
    one.set(2, 1)  # lo
    assert one.items() == [(2, 1)]
    one.update({0: 1})
    assert one.delete(2)
    assert one.items() == [(0, 1)]


def test_per_cpu_values(make: MakeMap) -> None:
    cpus = libbpf.cpu_count()
    one = make("percpu_array", "__u32", "struct counter", 4)
    one.set(1, (3, 100))
    assert one.get(1) == [(3, 100)] * cpus
    assert one.items()[1] == (1, [(3, 100)] * cpus)
    assert one.sums() == {1: (3 * cpus, 100 * cpus)}


def test_per_cpu_values_that_are_not_of_eight_bytes(make: MakeMap) -> None:
    """The kernel rounds each CPU's value up to 8 bytes."""
    cpus = libbpf.cpu_count()
    one = make("percpu_hash", "__u32", "struct triple", 4)
    one.update({5: (1, 2, 3), 6: (4, 5, 6)})
    assert one.get(5) == [(1, 2, 3)] * cpus
    assert dict(one.items()) == {5: [(1, 2, 3)] * cpus, 6: [(4, 5, 6)] * cpus}


def test_sums_of_what_has_none(make: MakeMap) -> None:
    with pytest.raises(MapError, match="not a per-CPU map of 64-bit counters"):
        make("array", "__u32", "struct counter", 2).sums()
    with pytest.raises(MapError, match="not a per-CPU map of 64-bit counters"):
        make("percpu_array", "__u32", "struct triple", 2).sums()


# Many


def test_a_hundred_thousand_entries(make: MakeMap, record_testsuite_property: Callable[[str, object], None]) -> None:
    """Both within a second, as the report tells; a timing does not fail a test."""
    one = make("hash", "__u64", "struct pair", MANY)
    wanted = {number: (number, number & 0xFFFF, bytes(6)) for number in range(MANY)}
    start = time.perf_counter()
    one.update(wanted)
    written = time.perf_counter()
    found = one.items()
    read = time.perf_counter()
    assert dict(found) == wanted
    record_testsuite_property("100000 entries written, s", round(written - start, 3))
    record_testsuite_property("100000 entries read, s", round(read - written, 3))


def test_batches_end_where_the_map_ends(make: MakeMap) -> None:
    for entries in (1, 4095, 4096, 4097, 8192):
        one = make("array", "__u32", "__u32", entries)
        one.update({entries - 1: 7})
        assert len(one.items()) == entries
        assert one.get(entries - 1) == 7


def test_entries_as_runs_of_bytes(make: MakeMap) -> None:
    """More than go in one batch, and keys that are not there."""
    one, count = make("hash", "__u32", "__u32", MANY), 10_001
    keys = b"".join(number.to_bytes(4, "little") for number in range(count))
    one.update_raw(keys, keys)
    assert dict(one.items()) == {number: number for number in range(count)}
    for gone in (range(5000, 5010), range(4090, count)):
        one.delete_raw(b"".join(number.to_bytes(4, "little") for number in gone))
    assert dict(one.items()) == {number: number for number in range(4090)}
    one.update_raw(b"", b"")
    one.delete_raw(b"")
    with pytest.raises(MapError, match="8 bytes are not the values of 4 bytes of keys"):
        one.update_raw(bytes(4), bytes(8))
    with pytest.raises(MapError, match="are not the values"):
        make("percpu_array", "__u32", "__u64", 1).update_raw(bytes(4), bytes(8))


def test_a_full_hash(make: MakeMap) -> None:
    one = make("hash", "__u32", "__u32", 8)
    one.update(dict.fromkeys(range(8), 1))
    with pytest.raises(MapFull, match="map test: update: all 8 entries are taken"):
        one.set(8, 1)
    with pytest.raises(MapFull):
        one.update({8: 1})
    one.set(7, 2)
    assert one.get(7) == 2


@pytest.mark.parametrize("value", ["__u8", "__u32", "struct triple", "struct counter"])
def test_an_array_that_may_be_mapped_is_read_the_same(make: MakeMap, value: str) -> None:
    """From its memory, where values stand at multiples of 8 bytes."""
    entries = 2 * BATCH + 3
    one, plain = (make("array", "__u32", value, entries, flags) for flags in (libbpf.F_MMAPABLE, 0))
    keys, values = array("I", range(entries)).tobytes(), os.urandom(entries * one.spec.value.size)
    for each in (one, plain):
        each.update_raw(keys, values)
    assert one.raw() == plain.raw() == (keys, values)
    assert one.items() == plain.items()
    other = make("array", "__u32", value, 5, libbpf.F_MMAPABLE)
    other.take_over(one)
    assert other.items() == one.items()[:5]


def test_a_pin_that_may_not_be_mapped_is_read(make: MakeMap, pin: Path) -> None:
    """As a version made it whose maps had other flags."""
    make("array", "__u32", "__u32", 8).pin(str(pin))
    with Map.open(spec("array", "__u32", "__u32", 8, libbpf.F_MMAPABLE), str(pin)) as one:
        one.set(3, 4)
        assert dict(one.items()) == {**dict.fromkeys(range(8), 0), 3: 4}


# Pins


def test_a_pin_is_opened_again(make: MakeMap, pin: Path) -> None:
    one = make("hash", "__u32", "struct pair", 8)
    one.set(1, (2, 3, bytes(6)))
    one.pin(str(pin))
    with Map.open(one.spec.sized(0), str(pin)) as again:
        assert again.id == one.id
        assert again.get(1) == one.get(1)
        assert again.spec.max_entries == 8


@pytest.mark.parametrize(
    ("wanted", "difference"),
    [
        (("array", "__u32", "struct pair", 8), "it is of type hash, not array"),
        (("hash", "__u64", "struct pair", 8), "its keys have 4 bytes, not 8"),
        (("hash", "__u32", "struct counter", 8), "its values have 12 bytes, not 16"),
    ],
)
def test_a_pin_of_another_layout_is_refused(
    make: MakeMap, pin: Path, wanted: tuple[str, str, str, int], difference: str
) -> None:
    make("hash", "__u32", "struct pair", 8).pin(str(pin))
    with pytest.raises(LayoutMismatch) as caught:
        Map.open(spec(*wanted), str(pin))
    assert difference in str(caught.value)
    assert str(pin) in str(caught.value)
    assert caught.value.hint


def test_a_pin_that_is_not_there(pin: Path) -> None:
    with pytest.raises(MapError, match="No such file"):
        Map.open(spec("hash", "__u32", "__u32", 8), str(pin))


def test_a_map_that_cannot_be(make: MakeMap) -> None:
    with pytest.raises(MapError, match="map test: create with 0 entries: Invalid argument"):
        make("hash", "__u32", "__u32", 0)
