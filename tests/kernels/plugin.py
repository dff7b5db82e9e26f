# SPDX-License-Identifier: Apache-2.0
"""Plugin of `make test-kernels`: of each packet test the first case on each hook; how each test ended is noted at once,
so that a run that is cut short has found what it has found, and what failed is told.

Emulation takes twenty times as long; what a kernel decides (which programs it takes, what its helpers do) does not
hang on the numbers in a packet, and all cases run on the machine's own kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.needs import note

HOOKS = ("tc", "xdp")
WHERE = Path(__file__).parents[1] / "datapath"


def hook_of(case: str) -> str:
    """The hook that the name of a case has, "" for none."""
    return next((word for word in re.split(r"[^a-z]+", case) if word in HOOKS), "")


def chosen(cases: list[tuple[str, str]]) -> Iterator[bool]:
    """For each test and case whether it runs."""
    seen: set[tuple[str, str]] = set()
    for test, case in cases:
        key = test, hook_of(case)
        yield key not in seen
        seen.add(key)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    packets = [item for item in items if item.path.is_relative_to(WHERE)]
    names = [item.nodeid.partition("[") for item in packets]
    runs = chosen([(test, case) for test, _, case in names])
    dropped = [item for item, one in zip(packets, runs, strict=True) if not one]
    config.hook.pytest_deselected(items=dropped)
    gone = set(map(id, dropped))
    items[:] = [item for item in items if id(item) not in gone]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test is its call; what comes before is noted if it skips or fails, and what comes after if it fails."""
    if report.when == "call" or report.failed or (report.skipped and report.when == "setup"):
        note("tests", {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 1)})
    if report.failed:
        print(f"\n{report.nodeid}, {report.when}:\n{report.longreprtext}", flush=True)


def pytest_sessionfinish(exitstatus: int) -> None:
    note("ended", {"status": int(exitstatus)})
