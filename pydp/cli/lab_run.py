# SPDX-License-Identifier: Apache-2.0
"""`pydp lab run`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydp.cli.output import VERSION, show_json
from pydp.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from pydp.lab.stories.model import Step, Story
    from pydp.lab.stories.results import Run

HELP = "play stories: build, try and check step by step, take down"
_EPILOG = """\
Exit status: 0 all checks held; 1 one did not; 4 this kernel cannot do what was asked for (of several stories or ways:
it is said, and no failure)."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="stories of `pydp lab list`")
    add("--all", action="store_true", help="all of them")
    add("--via", choices=("kernel", "ebpf", "both"), default="both", help="by the kernel, by eBPF, one after the other")
    add("--pause", action="store_true", help="wait for Enter before each step")
    add("--html", type=Path, metavar="FILE", help="write a page of it")
    add("--vm", metavar="V", help="in a guest with another kernel, such as 6.12 (see `pydp lab vm`)")
    add("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.bench.interrupt import terminable

    stories = _chosen(args)
    if args.pause and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--pause waits for Enter, and this is no terminal")
    if args.html:
        _check_page(args.html)
    try:
        with terminable():
            return _elsewhere(args, stories) if args.vm else _here(args, stories)
    except KeyboardInterrupt:
        print("\nInterrupted; all of it is taken down again.", file=sys.stderr)
        return 130


def _chosen(args: argparse.Namespace) -> list[Story]:
    from pydp.lab.stories import find, stories

    if args.all == bool(args.names):
        raise UsageError("name stories, or --all of them", hint="pydp lab list")
    return stories() if args.all else [find(name) for name in dict.fromkeys(args.names)]


def _check_page(path: Path) -> None:
    """What would fail after all the work fails before it."""
    from pydp.lab.stories.page import need_jinja

    need_jinja()
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--html {path}: there is no folder {path.parent}")


def _here(args: argparse.Namespace, stories: list[Story]) -> int:
    from pydp.cli import lab_shown
    from pydp.lab.stories.model import WAYS

    runs: list[Run] = []
    ways = [way for way in WAYS if args.via in (way, "both")]
    for story in stories:
        mine = [_play(story, way, args) for way in ways]
        runs += mine
        if not args.json and (text := lab_shown.compared([one for one in mine if one.steps])):
            print(text + "\n", flush=True)
    if args.html:
        from pydp.lab.stories import page

        page.write(runs, args.html)
    if args.json:
        from pydp.lab.stories.results import document

        show_json({"runs": [document(one) for one in runs]})
    else:
        print(lab_shown.summary(runs))
    return _status(runs)


def _status(runs: list[Run]) -> int:
    from pydp.lab.stories.results import FAILED

    if len(runs) == 1 and runs[0].skipped:
        raise Unsupported(f"{runs[0].story.name}: {runs[0].problem}", hint=runs[0].hint)
    return int(any(one.status == FAILED for one in runs))


def _play(story: Story, via: str, args: argparse.Namespace) -> Run:
    from pydp.cli import lab_shown
    from pydp.lab.stories.running import play, why_not

    if args.json:
        return play(story, via)
    if not why_not(story, via):
        print(lab_shown.heading(story, via), flush=True)

    def before(number: int, step: Step) -> None:
        print(lab_shown.announced(number, step), flush=True)
        if args.pause:
            input("   Enter plays it, Ctrl-C ends ")

    done = play(story, via, before=before, after=lambda one: print(lab_shown.told(one), flush=True))
    if done.problem and not done.skipped:
        print(f"   {done.problem}\n", flush=True)
    return done


def _elsewhere(args: argparse.Namespace, stories: list[Story]) -> int:
    """The same command in a guest; a page comes back as a file."""
    import shutil
    import tempfile

    from pydp.lab import vm
    from pydp.lab.vm.guests import EXCHANGE

    if args.pause:
        raise UsageError("--pause and --vm do not go together: nobody is at the guest's terminal")
    kernels = vm.find_kernels([args.vm])
    words = [sys.executable, "-m", "pydp", "lab", "run", *(one.name for one in stories), "--via", args.via]
    words += ["--json"] if args.json else []
    words += ["--html", f"{EXCHANGE}/results/page.html"] if args.html else []
    settings = vm.Settings(vm.choose_acceleration("auto", kernels[0]), 2)
    with tempfile.TemporaryDirectory(prefix="pydp-lab-") as folder:
        (done,) = vm.run([vm.Guest(kernels[0].release, kernels[0], words)], settings, results=Path(folder))
        for page in Path(folder).rglob("page.html"):
            shutil.copyfile(page, args.html)
    if done.status is None:
        raise Unsupported(f"{kernels[0].release}: {done.error}")
    return done.status
