# SPDX-License-Identifier: Apache-2.0
"""From what was read to the page, without a datapath: the sources are plain values."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pydp.datapath import Fill, Instance
from pydp.fdb import Census
from pydp.kernel.linkstats import BridgeDevice, LinkStats, VxlanDevice
from pydp.kernel.natrules import ChainRules, NatRules, RuleCounters
from pydp.kernel.softnet import Machine, Softnet
from pydp.metrics.families import FAMILIES
from pydp.metrics.found import FdbTable, Links, Tunnels
from pydp.metrics.page import Page
from pydp.metrics.programs import Programs
from pydp.metrics.web import application
from pydp.modes.base import Role
from pydp.tunnels import Tunnel
from tests.unit.exported import Fixed, instance, of, path, program, state, text, values, verdict


def test_both_sides_of_a_port_differ_in_the_label_path_only() -> None:
    stats = LinkStats(rx_packets=50, tx_packets=7, rx_bytes=5000, tx_bytes=700, rx_dropped=1, tx_dropped=2)
    found = values(Page(lambda: Fixed(
        seen=[verdict(1, "forward", 30), verdict(1, "flood", 4), verdict(1, "punt", 9), verdict(1, "drop", 5)],
        kernel=Links({1: stats, 2: stats}, {}),
    )))  # fmt: skip
    assert [path(found, "ebpf", "p1", what=what) for what in ("packets", "bytes", "drops")] == [34, 3400, 5]
    assert [path(found, "kernel", "p1", what=what) for what in ("packets", "bytes", "drops")] == [50, 5000, 1]
    assert [path(found, "kernel", "p1", "transmit", what) for what in ("packets", "bytes", "drops")] == [7, 700, 2]
    assert [path(found, "ebpf", one, what="punts") for one in ("p1", "p2")] == [9, 0]
    assert path(found, "kernel", "p1", what="punts") is None
    assert path(found, "ebpf", "p2") == 0  # nothing came: a zero, not a gap
    assert path(found, "ebpf", "p1", "transmit") is None


def test_the_share_of_the_fast_path_leaves_drops_out() -> None:
    seen = [verdict(1, "forward", 60), verdict(2, "flood", 15), verdict(2, "punt", 25), verdict(1, "drop", 900)]
    assert of(values(Page(lambda: Fixed(seen=seen))), "pydp_fastpath_ratio", instance="lan") == 0.75
    assert of(values(Page(Fixed)), "pydp_fastpath_ratio", instance="lan") is None


def test_what_xdp_left_to_the_tc_program_of_the_port_is_not_left_to_the_kernel() -> None:
    both = instance("lan", "bridge", {1: "p1"}, ("xdp", "tc"))
    seen = [
        verdict(1, "forward", 80, hook="xdp"),
        verdict(1, "punt", 20, hook="xdp", reason="flood"),
        verdict(1, "flood", 10),
        verdict(1, "punt", 10, reason="local"),
    ]
    found = values(Page(lambda: Fixed(state(both), seen)))
    assert of(found, "pydp_fastpath_ratio", instance="lan") == 0.9
    assert path(found, "ebpf", "p1") == 90


def overlay(hook: str) -> Instance:
    """Of mode vxlan: the underlay 1, a port 2, the companion 9."""
    both = ("xdp", "tc") if hook == "xdp" else ("tc",)
    roles = {1: Role.UNDERLAY, 9: Role.COMPANION}
    made = instance("lan", "vxlan", {1: "eth0", 2: "p0", 9: "pydp-vx4789"}, (hook,))
    return replace(made, hooks={1: (hook,), 2: both, 9: ("tc",)}, roles=roles, companion=9)


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_what_the_companion_carries_is_left_to_the_kernel(hook: str) -> None:
    """Each frame counts once, at the port it came in by and by the program that saw it last."""
    seen = [
        verdict(1, "forward", 40, hook=hook, reason="decap"),
        verdict(1, "punt", 10, hook=hook, reason="checksum"),  # comes back decapsulated, by the companion
        verdict(1, "pass", 500, hook=hook, reason="unclaimed"),  # somebody's ssh
        verdict(9, "forward", 10, reason="decap"),
        verdict(9, "drop", 3, reason="vtep"),
        verdict(2, "forward", 30, hook=hook, reason="encap"),
        verdict(2, "flood", 10),
        verdict(2, "punt", 10, reason="neighbour"),
    ]
    if hook == "xdp":
        seen.append(verdict(2, "punt", 20, hook="xdp", reason="flood"))
    found = values(Page(lambda: Fixed(state(overlay(hook)), seen)))
    assert [path(found, "ebpf", one, mode="vxlan") for one in ("eth0", "p0", "pydp-vx4789")] == [40, 40, 0]
    assert path(found, "ebpf", "pydp-vx4789", what="drops", mode="vxlan") == 3
    assert of(found, "pydp_fastpath_ratio", instance="lan") == 0.8


def test_the_kernels_vxlan_devices_stand_beside_the_tunnels() -> None:
    stats = dict.fromkeys((1, 2, 7, 8, 9, 10, 11), LinkStats(1, 2, 3, 4, 5, 6))
    vxlans = {7: VxlanDevice("vx100", 10, 1), 8: VxlanDevice("vx7", 0, 4), 9: VxlanDevice("pydp-vx4789", 0, 0)}
    links = Links(stats, {10: BridgeDevice("br100"), 11: BridgeDevice("br1")}, vxlans)
    adopting = replace(
        instance("vx100", "vxlan", {1: "eth0", 2: "p0"}, adopted=7, companion=9), roles={1: Role.UNDERLAY}
    )
    found = values(Page(lambda: Fixed(state(adopting), kernel=links)))
    series = (dict(labels) for name, labels in found if name == "pydp_path_packets_total")
    told = {one["device"]: (one["mode"], one["instance"]) for one in series if one["path"] == "kernel"}
    assert told == {
        "eth0": ("vxlan", "vx100"), "p0": ("vxlan", "vx100"), "vx100": ("vxlan", "vx100"), "vx7": ("vxlan", ""),
        "pydp-vx4789": ("vxlan", "vx100"), "br100": ("bridge", "vx100"), "br1": ("bridge", ""),
    }  # fmt: skip

    serving = values(Page(lambda: Fixed(state(overlay("tc")), kernel=links)))
    assert path(serving, "kernel", "pydp-vx4789", "transmit", mode="vxlan") == 2


def test_what_is_encapsulated_on_its_way_out_is_transmitted() -> None:
    made = replace(instance("lan", "bridge", {1: "eth0"}), hooks={1: ("xdp", "tc-egress")})
    seen = [
        verdict(1, "pass", 30, hook="xdp", reason="decap"),
        verdict(1, "punt", 10, hook="xdp", reason="header"),
        verdict(1, "pass", 20, hook="tc-egress", reason="encap"),
        verdict(1, "drop", 2, hook="tc-egress", reason="loop"),
        verdict(1, "pass", 99, hook="tc-egress", reason="unclaimed"),
    ]
    found = values(Page(lambda: Fixed(state(made), seen)))
    assert (path(found, "ebpf", "eth0"), path(found, "ebpf", "eth0", "transmit")) == (30, 20)
    assert path(found, "ebpf", "eth0", "transmit", "drops") == 2
    assert of(found, "pydp_fastpath_ratio", instance="lan") == 50 / 60


def test_a_port_with_two_instances_counts_for_the_one_that_decides() -> None:
    shared = state(instance("count", "count", {1: "p1"}), instance("lan", "bridge", {1: "p1"}))
    stats = LinkStats(9, 8, 900, 800, 0, 0)
    found = values(Page(lambda: Fixed(
        shared, [verdict(1, "forward", 3)], Links({1: stats}, {}), [program(1, 70, 12)],
    )))  # fmt: skip
    sides = [dict(labels) for name, labels in found if name == "pydp_path_packets_total"]
    assert len(sides) == 3
    assert {one["instance"] for one in sides} == {"lan"}
    for name in ("lan", "count"):
        assert of(found, "pydp_attached", instance=name, device="p1", hook="tc") == 1
    assert of(found, "pydp_fastpath_ratio", instance="count") is None


def test_kernel_bridges_are_there_with_and_without_an_instance() -> None:
    adopting = state(instance("br0", "bridge", {1: "p1"}, adopted=5))
    stats = LinkStats(1, 2, 3, 4, 5, 6)
    found = values(
        Page(
            lambda: Fixed(
                adopting,
                kernel=Links(dict.fromkeys((1, 5, 6, 7), stats), {5: BridgeDevice("br0"), 6: BridgeDevice("br1")}),
            )
        )
    )
    assert path(found, "kernel", "br0", instance="br0") == 1
    assert path(found, "kernel", "br1", instance="") == 1
    devices = {dict(labels)["device"] for name, labels in found if name == "pydp_path_packets_total"}
    assert devices == {"p1", "br0", "br1"}  # nobody asked for number 7


def test_a_bridge_that_took_the_name_its_port_had_makes_no_series_twice() -> None:
    port, bridge = LinkStats(1, 2, 3, 4, 5, 6), LinkStats(7, 8, 9, 10, 11, 12)
    adopting = state(instance("br0", "bridge", {1: "p1"}, adopted=5))
    found = values(Page(lambda: Fixed(adopting, kernel=Links({1: port, 5: bridge}, {5: BridgeDevice("p1")}))))
    assert path(found, "kernel", "p1", instance="br0") == 1


def test_a_bridge_that_is_a_port_counts_as_one() -> None:
    stats = LinkStats(1, 2, 3, 4, 5, 6)
    found = values(
        Page(
            lambda: Fixed(state(instance("c", "count", {5: "br0"})), kernel=Links({5: stats}, {5: BridgeDevice("br0")}))
        )
    )
    assert path(found, "kernel", "br0", instance="c", mode="count") == 1
    assert path(found, "kernel", "br0", instance="") is None


def test_runs_of_programs_never_fall_when_programs_are_replaced() -> None:
    sources = Fixed(loaded=[program(1, 70, 100)])
    page = Page(lambda: sources)
    labels = {"instance": "lan", "device": "p1", "hook": "tc"}
    seen = []
    for number, runs in ((70, 100), (70, 140), (71, 0), (71, 25), (72, 5)):
        sources.loaded = [program(1, number, runs)]
        found = values(page)
        seen.append(of(found, "pydp_program_runs_total", **labels))
        assert of(found, "pydp_program_run_time_seconds_total", **labels) == pytest.approx((seen[-1] or 0) / 1000)
    assert seen == [100, 140, 140, 165, 170]


def test_what_is_detached_is_forgotten() -> None:
    sources = Fixed(loaded=[program(1, 70, 100), program(2, 71, 5)])
    kept = Programs()
    for number in range(50):  # containers that come and go
        name = f"c{number}"
        sources.loaded = [program(1, 70, 100), replace(program(2, 80 + number, 1), device=name)]
        found = {labels: value for what, labels, value in kept.samples(sources.state, sources.loaded)
                 if what == "pydp_program_runs_total"}  # fmt: skip
        assert found == {("lan", "p1", "tc"): 100, ("lan", name, "tc"): 1}
    assert len(kept._last) == 2


def test_a_program_whose_port_is_gone_is_not_attached() -> None:
    found = values(Page(lambda: Fixed(loaded=[program(1, 70, 0), program(2, 71, 0, running=False)])))
    assert of(found, "pydp_attached", instance="lan", device="p1", hook="tc") == 1
    assert of(found, "pydp_attached", instance="lan", device="p2", hook="tc") == 0


def test_rules_of_the_kernel() -> None:
    rules = (NatRules("iptables", "dnat", 3, 40), NatRules("nftables", "masquerade", 1, 5))
    chains = (ChainRules("nftables", "inet", "web", "in", 2, 30, 400),)
    found = values(Page(lambda: Fixed(filters=RuleCounters(rules, chains))))
    labels = {"path": "kernel", "tool": "iptables", "action": "dnat"}
    assert of(found, "pydp_nat_rules", **labels) == 3
    assert of(found, "pydp_nat_rule_packets_total", **labels) == 40
    chain = {"path": "kernel", "tool": "nftables", "family": "inet", "table": "web", "chain": "in"}
    names = ("rules", "rule_packets_total", "rule_bytes_total")
    assert [of(found, f"pydp_netfilter_{name}", **chain) for name in names] == [2, 30, 400]


def test_what_the_machine_does() -> None:
    host = Machine([Softnet("0", 10, 1, 2), Softnet("1", 20, 3, 4)], {"softirq": 1.5, "idle": 9.0}, program_stats=True)
    found = values(Page(lambda: Fixed(host=host)))
    names = ("packets", "dropped", "squeezed")
    assert [of(found, f"pydp_softnet_{name}_total", path="kernel", cpu="1") for name in names] == [20, 3, 4]
    assert of(found, "pydp_cpu_seconds_total", path="kernel", state="softirq") == 1.5
    assert of(found, "pydp_program_stats_enabled") == 1


def test_what_is_attached_is_named() -> None:
    assert of(values(Page(Fixed)), "pydp_instance_info", instance="lan", mode="bridge", hook="tc") == 1


def test_bridges_of_nobody_are_bounded() -> None:
    bridges = {number: BridgeDevice(f"br{number}") for number in range(10, 400)}
    stats = dict.fromkeys((*bridges, 500), LinkStats(1, 2, 3, 4, 5, 6))
    adopting = state(instance("br500", "bridge", {1: "p1"}, adopted=500))
    links = Links(stats, bridges | {500: BridgeDevice("br500", 7, 0)})
    found = values(Page(lambda: Fixed(adopting, kernel=links)))
    devices = {dict(labels)["device"] for name, labels in found if name == "pydp_path_packets_total"}
    assert devices == {f"br{number}" for number in range(10, 266)} | {"br500", "p1"}
    learned = {"path": "kernel", "instance": "br500", "device": "br500"}
    assert of(found, "pydp_bridge_learned_entries", **learned) == 7
    assert of(found, "pydp_bridge_learned_entries", **{**learned, "device": "br10"}) is None


def test_errors_of_links() -> None:
    links = Links({1: LinkStats(1, 2, 3, 4, 5, 6, rx_errors=7, tx_errors=8)})
    found = values(Page(lambda: Fixed(kernel=links)))
    port = {"path": "kernel", "mode": "bridge", "instance": "lan", "device": "p1"}
    assert of(found, "pydp_link_errors_total", direction="receive", **port) == 7
    assert of(found, "pydp_link_errors_total", direction="transmit", **port) == 8


def test_a_collector_that_fails_leaves_a_gap_and_says_so() -> None:
    told: list[str] = []
    sources = Fixed(seen=[verdict(1, "forward", 3)], kernel=OSError("no netlink today"), fdbs=ValueError("odd"))
    page = Page(lambda: sources, told.append)
    found = values(page)
    success = {name: of(found, "pydp_collector_success", collector=name)
               for name in ("datapath", "kernel", "programs", "maps", "fdb")}  # fmt: skip
    assert success == {"datapath": 1, "kernel": 0, "programs": 1, "maps": 1, "fdb": 0}
    assert path(found, "ebpf", "p1") == 3
    assert path(found, "kernel", "p1") is None
    assert len(told) == 2
    assert "no netlink today" in told[0]

    values(page)
    assert len(told) == 2  # not at every scrape
    sources.kernel = Links({}, {})
    assert of(values(page), "pydp_collector_success", collector="kernel") == 1
    assert told[2:] == ["collector kernel: works again"]


def test_samples_that_cannot_be_made_leave_none_of_their_collector() -> None:
    stranger = replace(verdict(1, "punt", 3), instance="nobody")
    found = values(Page(lambda: Fixed(seen=[verdict(1, "forward", 3), stranger, verdict(1, "punt", 3)])))
    assert of(found, "pydp_collector_success", collector="datapath") == 0
    assert not [name for name, _ in found if name == "pydp_verdicts_total"]


def test_the_text_says_what_prometheus_client_would_say() -> None:
    odd = state(instance("lan", "bridge", {1: 'p"1\\x\ny', 2: "p2"}))
    stats = LinkStats(2**63, 2, 3, 4, 5, 6)
    page = Page(lambda: Fixed(odd, [verdict(1, "forward", 3), verdict(2, "punt", 4)], Links({1: stats}, {})))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(page)

    def parsed(page: str) -> list[object]:
        return [
            (family.name, family.type, family.documentation, [(s.name, s.labels, s.value) for s in family.samples])
            for family in text_string_to_metric_families(page)
            if family.name != "pydp_collector_duration_seconds"
        ]

    assert parsed(text(page)) == parsed(generate_latest(registry).decode())


def test_every_family_is_explained_on_the_page() -> None:
    page = text(Page(Fixed))
    for family in FAMILIES.values():
        assert f"# HELP {family.name} " in page
        assert f"# TYPE {family.name} {family.kind}\n" in page


def test_promtool_has_no_complaint() -> None:
    stats = LinkStats(1, 2, 3, 4, 5, 6)
    odd = state(instance("lan", "bridge", {1: 'p"1\\', 2: "p2"}))
    sources = Fixed(
        odd, [verdict(1, "forward", 3)], Links({1: stats}, {}), [program(1, 70, 5)], [Fill("lan", "m", "hash", 1, 2)],
        [FdbTable("lan", Census(1, 2, 3), 16, 32, {"learned": 1})],
        [Tunnels("lan", "vxlan", [Tunnel(0, "2001:db8::2", 100)])],
    )  # fmt: skip
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text(Page(lambda: sources)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("where", "status", "inside"),
    [
        ("/metrics", "200 OK", b"pydp_build_info{"),
        ("/", "200 OK", b"/metrics"),
        ("/x", "404 Not Found", b""),
    ],
)
def test_paths_of_the_server(where: str, status: str, inside: bytes) -> None:
    said: list[str] = []
    answer = application(Page(Fixed))
    body = b"".join(answer({"REQUEST_METHOD": "GET", "PATH_INFO": where}, lambda status, _: said.append(status)))
    assert said == [status]
    assert inside in body


def test_a_scrape_may_ask_for_some_names_only() -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": "name[]=pydp_build_info"}
    body = b"".join(application(Page(Fixed))(environ, lambda *_: None)).decode()
    assert [line.split("{")[0] for line in body.splitlines() if line[0] != "#"] == ["pydp_build_info"]
