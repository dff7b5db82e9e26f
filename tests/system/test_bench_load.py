# SPDX-License-Identifier: Apache-2.0
"""Frames sent by the clock: that they leave when they should, that their delays are told as they are, and that the
search for the rate without loss ends where loss begins.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ebpf.loader import load
from ebpf.testrun import run
from pydp.bench import delays, frames, load_scenarios, paths, programs, traffic
from pydp.bench.delays import Delays
from pydp.bench.errors import BenchError
from pydp.bench.traffic import Load, Port, Trial
from tests.system.test_bench import framed

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one sends, the other carries")
US = 1000  # ns
WAYS = [(kind.name, number) for kind in load_scenarios.KINDS for number in range(len(kind.ways(traffic.LOSS_FREE)))]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def load_of(stack: ExitStack) -> Load:
    """On a segment with bare XDP."""
    segment = paths.make_segment(paths.bare_xdp("devmap"), paths.Shape(paths.XDP_OFFLOADS), stack)
    sink = frames.Sink(segment[1], "xdp", stack, timed=True)
    generator = frames.Generator(segment[0], programs.uniform(256), stack, timed=True)
    return Load(generator, sink, Port(segment.sw, segment[0].port))


# Programs


def sent_at(age: int) -> bytes:
    """A frame that left so many ns ago."""
    return framed(time.monotonic_ns() - age, 1, 2)


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_the_sink_tells_how_long_frames_took(stack: ExitStack, hook: str) -> None:
    source = programs.compiled("sink", hook)
    maps = programs.create_maps(source, "bench_sink", stack)
    program = stack.enter_context(load(source, "bench_sink", hook, maps, constants={3: 1}))
    for age in (50_000 * US, 2_000_000 * US, 300_000_000 * US):
        begun = time.monotonic_ns()
        run(program, sent_at(age))
        took = time.monotonic_ns() - begun
        (bucket,) = [key for key, (count,) in maps["bench_delays"].sums().items() if count]
        if age > 1 << 37:
            assert bucket == 2047, "the last bucket has what is longer than all"
        else:
            assert age * (1 - 1 / 64) <= delays.middle(bucket) <= (age + took) * (1 + 1 / 64)
        maps["bench_delays"].set(bucket, 0)
    run(program, sent_at(-1_000_000 * US))  # clocks of two CPUs may differ
    assert maps["bench_delays"].sums() == {0: (1,)}


def test_percentiles_are_those_of_the_frames() -> None:
    found = Delays({10: 50, 20: 40, 30: 9, 40: 1})
    assert [found.percentile(percent) for percent in (50, 50.1, 90, 99, 99.9)] == [10, 20, 20, 30, 40]
    assert found.since(Delays({10: 49})).percentile(50) == 20
    assert found.percentiles() == {"50": 1e-8, "90": 2e-8, "99": 3e-8, "99.9": 4e-8}
    with pytest.raises(ValueError, match="no delays"):
        Delays().percentile(50)


def test_buckets_follow_each_other() -> None:
    middles = [delays.middle(bucket) for bucket in range(2048)]
    assert middles[:128] == list(range(128))
    assert all(0 < after - before <= after / 64 + 1 for before, after in itertools.pairwise(middles[127:]))


def test_bursts_leave_when_they_are_due(stack: ExitStack) -> None:
    source = programs.compiled("generator")
    maps = programs.create_maps(source, "bench_send", stack)
    programs.write_draws(maps, programs.uniform(4))
    program = stack.enter_context(load(source, "bench_send", "xdp", maps, constants={2: 3, 3: 1}))
    gap = 60 * US  # more than a burst may be late
    maps["bench_paces"].set(0, (gap << 6, 0, 4, 0, 0, 0, 0))
    for number in range(1, 42):
        before = time.monotonic_ns()
        (left,) = struct.unpack_from("=Q", run(program, programs.frame()).frame, 42)
        assert before <= left <= time.monotonic_ns()
        _, _, _, sent, begun, last, _ = maps["bench_paces"].get(0)
        assert sent == number
        assert last - begun >= (number - 1) // 4 * gap * 0.6, "bursts left before they were due"


# On a segment


@two_cpus
def test_frames_leave_at_the_rate_asked_for(load_of: Load) -> None:
    found = [load_of.offer(rate, 0.05) for rate in (20_000, 100_000)]
    for trial, rate in zip(found, (20_000, 100_000), strict=True):
        assert trial.offered < 1.02 * rate
        assert trial.offered > 0.3 * rate  # on a busy machine there may be no time
        assert 100 < trial.delays.percentile(50) < 1e8
        assert sum(trial.delays.counts.values()) == pytest.approx(0.05 * rate, rel=0.1)


@two_cpus
def test_more_than_can_be_carried_is_lost(load_of: Load) -> None:
    assert load_of.offer(50e6, 0.02).lost > 0


@pytest.mark.parametrize("carried", [3_000, 70_000, 900_000, 5e6])
def test_the_search_ends_where_loss_begins(monkeypatch: pytest.MonkeyPatch, carried: float) -> None:
    load = Load.__new__(Load)
    load._rate = 0.0
    tried = []

    def offer(_self: Load, rate: float, _seconds: float) -> Trial:
        tried.append(rate)
        stalled = len(tried) % 3 == 0  # now and then frames are lost at any rate
        return Trial(min(rate, 4e6), 0.1 if rate > carried or stalled else 0.0, Delays({9: 1}))

    monkeypatch.setattr(Load, "offer", offer)
    wanted = min(carried, 4e6)  # no more is sent
    for _ in range(2):
        assert load.lossfree() == pytest.approx(wanted, rel=0.04)
    assert tried[-1] < 10e6
    monkeypatch.setattr(Load, "offer", lambda *_: Trial(1, 1.0, Delays()))
    with pytest.raises(BenchError, match="at every rate"):
        load.lossfree()


@two_cpus
@pytest.mark.parametrize(("name", "number"), WAYS)
def test_a_way_has_delays(stack: ExitStack, name: str, number: int) -> None:
    (kind,) = [kind for kind in load_scenarios.KINDS if kind.name == name]
    way = kind.ways(traffic.delay(50))[number]
    found = way.build(stack)(0.02)
    assert 0 < found.percentiles["50"] <= found.percentiles["99.9"] < 1
    assert found.value == found.percentiles["50"]
    assert found.offered
    assert found.offered > 1000
    assert found.disordered is not None
    assert found.disordered < 0.01
