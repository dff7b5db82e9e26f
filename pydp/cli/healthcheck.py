# SPDX-License-Identifier: Apache-2.0
"""`pydp healthcheck`."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, printable, show_json, table

if TYPE_CHECKING:
    from pydp.services.model import BackendHealth

_TEXT = """\
Services that were given --health are probed at their interval, from this network namespace, at the backends' own
addresses. A backend that fails as often as its threshold says gets no new connections until it is well again; one that
nothing is known of yet is what its first probe says. Changes are written to standard output, one a line.

When this ends, states stay as they were: nobody takes a backend out or brings it back until it runs again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _TEXT
    parser.add_argument("--name", default="", metavar="INSTANCE", help="instance of mode nat (default: the only one)")
    parser.add_argument("--once", action="store_true", help="probe each backend once, which counts at once, and end")
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION}), one change a line")


def run(args: argparse.Namespace) -> int:
    from pydp.datapath import Datapath
    from pydp.services.healthcheck import watch

    name = Datapath().of_mode("nat", args.name).name
    found = watch(name, once=args.once, changed=_silent if args.once else _line(args.json), complain=_complain)
    if args.once:
        _show(found, args.json)
    return 0


def _line(as_json: bool) -> Any:
    def show(found: BackendHealth) -> None:
        if as_json:
            text = json.dumps({"version": VERSION, **_document(found)})
        else:
            when = datetime.fromtimestamp(found.since).astimezone().isoformat(timespec="seconds")
            text = printable(f"{when} {found.service} {_end(found)} {_state(found)}")
        print(text, flush=True)

    return show


def _show(found: list[BackendHealth], as_json: bool) -> None:
    if as_json:
        show_json({"backends": [_document(one) for one in found]})
    elif found:
        rows = [(one.service, _end(one), _state(one)) for one in found]
        print(table(("SERVICE", "BACKEND", "STATE"), rows))


def _state(found: BackendHealth) -> str:
    return "up" if found.up else f"down: {found.reason}"


def _end(found: BackendHealth) -> str:
    from pydp.services.model import end_text

    return end_text(found.address, found.port)


def _document(found: BackendHealth) -> dict[str, Any]:
    return {
        "service": found.service,
        "backend": _end(found),
        "up": found.up,
        "since": found.since,
        "reason": found.reason,
        "checks": found.checks,
        "failures": found.failures,
    }


def _silent(_: BackendHealth) -> None:
    """The table tells it."""


def _complain(text: str) -> None:
    print(printable(f"pydp: {text}"), file=sys.stderr, flush=True)
