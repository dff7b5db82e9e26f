# SPDX-License-Identifier: Apache-2.0
"""What a benchmark claims: medians, intervals, ratios, targets, and which blocks count."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydp.bench.blocks import Measure, Plan, Sample, Series, measure_block, palindrome, run
from pydp.bench.noise import Noise, NoiseMeter, statement
from pydp.bench.statistics import MIN_BLOCKS, Finding, Interval, Target, block_ratio, bootstrap, ratio
from pydp.lab import LabError

POSITIVE = st.floats(1e-3, 1e9)
ANY_NOISE = Plan(blocks=4, seconds=1, spare=0, noise=1e9)


def ignore(_done: int) -> None:
    """Progress that nobody looks at."""


# Medians and intervals


@given(st.lists(POSITIVE, min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_an_interval_holds_its_median_and_lies_within_the_values(values: list[float]) -> None:
    found = bootstrap(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_equal_values_leave_no_doubt() -> None:
    assert bootstrap([3.0] * 7) == Interval(3, 3, 3)


def test_an_interval_is_the_same_each_time() -> None:
    values = [random.Random(1).random() for _ in range(20)]
    assert bootstrap(values) == bootstrap(values)


def test_an_interval_covers_the_true_median_as_often_as_it_says() -> None:
    draw = random.Random(7)
    hits = 0
    for trial in range(100):
        found = bootstrap([draw.gauss(10, 2) for _ in range(15)], seed=trial)
        hits += found.low <= 10 <= found.high
    assert 88 <= hits <= 100


def test_more_values_make_it_narrower() -> None:
    draw = random.Random(3)
    values = [draw.gauss(10, 2) for _ in range(200)]
    few, many = bootstrap(values[:10]), bootstrap(values)
    assert many.high - many.low < few.high - few.low


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


# Ratios


def test_a_block_weighs_twice_and_half_alike() -> None:
    assert block_ratio([1, 4], [2, 2]) == pytest.approx(1)
    assert block_ratio([6, 6], [2, 2]) == pytest.approx(3)


@given(st.lists(st.tuples(st.tuples(POSITIVE, POSITIVE), st.tuples(POSITIVE, POSITIVE)), min_size=1, max_size=9))
@settings(max_examples=10, deadline=None)
def test_a_to_b_is_one_over_b_to_a(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    there, back = ratio(pairs), ratio([(other, mine) for mine, other in pairs])
    assert there.median * back.median == pytest.approx(1)


def test_a_ratio_ignores_what_a_whole_block_suffers() -> None:
    pairs = [((3 * speed, 3 * speed), (speed, speed)) for speed in (1, 0.1, 7, 0.5, 2, 100)]
    assert ratio(pairs).low == pytest.approx(3)
    assert ratio(pairs).high == pytest.approx(3)


@pytest.mark.parametrize(
    ("low", "high", "blocks", "finding"),
    [
        (3.4, 4.0, 8, Finding.MET),
        (3.3, 4.0, 8, Finding.UNCLEAR),
        (3.0, 3.39, 8, Finding.NOT_MET),
        (3.0, 3.4, 8, Finding.UNCLEAR),
        (3.9, 4.0, MIN_BLOCKS, Finding.MET),
        (3.9, 4.0, MIN_BLOCKS - 1, Finding.UNCLEAR),
    ],
)
def test_a_target_is_met_or_missed_when_the_whole_interval_says_so(
    low: float, high: float, blocks: int, finding: Finding
) -> None:
    assert Target(3.4).judge(Interval((low + high) / 2, low, high), blocks) is finding


# Blocks


def drifting(speed: float, clock: Callable[[], int], drift: float) -> Measure:
    """A path of constant speed on a machine that gets slower by the factor DRIFT with every measurement."""
    return lambda _seconds: Sample(speed * drift ** clock())


def test_a_steady_drift_cancels() -> None:
    ticks = count()
    subjects = {name: drifting(speed, ticks.__next__, 0.93) for name, speed in {"a": 1, "b": 2, "c": 5}.items()}
    series = Series()
    run(subjects, ANY_NOISE, series, ignore)
    for pair, wanted in ((("b", "a"), 2), (("c", "a"), 5)):
        assert ratio(series.pairs(*pair)).median == pytest.approx(wanted)


def test_every_path_is_measured_twice_in_mirrored_order() -> None:
    order: list[str] = []

    def measure(name: str) -> Measure:
        return lambda seconds: order.append(name) or Sample(seconds)  # type: ignore[func-returns-value]

    block = measure_block({name: measure(name) for name in "abc"}, ANY_NOISE)
    assert order == list("abccba") == palindrome("abc")
    assert block.values("a") == (1, 1)


def test_a_noisy_block_does_not_count_and_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    noises = iter([0.1, 0.9, 0.1, 0.9, 0.1])
    monkeypatch.setattr(NoiseMeter, "read", lambda _self: Noise(next(noises), 0))
    series = Series()
    run({"a": lambda _: Sample(1)}, Plan(blocks=3, seconds=1, spare=2, noise=0.5), series, ignore)
    assert (len(series.kept), series.discarded) == (3, 2)
    assert {block.why for block in series.blocks} == {"", "others wanted the CPUs"}


def test_a_machine_that_never_rests_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseMeter, "read", lambda _self: Noise(None, 0.8))
    series = Series()
    run({"a": lambda _: Sample(1)}, Plan(blocks=3, seconds=1, spare=2, noise=0.5), series, ignore)
    assert (len(series.kept), series.discarded) == (0, 3)


def test_a_tool_that_fails_costs_its_block_only() -> None:
    results = iter([Sample(1), LabError("sockperf gave up"), Sample(2), Sample(2)])

    def measure(_seconds: float) -> Sample:
        found = next(results)
        if isinstance(found, LabError):
            raise found
        return found

    series = Series()
    run({"a": measure}, Plan(blocks=1, seconds=1, spare=1, noise=1e9), series, ignore)
    assert [block.why for block in series.blocks] == ["sockperf gave up", ""]
    assert series.samples("a") == [Sample(2), Sample(2)]


def test_an_interrupt_leaves_what_was_measured() -> None:
    calls = count()

    def measure(_seconds: float) -> Sample:
        if next(calls) == 4:  # warm-up, two in the first block, one in the second
            raise KeyboardInterrupt
        return Sample(1)

    series = Series()
    with pytest.raises(KeyboardInterrupt):
        run({"a": measure}, ANY_NOISE, series, ignore)
    assert len(series.kept) == 1


def test_work_per_cpu_time_is_the_inverse_of_its_cost() -> None:
    samples = iter([Sample(10, cpu_ns=200), Sample(10, cpu_ns=400)])
    block = measure_block({"a": lambda _: next(samples)}, ANY_NOISE)
    assert block.values("a", per_cpu=True) == (1 / 200, 1 / 400)


# Noise


def test_noise_is_read_from_the_kernel() -> None:
    found = NoiseMeter().read()
    assert 0 <= found.steal <= 1
    assert found.pressure is None or 0 <= found.pressure < math.inf


def test_a_kernel_without_pressure_information_is_told_of() -> None:
    assert "cannot be told" in statement([Noise(None, 0.1)])
    assert "10 % to 40 % of the time" in statement([Noise(0.4, 0.0), Noise(0.1, 0.0)])


def test_the_worse_of_pressure_and_steal_counts() -> None:
    assert Noise(0.2, 0.6).worst == 0.6
    assert Noise(0.7, 0.6).worst == 0.7
    assert Noise(None, 0.0).worst == 0
