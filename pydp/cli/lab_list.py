# SPDX-License-Identifier: Apache-2.0
"""`pydp lab list`."""

from __future__ import annotations

import argparse

from pydp.cli.output import VERSION, show_json, table

HELP = "the stories that there are"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.lab.stories import stories
    from pydp.lab.stories.standing import standing

    up = standing()
    if args.json:
        shown = [
            {"name": one.name, "title": one.title, "about": one.about, "ways": list(one.ways), "up": one.name in up}
            for one in stories()
        ]
        show_json({"stories": shown})
        return 0
    rows = [(one.name, " ".join(one.ways), "up" if one.name in up else "", one.title) for one in stories()]
    print(table(("STORY", "VIA", "", "WHAT"), rows))
    print(
        "\npydp lab show STORY: its drawing and commands; pydp lab run STORY: try it; pydp lab run --all: all of them"
    )
    return 0
