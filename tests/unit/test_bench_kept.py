# SPDX-License-Identifier: Apache-2.0
"""What was measured is kept, and nothing is told that was not."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from pydp.bench import cli, document, frames, runner
from pydp.bench.errors import BenchError
from pydp.bench.results import Results
from tests.unit.bench_results import result


def test_a_fault_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(_choice: object, found: Results) -> None:
        found.scenarios.append(result())
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "choose", lambda *_, **__: None)
    monkeypatch.setattr(runner, "measure", measure)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pydp.lab.sweep", lambda _prefix: None)
    args = argparse.Namespace(
        what=[], quick=True, blocks=None, within=None, noise=0.2, aa=False, check=False,
        json=str(tmp_path / "found.json"), html=None,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        cli._measure(args)
    kept = document.load(tmp_path / "found.json")
    assert [one.name for one in kept.scenarios] == [result().name]
    assert kept.ended


def test_without_marks_there_is_no_rate() -> None:
    sink = frames.Sink.__new__(frames.Sink)
    sink._marks = SimpleNamespace(raw=lambda: (b"", bytes(8 * frames.MARKS)))  # type: ignore[assignment]
    with pytest.raises(BenchError, match="no telling how fast"):
        sink.pace(0, 20 * frames.MARK_EVERY)
