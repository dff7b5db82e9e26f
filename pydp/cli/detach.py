# SPDX-License-Identifier: Apache-2.0
"""`pydp detach`."""

from __future__ import annotations

import argparse

from pydp.cli.output import show_json
from pydp.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="instance")
    parser.add_argument("--all", action="store_true", help="all instances of this namespace")
    parser.add_argument("--dry-run", action="store_true", help="say what would be detached")
    parser.add_argument("-v", "--verbose", action="store_true", help="on error, the verifier's whole log")
    parser.add_argument("-j", "--json", action="store_true", help="show the result as JSON")


def run(args: argparse.Namespace) -> int:
    if bool(args.names) == args.all:
        raise UsageError("which instance? either NAME... or --all", hint="pydp status shows them")
    from pydp.datapath import Datapath

    names = None if args.all else list(dict.fromkeys(args.names))
    if args.dry_run:
        from pydp.cli.session import chosen, reading

        with reading() as reader:
            done = [one.name for name in names or [""] for one in chosen(reader, name)]
    else:
        done = Datapath().detach(names)
    action = "would be detached" if args.dry_run else "detached"
    if args.json:
        show_json({"action": action, "dry_run": args.dry_run, "instances": done})
    else:
        print(f"{', '.join(done)}: {action}")
    return 0
