# SPDX-License-Identifier: Apache-2.0
"""`pydp backend`: who answers for the services of an instance of mode nat."""

from __future__ import annotations

import argparse

from pydp.cli.output import show_json, table
from pydp.cli.service import action, done, opened
from pydp.cli.service_show import COLUMNS, backend_document, backend_row

_EVERY = "-"
_WHICH = "a service, by its name or a frontend"
_WHOSE = f"{_WHICH}, or - for all that have the backend"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|add|del|drain")
    parser.set_defaults(action=_show, service=None, instance="", json=False)
    one = action(actions, "show", _show, "show backends with their state and counters", change=False)
    one.add_argument("service", nargs="?", metavar="SERVICE", help=f"{_WHICH} (default: all)")
    one = action(actions, "add", _add, "add backends to a service, or change their weight")
    one.add_argument("service", metavar="SERVICE", help=_WHICH)
    one.add_argument("backend", nargs="+", metavar="ADDR:PORT[*WEIGHT]", help="the backend; a PORT is one of this host")
    one = action(actions, "del", _del, "delete a backend; its connections are reset, unless they are to move")
    one.add_argument("service", metavar="SERVICE", help=_WHOSE)
    one.add_argument("backend", metavar="ADDR:PORT", help="the backend")
    _add_then(one, "what becomes of its connections (default: as it was drained, else reset)", None)
    one = action(actions, "drain", _drain, "have a backend get no new connections")
    one.add_argument("service", metavar="SERVICE", help=_WHOSE)
    one.add_argument("backend", metavar="ADDR:PORT", help="the backend")
    one.add_argument("--deadline", metavar="SECONDS", help="end the connections that it has after this time")
    _add_then(one, "what becomes of them then (default: reset)", "reset")


def _add_then(one: argparse.ArgumentParser, text: str, default: str | None) -> None:
    one.add_argument("--then", choices=("reset", "move"), default=default, help=text)


def run(args: argparse.Namespace) -> int:
    result: int = args.action(args)
    return result


def _add(args: argparse.Namespace) -> int:
    from pydp.services.text import parse_backend

    backends = [parse_backend(text) for text in args.backend]
    instance, services = opened(args.instance)
    done(services.add_backends(args.service, backends, dry_run=args.dry_run), instance, dry_run=args.dry_run)
    return 0


def _del(args: argparse.Namespace) -> int:
    instance, services = opened(args.instance)
    outcome = services.delete_backend(_whose(args), args.backend, when_over=args.then, dry_run=args.dry_run)
    done(outcome, instance, dry_run=args.dry_run)
    return 0


def _drain(args: argparse.Namespace) -> int:
    deadline = None if args.deadline is None else _seconds(args.deadline)
    instance, services = opened(args.instance)
    outcome = services.drain(_whose(args), args.backend, deadline=deadline, then=args.then, dry_run=args.dry_run)
    done(outcome, instance, dry_run=args.dry_run)
    return 0


def _whose(args: argparse.Namespace) -> str | None:
    return None if args.service == _EVERY else args.service


def _seconds(text: str) -> float:
    from pydp.errors import UsageError

    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400 * 365:
        raise UsageError(f"--deadline {text}: not a number of seconds from 0 to a year")
    return seconds


def _show(args: argparse.Namespace) -> int:
    instance, services = opened(args.instance)
    found = services.show(args.service)
    if args.json:
        rows = [{"service": one.service.name, **backend_document(each)} for one in found for each in one.backends]
        show_json({"name": instance, "backends": rows})
        return 0
    cells = [(one.service.name, *backend_row(each)) for one in found for each in one.backends]
    if cells:
        print(table(("SERVICE", *COLUMNS), cells, right=COLUMNS[3:]))
    return 0
