# SPDX-License-Identifier: Apache-2.0
"""Killed or failing at any moment, an attach with services has these or those of before, in database and maps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pydp.datapath import Datapath
from pydp.errors import NothingAttached
from pydp.lab import Namespace, Segment
from tests.system.faulty import Operator, Result
from tests.system.served import Answers, answers, databases
from tests.system.whole import check

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

WEB = "tcp:10.96.0.1:80=10.0.1.2:8080,10.0.1.3:8080"
OTHERS = ["tcp:10.96.0.1:80=10.0.1.4:8080", "udp:10.96.0.2:53=10.0.1.2:53"]
# What is attached before, and then: ports and services.
FIRST = (None, (("p0",), [WEB]))
REPLACED = ((("p0",), [WEB]), (("p0",), OTHERS))

Step = tuple[tuple[str, ...], list[str]]


class Stage:
    """A namespace with ports, on which an operator acts."""

    def __init__(self, ns: Namespace, operator: Operator, before: Step | None, step: Step) -> None:
        self.ns = ns
        self._operator = operator
        self._before, self._step = before, step
        if before:
            self._attach(before, {"here": True})
        self.before = self.look()
        self._attach(step, {"here": True})
        self.after = self.look()
        assert self.before != self.after

    def _attach(self, step: Step, fault: dict[str, Any] | None = None) -> Result:
        ports, services = step
        return self._operator.attach("nat", *ports, fault=fault, service=services)

    def look(self) -> Answers:
        """Who answers, where all is as the state says."""
        state = self.ns.call(check)
        if not state.instances:
            return {}
        found = self.ns.call(answers)
        assert f"nat-{state.instances['nat'].revision}.db" in self.ns.call(databases)
        return found

    def reset(self) -> None:
        self.ns.call(_detach)
        assert self.ns.call(databases) == set()
        if self._before:
            assert self._attach(self._before).end == "done"

    def act(self, fault: dict[str, Any] | None = None) -> Result:
        return self._attach(self._step, fault)


def _detach() -> None:
    with contextlib.suppress(NothingAttached):
        Datapath().detach()


@pytest.fixture(params=[FIRST, REPLACED], ids=["first", "replaced"])
def stage(request: pytest.FixtureRequest, segment: Callable[..., Segment]) -> Iterator[Stage]:
    made = segment(2)
    with Operator(made.sw) as operator:
        try:
            yield Stage(made.sw, operator, *request.param)
        finally:
            made.sw.call(_detach)


def test_killed_before_every_step(stage: Stage) -> None:
    stage.reset()
    ends: list[bool] = []
    number = 1
    while True:
        result = stage.act({"kill_at": number})
        if result.end == "done":
            break
        assert result.end == "killed", result.message
        now = stage.look()
        assert now in (stage.before, stage.after), f"killed before change {number}"
        ends.append(now == stage.after)
        if now == stage.after:
            assert stage.act().end == "done"
            assert stage.look() == stage.after
            assert len(stage.ns.call(databases)) == 1, "what was killed left a file"
            stage.reset()
        number += 13 if now == stage.after else 3  # what follows the commit cleans up
    assert number > 20
    assert not ends[0]
    assert ends == sorted(ends), "there is one moment in which a change becomes true"
    assert stage.look() == stage.after
    assert len(stage.ns.call(databases)) == 1


def test_every_call_fails_once(stage: Stage) -> None:
    stage.reset()
    failed = 0
    for number in range(1, 600, 11):
        result = stage.act({"fail_at": number})
        assert result.end in ("done", "error"), f"call {number}: {result.message}"
        assert stage.look() == (stage.after if result.end == "done" else stage.before), f"call {number}"
        failed += result.end == "error"
        if result.end == "done":
            if result.calls < number:
                break
            stage.reset()
    assert failed > 8
    assert result.calls < number
