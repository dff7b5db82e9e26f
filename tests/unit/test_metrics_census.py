# SPDX-License-Identifier: Apache-2.0
"""Counting the FDB by columns gives what looking at each address gives."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.errors import LayoutMismatch
from pydp import fdb
from pydp.datapath import Instance
from pydp.fdb import reading

AGEING = 1000
VALID, STATIC, LOCAL, STICKY, OWNED = (1 << bit for bit in range(16, 21))
NOWS = st.sampled_from([0, 5, AGEING, AGEING + 1, 1 << 31, (1 << 32) - 1, 123_456_789])


@dataclass(frozen=True)
class Table:
    """As much of a Reader as the FDB needs."""

    content: bytes

    def raw(self, instance: Instance, name: str) -> tuple[bytes, bytes]:
        return b"", self.content


def instance(layout: list[list[object]]) -> Instance:
    return Instance(
        "lan", "bridge", {}, "tc", "auto", "", ("tc",), {7: 0}, {7: "p0"},
        constants={"PYDP_FDB_AGEING": AGEING}, maps={"fdb": {"kind": "array", "layout": layout}},
    )  # fmt: skip


LAN = instance([["key", 0, 32], ["where", 32, 16], ["seen", 48, 16]])


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int]:
    """(key, flags, idle ticks), a negative idle being a stamp from ahead of our clock."""
    if draw(st.booleans()):
        return 0, 0, 0
    flags = draw(st.sampled_from([0, VALID, VALID | STATIC, VALID | STATIC | STICKY, VALID | STATIC | LOCAL | OWNED]))
    idle = draw(st.sampled_from([0, 1, AGEING - 1, AGEING, AGEING + 1, (1 << 31) - 1, -1, -5]))
    return draw(st.integers(1, (1 << 48) - 1)), flags, idle


def bucket(four: list[tuple[int, int, int]], now: int) -> bytes:
    keys, flags, idles = zip(*four, strict=True)
    seen = [now - idle & 0xFFFFFFFF for idle in idles]
    return struct.pack("=4Q4I4I", *keys, *flags, *seen)


@given(table=st.lists(st.lists(places(), min_size=4, max_size=4), min_size=1, max_size=8), now=NOWS)
def test_columns_count_what_is_there(table: list[list[tuple[int, int, int]]], now: int) -> None:
    reader = Table(b"".join(bucket(four, now) for four in table))
    live = [
        flags for four in table for key, flags, idle in four if flags & VALID and (flags & STATIC or idle <= AGEING)
    ]
    expected = fdb.Census(
        learned=sum(not flags & STATIC for flags in live),
        permanent=sum(flags & (STATIC | LOCAL) == STATIC for flags in live),
        local=sum(bool(flags & LOCAL) for flags in live),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_now", lambda: now)
        assert fdb.census(reader, LAN) == expected  # type: ignore[arg-type]
        assert fdb.count(reader, LAN) == (len(live), sum(bool(flags & STATIC) for flags in live))  # type: ignore[arg-type]
        assert len(fdb.rows(reader, LAN)) == len(live)  # type: ignore[arg-type]


def test_a_table_of_another_layout_is_refused() -> None:
    other = instance([["key", 0, 32], ["where", 32, 16], ["seen", 48, 16], ["hits", 64, 16]])
    with pytest.raises(LayoutMismatch, match="hits"):
        fdb.census(Table(bytes(80)), other)  # type: ignore[arg-type]
