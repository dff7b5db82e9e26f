# SPDX-License-Identifier: Apache-2.0
"""Plugin of `make test-kernels`: of each packet test the first case on a hook, on the other hook with another kernel,
or with --every-hook on both; so, too, of each case of the tests beside the kernel's own devices. All programs, on each
hook. How each test ended is noted at once, so that a run that is cut short has found what it has found; what failed is
told. A guest has its host compile.

Emulation takes twenty times as long; what a kernel decides (which programs it takes, what its helpers do) does not
hang on the numbers in a packet, and all cases run on the machine's own kernel.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ebpf import compiler
from tests.kernels import compiles
from tests.kernels.needs import RESULTS, note

HOOKS = ("tc", "xdp")
WHERE = Path(__file__).parents[1] / "datapath"
PROGRAMS = Path(__file__).parent / "test_programs.py"


def hook_of(case: str) -> str:
    """The hook that the name of a case has, "" for none."""
    return next((word for word in re.split(r"[^a-z]+", case) if word in HOOKS), "")


def chosen(cases: Sequence[tuple[str, str]], turn: int | None = None) -> Iterator[bool]:
    """For each test and case whether it runs. With a TURN, tests that have a case on each hook run on one of them, and
    on the other with the next turn; those that are one case each (`named`) of the same name on the same.
    """
    all_hooks = {(test, hook_of(case)) for test, case in cases}
    seen: set[tuple[str, str]] = set()
    for test, case in cases:
        key = test, hook_of(case)
        both = all((test, hook) in all_hooks for hook in HOOKS) and key[1] in HOOKS
        mine = turn is None or not both or key[1] == HOOKS[(zlib.crc32(test.rpartition("[")[2].encode()) + turn) % 2]
        yield mine and key not in seen
        seen.add(key)


def named(node: str, *, packets: bool) -> tuple[str, str]:
    """Test and case of a node id. Beside the kernel's devices each case is a test, but for the hook in its name."""
    test, _, case = node.partition("[")
    if packets or not (hook := hook_of(case)):
        return (test, case) if packets else (node, "")
    return f"{test}[{re.sub(rf'(?<![a-z]){hook}(?![a-z])', '', case, count=1)}", hook


def turn_of(release: str) -> int:
    """Of a kernel: that of 6.1 is not that of 6.12."""
    return int(release.split(".")[1].partition("-")[0]) % 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-hook", action="store_true", help="all tests on each hook, in twice the time")


def pytest_configure() -> None:
    if folder := os.environ.get(RESULTS):
        compiler._compile = compiles.asking(compiler._compile, Path(folder) / compiles.FOLDER)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    turn = None if config.getoption("--every-hook") else turn_of(os.uname().release)
    by_turns = [item for item in items if item.path != PROGRAMS]
    names = [named(item.nodeid, packets=item.path.is_relative_to(WHERE)) for item in by_turns]
    gone = {id(item) for item, runs in zip(by_turns, chosen(names, turn), strict=True) if not runs}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in gone])
    items[:] = [item for item in items if id(item) not in gone]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test is its call; what comes before is noted if it skips or fails, and what comes after if it fails."""
    if report.when == "call" or report.failed or (report.skipped and report.when == "setup"):
        note("tests", {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 1)})
    if report.failed:
        print(f"\n{report.nodeid}, {report.when}:\n{report.longreprtext}", flush=True)


def pytest_sessionfinish(exitstatus: int) -> None:
    note("ended", {"status": int(exitstatus)})
