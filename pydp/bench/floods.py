# SPDX-License-Identifier: Apache-2.0
"""Frames across a segment, on each of several paths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydp.bench import frames, paths, programs
from pydp.bench.blocks import Measure
from pydp.bench.paths import Path, Shape
from pydp.bench.scenario import Way
from pydp.bench.traffic import FLOOD, Port, Traffic
from pydp.lab import Segment, set_offloads


def flood_of_frames(
    entries: int, sink: str, *, size: int = programs.SHORTEST, draws: programs.Draws | None = None,
    traffic: Traffic = FLOOD,
) -> Callable[[Segment, Path, ExitStack], Measure]:  # fmt: skip
    """Frames of SIZE bytes from ENTRIES/2 addresses to as many, counted on the hook SINK of the receiver; pairs of them
    come as DRAWS says, or uniformly.
    """

    def prepare(segment: Segment, path: Path, stack: ExitStack) -> Measure:
        sender, receiver = segment.containers
        if not path.port_polls:
            # Once the device is up: switched on before, GRO makes it poll, but does not tell its peer that it may be
            # sent XDP frames (veth_open, drivers/net/veth.c).
            set_offloads(segment.sw, sender.port, {"gro": True})
        counting = frames.Sink(receiver, sink, stack, timed=traffic.timed)
        sent = frames.Sent(programs.frame(size), 0) if size != programs.SHORTEST else None
        generator = frames.Generator(sender, draws or programs.uniform(entries), stack, sent, timed=traffic.timed)
        frames.announce(sender, programs.SOURCE, entries // 2)
        frames.announce(receiver, programs.DEST, entries // 2)
        return traffic.begin(generator, counting, Port(segment.sw, sender.port))

    return prepare


def on_segment(
    ways: Sequence[Path], prepare: Callable[[Segment, Path, ExitStack], Measure], shape: Shape | None = None,
    *, slow: float = 0.8,
) -> tuple[Way, ...]:  # fmt: skip
    """These paths on segments of SHAPE, each turned into what measures it by PREPARE, in about SLOW seconds."""
    return tuple(
        Way(path.name, path.title, functools.partial(_build, path, prepare, shape or Shape()), slow) for path in ways
    )


def _build(
    path: Path, prepare: Callable[[Segment, Path, ExitStack], Measure], shape: Shape, stack: ExitStack
) -> Measure:
    return prepare(paths.make_segment(path, shape, stack), path, stack)
