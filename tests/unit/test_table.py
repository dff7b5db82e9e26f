# SPDX-License-Identifier: Apache-2.0
"""The tables that Python places keys in: every key is where the C text looks for it."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pydp.modes.table import WAYS, address_words, buckets, table_hash, table_key


def found(table: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], key: int) -> int | None:
    """As table_value() of lib/table.h looks it up in the two buckets that vxlan_find() takes."""
    hash_ = table_hash(key)
    for number in (hash_ & len(table) - 1, hash_ >> 32 & len(table) - 1):
        keys, values, _ = table[number]
        if key in keys:
            return values[keys.index(key)]
    return None


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 100, 1000, 20_000])
def test_every_key_is_found_and_no_other(count: int) -> None:
    keys = {table_key(IPv4Address(0x0A000000 + number), number % 7): number for number in range(count)}
    table = buckets(keys)
    assert len(table) & (len(table) - 1) == 0
    assert all(found(table, key) == value for key, value in keys.items())
    assert all(found(table, table_key(IPv4Address(0x0B000000 + number), 0)) is None for number in range(200))
    assert sum(key != 0 for one in table for key in one[0]) == count


def test_it_is_not_much_larger_than_what_is_in_it() -> None:
    keys = {table_key(IPv4Address(random.Random(number).getrandbits(32)), 100): number for number in range(10_000)}
    assert len(buckets(keys)) * WAYS <= 4 * len(keys)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.1", (0x010200C0, 0, 0, 0)),
        ("2001:db8::1", (0xB80D0120, 0, 0, 0x01000000)),
        ("fe80::1:2:3:4", (0x000080FE, 0, 0x02000100, 0x04000300)),
    ],
)
def test_words_are_as_a_packet_has_them(address: str, words: tuple[int, ...]) -> None:
    assert address_words(ip_address(address)) == words


def test_keys_differ_in_every_part() -> None:
    """Also from 0, which is an empty place, and in the words of an IPv6 address that are hashed."""
    addresses: list[IPv4Address | IPv6Address] = [ip_address("0.0.0.0"), ip_address("255.255.255.255")]
    addresses += [IPv6Address(1 << bit) for bit in range(128)]
    keys = [table_key(address, vni) for address in addresses for vni in (0, 1, (1 << 24) - 1)]
    assert len(set(keys)) == len(keys)
    assert all(0 < key < 1 << 64 for key in keys)
