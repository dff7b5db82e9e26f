# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the exporter while all modes carry traffic: its numbers are those of the sinks, its rules
give results, and every query of every dashboard finds data.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pydp.datapath import Datapath
from pydp.kernel.linkstats import read_bridges
from pydp.metrics.families import FAMILIES
from pydp.monitoring import GRAFANA, PROMETHEUS
from pydp.monitoring.dashboards import BOARDS
from pydp.monitoring.dashboards.plots import Board
from tests.conftest import PREFIX
from tests.system.watching import INSTANCES, SPOOFED, Watched, descriptors_and_memory, make_watched

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(240)]

# Of what must not happen, or not in so short a time, a panel shows zeros.
QUIET = re.compile(
    r"drops_total|dropped_total|errors_total|squeezed_total|_(moved|aged|evicted|full|expired)_total|invalid_total"
    r"|insert_failures_total|port_exhausted_total|1 - pydp_"
)
COUNTERS = ("pydp_path_packets_total", "pydp_path_punts_total", "pydp_path_drops_total", "pydp_tunnel_packets_total",
            "pydp_tunnel_verdicts_total", "pydp_service_connections_total", "pydp_service_failures_total")  # fmt: skip
SCRAPES = 1000
OTHERS = 20  # ARP and ICMP beside the traffic
Counted = dict[tuple[tuple[str, str], ...], float]


@pytest.fixture(scope="module")
def before() -> dict[str, Counted]:
    return {}


@pytest.fixture(scope="module")
def watched(
    bpffs: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, before: dict[str, Counted]
) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:
        made = make_watched(stack, tmp_path_factory.mktemp("prometheus"), folder, PREFIX)
        made.warm_up()
        made.prometheus.wait_scraped()
        before |= {name: made.prometheus.query(name) for name in COUNTERS}
        made.traffic()
        yield made


def grown(watched: Watched, before: dict[str, Counted], name: str, **labels: str) -> float:
    """How much counters have grown by the traffic, those with these labels."""
    total = 0.0
    for key, value in watched.prometheus.query(name).items():
        if labels.items() <= dict(key).items():
            total += value - before[name].get(key, 0)
    return total


def test_prometheus_knows_hosts_and_instances_apart(watched: Watched) -> None:
    ask = watched.prometheus
    (labels,) = (dict(one) for one in ask.query('up{job="pydp"}'))
    assert labels["node"] == "127.0.0.1"
    found = {dict(one)["instance"]: dict(one) for one in ask.query("pydp_instance_info")}
    assert set(found) == set(INSTANCES)
    assert {one["node"] for one in found.values()} == {"127.0.0.1"}
    assert set(ask.query("pydp_collector_success").values()) == {1}
    # What no instance has keeps none of the exporter's address in its place.
    assert "instance" not in dict(next(iter(ask.query('pydp_conntrack_max_entries{path="kernel"}'))))


def test_the_numbers_are_those_of_the_sinks(watched: Watched, before: dict[str, Counted]) -> None:
    reports = watched.reports
    assert all(report.intact for report in reports.values()), reports
    sent = {name: report.received for name, report in reports.items()}

    port = {"instance": "br0", "device": "b0", "direction": "receive"}
    kinds = ("packets", "punts", "drops")
    seen = sum(grown(watched, before, f"pydp_path_{kind}_total", path="ebpf", **port) for kind in kinds)
    assert sent["br0"] <= seen <= sent["br0"] + OTHERS
    assert grown(watched, before, "pydp_path_packets_total", path="kernel", **port) == seen
    child = {"path": "ebpf", "instance": "macvlan", "device": "m1", "direction": "receive"}
    assert sent["macvlan"] <= grown(watched, before, "pydp_path_packets_total", **child) <= sent["macvlan"] + OTHERS
    for name in ("vxlan", "ipip"):
        carried = grown(watched, before, "pydp_tunnel_packets_total", instance=name, direction="send")
        assert sent[name] <= carried <= sent[name] + OTHERS
    out = {"path": "ebpf", "instance": "ipip", "device": "t0", "direction": "transmit"}
    assert sent["ipip"] <= grown(watched, before, "pydp_path_packets_total", **out) <= sent["ipip"] + OTHERS
    spoofed = {"instance": "ipip", "remote": "198.51.100.2", "verdict": "drop", "reason": "spoofed"}
    assert grown(watched, before, "pydp_tunnel_verdicts_total", **spoofed) == SPOOFED
    assert grown(watched, before, "pydp_path_drops_total", path="ebpf", instance="ipip", device="t0") == SPOOFED
    assert watched.answers == grown(watched, before, "pydp_service_connections_total", service="web")
    failures = grown(watched, before, "pydp_service_failures_total", service="void", reason="backend")
    assert failures == 3


def test_rules_are_evaluated_and_give_results(watched: Watched) -> None:
    groups = watched.prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    assert len({rule["name"] for rule in rules if rule["type"] == "alerting"}) == 15
    wanted = re.findall(r"record: (\S+)", (PROMETHEUS / "recording.yml").read_text())
    empty = [name for name in wanted if not watched.prometheus.query(name)]
    assert not empty
    shares = watched.prometheus.query("max_over_time(instance:pydp_fastpath:ratio_rate1m[5m])")
    assert {dict(key)["instance"] for key in shares} == set(INSTANCES)
    assert all(0 < share <= 1 for share in shares.values())


def targets(board: Board) -> Iterator[tuple[str, str, str]]:
    """(title, legend, query) of what Grafana is given, not of what it is made from."""
    for panel in json.loads((GRAFANA / "dashboards" / f"{board.uid}.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["legendFormat"], target["expr"]


def fault(title: str, legend: str, curves: Sequence[tuple[dict[str, str], list[float]]], quiet: bool) -> str:
    """What a panel would lack: "" for nothing."""
    values = [value for _, some in curves for value in some]
    if not any(math.isfinite(value) for value in values):
        return f"{title}: no data"
    if not quiet and not any(math.isfinite(value) and value > 0 for value in values):
        return f"{title}: nothing but zeros"
    for label in re.findall(r"{{(\w+)}}", legend):
        if label != "vni" and not any(labels.get(label) for labels, _ in curves):  # peers have none
            return f"{title}: no series has a {label}, which the legend asks for"
    return ""


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_query_of_every_dashboard_finds_the_traffic(watched: Watched, board: Board) -> None:
    """Asked as Grafana asks, for the time of the traffic: numbers, and not only zeros, but of what must not happen."""
    mode = f'{{mode="{board.mode}"}}' if board.mode else ""
    names = "|".join(sorted(dict(one)["instance"] for one in watched.prometheus.query(f"pydp_instance_info{mode}")))
    assert names
    counts_learned = any(one.learned is not None for one in watched.host.call(read_bridges).values())
    asked, faults = 0, []
    for title, legend, query in targets(board):
        if "pydp_bridge_learned_entries" in query and not counts_learned:
            continue  # before Linux 6.7
        text = query.replace("$__rate_interval", "4s").replace("$instance", names).replace("$node", "127.0.0.1")
        assert "$" not in text
        asked += 1
        if found := fault(title, legend, watched.prometheus.curves(text, *watched.times), bool(QUIET.search(query))):
            faults.append((found, text))
    assert not faults
    assert asked >= sum(len(plot.queries) for plot in board.plots) - 1


def test_a_panel_without_data_is_found(watched: Watched) -> None:
    ask = watched.prometheus

    def found(query: str, legend: str = "", *, quiet: bool = False) -> str:
        return fault("it", legend, ask.curves(query, *watched.times), quiet)

    assert found("pydp_no_such_metric") == "it: no data"
    assert found("0 * up / 0") == "it: no data"  # NaN
    assert found("0 * up") == "it: nothing but zeros"
    assert found("0 * up", quiet=True) == ""
    assert "no series has a place" in found("up", "{{node}} {{place}}")


def test_variables_of_dashboards_find_their_values(watched: Watched) -> None:
    for board in BOARDS:
        for query in board.variables.values():
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert found
            values = {dict(one).get(found[2]) for one in watched.prometheus.query(found[1].replace("$node", ".*"))}
            assert values
            assert None not in values


def counters(page: str) -> Mapping[str, float]:
    """Every series of a counter; prometheus_client's parser takes longer than the exporter."""
    series = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in series if FAMILIES[name.partition("{")[0]].kind == "counter"}


def test_a_thousand_scrapes_change_nothing(watched: Watched) -> None:
    host, exporter = watched.host, watched.exporter

    def state() -> tuple[object, str]:
        return host.call(lambda: Datapath().read().document()), host.run(["ip", "link"]).stdout

    attached = state()
    for _ in range(20):
        exporter.text()
    *descriptors, parent, child = descriptors_and_memory(exporter)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(stream) for stream in watched.streams.values()]
        before = last = counters(exporter.text())
        for _ in range(SCRAPES):
            now = counters(exporter.text())
            fallen = [series for series, value in last.items() if now.get(series, -1) < value]
            assert not fallen
            last = now
        reports = [stream.finish() for stream in running]
    assert all(report.intact for report in reports), reports
    assert sum(last.values()) > sum(before.values())
    assert state() == attached
    *after, parent_after, child_after = descriptors_and_memory(exporter)
    # Prometheus may have a connection open just now.
    assert all(now <= then + 3 for now, then in zip(after, descriptors, strict=True)), (descriptors, after)
    assert parent_after - parent < 4096  # kB
    assert child_after - child < 8192
