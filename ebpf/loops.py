# SPDX-License-Identifier: Apache-2.0
"""Loops as older verifiers want them.

Before Linux 6.7 the verifier takes a way back to an instruction that led here only from a jump (``loop_ok`` in
push_insn(), kernel/bpf/verifier.c), and says "back-edge" where a loop's last instruction stands right before its
first. clang arranges loops like that when a jump leads into them. A jump to the next instruction in between does
nothing, and is taken out again once the program is verified (opt_remove_nops()).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_INSN = struct.Struct("<BBhi")
_JMP, _JMP32 = 0x05, 0x06
_JA, _CALL, _EXIT = 0x05, 0x85, 0x95
_LD_IMM64 = 0x18
_FAR = 0x06  # of a `gotol`, whose offset is in the other field
_NOTHING = _INSN.pack(_JA, 0, 0, 0)


def fallthroughs_back(insns: bytes) -> list[int]:
    """Instructions that the one before them leads back to without a jump, as the verifier finds them."""
    code = [_INSN.unpack_from(insns, at) for at in range(0, len(insns), _INSN.size)]
    found, open_, done = [], set(), set()
    stack = [(0, _ways(code, 0))]
    open_.add(0)
    while stack:
        at, ways = stack[-1]
        for to, jumps in ways:
            if to in open_:
                if not jumps:
                    found.append(to)
            elif to not in done:
                open_.add(to)
                stack.append((to, _ways(code, to)))
                break
        else:
            stack.pop()
            open_.remove(at)
            done.add(at)
    return sorted(found)


def with_jumps(insns: bytes, places: list[int]) -> tuple[bytes, list[int]]:
    """The code with a jump to the next instruction before each of PLACES, and where each instruction is now. Jumps to
    PLACES lead behind it, except from the instruction before.
    """
    count = len(insns) // _INSN.size
    moved, more = [], 0
    marks = set(places)
    for at in range(count):
        more += at in marks
        moved.append(at + more)
    made = bytearray()
    wide = False
    for at in range(count):
        if at in marks:
            made += _NOTHING
        insn = insns[at * _INSN.size : (at + 1) * _INSN.size]
        opcode, registers, offset, immediate = _INSN.unpack(insn)
        if not wide and (to := _target(opcode, at, offset, immediate)) is not None:
            away = moved[to] - moved[at] - 1
            far = opcode == _FAR
            insn = _INSN.pack(opcode, registers, 0 if far else away, away if far else immediate)
        made += insn
        wide = not wide and opcode == _LD_IMM64
    return bytes(made), moved


def _ways(code: list[tuple[int, int, int, int]], at: int) -> Iterator[tuple[int, bool]]:
    """Where an instruction leads, and whether by a jump, in the verifier's order."""
    opcode, _, offset, immediate = code[at]
    if opcode == _EXIT:
        return
    to = _target(opcode, at, offset, immediate)
    jumps = to is not None
    if opcode not in (_JA, _FAR):
        yield at + (2 if opcode == _LD_IMM64 else 1), jumps
    if to is not None:
        yield to, True


def _target(opcode: int, at: int, offset: int, immediate: int) -> int | None:
    if opcode & 0x07 not in (_JMP, _JMP32) or opcode in (_CALL, _EXIT):
        return None
    return at + 1 + (immediate if opcode == _FAR else offset)
