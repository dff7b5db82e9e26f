# SPDX-License-Identifier: Apache-2.0
"""`pydp bench`: options, order of things, exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path as File
from typing import TYPE_CHECKING

from pydp.errors import NotAllowed, UsageError

if TYPE_CHECKING:
    from pydp.bench.blocks import Plan
    from pydp.bench.results import Results
    from pydp.bench.scenario import Scenario

NAMES = (
    "bridge-xdp-64", "bridge-counters", "bridge-tc-64", "bridge-stream", "bridge-request",
    "vxlan-xdp-encap-64", "vxlan-xdp-decap-64", "vxlan-stream", "vxlan-request",
    "ipip-xdp-encap-64", "ipip-xdp-decap-64",
    "nat-udp-1", "nat-udp-1000", "nat-tcp-1", "nat-tcp-1000", "nat-new", "nat-connect-1", "nat-connect-10000",
    "nat-first", "nat-stream", "nat-program", "nat-change",
    "cost",
)  # fmt: skip
_MISSED, INTERRUPTED = 1, 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = "Measure the kernel's path, pydp and the bare hook side by side, in network namespaces."
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"what to measure (default: all): {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter blocks: wider intervals, a minute or two"
    )
    parser.add_argument(
        "--blocks", type=int, metavar="N", help="blocks to measure, instead of each scenario's own number"
    )
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


def run(args: argparse.Namespace) -> int:
    """Measure and report; 0, 130 after an interrupt, or 1 with --check. Raises PydpError, EbpfError, OSError."""
    _check(args)
    from pydp.bench import report, results
    from pydp.bench.interrupt import terminable
    from pydp.bench.paths import PREFIX
    from pydp.lab import sweep

    sweep(PREFIX)
    found = results.Results(results.machine())
    with terminable():
        try:
            _measure(args, found)
        except KeyboardInterrupt:
            found.interrupted = True
    document = json.dumps(found.document(), indent=1)
    if args.json == "-":
        print(document)
    else:
        print(report.text(found))
        if args.json:
            File(args.json).write_text(document + "\n")
    if found.interrupted:
        return INTERRUPTED
    return _MISSED if args.check and found.missed() else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built."""
    for name in args.scenarios:
        if name not in NAMES:
            raise UsageError(f"{name}: there is no such scenario", hint=f"there are {', '.join(NAMES)}")
    if args.blocks is not None and args.blocks < 1:
        raise UsageError(f"--blocks {args.blocks}: at least 1")
    if not 0 < args.noise <= 1:
        raise UsageError(f"--noise {args.noise:g}: a share, more than 0 and up to 1")
    if args.json and args.json != "-" and not File(args.json).resolve().parent.is_dir():
        raise UsageError(f"--json {args.json}: there is no such directory")
    if os.geteuid() != 0:
        raise NotAllowed("benchmarks make network namespaces and load programs", hint="run as root")


def _measure(args: argparse.Namespace, found: Results) -> None:
    from pydp.bench import costs
    from pydp.bench.scenarios import SCENARIOS

    wanted = args.scenarios or NAMES
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            plan = scenario.quick if args.quick else scenario.full
            plan = replace(plan, noise=args.noise, blocks=args.blocks or plan.blocks)
            _measure_scenario(scenario.with_again() if args.aa else scenario, plan, found)
    if "cost" in wanted:
        _show("cost: test runs")
        for cost in costs.measure(rounds=5 if args.quick else 15, repeat=200_000):
            found.costs.append(cost)
        _show("")


def _measure_scenario(scenario: Scenario, plan: Plan, found: Results) -> None:
    from pydp.bench import blocks
    from pydp.bench.results import evaluate

    series = blocks.Series()
    try:
        with ExitStack() as stack:
            _show(f"{scenario.name}: building")
            subjects = scenario.build(stack)
            blocks.run(subjects, plan, series, lambda text: _show(f"{scenario.name}: {text}"))
    finally:
        _show("")
        if series.blocks:
            found.scenarios.append(evaluate(scenario, series))


def _show(text: str) -> None:
    """What is going on, in one line of a terminal that the next one writes over."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
