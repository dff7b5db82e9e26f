# SPDX-License-Identifier: Apache-2.0
"""`pydp lab show`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pydp.cli.output import VERSION, paint, show_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pydp.lab.stories.model import Step, Story

HELP = "what a story builds and does, the kernel's commands beside pydp's; nothing is run"
_WIDTH = 120  # columns where there is no terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a story of `pydp lab list`")
    parser.add_argument("--via", choices=("kernel", "ebpf", "both"), default="both", help="by which way (both)")
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.lab.stories import find

    story = find(args.name)
    ways = [way for way in story.ways if args.via in (way, "both")]
    if args.json:
        show_json({"story": story.name, "title": story.title, "about": story.about, "ways": _document(story, ways)})
        return 0
    print(f"{paint(story.title, 'bold')}\n\n{story.about}\n")
    for way, reason in story.without.items():
        print(f"not {way}: {reason}\n")
    _drawings(story, ways)
    _beside(story, ways)
    return 0


def _document(story: Story, ways: list[str]) -> dict[str, object]:
    from pydp.lab.stories import building, drawing

    return {
        way: {
            "drawing": drawing.text(story.topology_of(way), story.marks_of(way)).splitlines(),
            "topology": list(building.commands(story.topology_of(way))),
            "steps": [
                {"title": step.title, "why": step.why, "commands": list(_typed(step)), "expected": step.expected}
                for step in story.ways[way].steps
            ],
        }
        for way in ways
    }


def _drawings(story: Story, ways: list[str]) -> None:
    from pydp.cli.lab_shown import picture
    from pydp.lab.stories import building
    from pydp.lab.stories.model import WAYS

    said: list[str] = []
    for way in ways:
        commands = list(building.commands(story.topology_of(way)))
        print(f"{paint(WAYS[way], 'bold')}\n{picture(story, way)}\n")
        if commands != said:
            print("\n".join(f"  $ {line}" for line in commands) + "\n")
        said = commands


def _beside(story: Story, ways: list[str]) -> None:
    """Steps in a table with a column for each way; those of the same title stand in one row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pydp.lab.stories.model import WAYS
    from pydp.lab.stories.pairing import paired

    table = Table(show_lines=True)
    table.add_column("step", ratio=2)
    for way in ways:
        table.add_column(WAYS[way], ratio=3)
    for row in paired([story.ways[way].steps for way in ways]):
        first = next(step for step in row if step)
        title = first.title + (f"\n→ {first.expected}" if first.expected else "")
        cells = [_typed(step) if step else () for step in row]
        shown = [_commands(one) for one in cells]
        if len(cells) > 1 and cells[0] == cells[-1]:
            shown[1:] = [Text("the same", "dim")]
        table.add_row(Text(title), *shown)
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def _typed(step: Step) -> tuple[str, ...]:
    from pydp.lab.stories import listening

    return (*(f"{listening.command(place)} &" for place in step.capture), *step.commands)


def _commands(commands: tuple[str, ...]) -> RenderableType:
    """One below the other, so that it is seen where each begins."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for command in commands:
        grid.add_row("$", Text(command, overflow="fold"))
    return grid
