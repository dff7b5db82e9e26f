# SPDX-License-Identifier: Apache-2.0
"""Killed or failing at any moment, an operation is done or not done, nothing lies about, and the next one works."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebpf import libbpf
from ebpf.errors import EbpfError
from pydp.datapath import Datapath, Reader, Request
from pydp.errors import NothingAttached
from pydp.lab import NumberedStream, Segment
from tests.system.faulty import Operator, Result
from tests.system.whole import check, shape

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

SegmentFactory = Callable[..., Segment]
FOR_XDP = {"tx": False, "txvlan": False, "gro": True}  # offloads that containers need on XDP


@dataclass(frozen=True, slots=True)
class Scene:
    """An operation, and those that lead from nothing to where it begins."""

    step: str
    before: tuple[str, ...] = ()


# vx0 is a kind of port that is made promiscuous.
_ATTACH = Scene("bridge p0 p1 vx0")
_COUNT = Scene("count p0 p1")
# The last number: every moment in turn, or every second or third where each attempt takes long.
SCENES = [
    pytest.param("tcx", _ATTACH, 3, id="tcx bridge"),
    pytest.param("tcx", Scene("bridge p0 p1 p2", (_ATTACH.step,)), 3, id="tcx bridge replace"),
    pytest.param("tcx", Scene("count p0", ("bridge p0",)), 3, id="tcx compose"),
    pytest.param("tcx", Scene("detach", ("bridge p0 vx0", "count p0")), 3, id="tcx bridge detach"),
    pytest.param("tcx", Scene("compare bridge", (_ATTACH.step,)), 2, id="tcx compare"),
    pytest.param("tcx", Scene("settle", (_ATTACH.step, "compare bridge")), 2, id="tcx comparison's end"),
    pytest.param("tcx", _COUNT, 2, id="tcx attach"),
    pytest.param("tcx", Scene("count p1 p2", (_COUNT.step,)), 2, id="tcx replace"),
    pytest.param("tcx", Scene("detach", (_COUNT.step,)), 2, id="tcx detach"),
    pytest.param("clsact", _COUNT, 1, id="clsact attach"),
    pytest.param("clsact", Scene("count p1 p2", (_COUNT.step,)), 1, id="clsact replace"),
    pytest.param("clsact", Scene("detach", (_COUNT.step,)), 1, id="clsact detach"),
]
FAILING = [
    pytest.param("tcx", Scene("bridge p0 vx0"), 4, id="tcx bridge"),
    pytest.param("tcx", Scene("compare bridge", ("bridge p0 p1",)), 4, id="tcx compare"),
    pytest.param("tcx", Scene("settle", ("bridge p0 p1", "compare bridge")), 4, id="tcx comparison's end"),
    pytest.param("tcx", Scene("count p0"), 1, id="tcx attach"),
    pytest.param("tcx", Scene("count p0 p1", ("count p0",)), 3, id="tcx replace"),
    pytest.param("clsact", Scene("count p1", ("count p0",)), 2, id="clsact replace"),
    pytest.param("clsact", Scene("detach", ("count p0",)), 1, id="clsact detach"),
]


class Stage:
    """The switch of a segment, on which an operator acts."""

    def __init__(self, segment: Segment, operator: Operator, kind: str, hook: str) -> None:
        self.segment = segment
        self.kind = kind
        self._operator = operator
        self._hook = hook

    def check(self) -> dict[str, list[int]]:
        return shape(self.segment.sw.call(check, self.kind))

    def do(self, step: str, fault: dict[str, Any] | None = None) -> Result:
        verb, *names = step.split()
        # An instance is named, so that the same step with other ports changes it.
        if verb == "detach":
            return self._operator.detach(*names, fault=fault)
        if verb == "compare":
            return self._operator.compare(*names, fault=fault)
        if verb == "settle":
            return self._operator.settle(fault=fault)
        return self._operator.attach(verb, *names, hook=self._hook, fault=fault)

    def play(self, steps: Sequence[str], fault: dict[str, Any] | None = None) -> dict[str, list[int]]:
        for step in steps:
            result = self.do(step, fault)
            assert result.end == "done", f"{step}: {result.message}"
        return self.check()

    def rehearse(self, scene: Scene) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """What the scene begins and ends with; everything is compiled afterwards, and the scene set."""
        here = {"here": True}
        before, after = self.play(scene.before, here), self.play([scene.step], here)
        assert before != after
        self.reset(scene)
        return before, after

    def again(self, scene: Scene) -> dict[str, list[int]]:
        """Do the step, which finds itself what was left; it may have been done before that."""
        result = self.do(scene.step)
        assert result.end == "done" or "NothingAttached" in result.message, result.message
        return self.check()

    def reset(self, scene: Scene) -> None:
        self.segment.sw.call(_detach_all)
        self.play(scene.before)


@pytest.fixture
def staged(segment: SegmentFactory) -> Iterator[Callable[[str], Stage]]:
    """Makes a stage for "tcx", "clsact" or "xdp"."""
    with contextlib.ExitStack() as stack:

        def make(kind: str) -> Stage:
            made = segment(3, offloads=FOR_XDP if kind == "xdp" else None)
            made.sw.run(["ip", "link", "add", "vx0", "up", "type", "vxlan", "id", "7", "dstport", "4789"])
            operator = stack.enter_context(Operator(made.sw, tcx=kind != "clsact"))
            stack.callback(made.sw.call, _detach_all)
            return Stage(made, operator, "tcx" if kind == "xdp" else kind, "xdp" if kind == "xdp" else "tc")

        yield make


def _detach_all() -> None:
    with contextlib.suppress(NothingAttached):
        Datapath().detach()


@pytest.mark.parametrize(("kind", "scene", "stride"), SCENES)
def test_killed_before_every_step(staged: Callable[[str], Stage], kind: str, scene: Scene, stride: int) -> None:
    """Killed before the first change, the second, ... to the last: all or nothing, and all becomes possible again."""
    stage = staged(kind)
    before, after = stage.rehearse(scene)
    ends = []
    for attempt, number in enumerate(range(1, 200, stride), 1):
        result = stage.do(scene.step, {"kill_at": number})
        if result.end == "done":
            break
        assert result.end == "killed", result.message
        directly = attempt % 5 == 0
        now = stage.again(scene) if directly else stage.check()
        assert now in (before, after), f"killed before change {number}"
        if not directly:
            ends.append(now == after)
        if now == after:
            stage.reset(scene)
    assert number > 10
    assert not ends[0]
    # The commit is the last change of a first attach.
    assert True in ends or not scene.before
    assert ends == sorted(ends), "there is one moment in which a change becomes true"
    assert stage.check() == after


@pytest.mark.parametrize("kind", ["tcx", "clsact", "xdp"])
def test_killed_at_random_moments_under_load(staged: Callable[[str], Stage], kind: str) -> None:
    """Killing what replaces, composes and detaches beside a stream of numbered packets loses none of them."""
    stage = staged(kind)
    source, sink = stage.segment[0], stage.segment[1]
    steps = ["bridge p0 p1", "count p0", "detach count", "bridge p0 p1 p2"]
    stage.play(steps, {"here": True})
    seconds = {step: stage.do(step).seconds for step in steps}
    chance = random.Random(kind)
    killed = 0
    with NumberedStream(source.ns, sink.ns, sink.address4, pps=3000) as stream:
        for step in steps * (2 if kind == "xdp" else 4):
            result = stage.do(step, {"kill_after": chance.uniform(0.2, 1.0) * seconds[step]})
            killed += result.end == "killed"
            stage.check()
            if result.end == "killed":
                stage.again(Scene(step))
        stream.wait_received(1)
    assert killed >= 4
    assert stream.report.intact, stream.report


@pytest.mark.parametrize(("kind", "scene", "stride"), FAILING)
def test_every_call_fails_once(staged: Callable[[str], Stage], kind: str, scene: Scene, stride: int) -> None:
    """ENOMEM from the first call to the kernel, the second, ...: told in our words, and everything is as before. What
    does not matter is done all the same.
    """
    stage = staged(kind)
    before, after = stage.rehearse(scene)
    failed = 0
    for number in range(1, 400, stride):
        result = stage.do(scene.step, {"fail_at": number})
        assert result.end in ("done", "error"), f"call {number}: {result.message}"
        now = stage.check()
        assert now == (after if result.end == "done" else before), f"call {number}: {result.end} {result.message}"
        failed += result.end == "error"
        if result.end == "done":
            if result.calls < number:
                break
            stage.reset(scene)
    assert failed > 8
    assert result.calls < number


def test_descriptors_do_not_leak(staged: Callable[[str], Stage]) -> None:
    stage = staged("tcx")

    def cycle() -> None:
        datapath = Datapath()
        datapath.attach(Request("count", ("p0", "p1"), hook="tc"))
        datapath.attach(Request("count", ("p1", "p2"), name="count", hook="tc"))
        with Reader.open(datapath):
            datapath.detach()

    def descriptors() -> list[str]:
        found = []
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(path.readlink()))
        return sorted(found)

    stage.segment.sw.call(cycle)
    before = descriptors()
    for _ in range(25):
        stage.segment.sw.call(cycle)
    assert descriptors() == before


def test_descriptors_do_not_leak_from_failures(staged: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = staged("tcx")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def attempt() -> None:
        with pytest.raises(EbpfError, match="Cannot allocate memory"):
            Datapath().attach(Request("count", ("p0", "p1"), hook="tc"))

    with monkeypatch.context() as patch:
        patch.setattr(libbpf, "link_create", refuse)
        stage.segment.sw.call(attempt)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            stage.segment.sw.call(attempt)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert stage.check() == {}
