# SPDX-License-Identifier: Apache-2.0
"""Entry point. `pydp --help` must answer at once, so a verb's module is imported when its verb is there."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pydp.cli.failure import report
from pydp.errors import UsageError

# verb: (module, help)
VERBS = {
    "attach": ("pydp.cli.attach", "compile a mode and attach it to interfaces, or change what is attached"),
    "detach": ("pydp.cli.detach", "take instances off their interfaces and restore what was there"),
    "status": ("pydp.cli.status", "what is attached where, hook and why, counters, how full maps are"),
    "stats": ("pydp.cli.stats", "verdicts by port, punts and drops with their reason"),
    "fdb": ("pydp.cli.fdb", "show and change the FDB of a bridge or VXLAN segment"),
    "tunnel": ("pydp.cli.tunnel", "show tunnels with their counters, and change the peers of mode ipip"),
    "service": ("pydp.cli.service", "show and change the services of mode nat"),
    "backend": ("pydp.cli.backend", "show, add, delete and drain the backends of services"),
    "conntrack": ("pydp.cli.conntrack", "show, count and end the flows of mode nat"),
    "healthcheck": ("pydp.cli.healthcheck", "probe the backends of services, and take out those that are down"),
    "exporter": ("pydp.cli.exporter", "serve metrics for Prometheus"),
    "doctor": ("pydp.cli.doctor", "what this machine lacks, what each port would get, with the command that mends it"),
    "compare": ("pydp.cli.compare", "measure the kernel's path beside eBPF's with the traffic that there is"),
    "lab": ("pydp.cli.lab", "Linux's networking to try out, and other kernels to try it on"),
    "bench": ("pydp.bench.cli", "measure pydp beside the kernel's own path"),
}

_EPILOG = """\
exit status: 0 done; 1 it failed; 2 wrong usage or configuration; 3 nothing attached; 4 this machine cannot;
5 not permitted; 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """Errors are raised, and a verb's parser is filled when it is used."""

    module = ""
    intermixed = False  # options may stand between arguments of which there are any number

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module:
            verb = importlib.import_module(self.module)
            self.module = ""
            verb.configure(self)
            self.set_defaults(run=verb.run)
        if self.intermixed:
            self.intermixed = False  # it comes back here, once for options and once for the rest
            return self.parse_known_intermixed_args(args, namespace)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What a verb's parser does not know comes back to this one, whose help does not tell what the verb takes."""
        found, more = self.parse_known_args(args, namespace)
        if more:
            raise UsageError(
                f"unrecognized arguments: {' '.join(more)}",
                hint=f"{self.prog} {getattr(found, 'verb', '')}".rstrip() + " --help",
            )
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"pydp {version('pydp')}")
        parser.exit()


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="pydp",
        description="Linux's bridge and tunnels as eBPF programs: attached, counted, compared with the kernel's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--netns", metavar="NETNS", help="act in this network namespace: a name below /run/netns, or a path"
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, text) in VERBS.items():
        verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".").module = module
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status. Whatever goes wrong ends as a line on stderr, never as a traceback."""
    args = None
    try:
        args = make_parser().parse_args(argv)
        if args.netns is not None:
            from pydp.cli.netns import enter

            enter(args.netns)
        status = int(args.run(args))
        sys.stdout.flush()  # here, where a full disk behind it is still reported
        return status
    except SystemExit as done:  # --help and --version, through argparse
        return _flushed(done.code)
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the one place where errors become words
        return report(error, verbose=getattr(args, "verbose", False))


def _flushed(code: object) -> int:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    _drop_stdout()
    return 1


def _drop_stdout() -> None:
    """Whoever read our output has gone: let the interpreter flush what is left into nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
