# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the exporter while all modes carry traffic: its numbers are those of the sinks, its rules
give results, and every query of every dashboard finds data.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydp.datapath import Datapath
from pydp.kernel.linkstats import read_bridges
from pydp.monitoring import PROMETHEUS
from pydp.monitoring.dashboards import BOARDS
from pydp.monitoring.dashboards.plots import Board
from tests.conftest import PREFIX
from tests.system.watching import INSTANCES, Watched, descriptors_and_memory, make_watched

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(240)]

COUNTERS = ("pydp_path_packets_total", "pydp_path_punts_total", "pydp_path_drops_total", "pydp_tunnel_packets_total",
            "pydp_service_connections_total", "pydp_service_failures_total")  # fmt: skip
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
    for name in ("vxlan", "ipip"):
        carried = grown(watched, before, "pydp_tunnel_packets_total", instance=name, direction="send")
        assert sent[name] <= carried <= sent[name] + OTHERS
    out = {"path": "ebpf", "instance": "ipip", "device": "t0", "direction": "transmit"}
    assert sent["ipip"] <= grown(watched, before, "pydp_path_packets_total", **out) <= sent["ipip"] + OTHERS
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


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_query_of_every_dashboard_finds_data(watched: Watched, board: Board) -> None:
    mode = f'{{mode="{board.mode}"}}' if board.mode else ""
    names = "|".join(sorted(dict(one)["instance"] for one in watched.prometheus.query(f"pydp_instance_info{mode}")))
    assert names
    counts_learned = any(one.learned is not None for one in watched.host.call(read_bridges).values())
    empty = []
    for plot in board.plots:
        for query in plot.queries.values():
            if "pydp_bridge_learned_entries" in query and not counts_learned:
                continue  # before Linux 6.7
            asked = query.replace("$__rate_interval", "1m").replace("$instance", names).replace("$node", "127.0.0.1")
            assert "$" not in asked
            if not watched.prometheus.query(asked):
                empty.append((plot.title, asked))
    assert not empty


def test_variables_of_dashboards_find_their_values(watched: Watched) -> None:
    for board in BOARDS:
        for query in board.variables.values():
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert found
            values = {dict(one).get(found[2]) for one in watched.prometheus.query(found[1].replace("$node", ".*"))}
            assert values
            assert None not in values


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
        for _ in range(SCRAPES):
            exporter.text()
        reports = [stream.finish() for stream in running]
    assert all(report.intact for report in reports), reports
    assert state() == attached
    *after, parent_after, child_after = descriptors_and_memory(exporter)
    # Prometheus may have a connection open just now.
    assert all(now <= then + 3 for now, then in zip(after, descriptors, strict=True)), (descriptors, after)
    assert parent_after - parent < 4096  # kB
    assert child_after - child < 8192
