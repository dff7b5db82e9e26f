# SPDX-License-Identifier: Apache-2.0
"""`pydp doctor`: the machine, then each interface, every lack with the command that mends it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pydp.cli.failure import CANNOT, NOT_PERMITTED
from pydp.cli.output import VERSION, paint, printable, show_json

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "lack": ("LACK", "red"), "rights": ("LACK", "red")}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "interfaces", nargs="*", metavar="IFACE", help="look at these and count their lacks (default: show all)"
    )
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.cli.doctor_machine import examine
    from pydp.cli.doctor_port import look_at

    machine = examine()
    ports = look_at(args.interfaces)
    findings = machine + ([one for port in ports for one in port["findings"]] if args.interfaces else [])
    status = verdict([one.state for one in findings])
    if args.json:
        documents = [{**port, "findings": [one.document() for one in port["findings"]]} for port in ports]
        show_json({"works": status == 0, "machine": [one.document() for one in machine], "interfaces": documents})
    else:
        print("\n".join([*_findings("machine", machine), *(line for port in ports for line in _port(port))]))
        print(_summary(status))
    return status


def verdict(states: Sequence[str]) -> int:
    """The exit status: 0 when attach would work, 4 when something is missing, 5 when only rights are."""
    if "lack" in states:
        return CANNOT
    return NOT_PERMITTED if "rights" in states else 0


def _summary(status: int) -> str:
    if not status:
        return paint("attach would work", "green")
    return paint("attach would not work: see LACK above" if status == CANNOT else "the caller lacks rights", "red")


def _findings(title: str, findings: Sequence[Any]) -> list[str]:
    lines = [paint(title, "bold")]
    for one in findings:
        mark, colour = _MARKS[one.state]
        lines.append(printable(f"  {paint(f'{mark:4}', colour)} {one.what}: {one.told}"))
        if one.mend:
            lines.append(printable(f"         {one.mend}"))
    return lines


def _port(port: dict[str, Any]) -> list[str]:
    about = [port["kind"] or "device", f"MTU {port['mtu']}"]
    if port["driver"] and port["driver"] != port["kind"]:
        about.append(f"driver {port['driver']}")
    if port["peer"]:
        where = f" in {port['peer']['namespace']}" if port["peer"]["namespace"] else ""
        about.append(f"other end {port['peer']['name']}{where}")
    return _findings(printable(f"{port['name']}") + f" ({printable(', '.join(about))})", port["findings"])
