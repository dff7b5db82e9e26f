# SPDX-License-Identifier: Apache-2.0
"""One program from the stages of a port: the generated part of the C text.

Only identifiers of ours and integers get into it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebpf import libbpf
from ebpf.source import Source, flatten
from pydp.modes import MODES
from pydp.sources import bpf_src

COMPARE = "PYDP_COMPARE"  # 1 while the instance that it is a constant of is compared with the kernel's path
STAGE_CONSTANTS = 64  # abi.h
_SLOT, _SEED, _ROLE, _CPUS, _OPTIONS = 0, 1, 2, 3, 16  # enum constant
# Which header serves a hook, and the name of its program.
_HEADERS = {"xdp": "xdp", "xdp-generic": "xdp", "tc": "tc", "tc-egress": "tc"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mode in a program: its number there, and its PYDP_* constants (the kernel's own headers define CONFIG_*)."""

    number: int
    mode: str
    constants: Mapping[str, int]


def program_name(hook: str) -> str:
    """The C function, and what `bpftool prog` shows."""
    return f"pydp_{_HEADERS[hook]}"


def kind_of(hook: str) -> str:
    """The loader's kind of program for a hook: "xdp" or "tc"."""
    return _HEADERS[hook]


def compose(hook: str, stages: Sequence[Stage], *, counters: bool, frags: bool) -> Source:
    """The text of the program that runs STAGES in their modes' order. Raises SourceError."""
    ordered = sorted(stages, key=lambda stage: MODES[stage.mode].traits.order)
    config: dict[str, int | str] = {
        "PYDP_COUNTERS": int(counters),
        "PYDP_FRAGS": int(frags),
        "PYDP_EGRESS": int(hook == "tc-egress"),
        COMPARE: 0,
        "PYDP_DEPTH": max(MODES[stage.mode].traits.depth for stage in ordered),
    }
    for stage in ordered:
        config |= stage.constants
        config |= {name: f"((__u32)CONSTANT({number}))" for name, number in _written(stage).items()}
        config[f"STAGE_{stage.mode.upper()}"] = stage.number
    return _composed(hook, tuple((stage.number, stage.mode) for stage in ordered), tuple(config.items()))


def written(stage: Stage, *, slot: int, seed: int, role: int) -> dict[int, int]:
    """What the code of a stage gets when it is loaded, by number: of the port that it is for, and of its options."""
    own = {_SLOT: slot, _SEED: seed, _ROLE: role, _CPUS: libbpf.cpu_count()}
    first = stage.number * STAGE_CONSTANTS
    return {first + number: value for number, value in own.items()} | {
        number: stage.constants[name] for name, number in _written(stage).items()
    }


def _written(stage: Stage) -> dict[str, int]:
    first = stage.number * STAGE_CONSTANTS + _OPTIONS
    return {name: first + at for at, name in enumerate(MODES[stage.mode].traits.written)}


@functools.lru_cache(maxsize=64)
def _composed(hook: str, stages: tuple[tuple[int, str], ...], config: tuple[tuple[str, int | str], ...]) -> Source:
    """Kept, since the ports of an instance mostly have the same text."""
    text = "".join(f"#define {name} {value}\n" for name, value in config)
    main = _main(hook, stages, compare=bool(dict(config)[COMPARE]))
    return flatten(main, name="main.c", include_dirs=[bpf_src()], virtual={"config.h": text})


def again_names(hook: str, mode: str) -> dict[str, str]:
    """The C functions that a mode's stage hands a packet to which needs more than most, each with its variant of the
    stage. In the order of their places in the prog array, of which the first is the attached program's.
    """
    return {f"{program_name(hook)}_{one}": one for one in MODES[mode].traits.again.get(kind_of(hook), ())}


def _main(hook: str, stages: Sequence[tuple[int, str]], *, compare: bool) -> str:
    includes = ["config.h", "abi.h", f"hook/{_HEADERS[hook]}.h", "lib/packet.h", "lib/exit.h"]
    includes += ["lib/compare.h"] if compare else []
    includes += [f"{mode}.c" for _, mode in stages]
    text = "".join(f'#include "{name}"\n' for name in includes)
    text += _program(hook, program_name(hook), stages, compare=compare)
    for _, mode in stages:
        for name, variant in again_names(hook, mode).items():
            text += _program(hook, name, stages, {mode: variant}, compare=compare)
    return text


_COUNT = "count_verdict(stage, verdict, packet.length);"
_SETTLE = "return settle(ctx, &packet, verdict);"


def _program(
    hook: str, name: str, stages: Sequence[tuple[int, str]], variants: Mapping[str, str] | None = None, *, compare: bool
) -> str:
    """The text of one program; VARIANTS of stages begin anew with the packet, and have no short way. With COMPARE
    packets are parsed first, as some are the kernel's.
    """
    variants = variants or {}
    short = {mode for _, mode in stages if kind_of(hook) in MODES[mode].traits.short and mode not in variants}
    number, first = stages[0]
    lines = ["struct packet packet = {};", "enum verdict verdict = PASS_UNCLAIMED;", f"__u32 stage = {number};"]
    if first in short and not compare:
        lines += [f"verdict = {_call(first, 'short', number)};", "if (verdict != PASS_UNCLAIMED) {"]
        lines += [f"\t{line}" for line in (_COUNT, _SETTLE)] + ["}"]
    lines += ["if (verdict == PASS_UNCLAIMED && !parse_packet(ctx, &packet))", "\tverdict = PUNT_TRUNCATED;"]
    lines += ["if (verdict == PASS_UNCLAIMED)", "\tcompare_packet(ctx, &packet);"] if compare else []
    for number, mode in stages:
        lines += ["if (verdict == PASS_UNCLAIMED) {", f"\tstage = {number};"]
        if mode in short and (compare or mode != first):
            lines += ["\tif (!packet_is_left(&packet))", f"\t\tverdict = {_call(mode, 'short', number)};", "}"]
            lines.append("if (verdict == PASS_UNCLAIMED) {")
        variant = f"stage_{variants[mode]}" if mode in variants else "stage"
        lines += [f"\tverdict = {_call(mode, variant, number)};", "}"]
    lines.append(_COUNT)
    for number, mode in stages:
        if MODES[mode].traits.finishes:
            lines += [f"if (stage == {number})", f"\t{mode}_finish(ctx, verdict);"]
    lines.append(_SETTLE)
    return f"\nint {name}(hook_ctx *ctx)\n{{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"


def _call(mode: str, function: str, number: int) -> str:
    return f"{mode}_{function}(ctx, &packet, STAGE_CONSTANT({number}, CONSTANT_SLOT))"
