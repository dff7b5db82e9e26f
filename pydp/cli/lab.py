# SPDX-License-Identifier: Apache-2.0
"""`pydp lab`: each of its verbs is a module with `HELP`, `configure` and `run`."""

from __future__ import annotations

import argparse

from pydp.cli import lab_down, lab_list, lab_run, lab_show, lab_up, lab_vm

_VERBS = {"list": lab_list, "show": lab_show, "run": lab_run, "up": lab_up, "down": lab_down, "vm": lab_vm}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="|".join(_VERBS), required=True)
    for name, module in _VERBS.items():
        one = verbs.add_parser(name, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + ".")
        one.set_defaults(action=module.run)
        module.configure(one)


def run(args: argparse.Namespace) -> int:
    status: int = args.action(args)
    return status
