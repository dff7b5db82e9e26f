# SPDX-License-Identifier: Apache-2.0
"""`pydp bench`: options, what is asked for, exit status."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path as File
from typing import TYPE_CHECKING

from pydp.errors import NotAllowed, PydpError, UsageError

if TYPE_CHECKING:
    from pydp.bench.results import Results

SUITES = ("bridge", "vxlan", "ipip", "nat", "macvlan", "ipvlan", "cost")
_FAILED, INTERRUPTED = 1, 130
_TWO = 2  # files that are compared

_DESCRIPTION = """\
Measure the kernel's path, pydp and the bare hook side by side, in network namespaces of their own.

  pydp bench [SUITE|SCENARIO...]   measure
  pydp bench diff BEFORE AFTER     compare two files of --json: 1 when something got worse for certain
  pydp bench show FILE             show such a file again, with --html as a page
  pydp bench list                  what can be measured
  pydp bench schema                the JSON schema of --json"""
_EPILOG = "exit status beside the usual: 1 when frames were lost or altered, a scenario failed, or as --check says"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.intermixed = True  # type: ignore[attr-defined]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", nargs="*", metavar="WHAT",
        help=f"suites ({', '.join(SUITES)}) or scenarios (default: all), or diff, show, list, schema",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="less of it, with wider intervals: all suites in under three minutes"
    )
    parser.add_argument(
        "--blocks", type=int, metavar="N", help="blocks to measure, instead of each scenario's own number"
    )
    parser.add_argument(
        "--within", type=float, metavar="MINUTES",
        help="fewer blocks of each, so that all is done in about so many minutes (default: as long as it takes)",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=float, metavar="SHARE", default=0.6,
        help="discard blocks in which others waited for, or were given, more of the CPUs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--aa", action="store_true", help="measure pydp a second time, to see what difference noise makes"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is not met for certain")
    parser.add_argument(
        "--json", metavar="FILE", help="write everything to a file as well, - for stdout instead of tables"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with charts, too, which needs nothing else")
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE", default=0.05,
        help="what diff lets pass as a change of the machine (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do what is asked. Raises PydpError, EbpfError, OSError."""
    _check(args)
    first, *rest = args.what or [""]
    verbs = {"diff": _diff, "show": _show, "list": _list, "schema": _schema}
    return verbs[first](args, rest) if first in verbs else _measure(args)


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built."""
    if args.blocks is not None and args.blocks < 1:
        raise UsageError(f"--blocks {args.blocks}: at least 1")
    if args.within is not None and not args.within > 0:
        raise UsageError(f"--within {args.within:g}: minutes, more than 0")
    if not 0 < args.noise <= 1:
        raise UsageError(f"--noise {args.noise:g}: a share, more than 0 and up to 1")
    if not 0 <= args.tolerance < 1:
        raise UsageError(f"--tolerance {args.tolerance:g}: a share, from 0 to less than 1")
    if args.html == "-":
        raise UsageError("--html -: a page goes into a file")
    if args.html and not all(map(importlib.util.find_spec, ("jinja2", "vl_convert"))):
        raise PydpError("--html needs jinja2 and vl-convert", hint="pip install 'pydp[report]'")
    for option in ("json", "html"):
        name = getattr(args, option)
        if name and name != "-" and not File(name).resolve().parent.is_dir():
            raise UsageError(f"--{option} {name}: there is no such directory")


def _measure(args: argparse.Namespace) -> int:
    """0, 130 after an interrupt, or 1 when a scenario failed, frames got lost, or with --check."""
    from pydp.bench import machine, runner
    from pydp.bench.interrupt import terminable
    from pydp.bench.paths import PREFIX
    from pydp.bench.results import Results
    from pydp.lab import sweep

    choice = runner.choose(
        args.what, quick=args.quick, blocks_wanted=args.blocks, noise=args.noise, again=args.aa,
        within=args.within and args.within * 60,
    )  # fmt: skip
    if os.geteuid() != 0:
        raise NotAllowed("benchmarks make network namespaces and load programs", hint="run as root")
    sweep(PREFIX)
    found = Results.begin({key: getattr(args, key) for key in ("what", "quick", "blocks", "within", "noise", "aa")})
    with terminable():
        try:
            runner.measure(choice, found)
        except KeyboardInterrupt:
            found.interrupted = True
        finally:  # also when there is a fault in here: hours may have been measured
            found.ended = machine.now()
            _write(args, found)
    if found.interrupted:
        return INTERRUPTED
    return _FAILED if found.faults() or (args.check and found.missed()) else 0


def _write(args: argparse.Namespace, found: Results) -> None:
    """Tables, or JSON in their place; and the files that were asked for."""
    from pydp.bench import document, report

    if args.json == "-":
        print(document.dumps(found))
    else:
        print(report.text(found))
        if args.json:
            document.save(found, File(args.json))
    if args.html:
        from pydp.bench import page

        page.write(found, File(args.html))


def _diff(args: argparse.Namespace, names: list[str]) -> int:
    from pydp.bench import diff, document

    if len(names) != _TWO:
        raise UsageError(f"diff takes two files, not {len(names)}", hint="pydp bench diff BEFORE AFTER")
    before, after = (document.load(File(name)) for name in names)
    found = diff.differences(before, after, tolerance=args.tolerance)
    if not found:
        raise UsageError(f"{names[0]} and {names[1]} have no comparison in common")
    for line in diff.lines(found):
        print(line)
    if gone := diff.missing(before, after):
        print(f"not in {names[1]}: {', '.join(gone)}")
    return _FAILED if any(one.change is diff.Change.WORSE for one in found) else 0


def _show(args: argparse.Namespace, names: list[str]) -> int:
    from pydp.bench import document

    if len(names) != 1:
        raise UsageError(f"show takes one file, not {len(names)}", hint="pydp bench show FILE")
    _write(args, document.load(File(names[0])))
    return 0


def _list(_args: argparse.Namespace, _names: list[str]) -> int:
    from pydp.bench.scenarios import SCENARIOS

    width = max(len(scenario.name) for scenario in SCENARIOS)
    for scenario in SCENARIOS:
        print(f"{scenario.name:<{width}}  {scenario.title}")
    print(f"{'cost':<{width}}  what programs cost per packet, by test-run")
    return 0


def _schema(_args: argparse.Namespace, _names: list[str]) -> int:
    import json

    from pydp.bench import document

    print(json.dumps(document.schema(), indent=1))
    return 0
