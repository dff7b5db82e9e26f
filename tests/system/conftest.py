# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the exporter's tests."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydp.lab import Namespace
from tests.system.exporting import Exporter, Lan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program in a folder that only root can enter, as it may be installed below /root: what gave up its
    rights must not need a file again.
    """
    made = tmp_path_factory.mktemp("private")
    for package in ("ebpf", "pydp"):
        shutil.copytree(ROOT / package, made / package, ignore=shutil.ignore_patterns("__pycache__"))
    made.chmod(0o700)
    return made


@pytest.fixture
def lan() -> Iterator[Callable[[Namespace], Lan]]:
    with contextlib.ExitStack() as stack:

        def make(ns: Namespace) -> Lan:
            made = Lan(ns)
            stack.callback(_quietly, made.detach)
            return made

        yield make


def _quietly(detach: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):  # a test may have detached already
        detach()


@pytest.fixture
def exporter(folder: Path) -> Iterator[Callable[..., Exporter]]:
    started: list[Exporter] = []

    def start(ns: Namespace, *options: str, **where: str) -> Exporter:
        started.append(Exporter(ns, folder, *options, **where))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()
