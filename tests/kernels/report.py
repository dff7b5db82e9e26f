# SPDX-License-Identifier: Apache-2.0
"""What guests brought back: pytest's summary over all of them, and the README's table.

    python -m tests.kernels.report FOLDER [--write README.md]

FOLDER has one for each guest, named by its kernel's release, with tests.jsonl, programs.jsonl and, if it came to the
end of its tests, ended.jsonl.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.plugin import hook_of

BEGIN, END = "<!-- `make kernels-table` writes this -->\n", "<!-- up to here -->\n"
HOOKS = ("tc", "xdp", "xdp-generic")
ORACLES = {
    "test_tunnel_oracle": "ipip, beside the kernel's tunnels",
    "test_vlan_oracle": "bridge, beside the kernel's with VLANs",
    "test_ipvlan_oracle": "ipvlan, beside the kernel's devices",
}
PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
LINKS = {"tcx": "tcx links", "clsact": "filters of a clsact qdisc"}


@dataclass(frozen=True, slots=True)
class Guest:
    """``tests`` by their outcome; ``rows`` of test_programs; ``oracles``: by file and hook, how they ended."""

    release: str
    tests: Mapping[str, int] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    oracles: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)

    @property
    def series(self) -> str:
        return ".".join(self.release.split(".")[:2])


def read_guest(folder: Path) -> Guest:
    """Not to have come to its end is one more failure."""
    ended = {row["test"]: row["outcome"] for row in noted(folder, "tests")}  # of one that failed twice the last
    tests = Counter(ended.values())
    if not any(row["status"] <= pytest.ExitCode.TESTS_FAILED for row in noted(folder, "ended")):
        tests[FAILED] += 1
    oracles: dict[tuple[str, str], list[str]] = {}
    for test, outcome in ended.items():
        name, _, case = test.partition("[")
        file = Path(name.partition("::")[0]).stem
        if file in ORACLES and (hook := hook_of(case)):
            oracles.setdefault((file, hook), []).append(outcome)
    return Guest(folder.name, tests, noted(folder, "programs"), oracles)


def noted(folder: Path, name: str) -> list[dict[str, Any]]:
    """What a guest has noted under that name; a last line that it was killed in does not count."""
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summary(guests: Sequence[Guest], seconds: float) -> str:
    """A line as pytest ends with, of all guests together."""
    counts = {kind: sum(one.tests.get(kind, 0) for one in guests) for kind in (FAILED, PASSED, SKIPPED)}
    words = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "no tests ran"
    minutes, rest = divmod(int(seconds), 60)
    return f" {words} in {seconds:.2f}s (0:{minutes:02d}:{rest:02d}) ".center(80, "=")


def table(guests: Sequence[Guest]) -> str:
    """Modes by kernels and hooks: how many forms of each were attached. The same results give the same text."""
    series = [one.series for one in guests]
    lines = [
        f"| mode | forms | {' | '.join(f'{one}: {hook}' for one in series for hook in HOOKS)} |",
        f"|---|---|{'---|' * (len(series) * len(HOOKS))}",
    ]
    modes = dict.fromkeys(row["mode"] for one in guests for row in one.rows)
    for mode in modes:
        cells = [cell([row["outcome"] for row in of(one, mode, hook)]) for one in guests for hook in HOOKS]
        lines.append(f"| {mode} | {forms(guests, mode)} | {' | '.join(cells)} |")
    for file, name in ORACLES.items():
        if any(key[0] == file for one in guests for key in one.oracles):
            cells = [cell(one.oracles.get((file, hook), ())) for one in guests for hook in HOOKS]
            lines.append(f"| {name} | | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(tc_links(one) for one in guests)]) + "\n"


def of(guest: Guest, mode: str, hook: str) -> list[Mapping[str, Any]]:
    return [row for row in guest.rows if (row["mode"], row["hook"]) == (mode, hook)]


def forms(guests: Sequence[Guest], mode: str) -> str:
    names = dict.fromkeys(row["case"] for one in guests for row in one.rows if row["mode"] == mode)
    return "; ".join(name.removeprefix(f"{mode}, ") if name != mode else "plain" for name in names)


def cell(outcomes: Sequence[str]) -> str:
    """How many of them passed: "all" of so many, or "N of M"; skipped ones do not."""
    passed = sum(one == PASSED for one in outcomes)
    if not outcomes:
        return ""
    return f"all {passed}" if passed == len(outcomes) else f"{passed} of {len(outcomes)}"


def tc_links(guest: Guest) -> str:
    kinds = sorted({kind for row in guest.rows if row["hook"] == "tc" for kind in row.get("links", ())})
    return f"Programs on tc are {' and '.join(LINKS.get(one, one) for one in kinds) or 'none'} on {guest.series}."


def rewritten(readme: str, text: str) -> str:
    """The README with TEXT between its marks. Raises ValueError where there are none, or several."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError("the README's marks for the table of kernels are not there once each")
    return f"{before}{begin}{text}{end}{after}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="What guests brought back.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, metavar="README", help="put the table there")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long all of it took")
    args = parser.parse_args(arguments)
    folders = [path for path in args.folder.iterdir() if path.is_dir()] if args.folder.is_dir() else []
    guests = sorted(map(read_guest, folders), key=lambda one: [int(word) for word in re.findall(r"\d+", one.release)])
    if args.write:
        args.write.write_text(rewritten(args.write.read_text(), table(guests)))
        return 0
    print(table(guests))
    print(summary(guests, args.seconds))
    return int(not guests or any(one.tests.get(FAILED) for one in guests))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
