# SPDX-License-Identifier: Apache-2.0
"""What came of a story, and its shape as a document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydp.lab.stories import building, drawing, listening
from pydp.lab.stories.model import Finding, Seen, Step, Story

DONE, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was played. ``finding`` is None for one that only prepares."""

    step: Step
    seen: Seen
    finding: Finding | None

    @property
    def ok(self) -> bool:
        return self.finding is None or self.finding.ok


@dataclass(frozen=True, slots=True)
class Run:
    """A story by one way. ``problem`` says why it was skipped, or ended before its last step."""

    story: Story
    via: str
    steps: tuple[StepResult, ...] = ()
    problem: str = ""
    hint: str = ""
    skipped: bool = False
    seconds: float = 0

    @property
    def status(self) -> str:
        """One of DONE, FAILED, SKIPPED."""
        if self.skipped:
            return SKIPPED
        return DONE if not self.problem and all(one.ok for one in self.steps) else FAILED

    @property
    def checks(self) -> tuple[int, int]:
        """How many held, and how many there were."""
        findings = [one.finding for one in self.steps if one.finding]
        return sum(one.ok for one in findings), len(findings)

    def with_step(self, result: StepResult) -> Run:
        """One step later."""
        return replace(self, steps=(*self.steps, result))


def document(run: Run) -> dict[str, Any]:
    """For JSON."""
    story, held = run.story, run.checks
    topology = story.topology_of(run.via)
    return {
        "story": story.name,
        "title": story.title,
        "via": run.via,
        "status": run.status,
        "problem": run.problem,
        "hint": run.hint,
        "checks": {"held": held[0], "all": held[1]},
        "seconds": round(run.seconds, 3),
        "drawing": drawing.text(topology, story.marks_of(run.via)).splitlines(),
        "topology": list(building.commands(topology)),
        "steps": [_step(one) for one in run.steps],
    }


def _step(one: StepResult) -> dict[str, Any]:
    return {
        "title": one.step.title,
        "why": one.step.why,
        "commands": [
            {"command": output.command, "status": output.status, "out": output.out, "err": output.err}
            for output in one.seen.outputs
        ],
        "background": [text for text in one.step.commands if text.endswith("&")],
        "captures": [
            {"command": listening.command(place), "lines": list(one.seen.captures[place.partition(" ")[0]])}
            for place in one.step.capture
        ],
        "expected": one.step.expected,
        "seen": one.finding.text if one.finding else None,
        "ok": one.ok,
        "cpu_seconds": round(one.seen.cpu, 3),
    }
