# SPDX-License-Identifier: Apache-2.0
"""`pydp lab down`."""

from __future__ import annotations

import argparse

HELP = "take down a story that was left standing"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a story that is up")


def run(args: argparse.Namespace) -> int:
    from pydp.lab.stories import find, standing

    done, processes = standing.down(find(args.name).name)
    print(f"{done.story}: {len(done.namespaces)} namespaces and {processes} processes removed")
    return 0
