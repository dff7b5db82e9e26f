# SPDX-License-Identifier: Apache-2.0
"""How things are shown: JSON with a version, tables, colour where a person looks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1  # of every JSON document: members are added under the same number, never removed or changed
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}


def show_json(document: Mapping[str, Any]) -> None:
    """Print a document for programs."""
    print(json.dumps({"version": VERSION, **document}, indent=2))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = (), indent: str = ""
) -> str:
    """Columns under headers, those in RIGHT aligned to the right; "" without rows."""
    from tabulate import tabulate  # 40 ms

    if not rows:
        return ""
    text = tabulate(
        [[printable(cell) for cell in row] for row in rows],
        [paint(header, "dim") for header in headers],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if header in right else "left" for header in headers],
    )
    return "\n".join(indent + line.rstrip() for line in text.splitlines())


def paint(text: str, colour: str) -> str:
    """TEXT in a colour ("red", "green", "yellow", "bold", "dim") where that makes sense."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if coloured() else text


def coloured() -> bool:
    """On a terminal that knows colour, unless NO_COLOR (no-color.org) is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(cell: object) -> str:
    """Text without control characters but colour: names of interfaces may hold anything."""
    text = str(cell)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" or _is_ours(text, at) else "?" for at, c in enumerate(text))


def _is_ours(text: str, at: int) -> bool:
    return coloured() and any(text.startswith(f"\x1b[{code}m", at) for code in (0, *_CODES.values()))


class Notes:
    """What somebody should know of who did as he was told: lines on stderr, of many the first few."""

    def __init__(self, most: int = 10) -> None:
        self._texts: list[str] = []
        self._most = most

    def add(self, text: str) -> None:
        self._texts.append(text)

    def show(self) -> None:
        """Print them; once, when all has gone well."""
        for text in self._texts[: self._most]:
            print(printable(f"pydp: note: {text}"), file=sys.stderr)
        if len(self._texts) > self._most:
            print(f"pydp: note: and {len(self._texts) - self._most} more like these", file=sys.stderr)


def si(value: float, unit: str = "") -> str:
    """A rate in three digits: 1234567 -> "1.23 M"."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * 0.9995:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g}{' ' + unit if unit else ''}"


def plural(number: int, noun: str) -> str:
    """ "1 port", "2 ports", "1 address", "2 addresses"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
