# SPDX-License-Identifier: Apache-2.0
"""What `make test-kernels` says of the results of guests: its last line, and the README's table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pydp.modes import MODES
from tests.kernels import report
from tests.kernels.plugin import chosen, hook_of, named, turn_of

README = Path(__file__).resolve().parents[2] / "README.md"
TESTS = [
    ("tests/kernels/test_programs.py::test_the_verifier_takes_it[count-tc]", "passed"),
    ("tests/kernels/test_tunnel_oracle.py::test_the_same_goes_out[ipip-tc]", "passed"),
    ("tests/kernels/test_tunnel_oracle.py::test_the_same_goes_out[ipip-xdp]", "failed"),
    ("tests/kernels/test_tunnel_oracle.py::test_the_same_goes_out[sit-tc]", "skipped"),
    ("tests/datapath/test_count.py::test_a[1]", "passed"),
    ("tests/datapath/test_count.py::test_a[1]", "failed"),  # after its call
]


def row(case: str, hook: str, outcome: str = "passed", links: tuple[str, ...] = ("tcx",)) -> dict[str, object]:
    return {"case": case, "mode": case.partition(",")[0], "hook": hook, "outcome": outcome, "links": links}


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of two guests, of one that was cut short, and of one that broke down."""
    rows = {
        "6.1.0-50-amd64": [
            row("count", "tc", links=("clsact",)),
            row("bridge", "tc"),
            row("bridge, VLANs", "tc", "failed"),
        ],
        "6.12.9+deb13-amd64": [row("count", "tc"), row("count", "xdp", "skipped")],
    }
    for release, content in rows.items():
        write(tmp_path / release, "programs", content)
        write(tmp_path / release, "tests", [{"test": test, "outcome": outcome} for test, outcome in TESTS])
        write(tmp_path / release, "ended", [{"status": 1}])
    write(tmp_path / "6.17", "tests", [{"test": "a", "outcome": "passed"}])
    with (tmp_path / "6.17" / "tests.jsonl").open("a") as file:
        file.write('{"test": "b", "outc')
    (tmp_path / "6.18").mkdir()
    return tmp_path


def test_the_table_has_modes_by_kernels_and_hooks(results: Path) -> None:
    guests = [report.read_guest(results / name) for name in ("6.1.0-50-amd64", "6.12.9+deb13-amd64")]
    lines = report.table(guests).splitlines()
    assert lines[0] == (
        "| mode | forms | 6.1: tc | 6.1: xdp | 6.1: xdp-generic | 6.12: tc | 6.12: xdp | 6.12: xdp-generic |"
    )
    assert lines[2:5] == [
        "| count | plain | all 1 |  |  | all 1 | 0 of 1 |  |",
        "| bridge | plain; VLANs | 1 of 2 |  |  |  |  |  |",
        "| ipip, beside the kernel's tunnels | | 1 of 2 | 0 of 1 |  | 1 of 2 | 0 of 1 |  |",
    ]
    assert "filters of a clsact qdisc and tcx links on 6.1." in lines[-2]
    assert lines[-1] == "Programs on tc are tcx links on 6.12."
    assert report.table(guests) == "\n".join(lines) + "\n"


def test_the_last_line_is_as_pytests(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest that did not come to its end is a failure, of which nothing else would tell."""
    assert report.main([str(results), "--seconds", "75.5"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.strip("= ") == "6 failed, 5 passed, 2 skipped in 75.50s (0:01:15)"
    assert re.fullmatch(r"=+ .* =+", last)


@pytest.mark.parametrize("there", [True, False])
def test_no_guest_is_a_failure(tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path if there else tmp_path / "none")]) == 1
    assert "no tests ran" in capsys.readouterr().out


def test_writing_changes_what_is_between_the_marks(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    for _ in range(2):
        assert report.main([str(results), "--write", str(readme)]) == 0
        text = readme.read_text()
        assert text.startswith(f"before\n{report.BEGIN}| mode |")
        assert text.endswith(f"{report.END}after\n")
        assert "old" not in text


@pytest.mark.parametrize("text", ["", report.BEGIN, report.END + report.BEGIN, (report.BEGIN + report.END) * 2])
def test_marks_that_are_not_there_once_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="marks"):
        report.rewritten(text, "table")


def test_the_readmes_table_is_one() -> None:
    """Of both kernels, all rows as wide as the head, modes that there are, and nothing that did not pass."""
    text = README.read_text(encoding="utf-8")
    assert report.rewritten(text, text.partition(report.BEGIN)[2].partition(report.END)[0]) == text
    block = text.partition(report.BEGIN)[2].partition(report.END)[0]
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("|")]
    assert [name for name in rows[0] if name.endswith(": tc")] == ["6.1: tc", "6.12: tc"]
    assert {row[0].partition(",")[0] for row in rows[2:]} <= set(MODES)
    assert len(rows) > 2
    assert {line.count("|") for line in block.splitlines() if line.startswith("|")} == {len(rows[0]) + 1}


def test_of_each_test_one_case_a_hook_is_chosen() -> None:
    cases = [
        ("a", "tc-1"),
        ("a", "tc-2"),
        ("a", "xdp-1"),
        ("b", ""),
        ("b", "1"),
        ("c", "tc, summed up"),
        ("a", "xdp-2"),
    ]
    assert list(chosen(cases)) == [True, False, True, True, False, True, False]
    turns = [list(chosen(cases, turn)) for turn in (0, 1)]
    assert sorted([one[0], one[2]] for one in turns) == [
        [False, True],
        [True, False],
    ]  # a: on one hook, then on the other
    assert all([one[1], *one[3:]] == [False, True, False, True, False] for one in turns)
    assert [hook_of(case) for case in ("tc-1", "1-xdp", "vlan, tc", "etc", "")] == ["tc", "xdp", "tc", "", ""]


def test_kernels_take_turns() -> None:
    assert (turn_of("6.1.0-50-amd64"), turn_of("6.12.117+deb13-amd64"), turn_of("6.9-rc1")) == (1, 0, 1)


def test_beside_the_kernels_devices_each_case_takes_turns() -> None:
    nodes = [f"a.py::test_it[{case}]" for case in ("ipip-tc", "ipip-xdp", "ipip-stack", "match-tc-1", "match-xdp-1")]
    names = [named(one, packets=False) for one in nodes]
    assert names[0] == ("a.py::test_it[ipip-]", "tc")
    assert names[3] == ("a.py::test_it[match--1]", "tc")
    assert list(chosen(names)) == [True] * 5
    first, second = (list(chosen(names, turn)) for turn in (0, 1))
    assert first[2]
    assert second[2]
    assert [one != other for one, other in zip(first, second, strict=True)] == [True, True, False, True, True]
    assert sum(first) == sum(second) == 3
    assert named(nodes[0], packets=True) == ("a.py::test_it", "ipip-tc]")
