# SPDX-License-Identifier: Apache-2.0
"""One program from the stages of a port: the generated part of the C text.

Only identifiers of ours and integers get into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ebpf.source import Source, flatten
from pydp.modes import MODES
from pydp.sources import bpf_src

# Which header serves a hook, and the name of its program.
_HEADERS = {"xdp": "xdp", "xdp-generic": "xdp", "tc": "tc"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mode in a program: its number there, and its CONFIG_* constants."""

    number: int
    mode: str
    constants: Mapping[str, int]


def program_name(hook: str) -> str:
    """The C function, and what `bpftool prog` shows."""
    return f"pydp_{_HEADERS[hook]}"


def kind_of(hook: str) -> str:
    """The loader's kind of program for a hook: "xdp" or "tc"."""
    return _HEADERS[hook]


def compose(hook: str, stages: list[Stage], *, counters: bool, frags: bool) -> Source:
    """The text of the program that runs STAGES in their modes' order. Raises SourceError."""
    stages = sorted(stages, key=lambda stage: MODES[stage.mode].traits.order)
    config = {
        "CONFIG_COUNTERS": int(counters),
        "CONFIG_FRAGS": int(frags),
        "CONFIG_DEPTH": max(MODES[stage.mode].traits.depth for stage in stages),
    }
    for stage in stages:
        config |= stage.constants
        config[f"STAGE_{stage.mode.upper()}"] = stage.number
    text = "".join(f"#define {name} {int(value)}\n" for name, value in config.items())
    return flatten(
        _main(hook, stages), name="main.c", include_dirs=[bpf_src()], virtual={"config.h": text}
    )  # fmt: skip


def _main(hook: str, stages: list[Stage]) -> str:
    includes = ["config.h", "abi.h", f"hook/{_HEADERS[hook]}.h", "lib/packet.h", "lib/exit.h"]
    includes += [f"{stage.mode}.c" for stage in stages]
    calls = "".join(
        "\tif (verdict == PASS_UNCLAIMED) {\n"
        f"\t\tstage = {stage.number};\n"
        f"\t\tverdict = {stage.mode}_stage(ctx, &packet, STAGE_CONSTANT({stage.number}, CONSTANT_SLOT));\n"
        "\t}\n"
        for stage in stages
    )
    finish = "".join(
        f"\tif (stage == {stage.number})\n\t\t{stage.mode}_finish(ctx, verdict);\n"
        for stage in stages
        if MODES[stage.mode].traits.finishes
    )
    return (
        "".join(f'#include "{name}"\n' for name in includes)
        + f"\nint {program_name(hook)}(hook_ctx *ctx)\n"
        + "{\n"
        + "\tstruct packet packet = {};\n"
        + "\tenum verdict verdict = parse_packet(ctx, &packet) ? PASS_UNCLAIMED : PUNT_TRUNCATED;\n"
        + f"\t__u32 stage = {stages[0].number};\n"
        + calls
        + "\tcount_verdict(stage, verdict, packet.length);\n"
        + finish
        + "\treturn settle(ctx, &packet, verdict);\n"
        + "}\n"
    )
