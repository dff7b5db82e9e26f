# SPDX-License-Identifier: Apache-2.0
"""Stories that are left standing, and taken down later by whoever wants to.

What belongs to one is noted below /run: its namespaces with their cookies in a file, and a folder of its own files,
which marks its processes. Only that is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydp.errors import NothingAttached, Unsupported, UsageError
from pydp.lab import syscalls
from pydp.lab.errors import LabError
from pydp.lab.stories import processes
from pydp.lab.stories.leftovers import remove_namespace
from pydp.lab.stories.model import Experiment, Story
from pydp.lab.stories.results import Run
from pydp.lab.stories.running import After, Before, elsewhere, need_root, steps, why_not
from pydp.lab.stories.stage import Stage

AREA = Path("/run/pydp-lab-stories")


@dataclass(frozen=True, slots=True)
class Standing:
    """``namespaces`` by node: name and cookie ("" while it is being made)."""

    story: str
    via: str
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of its files."""
        return AREA / self.story


def standing() -> dict[str, Standing]:
    """All that stand, by the names of their stories."""
    found = {}
    for path in sorted(AREA.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            found[path.stem] = _read(path)
    return found


def up(story: Story, via: str, *, before: Before, after: After) -> tuple[Run, Standing]:
    """Play a story and leave it standing. When a step cannot be done, or is interrupted, nothing stays. Raises
    LabError, UsageError, Unsupported.
    """
    need_root()
    if reason := why_not(story, via):
        raise Unsupported(f"{story.name}: {reason}", hint=elsewhere(story, via))
    topology = story.topology_of(via)
    names = {each.name: f"lab-{story.name}-{each.name}" for each in topology.nodes}
    _refuse(story.name, names)
    planned = Standing(story.name, via, namespaces={node: (name, "") for node, name in names.items()})
    with _noted(planned), Stage(topology, names, planned.folder) as stage:
        found = _now(planned, stage)
        _note(found)
        run = Run(story, via)
        for result in steps(stage, _lasting(story.ways[via]), before):
            run = run.with_step(result)
            after(result)
        stage.release()
    return run, found


def down(name: str) -> tuple[Standing, int]:
    """Take a story down, and give the number of processes it had. Raises NothingAttached when it does not stand,
    LabError.
    """
    need_root()
    path = _file(name)
    try:
        found = _read(path)
    except FileNotFoundError:
        raise NothingAttached(f"{name} does not stand", hint=f"pydp lab up {name}") from None
    except (ValueError, TypeError, LookupError) as error:
        hint = f"rm {path}, and `ip netns del` what begins with lab-{name}-"
        raise LabError(f"{path} is damaged: {error}", hint=hint) from error
    return found, _take_down(found)


def _take_down(found: Standing) -> int:
    number = processes.end(found.folder)
    for namespace, cookie in found.namespaces.values():
        remove_namespace(namespace, cookie)
    shutil.rmtree(found.folder, ignore_errors=True)
    _forget(found.story)
    return number


def _lasting(experiment: Experiment) -> Experiment:
    return replace(experiment, steps=tuple(step for step in experiment.steps if not step.undoes))


def _refuse(story: str, names: Mapping[str, str]) -> None:
    if _file(story).exists():
        raise UsageError(f"{story} stands already", hint=f"pydp lab down {story}")
    for name in names.values():
        if (syscalls.DIRECTORY / name).exists():
            raise UsageError(f"there is a namespace {name} already", hint=f"ip netns del {name}")


@contextlib.contextmanager
def _noted(planned: Standing) -> Iterator[None]:
    """Note what is being made before it is, so that `down` finds it whatever becomes of us."""
    AREA.mkdir(mode=0o700, exist_ok=True)
    try:
        os.close(os.open(_file(planned.story), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise UsageError(f"{planned.story} stands already", hint=f"pydp lab down {planned.story}") from error
    try:
        _note(planned)
        yield
    except BaseException:  # also what an interrupt has kept the stage from removing
        _take_down(planned)
        raise


def _forget(story: str) -> None:
    for path in (_file(story), _beside(story)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are noted there
        AREA.rmdir()


def _note(what: Standing) -> None:
    beside = _beside(what.story)
    beside.write_text(json.dumps(asdict(what), indent=1) + "\n")
    beside.replace(_file(what.story))


def _now(planned: Standing, stage: Stage) -> Standing:
    spaces = {node: (ns.name, str(ns.cookie)) for node, ns in stage.spaces.items()}
    return replace(planned, namespaces=spaces)


def _read(path: Path) -> Standing:
    found: dict[str, Any] = json.loads(path.read_text())
    spaces = {node: (str(name), str(cookie)) for node, (name, cookie) in found.pop("namespaces").items()}
    return Standing(**found, namespaces=spaces)


def _beside(story: str) -> Path:
    return AREA / f"{story}.new"


def _file(story: str) -> Path:
    return AREA / f"{story}.json"
