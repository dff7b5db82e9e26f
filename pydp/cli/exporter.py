# SPDX-License-Identifier: Apache-2.0
"""`pydp exporter`."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", default="127.0.0.1:9818", help="where to answer (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from pydp.metrics.server import serve

    return serve(args.listen)
