# SPDX-License-Identifier: Apache-2.0
"""How a story that is played is told on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from pydp.cli.output import paint, printable, table
from pydp.lab.stories import building, drawing, listening
from pydp.lab.stories.model import WAYS, Step, Story
from pydp.lab.stories.results import DONE, FAILED, SKIPPED, Run, StepResult

_WIDTH = 110
_CAPTURED = 6  # lines shown of a capture
_COLOURS = {DONE: "green", FAILED: "red", SKIPPED: "yellow"}


def heading(story: Story, via: str) -> str:
    """What comes before the first step."""
    title = paint(f"{story.title}, {WAYS[via]}", "bold")
    return "\n".join((title, *textwrap.wrap(story.about, _WIDTH), "", *drawn(story, via), ""))


def drawn(story: Story, via: str) -> Iterator[str]:
    """The drawing and the commands that build it."""
    yield from picture(story, via).splitlines()
    yield ""
    yield from (f"  $ {line}" for line in building.commands(story.topology_of(via)))


def picture(story: Story, via: str) -> str:
    """The drawing."""
    return drawing.text(story.topology_of(via), story.marks_of(via))


def announced(number: int, step: Step) -> str:
    """A step before it is played."""
    lines = [f"{number + 1}. {paint(step.title, 'bold')}"]
    lines += _wrapped(step.why)
    lines += [f"   $ {listening.command(place)} &" for place in step.capture]
    lines += [f"   $ {command}" for command in step.commands]
    if step.expected:
        lines += _wrapped(step.expected, "expected: ")
    return "\n".join(lines)


def told(result: StepResult) -> str:
    """What came of it."""
    lines = []
    for place, heard in result.seen.captures.items():
        lines += [paint(f"     {place}  {printable(line)}", "dim") for line in heard[:_CAPTURED]]
        if len(heard) > _CAPTURED:
            lines.append(paint(f"     {place}  and {len(heard) - _CAPTURED} lines more", "dim"))
    if result.finding:
        lines += _wrapped(printable(result.finding.text), "seen:     ")
        lines.append("   " + (paint("ok", "green") if result.ok else paint("NOT SO", "red")))
    if not result.ok:
        lines += list(_outputs(result))
    return "\n".join((*lines, ""))


def summary(runs: Sequence[Run]) -> str:
    """A table of what was played, with reasons for what was not."""
    rows = []
    for run in runs:
        held, number = run.checks
        checks = f"{held} of {number}" if number else ""
        note = run.problem + (f" ({run.hint})" if run.hint else "")
        rows.append(
            (run.story.name, run.via, paint(run.status, _COLOURS[run.status]), checks, f"{run.seconds:.1f}", note)
        )
    return table(("STORY", "VIA", "RESULT", "CHECKS", "SECONDS", "NOTE"), rows, right=("SECONDS",))


def compared(runs: Sequence[Run]) -> str:
    """The findings of two ways side by side, "" if there are none for the same step."""
    texts = [{one.step.title: one.finding.text for one in run.steps if one.finding} for run in runs]
    titles = [title for title in texts[0] if all(title in each for each in texts[1:])] if len(texts) > 1 else []
    if not titles:
        return ""
    rows = [(title, *("\n".join(textwrap.wrap(printable(each[title]), 48)) for each in texts)) for title in titles]
    return table(("STEP", *(WAYS[run.via].upper() for run in runs)), rows)


def _outputs(result: StepResult) -> Iterator[str]:
    for output in result.seen.outputs:
        yield f"   $ {output.command}"
        for line in (*output.out.splitlines(), *output.err.splitlines()):
            yield f"     {printable(line)}"
        yield f"     exit status {output.status}"


def _wrapped(text: str, label: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"   {label}", subsequent_indent="   " + " " * len(label))
