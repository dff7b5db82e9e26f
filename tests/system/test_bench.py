# SPDX-License-Identifier: Apache-2.0
"""`pydp bench`: that it measures what it says, on paths that carry what they should, and leaves nothing behind."""

from __future__ import annotations

import json
import platform
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from ebpf.loader import load
from ebpf.maps import Map
from ebpf.testrun import run
from pydp.bench import cli, costs, document, frames, paths, programs, runner
from pydp.bench.errors import BenchError
from pydp.bench.scenarios import SCENARIOS
from pydp.cli.main import main
from pydp.lab import ping, set_offloads
from tests.system import bench as process

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

PATHS = {
    "kernel": (paths.kernel(), "xdp"),
    "pydp-xdp": (paths.pydp("xdp"), "xdp"),
    "pydp-tc": (paths.pydp("tc"), "tc"),
    "uncounted": (paths.pydp("xdp", counters=False), "xdp"),
    "redirect-xdp": (paths.bare_xdp("redirect"), "xdp"),
    "devmap": (paths.bare_xdp("devmap"), "xdp"),
    "redirect-tc": (paths.bare_tc("redirect"), "tc"),
    "peer": (paths.bare_tc("peer"), "tc"),
}
DRAWS = [(number % 3, number % 5) for number in range(programs.DRAWS)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def shape_of(path: paths.Path) -> paths.Shape:
    return paths.Shape(paths.XDP_OFFLOADS if path.port_polls else {})


# Generator and sink


def generated(stack: ExitStack, count: int) -> bytes:
    """The last of COUNT frames of the generator."""
    source = programs.compiled("generator")
    maps = programs.create_maps(source, "bench_send", stack)
    programs.write_draws(maps, DRAWS)
    program = stack.enter_context(load(source, "bench_send", "xdp", maps, constants={2: len(DRAWS) - 1, 3: 0}))
    done = run(program, programs.frame(), repeat=count)
    assert done.action == 3, "not XDP_TX"
    return done.frame


def check_of(number: int, source: int, dest: int) -> int:
    return (number ^ (source << 32 | dest)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF


def framed(number: int, source: int, dest: int, *, damage: int = 0) -> bytes:
    """A frame as the generator makes it, but made here."""
    addresses = programs.address(programs.DEST, dest) + programs.address(programs.SOURCE, source)
    body = bytearray(addresses + programs.frame()[12:])
    struct.pack_into("=QQ", body, 42, number, check_of(number, source, dest) ^ damage)
    return bytes(body)


def test_the_generator_writes_a_whole_frame(stack: ExitStack) -> None:
    frame = generated(stack, 8)  # numbers 0 to 7: the last one is (7 % 3, 7 % 5)
    assert frame == framed(7, 1, 2)
    packet = Ether(frame)
    assert (packet.dst, packet.src, len(frame)) == ("02:b1:00:00:00:02", "02:b0:00:00:00:01", 64)
    assert packet[UDP].len == len(frame) - 34
    sent = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(bytes(packet))[IP].chksum == sent


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_the_sink_tells_whole_damaged_and_late_frames_apart(stack: ExitStack, hook: str) -> None:
    source = programs.compiled("sink", hook)
    maps = programs.create_maps(source, "bench_sink", stack)
    program = stack.enter_context(load(source, "bench_sink", hook, maps, constants={3: 0}))
    drop, passed = {"xdp": (1, 2), "tc": (2, 0xFFFFFFFF)}[hook]
    good = [framed(5, 1, 2), framed(6, 2, 4), framed(9, 0, 0)]
    assert [run(program, frame).action for frame in good] == [drop] * 3
    assert maps["bench_arrivals"].sums()[0][:4] == (3, 192, 0, 0)
    other = bytearray(framed(10, 1, 1))
    other[5] ^= 1  # another address than the check was made for
    for bad in (framed(10, 1, 1, damage=1), bytes(other)):
        assert run(program, bad).action == drop
    assert maps["bench_arrivals"].sums()[0][:4] == (5, 320, 2, 0)
    run(program, framed(3, 1, 2))
    assert maps["bench_arrivals"].sums()[0][:4] == (6, 384, 2, 1)
    for foreign in (bytes(64), framed(5, 1, 2)[:57]):
        assert run(program, foreign).action == passed
    assert maps["bench_arrivals"].sums()[0][0] == 6


def test_the_sink_notes_the_time_of_every_1024th_frame(stack: ExitStack) -> None:
    source = programs.compiled("sink", "xdp")
    maps = programs.create_maps(source, "bench_sink", stack)
    marks: Map = maps["bench_marks"]
    program = stack.enter_context(load(source, "bench_sink", "xdp", maps, constants={3: 0}))
    for number in (1024, 1025, 3 * 1024, 4099 * 1024 + 7):
        run(program, framed(number, 0, 0))
    assert [index for index, time in marks.items() if time] == [1, 3]
    assert marks.get(1) < marks.get(3)


def test_there_are_as_many_draws_as_it_takes(stack: ExitStack) -> None:
    """More addresses than the usual count of draws has: each is sent."""
    count = programs.enough(programs.DRAWS + 1)
    assert count == 2 * programs.DRAWS
    source = programs.compiled("generator")
    maps = programs.create_maps(source, "bench_send", stack, draws=count)
    programs.write_draws(maps, [(number, count - 1 - number) for number in range(count)])
    program = stack.enter_context(load(source, "bench_send", "xdp", maps, constants={2: count - 1, 3: 0}))
    run(program, programs.frame(), repeat=count - 1)
    assert run(program, programs.frame()).frame == framed(count - 1, count - 1, 0)
    assert run(program, programs.frame()).frame == framed(count, 0, count - 1)


def test_draws_have_the_distribution_they_are_named_for() -> None:
    uniform, zipf = programs.uniform(256), programs.zipf(256)
    for draws in (uniform, zipf):
        assert {source for source, _ in draws} == {dest for _, dest in draws} == set(range(128))
    expected = programs.DRAWS / 128
    assert all(0.7 < sum(source == n for source, _ in uniform) / expected < 1.3 for n in (0, 64, 127))
    first, tenth = (sum(dest == n for _, dest in zipf) for n in (0, 9))
    assert 8 < first / tenth < 12.5


# Paths


@pytest.mark.parametrize("name", PATHS)
def test_a_path_carries_what_is_sent_both_ways(stack: ExitStack, name: str) -> None:
    path, hook = PATHS[name]
    segment = paths.make_segment(path, shape_of(path), stack)
    one, other = segment.containers
    assert ping(one.ns, other.address4, count=3).lost == 0
    if not path.port_polls:
        set_offloads(segment.sw, one.port, {"gro": True})
    sink = frames.Sink(other, hook, stack)
    generator = frames.Generator(one, programs.uniform(256), stack)
    frames.announce(one, programs.SOURCE, 128)
    frames.announce(other, programs.DEST, 128)
    found = generator.run(sink, 0.02)
    assert found.per_second > 0
    assert found.lost < 0.01  # bursts of the scheduler may overflow a ring on a busy machine


@pytest.mark.parametrize("size", [128, 1514])
def test_longer_frames_arrive_whole(stack: ExitStack, size: int) -> None:
    path = paths.pydp("xdp")
    segment = paths.make_segment(path, shape_of(path), stack)
    sink = frames.Sink(segment[1], "xdp", stack)
    sent = frames.Sent(programs.frame(size), 0)
    draws = programs.uniform(4, count=4)
    frames.announce(segment[0], programs.SOURCE, 2)
    frames.announce(segment[1], programs.DEST, 2)
    before = sink.maps["bench_arrivals"].sums().get(0, (0, 0))
    found = frames.Generator(segment[0], draws, stack, sent).run(sink, 0.02)
    packets, octets, *_ = sink.maps["bench_arrivals"].sums()[0]
    assert octets - before[1] == size * (packets - before[0])
    assert found.lost < 0.01


def test_frames_that_do_not_arrive_are_an_error(stack: ExitStack) -> None:
    path = paths.bare_xdp("redirect")
    segment = paths.make_segment(path, shape_of(path), stack)
    sink = frames.Sink(segment[1], "xdp", stack)
    generator = frames.Generator(segment[0], programs.uniform(2), stack)
    segment.sw.ipr().link("set", index=segment[1].port_index, state="down")
    with pytest.raises(BenchError, match="none arrived"):
        generator.run(sink, 0.01)


def test_frames_that_arrive_damaged_are_an_error(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paths.bare_xdp("redirect")
    segment = paths.make_segment(path, shape_of(path), stack)
    sink = frames.Sink(segment[1], "xdp", stack)
    generator = frames.Generator(segment[0], programs.uniform(2), stack)
    real = sink.read
    monkeypatch.setattr(sink, "read", lambda: replace(real(), corrupt=real().packets // 1000))
    with pytest.raises(BenchError, match="did not arrive as they were sent"):
        generator.run(sink, 0.01)


# The costs of a program


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_the_cost_is_that_of_packets_forwarded(stack: ExitStack, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "CASES", (costs.Case(hook, 256, first=True),))
    empty, bridge = costs.measure(rounds=1, repeat=2000)
    assert (empty.title, bridge.title) == ("empty program", "bridge")
    assert bridge.ns.median > 0
    monkeypatch.setattr(costs.Bench, "learn", lambda *_: None)
    with pytest.raises(BenchError, match="not a redirect"):
        list(costs.measure(rounds=1, repeat=2000))


# The verb


def test_every_scenario_compares_paths_that_it_has() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert [*dict.fromkeys(scenario.suite for scenario in SCENARIOS), runner.COST] == list(cli.SUITES)
    for scenario in (*SCENARIOS, *(scenario.with_again() for scenario in SCENARIOS)):
        names = {path.name for path in scenario.paths}
        assert len(names) == len(scenario.paths)
        assert {name for one in scenario.comparisons for name in (one.path, *one.against)} <= names


def test_less_time_makes_measurements_shorter_and_blocks_fewer() -> None:
    def chosen(within: float | None) -> runner.Choice:
        return runner.choose(
            ["bridge"], quick=False, blocks_wanted=None, noise=0.6, again=False, within=within and within * 60
        )

    def minutes(choice: runner.Choice) -> float:
        return sum(choice.seconds().values()) / 60

    whole, little = chosen(None), chosen(0.01)
    bounded = chosen((minutes(little) + minutes(whole)) / 2)
    assert minutes(little) < minutes(bounded) <= bounded.within / 60 < minutes(whole)
    for (one, plan), (_, least) in zip(bounded.scenarios, little.scenarios, strict=True):
        assert least.blocks == 5
        assert least.seconds == min(one.quick.seconds, one.full.seconds)
        assert least.blocks <= plan.blocks <= one.full.blocks
        assert least.seconds <= plan.seconds <= one.full.seconds
    assert [plan for _, plan in whole.scenarios] == [one.full for one, _ in whole.scenarios]


def test_a_run_reports_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    arguments = ["bench", "bridge-xdp-64", "bridge-stream", "--quick", "--blocks", "1", "--noise", "1", "--aa"]
    assert main([*arguments, "--json", str(file)]) == 0
    told = capsys.readouterr().out
    written = json.loads(file.read_text())
    jsonschema.validate(written, document.schema())
    assert json.loads(document.dumps(document.load(file))) == written
    assert written["options"]["what"] == ["bridge-xdp-64", "bridge-stream"]
    assert written["machine"]["kernel"] == platform.release()
    assert written["begun"] < written["ended"]
    assert [scenario["name"] for scenario in written["scenarios"]] == ["bridge-xdp-64", "bridge-stream"]
    for scenario in written["scenarios"]:
        assert scenario["title"] in told
        assert "kernel" in scenario["paths"]
        assert "pydp-again" in scenario["paths"]
        for path in scenario["paths"].values():
            assert path["title"] in told
            assert len(path["values"]) == 2
            assert min(path["values"]) > 0
        for one in scenario["comparisons"]:
            assert one["ratio"]["low"] <= one["ratio"]["median"] <= one["ratio"]["high"]
            if one["target"] is not None:
                assert one["finding"] == "noise too high to tell"  # of one block nobody can


def test_a_target_that_is_not_met_fails_a_check_only() -> None:
    arguments = ["bench", "bridge-counters", "--quick", "--blocks", "1", "--noise", "1"]
    assert main([*arguments, "--check"]) == 1  # one block meets no target for certain
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bridge-xpd"], "bridge-xpd: there is no such scenario or suite"),
        (["--blocks", "0"], "--blocks 0"),
        (["--noise", "2"], "--noise 2"),
        (["--within", "0"], "--within 0"),
        (["--json", "/nowhere/at/all"], "--json /nowhere/at/all"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_built(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    file, page = tmp_path / "results.json", tmp_path / "results.html"
    command = [sys.executable, "-m", "pydp", "bench", "bridge-counters", "--noise", "1"]
    command += ["--json", str(file), "--html", str(page)]
    with process.started(command) as child:
        pins = process.interrupt_when_built(child, paths.PREFIX, number, pins=2)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Interrupted" in out
    assert err == ""
    assert document.load(file).interrupted
    assert "The run was interrupted" in page.read_text()
    assert process.traces(paths.PREFIX, child.pid) == []
    assert not [pin for pin in pins if (process.PINS / pin).exists()]
