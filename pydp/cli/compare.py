# SPDX-License-Identifier: Apache-2.0
"""`pydp compare`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydp.cli.output import VERSION, printable, show_json
from pydp.config import HOOKS
from pydp.errors import PydpError, UsageError

if TYPE_CHECKING:
    from pydp.compare.results import Results
    from pydp.compare.run import Plan, Series
    from pydp.compare.subject import Subject
    from pydp.datapath import Datapath

INTERRUPTED = 130
_WHOLE = 1000  # shares are in so many parts
_TURN, _SECONDS = (0.1, 60.0), (0.2, 86400.0)
_DESCRIPTION = """\
Measure the kernel's path beside eBPF's with the traffic that there is, by turns or with a share of the flows. What
NAME means is an instance that adopts a bridge or tunnel devices of the kernel's, or such a bridge or the underlay of
such devices: then an instance is attached for as long as it takes. However it ends, what was there is there again."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("name", metavar="NAME", help="instance, kernel bridge, or underlay of vxlan devices")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="N", help="how long to measure (default: %(default)g)"
    )
    parser.add_argument(
        "--slice", type=float, default=0.5, metavar="SECONDS", help="length of each turn (default: %(default)g)"
    )
    parser.add_argument(
        "--share", metavar="PERCENT",
        help="instead of turns, this share of the flows goes by eBPF all the time, the others by the kernel: 10%%, 0.1",
    )  # fmt: skip
    parser.add_argument(
        "--hook", choices=HOOKS, default="auto", help="where to take frames, if it is attached for this (default: auto)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check, and say what would be done")
    parser.add_argument("-v", "--verbose", action="store_true", help="on error, the compiler's or verifier's whole log")
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    """0, 130 after an interrupt; raises what ended it early once what was measured is shown."""
    plan = _plan(args)
    if args.dry_run:
        return _dry_run(args, plan)
    from pydp.bench.interrupt import terminable
    from pydp.bench.watch import watching
    from pydp.compare import run as running

    series, begun, interrupted = running.Series(), _now(), False
    with terminable():
        try:
            with watching({args.name: plan.seconds}) as watch:
                watch.begin(printable(args.name))
                running.run(
                    plan, series, _chooser(args),
                    lambda done: watch.reach(done / plan.blocks, f"block {done + 1} of {plan.blocks}"),
                )  # fmt: skip
        except KeyboardInterrupt:
            interrupted = True
        if series.instance:
            _show(_results(plan, series, begun, interrupted=interrupted), as_json=args.json)
    if series.fault:
        raise PydpError(series.fault, hint="what is shown was measured before")
    return INTERRUPTED if interrupted else 0


def _plan(args: argparse.Namespace) -> Plan:
    """Raises UsageError."""
    from pydp.compare.run import Plan

    for name, (low, high) in (("slice", _TURN), ("seconds", _SECONDS)):
        if not low <= getattr(args, name) <= high:
            raise UsageError(f"--{name} {getattr(args, name):g}: from {low:g} to {high:g} seconds")
    plan = Plan(args.seconds, args.slice, None if args.share is None else share(args.share))
    if plan.slice * plan.turns > plan.seconds + 1e-6:
        raise UsageError(
            f"--seconds {plan.seconds:g}: too short for {plan.turns} turns of {plan.slice:g} s",
            hint=f"--slice {plan.seconds / plan.turns:g} makes one block of them",
        )
    return plan


def share(text: str) -> float:
    """A share as "10%" or "0.1". Raises UsageError."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--share {text}: not a share, such as 10% or 0.1") from None
    if not 0 < number < 1 or not 0 < round(number * _WHOLE) < _WHOLE:
        raise UsageError(f"--share {text}: from 0.1% to 99.9%, so that both paths have flows")
    return round(number * _WHOLE) / _WHOLE


def _chooser(args: argparse.Namespace) -> Callable[[Datapath], Subject]:
    def choose(datapath: Datapath) -> Subject:
        from pydp.compare.subject import find
        from pydp.kernel import View

        return find(datapath.read().instances, View.read(), args.name, args.hook)

    return choose


def _dry_run(args: argparse.Namespace, plan: Plan) -> int:
    from pydp.datapath import Datapath

    datapath = Datapath()
    subject = _chooser(args)(datapath)
    instance = datapath.plan(subject.request)[0] if subject.request else datapath.instance(subject.name)
    if args.json:
        show_json({"dry_run": True, "instance": instance.name, "mode": instance.mode, "hook": instance.hook,
                   "attached_for_it": subject.request is not None, "seconds": plan.seconds, "slice": plan.slice,
                   "share": plan.share})  # fmt: skip
        return 0
    made = ", attached for as long as it takes," if subject.request else ""
    how = f"with {plan.share * 100:g} % of the flows" if plan.share is not None else f"in turns of {plan.slice:g} s"
    print(printable(f"{instance.name}: mode {instance.mode} on {instance.hook}{made} would be compared with the "
                    f"kernel's path for {plan.seconds:g} s, {how}"))  # fmt: skip
    return 0


def _results(plan: Plan, series: Series, begun: str, *, interrupted: bool) -> Results:
    from pydp.bench.machine import machine, versions
    from pydp.cli.session import name_now
    from pydp.compare.results import evaluate

    adopted = series.instance.adopted if series.instance else 0
    found = evaluate(plan, series, name_now(adopted, f"if{adopted}"))
    found.begun, found.ended, found.interrupted = begun, _now(), interrupted
    found.machine, found.versions = machine(), versions()
    return found


def _show(found: Results, *, as_json: bool) -> None:
    if as_json:
        show_json(found.document())
        return
    from pydp.cli.compared import text

    print(text(found))


def _now() -> str:
    from pydp.bench.machine import now

    return now()
