# SPDX-License-Identifier: Apache-2.0
"""Stories that are left standing, and taken down later by whoever wants to.

What belongs to one is noted in a file below /run: namespaces with their cookies, processes with the time they began at,
the folder of its files. Only that is removed.
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
from pydp.lab.stories.model import Experiment, Story
from pydp.lab.stories.results import Run
from pydp.lab.stories.running import After, Before, elsewhere, need_root, steps, why_not
from pydp.lab.stories.stage import Stage, cookie_of, detach_at, end_group

AREA = Path("/run/pydp-lab-stories")


@dataclass(frozen=True, slots=True)
class Standing:
    """``namespaces`` by node: name and cookie ("" while it is being made); ``processes``: id and start time."""

    story: str
    via: str
    folder: str = ""
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    processes: tuple[tuple[int, int], ...] = ()


def standing() -> dict[str, Standing]:
    """All that stand, by the names of their stories."""
    found = {}
    for path in sorted(AREA.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
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
    with _noted(planned), Stage(topology, names) as stage:
        run = Run(story, via)
        for result in steps(stage, _lasting(story.ways[via]), before):
            run = run.with_step(result)
            after(result)
            _note(_now(planned, stage))
        stage.release()
    return run, _read(_file(story.name))


def down(name: str) -> Standing:
    """Take a story down. Raises NothingAttached when it does not stand, LabError."""
    need_root()
    path = _file(name)
    try:
        found = _read(path)
    except FileNotFoundError:
        raise NothingAttached(f"{name} does not stand", hint=f"pydp lab up {name}") from None
    except (ValueError, TypeError) as error:
        hint = f"rm {path}, and `ip netns del` what begins with lab-{name}-"
        raise LabError(f"{path} is damaged: {error}", hint=hint) from error
    for pid, start in found.processes:
        if _started(pid) == start:
            end_group(pid)
    for namespace, cookie in found.namespaces.values():
        _remove(namespace, cookie)
    if found.folder:
        shutil.rmtree(found.folder, ignore_errors=True)
    _forget(name)
    return found


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
    except BaseException:
        _forget(planned.story)
        raise


def _forget(story: str) -> None:
    _file(story).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are noted there
        AREA.rmdir()


def _note(what: Standing) -> None:
    path = _file(what.story)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(asdict(what), indent=1) + "\n")
    beside.replace(path)


def _now(planned: Standing, stage: Stage) -> Standing:
    spaces = {node: (ns.name, str(ns.cookie)) for node, ns in stage.spaces.items()}
    processes = tuple((pid, _started(pid)) for pid in stage.processes)
    return replace(planned, folder=str(stage.folder), namespaces=spaces, processes=processes)


def _read(path: Path) -> Standing:
    found: dict[str, Any] = json.loads(path.read_text())
    spaces = {node: (str(name), str(cookie)) for node, (name, cookie) in found.pop("namespaces").items()}
    processes = tuple((int(pid), int(start)) for pid, start in found.pop("processes"))
    return Standing(**found, namespaces=spaces, processes=processes)


def _file(story: str) -> Path:
    return AREA / f"{story}.json"


def _started(pid: int) -> int:
    """When a process began (/proc/PID/stat, field 22), 0 when there is none such."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _remove(name: str, cookie: str) -> None:
    """Remove a namespace, unless another one has its name by now."""
    path = str(syscalls.DIRECTORY / name)
    with contextlib.suppress(OSError):
        if cookie in ("", cookie_of(path)):
            detach_at(path)
            syscalls.remove(path)
