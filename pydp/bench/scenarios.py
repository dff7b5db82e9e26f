# SPDX-License-Identifier: Apache-2.0
"""What is measured: kinds of traffic, the paths they take, and what is to be compared.

To add one, write a `Scenario` and put it into SCENARIOS: everything else (interleaving, statistics, report) follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydp.bench import frames, paths, programs
from pydp.bench.blocks import Measure, Plan, Sample
from pydp.bench.paths import Path, Shape
from pydp.bench.statistics import Target
from pydp.bench.streams import request_response, tcp_stream
from pydp.lab import Segment, set_offloads


@dataclass(frozen=True, slots=True)
class Comparison:
    """A path against another, or against the fastest of several: by what it carries, or with ``per_cpu`` by what a
    second of CPU time does. ``target`` is what is to be reached, if anything.
    """

    path: str
    against: tuple[str, ...]
    target: Target | None = None
    per_cpu: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic over several paths. ``prepare`` turns a segment with a path into what measures it; values
    are in ``unit``, shown divided by ``scale``, more being better; ``cpu_per`` says of what CPU time is told.
    """

    name: str
    title: str
    unit: str
    scale: float
    paths: tuple[Path, ...]
    comparisons: tuple[Comparison, ...]
    prepare: Callable[[Segment, Path, ExitStack], Measure]
    full: Plan
    quick: Plan
    shape: Shape = field(default_factory=Shape)
    cpu_per: str = ""

    def with_again(self) -> Scenario:
        """With pydp's path a second time: the A/A comparison, whose ratio should be 1, shows the floor of noise."""
        mine = next(path for path in self.paths if path.name == "pydp")
        again = mine.again()
        return Scenario(
            self.name, self.title, self.unit, self.scale, (*self.paths, again),
            (*self.comparisons, Comparison(again.name, (mine.name,))),
            self.prepare, self.full, self.quick, self.shape, self.cpu_per,
        )  # fmt: skip

    def build(self, stack: ExitStack) -> Mapping[str, Measure]:
        """Make all paths, side by side, for as long as STACK. Raises PydpError, EbpfError, OSError."""
        return {
            path.name: self.prepare(paths.make_segment(path, self.shape, stack), path, stack) for path in self.paths
        }


def flood_of_frames(entries: int, sink: str) -> Callable[[Segment, Path, ExitStack], Measure]:
    """64-byte frames from ENTRIES/2 addresses to as many, counted on the hook SINK of the receiver."""

    def prepare(segment: Segment, path: Path, stack: ExitStack) -> Measure:
        sender, receiver = segment.containers
        if not path.port_polls:
            # Once the device is up: switched on before, GRO makes it poll, but does not tell its peer that it may be
            # sent XDP frames (veth_open, drivers/net/veth.c).
            set_offloads(segment.sw, sender.port, {"gro": True})
        counting = frames.Sink(receiver, sink, stack)
        generator = frames.Generator(sender, programs.uniform(entries), stack)
        frames.announce(sender, programs.SOURCE, entries // 2)
        frames.announce(receiver, programs.DEST, entries // 2)

        def measure(seconds: float) -> Sample:
            run = generator.run(counting, seconds)
            # Generator, path and sink share one CPU, which does nothing else: its time per packet follows.
            return Sample(run.per_second, 1e9 / run.per_second, run.lost)

        return measure

    return prepare


_XDP = Shape(offloads=paths.XDP_OFFLOADS)

# Frames: many short blocks. A virtual CPU changes its speed by half within moments, with what its neighbours do, and
# only close together do all paths meet the same. Sockets: a tool takes a second to say anything.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="bridge-xdp-64",
        title="bridge, XDP, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=(paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("redirect"), paths.bare_xdp("devmap")),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(3.4)),
            Comparison("pydp", ("redirect", "devmap"), Target(0.80)),
        ),
        prepare=flood_of_frames(256, "xdp"),
        full=Plan(60, 0.1, 60), quick=Plan(20, 0.1, 20), shape=_XDP,
    ),
    Scenario(
        name="bridge-counters",
        title="bridge, XDP, 64-byte packets: what counting costs",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=(paths.pydp("xdp"), paths.pydp("xdp", counters=False, name="uncounted")),
        comparisons=(Comparison("pydp", ("uncounted",), Target(0.97)),),
        prepare=flood_of_frames(256, "xdp"),
        full=Plan(120, 0.1, 120), quick=Plan(40, 0.1, 40), shape=_XDP,
    ),
    Scenario(
        name="bridge-tc-64",
        title="bridge, tc, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=(paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect", "peer"))),
        prepare=flood_of_frames(256, "tc"),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.1, 12),
    ),
    Scenario(
        name="bridge-stream",
        title="bridge, tc, TCP stream, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=(paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(0.97)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("redirect", "peer")),
        ),
        prepare=tcp_stream,
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1),
    ),
    Scenario(
        name="bridge-request",
        title="bridge, tc, TCP request/response, 64 bytes",
        unit="k/s", scale=1e3,
        paths=(paths.kernel(), paths.pydp("tc"), paths.bare_tc("peer")),
        comparisons=(Comparison("pydp", ("kernel",), Target(1.1)), Comparison("pydp", ("peer",))),
        prepare=request_response,
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1),
    ),
)  # fmt: skip
