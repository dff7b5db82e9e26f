# SPDX-License-Identifier: Apache-2.0
"""Playing a story: build, step by step, take down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydp.errors import NotAllowed, PydpError
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.stories import leftovers
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story
from pydp.lab.stories.results import Run, StepResult
from pydp.lab.stories.stage import Stage

Before = Callable[[int, Step], None]
After = Callable[[StepResult], None]


def _nothing(*_: object) -> None:
    """Nobody looks."""


def play(story: Story, via: str, *, before: Before = _nothing, after: After = _nothing) -> Run:
    """A story by one way, in namespaces that are gone when it returns or raises. BEFORE and AFTER are called around
    each step. What goes wrong in the lab is part of the result. Raises NotAllowed, OSError, KeyboardInterrupt.
    """
    need_root()
    reason = why_not(story, via)
    if reason:
        return Run(story, via, problem=reason, hint=elsewhere(story, via), skipped=True)
    leftovers.clear()
    begun = time.monotonic()
    run = Run(story, via)
    try:
        with Stage(story.topology_of(via)) as stage:
            for result in steps(stage, story.ways[via], before):
                run = run.with_step(result)
                after(result)
    except PydpError as error:
        run = replace(run, problem=str(error), hint=error.hint)
    except KeyboardInterrupt:  # it may have come while the stage was taken down
        leftovers.clear(mine=True)
        raise
    return replace(run, seconds=time.monotonic() - begun)


def steps(stage: Stage, experiment: Experiment, before: Before) -> Iterator[StepResult]:
    """Play the steps on a stage that stands. Raises LabError."""
    for number, step in enumerate(experiment.steps):
        before(number, step)
        seen = stage.play(step)
        yield StepResult(step, seen, finding(step, seen))


def finding(step: Step, seen: Seen) -> Finding | None:
    """What the check of a step says. One that stumbles over what it sees has failed."""
    if step.check is None:
        return None
    try:
        return step.check(seen)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return Finding(False, f"not what can be read: {error!r}")


def why_not(story: Story, via: str) -> str:
    """Why a story cannot be done that way on this machine, "" when it can."""
    if via not in story.ways:
        return story.without[via]
    kind = story.ways[via].needs
    return f"this kernel has no {kind} devices" if kind and not has_device(kind) else ""


def elsewhere(story: Story, via: str) -> str:
    """The command that does it on another kernel, "" if none would."""
    return f"pydp lab run {story.name} --via {via} --vm 6.12" if via in story.ways else ""


def has_device(kind: str) -> bool:
    """Whether this kernel makes network devices of that kind, found out by making one in a namespace of its own."""
    with Namespace(leftovers.PREFIX) as ns:
        parent = ns.run(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"], check=False)
        if parent.returncode:
            raise LabError(f"veth: {parent.stderr.strip()}")
        below = ["link", "near"] if kind in ("ipvlan", "macvlan") else []
        ends = ["local", "192.0.2.1", "remote", "192.0.2.2"] if kind in ("ipip", "gre") else []
        return ns.run(["ip", "link", "add", "probe", *below, "type", kind, *ends], check=False).returncode == 0


def need_root() -> None:
    """Raises NotAllowed."""
    if os.geteuid() != 0:
        raise NotAllowed("the lab makes network namespaces and loads programs", hint="run as root")
