# SPDX-License-Identifier: Apache-2.0
"""`pydp lab up`."""

from __future__ import annotations

import argparse
import sys

from pydp.cli.output import VERSION, paint, show_json

HELP = "play a story and leave it standing, to look around in"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a story of `pydp lab list`")
    parser.add_argument("--via", choices=("kernel", "ebpf"), default="ebpf", help="by which way (ebpf)")
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.bench.interrupt import terminable
    from pydp.cli import lab_shown
    from pydp.lab.stories import find, standing
    from pydp.lab.stories.leftovers import has_pins
    from pydp.lab.stories.model import Step
    from pydp.lab.stories.results import DONE, StepResult

    def before(number: int, step: Step) -> None:
        if not args.json:
            print(f"{number + 1}. {step.title}", end="", flush=True)

    def after(result: StepResult) -> None:
        if not args.json:
            print("" if result.finding is None else paint(": ok", "green") if result.ok else paint(": NOT SO", "red"))

    story = find(args.name)
    try:
        with terminable():
            done, found = standing.up(story, args.via, before=before, after=after)
    except KeyboardInterrupt:
        print("\nInterrupted; all of it is taken down again.", file=sys.stderr)
        return 130
    if args.json:
        spaces = {node: name for node, (name, _) in found.namespaces.items()}
        show_json({"story": found.story, "via": found.via, "status": done.status, "namespaces": spaces})
        return int(done.status != DONE)
    print(f"\n{lab_shown.picture(story, args.via)}\n\n{paint(story.name, 'bold')} stands. To enter it:")
    for name, _ in found.namespaces.values():
        print(f"  ip netns exec {name} bash")
    if attached := [name for name, cookie in found.namespaces.values() if has_pins(cookie)]:
        print("What is attached there:")
        print("\n".join(f"  pydp -n {name} status" for name in attached))
    print(f"To take it down:\n  pydp lab down {story.name}")
    return int(done.status != DONE)
