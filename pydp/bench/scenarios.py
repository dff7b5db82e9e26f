# SPDX-License-Identifier: Apache-2.0
"""What is measured: kinds of traffic, the paths they take, and what is to be compared.

To add one, write a `Scenario` and put it into SCENARIOS: everything else (interleaving, statistics, report) follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydp.bench import frames, paths, programs
from pydp.bench.blocks import Measure, Plan
from pydp.bench.nat_scenarios import NAT_SCENARIOS
from pydp.bench.paths import Path, Shape
from pydp.bench.scenario import Comparison, Scenario, Way
from pydp.bench.statistics import Target
from pydp.bench.streams import request_response, tcp_stream
from pydp.bench.tunnel_scenarios import TUNNEL_SCENARIOS
from pydp.lab import Segment, set_offloads


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
        return frames.flood(generator, counting)

    return prepare


def on_segment(
    ways: Sequence[Path], prepare: Callable[[Segment, Path, ExitStack], Measure], shape: Shape | None = None
) -> tuple[Way, ...]:
    """These paths on segments of SHAPE, each turned into what measures it by PREPARE."""
    return tuple(
        Way(path.name, path.title, functools.partial(_build, path, prepare, shape or Shape())) for path in ways
    )


def _build(
    path: Path, prepare: Callable[[Segment, Path, ExitStack], Measure], shape: Shape, stack: ExitStack
) -> Measure:
    return prepare(paths.make_segment(path, shape, stack), path, stack)


_XDP = Shape(offloads=paths.XDP_OFFLOADS)

# Frames: many short blocks. A virtual CPU changes its speed by half within moments, with what its neighbours do, and
# only close together do all paths meet the same. Sockets: a tool takes a second to say anything.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="bridge-xdp-64",
        title="bridge, XDP, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("redirect"), paths.bare_xdp("devmap")),
            flood_of_frames(256, "xdp"), _XDP,
        ),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(3.4)),
            Comparison("pydp", ("redirect", "devmap"), Target(0.80)),
        ),
        full=Plan(60, 0.1, 60), quick=Plan(20, 0.1, 20),
    ),
    Scenario(
        name="bridge-counters",
        title="bridge, XDP, 64-byte packets: what counting costs",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.pydp("xdp"), paths.pydp("xdp", counters=False, name="uncounted")),
            flood_of_frames(256, "xdp"), _XDP,
        ),
        comparisons=(Comparison("pydp", ("uncounted",), Target(0.97)),),
        full=Plan(120, 0.1, 120), quick=Plan(40, 0.1, 40),
    ),
    Scenario(
        name="bridge-tc-64",
        title="bridge, tc, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            flood_of_frames(256, "tc"),
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect", "peer"))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.1, 12),
    ),
    Scenario(
        name="bridge-stream",
        title="bridge, tc, TCP stream, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            tcp_stream,
        ),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(0.97)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("redirect", "peer")),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1),
    ),
    Scenario(
        name="bridge-request",
        title="bridge, tc, TCP request/response, 64 bytes",
        unit="k/s", scale=1e3,
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("peer")),
            request_response,
        ),
        comparisons=(Comparison("pydp", ("kernel",), Target(1.1)), Comparison("pydp", ("peer",))),
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1),
    ),
    *TUNNEL_SCENARIOS,
    *NAT_SCENARIOS,
)  # fmt: skip
