# SPDX-License-Identifier: Apache-2.0
"""Loops that older verifiers refuse, and the same program with jumps in between."""

from __future__ import annotations

import struct

import pytest

from ebpf import libbpf, loops, testrun
from ebpf.loader import Program

Insn = tuple[int, int, int, int]
MOV, MOV_REG, ADD, JA, JLT, LD, EXIT = 0xB7, 0xBF, 0x07, 0x05, 0xA5, 0x18, 0x95


def code(*insns: Insn) -> bytes:
    return b"".join(struct.pack("<BBhi", *one) for one in insns)


# r0 = 7; goto 5; 2: a constant in two places; r0 += 1; 5: if r0 < 10 goto 2; exit. What stands before 5 leads to it.
INTO = code(
    (MOV, 0, 0, 7), (JA, 0, 3, 0), (LD, 1, 0, 1), (0, 0, 0, 0), (ADD, 0, 0, 1), (JLT, 0, -4, 10), (EXIT, 0, 0, 0)
)
# The usual loop, and one that ends with a jump back.
BEHIND = code((MOV, 0, 0, 0), (ADD, 0, 0, 1), (JLT, 0, -2, 10), (EXIT, 0, 0, 0))
ROUND = code((MOV, 0, 0, 0), (JLT, 0, 1, 10), (EXIT, 0, 0, 0), (ADD, 0, 0, 1), (JA, 0, -4, 0))
TWO = code(
    (MOV, 0, 0, 0), (JA, 0, 1, 0), (ADD, 0, 0, 1), (JLT, 0, -2, 5),
    (JA, 0, 1, 0), (ADD, 0, 0, 2), (JLT, 0, -2, 10), (EXIT, 0, 0, 0),
)  # fmt: skip


@pytest.mark.parametrize(("insns", "places"), [(INTO, [5]), (BEHIND, []), (ROUND, []), (TWO, [3, 6])])
def test_what_leads_back_without_a_jump(insns: bytes, places: list[int]) -> None:
    assert loops.fallthroughs_back(insns) == places
    made, moved = loops.with_jumps(insns, places)
    assert loops.fallthroughs_back(made) == []
    assert len(made) == len(insns) + 8 * len(places)
    assert [at for at, to in enumerate(moved) if at and to - moved[at - 1] > 1] == places
    assert all(made[to * 8 : to * 8 + 2] == insns[at * 8 : at * 8 + 2] for at, to in enumerate(moved))


@pytest.mark.parametrize(("insns", "result"), [(INTO, 10), (BEHIND, 10), (ROUND, 10), (TWO, 11)])
def test_it_does_what_it_did(requires_root: None, insns: bytes, result: int) -> None:
    made, _ = loops.with_jumps(insns, loops.fallthroughs_back(insns))
    for each in (insns, made):
        with Program(libbpf.prog_load(libbpf.PROG_TYPE_SCHED_CLS, "loop", each, license_="GPL"), "loop") as program:
            assert testrun.run(program, bytes(64)).action == result
