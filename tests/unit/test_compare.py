# SPDX-License-Identifier: Apache-2.0
"""What a comparison says of what it has read: differences, quantiles, ratios and findings; and what can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydp.bench.noise import Noise
from pydp.bench.statistics import MIN_BLOCKS
from pydp.cli.compare import share
from pydp.cli.compared import text
from pydp.compare.readings import EBPF, KERNEL, SCALE, STEPS, Reading, Sample, quantile, shared, turn
from pydp.compare.results import Results, evaluate
from pydp.compare.run import IDLE, LATE, Block, Plan, Series
from pydp.compare.subject import find
from pydp.compare.turns import grace
from pydp.datapath import Instance, Verdict, comparing
from pydp.datapath.state import State
from pydp.errors import UsageError
from pydp.kernel import View
from pydp.kernel.linkstats import LinkStats
from pydp.kernel.softnet import Machine, Softnet
from pydp.model import Bridge, Link, Vxlan

QUIET = Noise(0.0, 0.0)
NO_ANSWERS = (0,) * SCALE


def step(ns: int) -> int:
    """As compare_count() has it."""
    power = ns.bit_length() - 1
    return power * STEPS + (ns >> (power - 3) & (STEPS - 1))


def at(ns: int, count: int) -> tuple[int, ...]:
    """So many answers after about so many ns."""
    return tuple(count if number == step(ns) else 0 for number in range(SCALE))


def instance(name: str = "br0", **more: Any) -> Instance:
    basic: dict[str, Any] = {
        "mode": "bridge", "options": {}, "hook": "tc", "asked": "auto", "why": "a reason", "hooks": {2: ("tc",)},
        "slots": {2: 0}, "names": {2: "p0"}, "adopted": 9,
    }  # fmt: skip
    return Instance(name=name, **{**basic, **more})


def sample(packets: int, *, answers: Sequence[int] = NO_ANSWERS, cpu: float | None = 0.001, **more: Any) -> Sample:
    return Sample(1.0, packets, packets * 100, 0, 0, tuple(answers), cpu_seconds=cpu, device_drops=0, **more)


def block(kernel: int, ebpf: int, why: str = "", **more: Any) -> Block:
    """Both paths at so many packets a second, twice."""
    return Block({KERNEL: [sample(kernel, **more)] * 2, EBPF: [sample(ebpf, **more)] * 2}, QUIET, why)


def judged(blocks: Sequence[Block], *, share: float | None = None) -> Results:
    made = comparing.begun(instance(), made=False)
    return evaluate(Plan(10, 0.5, share), Series(list(blocks), made), "br0")


def finding(found: Results, measure: str) -> str:
    return next(one.finding for one in found.comparisons if one.measure == measure)


# Quantiles


@given(st.integers(8, 1 << 39), st.floats(0.01, 1))
def test_a_quantile_is_as_exact_as_the_scale(ns: int, share: float) -> None:
    assert quantile(at(ns, 7), share) * 1e9 == pytest.approx(ns, rel=1 / STEPS)


def test_quantiles_of_two_kinds_of_answers() -> None:
    answers = tuple(map(sum, zip(at(10_000, 95), at(5_000_000, 5), strict=True)))
    assert quantile(answers, 0.5) == pytest.approx(10e-6, rel=0.13)
    assert quantile(answers, 0.99) == pytest.approx(5e-3, rel=0.13)


def test_without_answers_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="no answers"):
        quantile(NO_ANSWERS, 0.5)


# Differences


def verdict(kind: str, reason: str, packets: int) -> Verdict:
    return Verdict("br0", 2, "p0", "tc", kind, reason, "", packets, packets * 100)


def reading(time: float, verdicts: Mapping[tuple[str, str], int], **more: Any) -> Reading:
    return Reading(
        time,
        {(2, "tc", *key): verdict(*key, packets) for key, packets in verdicts.items()},
        {2: LinkStats(0, 0, 0, 0, more.get("rx_dropped", 0), 0)},
        Machine([Softnet("0", 0, more.get("backlog", 0), 0)], {"softirq": more.get("busy", 0.0), "user": time}),
        {KERNEL: more.get("kernel", NO_ANSWERS), EBPF: more.get("ebpf", NO_ANSWERS)},
    )


def test_a_turn_is_the_difference_of_two_readings() -> None:
    before = reading(10, {("forward", "port"): 100}, rx_dropped=3, ebpf=at(50, 1))
    after = reading(
        12, {("forward", "port"): 400, ("punt", "group"): 50, ("drop", "mtu"): 7}, rx_dropped=5, backlog=4, busy=0.5,
        ebpf=at(50, 5), kernel=at(90, 1),
    )  # fmt: skip
    found = turn(EBPF, before, after)
    assert (found.seconds, found.packets, found.bytes) == (2, 357, 35700)
    assert (found.carried, found.dropped, found.device_drops, found.cpu_seconds) == (300, 7, 6, 0.5)
    assert found.answers == at(50, 4)


def test_what_was_shared_is_told_by_its_verdict() -> None:
    before = reading(10, {("punt", "compare"): 10})
    after = reading(11, {("forward", "port"): 40, ("punt", "compare"): 70, ("punt", "group"): 5}, kernel=at(90, 3))
    found = shared(before, after)
    assert {path: one.packets for path, one in found.items()} == {KERNEL: 60, EBPF: 45}
    assert (found[EBPF].carried, found[KERNEL].carried) == (40, 0)
    assert sum(found[KERNEL].answers) == 3
    assert found[EBPF].cpu_seconds is found[EBPF].device_drops is None


# Findings


def test_a_difference_is_found() -> None:
    found = judged([block(1000 + i, 2 * (1000 + i)) for i in range(8)])
    assert finding(found, "packets_per_second") == finding(found, "bits_per_second") == "more"
    assert finding(found, "cpu_ns_per_packet") == "less"
    (rate,) = (one for one in found.comparisons if one.measure == "packets_per_second")
    assert rate.ratio is not None
    assert rate.ratio.median == pytest.approx(2)
    assert rate.ratios == pytest.approx([2.0] * 8)
    assert found.paths[EBPF].packets == 2 * found.paths[KERNEL].packets
    assert found.blocks == type(found.blocks)(8, 0, 0)


def test_equal_paths_show_no_difference() -> None:
    found = judged([block(1000 + 30 * (i % 2), 1030 - 30 * (i % 2)) for i in range(8)])
    assert finding(found, "packets_per_second") == "no difference seen"


def test_too_few_blocks_give_no_interval() -> None:
    found = judged([block(1000, 2000)] * (MIN_BLOCKS - 1))
    (rate, *_) = found.comparisons
    assert (rate.ratio, rate.finding, len(rate.ratios)) == (None, "too few blocks to tell", MIN_BLOCKS - 1)


def test_what_does_not_count_does_not() -> None:
    idle = judged([block(3, 5, IDLE)] * 6 + [block(1000, 1000, LATE)])
    assert dataclasses.astuple(idle.blocks) == (0, 6, 1)
    assert {one.finding for one in idle.comparisons} == {"too little traffic to tell"}
    assert idle.paths[EBPF].packets > 0
    kept = judged([block(1000, 2000)] * 5 + [block(1000, 10, LATE)])
    assert kept.paths[EBPF].packets == 5 * 2 * 2000
    assert kept.blocks.late == 1


def test_answers_are_compared_where_there_are_enough() -> None:
    quick, slow = at(10_000, 50), at(20_000, 50)
    blocks = [
        Block({KERNEL: [sample(500, answers=slow)] * 2, EBPF: [sample(500, answers=quick)] * 2}, QUIET)
    ] * 6  # fmt: skip
    found = judged(blocks)
    assert finding(found, "answer_median_seconds") == "less"
    assert finding(found, "answer_p99_seconds") == "too few answers to tell"
    assert found.paths[KERNEL].values["answer_p99_seconds"] is None


def test_of_shared_flows_only_answers_are_compared() -> None:
    one = {KERNEL: [sample(900, cpu=None, answers=at(20_000, 50))], EBPF: [sample(100, cpu=None, answers=at(9000, 50))]}
    found = judged([Block(one, QUIET)] * 6, share=0.1)
    assert [each.measure for each in found.comparisons] == ["answer_median_seconds", "answer_p99_seconds"]
    assert found.paths[KERNEL].values["cpu_ns_per_packet"] is None


def test_nothing_measured_is_no_fault() -> None:
    found = judged([])
    assert (found.paths, found.noise) == ({}, "")
    assert {one.finding for one in found.comparisons} == {"too few blocks to tell"}


def test_the_text_has_what_was_found() -> None:
    found = judged([block(1000, 2000, answers=at(10_000, 300))] * 6)
    found.machine = {"kernel": "6.18", "cpus": 2, "cpu": "some", "load": 0.0}
    lines = text(found).splitlines()
    (rate,) = (line for line in lines if "packets/s" in line)
    assert rate.split() == ["packets/s", "1", "k", "2", "k", "2.00", "2.00", "-", "2.00", "more"]
    assert any("answered after, median" in line and "µs" in line for line in lines)
    assert not any("XDP" in line for line in lines)
    found.hook = "xdp"
    assert "XDP program in front of it" in text(found)


# Options


@pytest.mark.parametrize(("words", "number"), [("10%", 0.1), ("0.1", 0.1), ("99.9%", 0.999), ("0.25%", 0.002)])
def test_shares(words: str, number: float) -> None:
    assert share(words) == number


@pytest.mark.parametrize("words", ["0", "1", "100%", "0.01%", "-5%", "nan", "x", "%", "inf"])
def test_what_is_no_share(words: str) -> None:
    with pytest.raises(UsageError, match="--share"):
        share(words)


def test_blocks_of_a_plan() -> None:
    assert Plan(20, 0.5).blocks == 10
    assert Plan(20, 0.5, 0.1).blocks == 40
    assert Plan(2, 0.5).blocks == 1
    assert 0.05 <= grace(0.1) < 0.1
    assert grace(10) == 2


# What is compared


def view(**more: Any) -> View:
    links = [
        Link(1, "lo"), Link(2, "p0", master=9), Link(3, "eth0"), Link(5, "free"), Link(9, "br0", kind="bridge"),
        Link(10, "vx1", kind="vxlan", master=9),
    ]  # fmt: skip
    return View(
        {one.ifindex: one for one in links}, {9: Bridge(9, "br0", b"")},
        vxlans={10: Vxlan(10, "vx1", vni=1, lower=3, master=9)}, **more,
    )  # fmt: skip


def test_names_of_instances_and_of_what_they_have() -> None:
    there = {"one": instance("one")}
    for name in ("one", "br0", "p0"):
        assert find(there, view(), name, "auto").name == "one"
        assert find(there, view(), name, "auto").request is None


@pytest.mark.parametrize(("name", "mode"), [("br0", "bridge"), ("eth0", "vxlan")])
def test_devices_of_the_kernel_are_attached(name: str, mode: str) -> None:
    left = {name: comparing.begun(instance(name), made=True)}  # an earlier comparison was killed
    for there in ({}, left):
        request = find(there, view(), name, "xdp").request
        assert request is not None
        assert (request.mode, request.interfaces, request.hook, request.compare) == (mode, (name,), "xdp", True)


@pytest.mark.parametrize(
    ("one", "what"),
    [
        (instance("one", adopted=0), "no path of the kernel's"),
        (instance("one", adopted=0, mode="nat"), "would not be translated"),
        (instance("one", adopted=0, mode="count"), "leaves every packet to the kernel anyway"),
        (instance("one", counters=False), "--no-counters"),
    ],
    ids=["standalone", "nat", "count", "uncounted"],
)
def test_what_cannot_be_compared(one: Instance, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        find({"one": one}, view(), "one", "auto")


@pytest.mark.parametrize(
    ("name", "hook", "what"),
    [("free", "auto", "nothing to compare"), ("p0", "auto", "port of br0"), ("nosuch", "auto", "no such instance"),
     ("one", "xdp", "attached on tc already")],
)  # fmt: skip
def test_names_that_mean_nothing(name: str, hook: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        find({"one": instance("one", slots={7: 0}, adopted=8)}, view(), name, hook)


# State


def test_what_a_comparison_changes_is_taken_back() -> None:
    before = instance(constants={"PYDP_A": 5}, maps={"fdb": {"kind": "array"}})
    lent, made = comparing.begun(before, made=False), comparing.begun(before, made=True)
    assert comparing.is_compared(lent)
    assert (comparing.is_made(before), comparing.is_made(lent), comparing.is_made(made)) == (False, False, True)
    full = dataclasses.replace(lent, maps={**lent.maps, "compare_turns": {}, "compare_times": {}})
    assert comparing.ended(full) == before
    other = instance("other")
    state = State(instances={"br0": full, "made": made, "other": other})
    assert comparing.settled(state).instances == {"br0": before, "other": other}
    plain = State(instances={"other": other})
    assert comparing.settled(plain) is plain
