# SPDX-License-Identifier: Apache-2.0
"""What was played as one page: drawings, steps of both ways side by side, captures. Nothing is loaded or executed."""

from __future__ import annotations

import importlib.util
import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydp.errors import PydpError
from pydp.lab.stories import building, listening
from pydp.lab.stories.layout import Picture, arrange
from pydp.lab.stories.model import WAYS, Story
from pydp.lab.stories.pairing import side_by_side
from pydp.lab.stories.results import Run, StepResult


@dataclass(frozen=True, slots=True)
class Way:
    """A run with its drawing and what builds it."""

    run: Run
    picture: Picture
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A story, with rows of steps: one of each way that was played."""

    story: Story
    ways: tuple[Way, ...]
    rows: tuple[tuple[StepResult | None, ...], ...]

    @property
    def played(self) -> tuple[Way, ...]:
        """Those with steps."""
        return tuple(way for way in self.ways if way.run.steps)


def need_jinja() -> None:
    """Raises PydpError when what a page takes is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise PydpError("pages need jinja2", hint="pip install 'pydp[report]'")


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the page. Raises PydpError, OSError."""
    path.write_text(render(runs), encoding="utf-8")


def render(runs: Sequence[Run]) -> str:
    """The page. Raises PydpError when what it takes is not installed."""
    need_jinja()
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("pydp.lab.stories"), PackageLoader("pydp.bench")]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template("stories.html.j2").render(
        chapters=[_chapter(list(some)) for _, some in itertools.groupby(runs, key=lambda run: run.story.name)],
        ways=WAYS, listening=listening.command, kernel=platform.release(),
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def _chapter(runs: list[Run]) -> Chapter:
    ways = tuple(_way(run) for run in runs)
    steps = [run.steps for run in runs if run.steps]
    rows: list[tuple[StepResult | None, ...]] = side_by_side(steps, _title)
    return Chapter(runs[0].story, ways, tuple(rows))


def _title(one: StepResult) -> str:
    return one.step.title


def _way(run: Run) -> Way:
    topology = run.story.topology_of(run.via)
    return Way(run, arrange(topology, run.story.marks_of(run.via)), tuple(building.commands(topology)))
