# SPDX-License-Identifier: Apache-2.0
"""Prometheus' files: promtool checks and tests them; every alert fires for what it is for and for nothing less."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pydp.metrics.families import FAMILIES
from pydp.monitoring import PROMETHEUS

TESTS = Path(__file__).resolve().parents[1] / "monitoring"
NODE = 'node="a"'
LAN = f'{NODE}, instance="lan"'
PATH = f'{LAN}, mode="bridge", device="p0", direction="receive"'
NAT = f'{NODE}, path="ebpf", instance="nat"'
_FOREIGN = {"up"}


@dataclass(frozen=True)
class Case:
    """An alert, series (with their growth in 15 s, or a constant) that must and that must not make it fire after
    ``minutes``, and the labels that it then has.
    """

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str]
    minutes: int = 16


def paths(carried: int, punted: int, dropped: int, received: int) -> dict[str, str]:
    """Packets in 15 s."""
    return {
        f'pydp_path_packets_total{{path="ebpf", {PATH}}}': f"0+{carried}x200",
        f'pydp_path_punts_total{{path="ebpf", {PATH}}}': f"0+{punted}x200",
        f'pydp_path_drops_total{{path="ebpf", {PATH}}}': f"0+{dropped}x200",
        f'pydp_path_packets_total{{path="kernel", {PATH}}}': f"0+{received}x200",
    }


def full(name: str, labels: str, entries: int, of: int = 100, kind: str = "") -> dict[str, str]:
    more = f', kind="{kind}"' if kind else ""
    return {
        f"pydp_{name}_entries{{{labels}{more}}}": f"{entries}x200",
        f"pydp_{name}_max_entries{{{labels}}}": f"{of}x200",
    }


MODE = {"mode": "bridge"}
A, LANS, FLOWS = {"node": "a"}, {"node": "a", "instance": "lan"}, {"node": "a", "instance": "nat", "path": "ebpf"}
CASES = [
    Case("PydpExporterDown", {f'up{{job="pydp", {NODE}}}': "0x200"}, {f'up{{job="pydp", {NODE}}}': "1x200"},
         {**A, "job": "pydp"}),
    Case("PydpCollectorFailing", {f'pydp_collector_success{{{NODE}, collector="fdb"}}': "0x200"},
         {f'pydp_collector_success{{{NODE}, collector="fdb"}}': "1x200"}, {**A, "collector": "fdb"}),
    Case("PydpDetached", {f'pydp_attached{{{LAN}, device="p0", hook="tc"}}': "0x200"},
         {f'pydp_attached{{{LAN}, device="p0", hook="tc"}}': "1x200"}, {**LANS, "device": "p0", "hook": "tc"}),
    Case("PydpFastPathShareLow", paths(1000, 3000, 0, 4000), paths(3000, 2000, 0, 5000), {**LANS, **MODE}),
    Case("PydpFastPathShareLow", paths(1000, 3000, 0, 4000), paths(10, 1000, 0, 1010), {**LANS, **MODE}),
    Case("PydpTrafficPassesBy", paths(0, 0, 0, 4000), paths(1000, 0, 0, 4000), {**LANS, **MODE}),
    Case("PydpTrafficPassesBy", paths(10, 0, 0, 4000), paths(10, 300, 0, 4000), {**LANS, **MODE}),
    Case("PydpDropsHigh", paths(10000, 0, 300, 10300), paths(100000, 0, 300, 100300), {**LANS, **MODE}),
    Case("PydpDropsHigh", paths(10000, 0, 300, 10300), paths(100, 0, 100, 200), {**LANS, **MODE}),
    Case("PydpSoftnetDrops", {f'pydp_softnet_dropped_total{{{NODE}, cpu="1", path="kernel"}}': "0+3x200"},
         {f'pydp_softnet_dropped_total{{{NODE}, cpu="1", path="kernel"}}': "77x200"}, A),
    Case("PydpMapAlmostFull", full("map", f'{LAN}, map="ipip_prefixes"', 95),
         full("map", f'{LAN}, map="ipip_prefixes"', 85), {**LANS, "map": "ipip_prefixes"}),
    Case("PydpMapAlmostFull", full("map", f'{LAN}, map="ipip_prefixes"', 95), full("map", f'{LAN}, map="fdb"', 95),
         {**LANS, "map": "ipip_prefixes"}),
    Case("PydpFdbAlmostFull", full("fdb", LAN, 95, kind="learned"), full("fdb", LAN, 85, kind="learned"), LANS),
    Case("PydpFdbEvicts",
         {f"pydp_fdb_evicted_total{{{LAN}}}": "0+1x200", f"pydp_fdb_full_total{{{LAN}}}": "0x200"},
         {f"pydp_fdb_evicted_total{{{LAN}}}": "9x200", f"pydp_fdb_full_total{{{LAN}}}": "9x200"}, LANS),
    Case("PydpConntrackAlmostFull", full("conntrack", NAT, 95, kind="new"), full("conntrack", NAT, 85, kind="new"),
         FLOWS),
    Case("PydpConntrackEvicts", {f"pydp_conntrack_evicted_total{{{NAT}}}": "0+5x200"},
         {f"pydp_conntrack_evicted_total{{{NAT}}}": "5x200"}, FLOWS),
    Case("PydpConntrackRefuses", {f"pydp_conntrack_insert_failures_total{{{NAT}}}": "0+5x200"},
         {f"pydp_conntrack_insert_failures_total{{{NAT}}}": "5x200"}, FLOWS),
    Case("PydpConntrackRefuses", {f"pydp_conntrack_port_exhausted_total{{{NAT}}}": "0+5x200"},
         {f"pydp_conntrack_port_exhausted_total{{{NAT}}}": "5x200"}, FLOWS),
    Case("PydpBackendDown",
         {f'pydp_service_backend_up{{{NODE}, instance="nat", service="web", backend="10.0.0.2:80"}}': "0x200"},
         {f'pydp_service_backend_up{{{NODE}, instance="nat", service="web", backend="10.0.0.2:80"}}': "1x200"},
         {**A, "instance": "nat", "service": "web", "backend": "10.0.0.2:80"}),
    Case("PydpServiceWithoutBackend",
         {f'pydp_service_failures_total{{{NODE}, instance="nat", service="web", reason="backend"}}': "0+1x200"},
         {f'pydp_service_failures_total{{{NODE}, instance="nat", service="web", reason="full"}}': "0+1x200"},
         {**A, "instance": "nat", "service": "web"}),
]  # fmt: skip


def rules(name: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"]:
        yield from group["rules"]


def promtool(*words: str, cwd: Path) -> None:
    done = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in PROMETHEUS.glob("*.yml"):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_the_configuration_is_valid(folder: Path) -> None:
    (folder / "targets").mkdir()
    (folder / "targets" / "lab.yml").write_text('- targets: ["192.0.2.10:9818"]\n')
    promtool("check", "config", "prometheus.yml", cwd=folder)
    promtool("check", "rules", "recording.yml", "alerts.yml", cwd=folder)


def test_the_recording_rules(folder: Path) -> None:
    shutil.copy(TESTS / "recording.test.yml", folder)
    promtool("test", "rules", "recording.test.yml", cwd=folder)


def test_every_recording_rule_is_tested() -> None:
    text = (TESTS / "recording.test.yml").read_text()
    assert not [one["record"] for one in rules("recording.yml") if one["record"] not in text]


def summary(alert: str) -> dict[str, str]:
    (rule,) = (one for one in rules("alerts.yml") if one["alert"] == alert)
    return dict(rule["labels"])


def one_test(case: Case, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """As promtool wants it. Texts of annotations are not compared, only labels: so by the series that ALERTS has."""
    labels = {"alertname": case.alert, "alertstate": "firing", **summary(case.alert), **case.labels}
    shown = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {
        "name": f"{case.alert} {'fires' if fires else 'is quiet'}",
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}',
                "eval_time": f"{case.minutes}m",
                "exp_samples": [{"labels": f"ALERTS{{{shown}}}", "value": 1}] if fires else [],
            }
        ],
    }


def test_every_alert_fires_when_it_should_and_else_does_not(folder: Path) -> None:
    tests = [
        one_test(case, series, fires=fires)
        for case in CASES
        for series, fires in ((case.fires, True), (case.quiet, False))
    ]
    document = {"rule_files": ["recording.yml", "alerts.yml"], "evaluation_interval": "30s", "tests": tests}
    (folder / "alerts.test.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "alerts.test.yml", cwd=folder)
    assert {case.alert for case in CASES} == {one["alert"] for one in rules("alerts.yml")}


def test_alerts_say_what_and_what_to_do() -> None:
    for one in rules("alerts.yml"):
        assert one["labels"]["severity"] in ("warning", "critical")
        assert "$labels.node" in one["annotations"]["summary"]
        assert one["annotations"]["description"].strip()


def test_rules_ask_for_metrics_that_there_are() -> None:
    known = {*FAMILIES, *_FOREIGN, *(one["record"] for one in rules("recording.yml"))}
    asked = set()
    for one in (*rules("recording.yml"), *rules("alerts.yml")):
        asked |= set(re.findall(r"\b(?:[a-z_]+:)?pydp_[a-z_0-9]+(?::[a-z_0-9]+)?\b", one["expr"]))
    assert asked
    assert asked <= known
