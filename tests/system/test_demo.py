# SPDX-License-Identifier: Apache-2.0
"""The demo: it shows both sides, in time, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from pydp.bench import demo
from tests.system import bench as process

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

COMMAND = [sys.executable, "-m", "pydp.bench.demo"]
PREFIX = "pydp-demo-"


def test_both_sides_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    with process.started([*COMMAND, "--json", str(file)]) as child:
        out, err = child.communicate(timeout=110)
    assert child.returncode == 0, err
    rows = json.loads(file.read_text())["rows"]
    assert [row["traffic"] for row in rows] == [
        "ICMP: ping, round trip",
        "TCP stream",
        "64-byte packets, --hook tc",
        "64-byte packets, --hook xdp",
    ]
    for row in rows:
        shown = f"{row['kernel']:.2f} {row['pydp']:.2f} {row['faster']:.2f} x"
        assert shown in " ".join(out.split())
        better = row["kernel"] / row["pydp"] if row["unit"] == "us" else row["pydp"] / row["kernel"]
        assert row["faster"] == pytest.approx(better)
        assert min(row["kernel"], row["pydp"]) > 0
    assert "attach --mode bridge --hook xdp p0 p1" in out
    assert "forward" in out, "pydp's own counters do not show that it forwarded"
    assert process.traces(PREFIX, child.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(number: signal.Signals) -> None:
    with process.started(COMMAND) as child:
        pins = process.interrupt_when_built(child, PREFIX, number, pins=1)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.strip() == "Interrupted; all of it is taken down again."
    assert process.traces(PREFIX, child.pid) == []
    assert not [pin for pin in pins if (process.PINS / pin).exists()]


def test_without_rights_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert demo.main([]) == 5
    assert "run as root" in capsys.readouterr().err
