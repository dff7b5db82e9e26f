# SPDX-License-Identifier: Apache-2.0
"""What a program costs per packet, by test-run: no device, no redirect, just the program on other packets each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ebpf.compiler import compile_source
from ebpf.loader import Program, load
from ebpf.maps import Map
from ebpf.source import Source, flatten
from ebpf.testrun import run
from pydp.bench import paths, programs
from pydp.bench.cpus import pair, pinned
from pydp.bench.errors import BenchError
from pydp.bench.paths import Path, Shape
from pydp.bench.results import Cost
from pydp.bench.statistics import bootstrap
from pydp.datapath import Datapath, Instance
from pydp.datapath.compose import STAGE_CONSTANTS, Stage, compose, program_name, written
from pydp.datapath.specs import STAGES
from pydp.modes.base import Role
from pydp.sources import bpf_src

# enum limit, enum constant in abi.h
_SOURCE_SIDE, _DEST_SIDE = STAGES * STAGE_CONSTANTS, STAGES * STAGE_CONSTANTS + 1
_REDIRECT = {"xdp": 4, "tc": 7}  # XDP_REDIRECT, TC_ACT_REDIRECT
_DISTRIBUTIONS = {"uniform": programs.uniform, "zipf": programs.zipf}


@dataclass(frozen=True, slots=True)
class Case:
    """A program to be measured; ``first`` on its hook, with the empty program beside it."""

    hook: str
    entries: int
    counters: bool = True
    distributions: tuple[str, ...] = ("uniform",)
    first: bool = False

    @property
    def title(self) -> str:
        return "bridge" if self.counters else "bridge, counters off"


CASES = tuple(
    case
    for hook in ("xdp", "tc")
    for case in (
        Case(hook, 256, first=True),
        Case(hook, 256, counters=False),
        Case(hook, 65536, distributions=("uniform", "zipf")),
    )
)


class Bench:
    """The bridge program of an instance, wrapped so that every packet has other addresses, on the instance's maps."""

    def __init__(self, datapath: Datapath, instance: Instance, stack: ExitStack) -> None:
        self._instance = instance
        self._compiled = compile_source(_wrapped(instance))
        names = self._compiled.programs["bench_varied"].map_names
        own = {name for name in names if name.startswith("bench_") or name == "counters"}
        opened = datapath.open_maps(instance, sorted(names - own))
        self._maps: dict[str, Map] = dict(stack.enter_context(opened))
        for name in own:
            self._maps[name] = stack.enter_context(Map.create(self._compiled.maps[name]))

    def learn(self, entries: int) -> None:
        """Have the program learn so many addresses: packets that each sends to itself, which go no further."""
        programs.write_draws(self._maps, programs.everyone(entries // 2))
        for slot, side in enumerate((programs.SOURCE, programs.DEST)):
            with self._load("bench_varied", slot, side, side) as program:
                run(program, programs.frame(), repeat=programs.DRAWS)

    def measure(self, name: str, draws: programs.Draws, repeat: int) -> int:
        """ns per packet of one function. Raises BenchError when the bridge does not forward, and so is not measured."""
        programs.write_draws(self._maps, draws)
        with self._load(name, 0, programs.SOURCE, programs.DEST) as program:
            done = run(program, programs.frame(), repeat=repeat)
        if name == "bench_varied" and done.action != _REDIRECT[self._instance.hook]:
            raise BenchError(f"the bridge program on {self._instance.hook} returned {done.action}, not a redirect")
        return done.duration_ns

    def _load(self, name: str, slot: int, source: int, dest: int) -> Program:
        constants = written(_stage(self._instance), slot=slot, seed=self._instance.seed, role=Role.PORT)
        constants |= {_SOURCE_SIDE: source, _DEST_SIDE: dest}
        return load(self._compiled, name, self._instance.hook, self._maps, constants=constants)


def measure(*, rounds: int, repeat: int) -> Iterator[Cost]:
    """Every case, and the empty program it is to be seen against. Raises PydpError, EbpfError, OSError."""
    for case in CASES:
        with ExitStack() as stack:
            yield from _measure_case(case, stack, rounds, repeat)


def _measure_case(case: Case, stack: ExitStack, rounds: int, repeat: int) -> Iterator[Cost]:
    shape = Shape(paths.XDP_OFFLOADS if case.hook == "xdp" else {})
    segment = paths.make_segment(Path("none", "", lambda _segment, _stack: None), shape, stack)
    datapath, instance = paths.attach_pydp(segment, stack, hook=case.hook, counters=case.counters)
    bench = Bench(datapath, instance, stack)
    stack.enter_context(pinned(pair()[0]))
    bench.learn(case.entries)
    for name in case.distributions:
        draws = _DISTRIBUTIONS[name](case.entries)
        taken: Mapping[str, list[int]] = {"bench_empty": [], "bench_varied_only": [], "bench_varied": []}
        for _ in range(rounds):
            for function, values in taken.items():
                values.append(bench.measure(function, draws, repeat))
        base = bootstrap(taken["bench_varied_only"]).median
        if case.first:
            yield Cost("empty program", case.hook, 0, "", bootstrap(taken["bench_empty"]), 0)
        found = bootstrap(taken["bench_varied"])
        ratios = tuple(
            whole / alone for whole, alone in zip(taken["bench_varied"], taken["bench_varied_only"], strict=True)
        )
        yield Cost(case.title, case.hook, case.entries, name, found, found.median - base, ratios)


def _stage(instance: Instance) -> Stage:
    return Stage(0, instance.mode, instance.constants)


def _wrapped(instance: Instance) -> Source:
    """The instance's program as an inline function, and the functions of bench/cost.c that call it."""
    text = compose(instance.hook, [_stage(instance)], counters=instance.counters, frags=instance.frags).text
    name = program_name(instance.hook)
    head = f"\nint {name}(hook_ctx *ctx)\n"
    if head not in text:
        raise AssertionError(f"{name} is not where compose() puts it")
    text = text.replace(head, f"\nstatic __always_inline int {name}(hook_ctx *ctx)\n")
    behind = flatten('#include "bench/cost.c"\n', name="cost-main.c", include_dirs=[bpf_src()])
    return Source(f"{text}#define BENCH_PROGRAM {name}\n{behind.text}", ())
