# SPDX-License-Identifier: Apache-2.0
"""`pydp exporter`."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", "--web.listen-address", dest="listen", metavar="ADDR:PORT", default="127.0.0.1:9818",
        help="where to answer (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--web.config.file", dest="web_config", metavar="FILE",
        help="TLS and basic authentication, as of other exporters of Prometheus",
    )  # fmt: skip
    parser.add_argument(
        "--program-stats", action="store_true", help="have the kernel count and time runs of eBPF programs meanwhile"
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pydp.metrics.server import Service, serve

    return serve(Service(args.listen, Path(args.web_config) if args.web_config else None, args.program_stats))
