# SPDX-License-Identifier: Apache-2.0
"""A quick run of everything, as anybody would begin with; its page and its JSON are kept in build/, with what each
program costs per packet.
"""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

import pytest

from pydp.bench import document
from pydp.bench.scenario import Role
from pydp.bench.scenarios import SCENARIOS
from tests.system.bench import ROOT

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.alone]

BUILD = ROOT / "build"


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pydp", "bench", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.timeout(400)
def test_all_of_it() -> None:
    pytest.importorskip("vl_convert")
    BUILD.mkdir(exist_ok=True)
    file, page = BUILD / "bench.json", BUILD / "bench.html"
    done = bench("--quick", "--json", str(file), "--html", str(page))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    found = document.load(file)
    assert {one.name for one in found.scenarios} == {one.name for one in SCENARIOS if one.brief}
    assert {one.suite for one in found.scenarios} >= {"bridge", "vxlan", "ipip", "nat"}
    shown = html.unescape(page.read_text())
    for one in found.scenarios:
        assert one.paths, f"{one.name}: {one.reasons}"
        assert {path.role for path in one.paths.values()} >= {Role.EBPF}
        assert one.title in shown
    assert {cost.hook for cost in found.costs} == {"xdp", "tc"}
    assert all(cost.ns.median > 0 for cost in found.costs)


@pytest.mark.timeout(300)
def test_two_runs_of_the_same_show_no_difference(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("before.json", "after.json")]
    for file in files:
        assert bench("bridge-tc-64", "--quick", "--aa", "--json", file).returncode == 0
    done = bench("diff", *files)
    assert done.returncode == 0, done.stdout
    assert "no difference seen" in done.stdout
