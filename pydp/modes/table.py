# SPDX-License-Identifier: Apache-2.0
"""The tables of bpf_src/lib/table.h: keys in buckets of four, each key in one of two buckets that its hash names."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

WAYS = 4
_MASK = (1 << 64) - 1
_TRIES = 64  # keys moved to make room for one, before the table is taken for too small


def table_hash(key: int) -> int:
    """table_hash() of lib/table.h."""
    found = key * 0x9E3779B97F4A7C15 & _MASK
    found = (found ^ found >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return found ^ found >> 29


def address_words(address: IPv4Address | IPv6Address) -> tuple[int, int, int, int]:
    """An address as four words as they stand in a packet on this (little-endian) machine; IPv4 in the first."""
    packed = address.packed.ljust(16, b"\0")
    words = [int.from_bytes(packed[at : at + 4], "little") for at in range(0, 16, 4)]
    return words[0], words[1], words[2], words[3]


def table_key(address: IPv4Address | IPv6Address, number: int) -> int:
    """table_key() of lib/table.h."""
    words = address_words(address)
    key = words[0] | number << 32
    if address.version == 6:
        key = table_hash(table_hash(table_hash(words[1] | words[2] << 32) ^ key) ^ words[3])
    return key | 1 << 63


def buckets(entries: Mapping[int, int]) -> list[tuple[Any, ...]]:
    """struct table_bucket of a table with these values by key, as few of them as it takes: a power of two."""
    size = 1
    while size * WAYS < len(entries):
        size *= 2
    while True:
        placed = _placed(entries, size)
        if placed is not None:
            return [_bucket(one, entries) for one in placed]
        size *= 2


def _placed(entries: Mapping[int, int], size: int) -> list[list[int]] | None:
    """The keys of each bucket (cuckoo hashing); None if one finds no place."""
    table: list[list[int]] = [[] for _ in range(size)]
    for key in entries:
        homeless, at = key, -1
        for turn in range(_TRIES):
            one, other = (number & size - 1 for number in (table_hash(homeless), table_hash(homeless) >> 32))
            at = other if at == one else one if at == other else min(one, other, key=lambda number: len(table[number]))
            if len(table[at]) < WAYS:
                table[at].append(homeless)
                break
            table[at].append(homeless)
            homeless = table[at].pop(turn % WAYS)
        else:
            return None
    return table


def _bucket(keys: list[int], entries: Mapping[int, int]) -> tuple[Any, ...]:
    free = (0,) * (WAYS - len(keys))
    return (*keys, *free), (*(entries[key] for key in keys), *free), (0, 0)
