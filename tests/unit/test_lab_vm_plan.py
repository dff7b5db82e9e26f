# SPDX-License-Identifier: Apache-2.0
"""lab.yaml: what is read, and what is refused with the key at fault."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from pydp.errors import UsageError
from pydp.lab.vm import PlannedNode, read_plan

GOOD = """\
network: 192.168.123.0/24
nodes:
  - {name: node1, kernel: "6.1", role: data, address: 192.168.123.111}
  - {name: node2, kernel: "6.12", role: data, address: 192.168.123.114, cpus: 2, memory: 1024}
  - {name: watch, kernel: "6.12", role: monitoring, address: 192.168.123.120}
"""
ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / "lab.yaml"
    path.write_text(text)
    return path


def test_nodes_have_their_sizes_or_the_usual_ones(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, GOOD))
    assert plan.network == ipaddress.IPv4Network("192.168.123.0/24")
    assert plan.of_role("data") == (
        PlannedNode("node1", "6.1", "data", "192.168.123.111", 1, 2048),
        PlannedNode("node2", "6.12", "data", "192.168.123.114", 2, 1024),
    )
    assert [node.name for node in plan.of_role("monitoring")] == ["watch"]


def test_vagrants_own_is_one(tmp_path: Path) -> None:
    plan = read_plan(ROOT / "vagrant" / "lab.yaml")
    assert [len(plan.of_role(role)) for role in ("data", "monitoring")] == [2, 1]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("network: 192.168.123.0/24\n", "", "network is missing"),
        ("network: 192.168.123.0/24", "network: 192.168.123.1/24", "has host bits set"),
        (", role: monitoring", "", "role is missing"),
        ("role: monitoring", "role: spare", "watch: role is one of data, monitoring, not spare"),
        ('kernel: "6.1"', "kernel: 6.10", "node1: kernel has to be quoted"),
        ("192.168.123.114", "192.168.124.114", "node2: address 192.168.124.114 is not in 192.168.123.0/24"),
        ("192.168.123.114", "192.168.123.111", "two nodes have the address 192.168.123.111"),
        ("name: node2", "name: node1", "two nodes have the name node1"),
        ("name: node2", "name: Node_2", "Node_2: not a host name"),
        ("cpus: 2", "cores: 2", "node2: no such key: cores"),
        ("cpus: 2", "cpus: many", "node2: cpus"),
        ("cpus: 2", "cpus: 0", "node2: cpus is 1 at least"),
        ("memory: 1024", "memory: 64", "node2: memory is 512 at least"),
        ("nodes:", "nodes: [", "while parsing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after))
    with pytest.raises(UsageError) as refused:
        read_plan(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "network: 10.0.0.0/8\nnodes: 5", "network: 10.0.0.0/8\nnodes: [5]"])
def test_other_documents_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"lab\.yaml: "):
        read_plan(written(tmp_path, text))


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lab\.yaml: No such file"):
        read_plan(tmp_path / "lab.yaml")
