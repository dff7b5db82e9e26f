# SPDX-License-Identifier: Apache-2.0
"""From what was read to the page, without a datapath: the sources are plain values."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pydp import conntrack
from pydp.datapath import Attachment, Fill, Instance, ProgramRun, State, Verdict
from pydp.fdb import Census
from pydp.kernel.conntrack import KernelConntrack
from pydp.kernel.linkstats import LinkStats, VxlanDevice
from pydp.kernel.natrules import NatRules
from pydp.metrics.collectors import Conntrack, Conntracks, FdbTable, Links, Tunnels
from pydp.metrics.families import FAMILIES
from pydp.metrics.page import Page
from pydp.metrics.serving import Services, summed_up
from pydp.metrics.web import application
from pydp.modes.base import Role
from pydp.services.counts import Count
from pydp.services.model import BackendState
from pydp.services.names import Named, Names
from pydp.tunnels import Tunnel

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def instance(name: str, mode: str, ports: Mapping[int, str], hooks: tuple[str, ...] = ("tc",), **more: int) -> Instance:
    slots = {ifindex: slot for slot, ifindex in enumerate(ports)}
    return Instance(name, mode, {}, hooks[0], "auto", "", dict.fromkeys(slots, hooks), slots, ports, **more)


def state(*instances: Instance) -> State:
    places = {(ifindex, hook) for one in instances for ifindex in one.slots for hook in one.hooks[ifindex]}
    attachments = {}
    for ifindex, hook in places:
        names = sorted(one.name for one in instances if hook in one.hooks.get(ifindex, ()))
        one = Attachment(ifindex, hook, {name: number for number, name in enumerate(names)})
        attachments[one.key] = one
    return State(1, {one.name: one for one in instances}, attachments)


def verdict(
    ifindex: int, kind: str, packets: int, *, reason: str = "port", hook: str = "tc", name: str = "lan"
) -> Verdict:
    return Verdict(name, ifindex, f"p{ifindex}", hook, kind, reason, "", packets, packets * 100)


def program(ifindex: int, number: int, runs: int, *, name: str = "lan", running: bool = True) -> ProgramRun:
    return ProgramRun(name, ifindex, f"p{ifindex}", "tc", "pydp_tc", number, "abcd", runs, runs / 1000, running)


@dataclass
class Fixed:
    """Sources that say what they were told to, or raise it."""

    state: State = field(default_factory=lambda: state(instance("lan", "bridge", {1: "p1", 2: "p2"})))
    seen: Sequence[Verdict] = ()
    kernel: Links | Exception = field(default_factory=lambda: Links({}, {}))
    loaded: Sequence[ProgramRun] = ()
    filled: Sequence[Fill] = ()
    fdbs: Sequence[FdbTable] | Exception = ()
    ends: Sequence[Tunnels] = ()
    flows: Conntracks = field(default_factory=lambda: Conntracks(()))
    served: Sequence[Services] = ()
    filters: Sequence[NatRules] = ()

    def verdicts(self) -> Sequence[Verdict]:
        return self.seen

    def links(self) -> Links:
        if isinstance(self.kernel, Exception):
            raise self.kernel
        return self.kernel

    def programs(self) -> Sequence[ProgramRun]:
        return self.loaded

    def fills(self) -> Sequence[Fill]:
        return self.filled

    def tables(self) -> Sequence[FdbTable]:
        if isinstance(self.fdbs, Exception):
            raise self.fdbs
        return self.fdbs

    def tunnels(self) -> Sequence[Tunnels]:
        return self.ends

    def conntracks(self) -> Conntracks:
        return self.flows

    def services(self) -> Sequence[Services]:
        return self.served

    def rules(self) -> Sequence[NatRules]:
        return self.filters


def text(page: Page) -> str:
    return page.text().decode()


def values(page: Page) -> Values:
    """Every sample; a series that is there twice fails."""
    found: Values = {}
    for family in text_string_to_metric_families(text(page)):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"twice on the page: {sample}"
            found[key] = sample.value
    return found


def of(found: Values, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def path(
    found: Values, side: str, device: str, direction: str = "receive", what: str = "packets", **labels: str
) -> float | None:
    labels = {"mode": "bridge", "instance": "lan", **labels}
    return of(found, f"pydp_path_{what}_total", path=side, device=device, direction=direction, **labels)


def test_both_sides_of_a_port_differ_in_the_label_path_only() -> None:
    stats = LinkStats(rx_packets=50, tx_packets=7, rx_bytes=5000, tx_bytes=700, rx_dropped=1, tx_dropped=2)
    found = values(Page(lambda: Fixed(
        seen=[verdict(1, "forward", 30), verdict(1, "flood", 4), verdict(1, "punt", 9), verdict(1, "drop", 5)],
        kernel=Links({1: stats, 2: stats}, {}),
    )))  # fmt: skip
    assert [path(found, "ebpf", "p1", what=what) for what in ("packets", "bytes", "drops")] == [34, 3400, 5]
    assert [path(found, "kernel", "p1", what=what) for what in ("packets", "bytes", "drops")] == [50, 5000, 1]
    assert [path(found, "kernel", "p1", "transmit", what) for what in ("packets", "bytes", "drops")] == [7, 700, 2]
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


def test_tunnels_have_a_series_each_way_and_a_vni_where_there_is_one() -> None:
    ends = [
        Tunnels("vxlan", "vxlan", [
            Tunnel(0, "192.0.2.2", 100, 0, False, 3, 300, 4, 400), Tunnel(1, "239.1.1.1", 200, 1, True, 5, 500, 0, 0),
        ]),
        Tunnels("ipip", "ipip", [Tunnel(0, "192.0.2.9", None, 0, False, 7, 700, 8, 800)]),
    ]  # fmt: skip
    found = values(Page(lambda: Fixed(ends=ends)))
    near = {"instance": "vxlan", "mode": "vxlan", "vni": "100", "remote": "192.0.2.2"}
    assert of(found, "pydp_tunnel_packets_total", direction="send", **near) == 3
    assert of(found, "pydp_tunnel_bytes_total", direction="send", **near) == 300
    assert of(found, "pydp_tunnel_packets_total", direction="receive", **near) == 4
    assert of(found, "pydp_tunnel_bytes_total", direction="receive", **near) == 400
    peer = {"instance": "ipip", "mode": "ipip", "vni": "", "remote": "192.0.2.9"}
    assert of(found, "pydp_tunnel_packets_total", direction="receive", **peer) == 8
    assert of(found, "pydp_tunnel_vteps", instance="vxlan") == 2
    assert len([name for name, _ in found if name == "pydp_tunnel_packets_total"]) == 6


def test_vteps_that_nobody_named_are_counted_where_there_may_be_some() -> None:
    ends = [Tunnels("named", "vxlan", []), Tunnels("any", "vxlan", [], guests=3, max_guests=4096)]
    found = values(Page(lambda: Fixed(ends=ends)))
    assert of(found, "pydp_tunnel_vteps", instance="any") == 0
    for name, expected in (("pydp_tunnel_guests", 3), ("pydp_tunnel_max_guests", 4096)):
        assert of(found, name, instance="any") == expected
        assert of(found, name, instance="named") is None


def test_the_kernels_vxlan_devices_stand_beside_the_tunnels() -> None:
    stats = dict.fromkeys((1, 2, 7, 8, 9, 10, 11), LinkStats(1, 2, 3, 4, 5, 6))
    vxlans = {7: VxlanDevice("vx100", 10, 1), 8: VxlanDevice("vx7", 0, 4), 9: VxlanDevice("pydp-vx4789", 0, 0)}
    links = Links(stats, {10: "br100", 11: "br1"}, vxlans)
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
        Page(lambda: Fixed(adopting, kernel=Links(dict.fromkeys((1, 5, 6, 7), stats), {5: "br0", 6: "br1"})))
    )
    assert path(found, "kernel", "br0", instance="br0") == 1
    assert path(found, "kernel", "br1", instance="") == 1
    devices = {dict(labels)["device"] for name, labels in found if name == "pydp_path_packets_total"}
    assert devices == {"p1", "br0", "br1"}  # nobody asked for number 7


def test_a_bridge_that_took_the_name_its_port_had_makes_no_series_twice() -> None:
    port, bridge = LinkStats(1, 2, 3, 4, 5, 6), LinkStats(7, 8, 9, 10, 11, 12)
    adopting = state(instance("br0", "bridge", {1: "p1"}, adopted=5))
    found = values(Page(lambda: Fixed(adopting, kernel=Links({1: port, 5: bridge}, {5: "p1"}))))
    assert path(found, "kernel", "p1", instance="br0") == 1


def test_a_bridge_that_is_a_port_counts_as_one() -> None:
    stats = LinkStats(1, 2, 3, 4, 5, 6)
    found = values(Page(lambda: Fixed(state(instance("c", "count", {5: "br0"})), kernel=Links({5: stats}, {5: "br0"}))))
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


def test_a_program_whose_port_is_gone_is_not_attached() -> None:
    found = values(Page(lambda: Fixed(loaded=[program(1, 70, 0), program(2, 71, 0, running=False)])))
    assert of(found, "pydp_attached", instance="lan", device="p1", hook="tc") == 1
    assert of(found, "pydp_attached", instance="lan", device="p2", hook="tc") == 0


def test_the_fdb_and_other_maps() -> None:
    events = {"learned": 11, "moved": 2, "aged": 3, "evicted": 4, "full": 5}
    table = FdbTable("lan", Census(10, 3, 2), 1000, 2048, events)
    found = values(Page(lambda: Fixed(fdbs=[table], filled=[Fill("nat", "flows", "lru_hash", 7, 512)])))
    kinds = {
        kind: of(found, "pydp_fdb_entries", instance="lan", kind=kind) for kind in ("learned", "permanent", "local")
    }
    assert kinds == {"learned": 10, "permanent": 3, "local": 2}
    assert of(found, "pydp_fdb_max_entries", instance="lan") == 1000
    assert {one: of(found, f"pydp_fdb_{one}_total", instance="lan") for one in events} == events
    assert of(found, "pydp_map_entries", instance="lan", map="fdb") == 15
    assert of(found, "pydp_map_max_entries", instance="lan", map="fdb") == 2048
    assert of(found, "pydp_map_entries", instance="nat", map="flows") == 7


def test_conntrack_tables_have_the_kernels_beside_them() -> None:
    events = {name: number for number, name in enumerate(conntrack.EVENTS, 10)}
    table = Conntrack("nat", conntrack.Census(3, 40), 1024, events)
    flows = Conntracks([table], KernelConntrack(entries=7, max_entries=99, evicted=1, failures=2, invalid=3))
    found = values(Page(lambda: Fixed(flows=flows)))
    ours, kernels = {"path": "ebpf", "instance": "nat"}, {"path": "kernel", "instance": ""}
    assert of(found, "pydp_conntrack_entries", kind="new", **ours) == 3
    assert of(found, "pydp_conntrack_entries", kind="assured", **ours) == 40
    assert of(found, "pydp_conntrack_entries", kind="all", **kernels) == 7
    assert of(found, "pydp_conntrack_max_entries", **ours) == 1024
    assert of(found, "pydp_conntrack_max_entries", **kernels) == 99
    for name, number in (
        ("created", 10), ("expired", 11), ("evicted", 12), ("insert_failures", 13), ("port_exhausted", 14),
        ("races", 15), ("picked_up", 16), ("moved", 17), ("reset", 18),
    ):  # fmt: skip
        assert of(found, f"pydp_conntrack_{name}_total", **ours) == number
    for name, number in (("evicted", 1), ("insert_failures", 2), ("invalid", 3)):
        assert of(found, f"pydp_conntrack_{name}_total", **kernels) == number
    alone = values(Page(lambda: Fixed(flows=Conntracks([table]))))
    assert of(alone, "pydp_conntrack_max_entries", **kernels) is None


NAMED = Names(
    {0: "web", 5: "dns"},
    {
        1: Named("web", "10.0.1.2:80", 7, BackendState.READY, up=True),
        2: Named("web", "10.0.1.3:80", 8, BackendState.READY, up=False),
        3: Named("dns", "53", 9, BackendState.DRAINING, up=True),
        4: Named("dns", "53", 10, BackendState.DRAINING, up=True),  # by IPv6
    },
)
COUNTS = {number: Count(*(number * 10 + field for field in range(5))) for number in NAMED.backends}


def served(most: int) -> Values:
    one = summed_up("nat", NAMED, COUNTS, {5: (1, 0, 2, 0)}, {1: 11, 3: 13, 4: 14}, most)
    return values(Page(lambda: Fixed(served=[one])))


def test_backends_have_a_series_each() -> None:
    found = served(4)
    one = {"instance": "nat", "service": "web", "backend": "10.0.1.2:80"}
    assert of(found, "pydp_service_packets_total", direction="send", **one) == 10
    assert of(found, "pydp_service_bytes_total", direction="send", **one) == 11
    assert of(found, "pydp_service_packets_total", direction="receive", **one) == 12
    assert of(found, "pydp_service_bytes_total", direction="receive", **one) == 13
    assert of(found, "pydp_service_connections_total", **one) == 14
    assert of(found, "pydp_service_flows", **one) == 11
    assert of(found, "pydp_service_backend_up", **one) == 1
    assert of(found, "pydp_service_backend_up", **{**one, "backend": "10.0.1.3:80"}) == 0
    assert of(found, "pydp_services", instance="nat") == 2
    states = {state: of(found, "pydp_service_backends", instance="nat", state=state)
              for state in ("ready", "down", "draining")}  # fmt: skip
    assert states == {"ready": 1, "down": 1, "draining": 2}
    assert of(found, "pydp_service_failures_total", instance="nat", service="dns", reason="exhausted") == 2
    assert of(found, "pydp_service_failures_total", instance="nat", service="web", reason="backend") is None


def test_this_host_is_one_backend_by_both_ip_versions() -> None:
    host = {"instance": "nat", "service": "dns", "backend": "53"}
    found = served(4)
    assert of(found, "pydp_service_packets_total", direction="send", **host) == 70
    assert of(found, "pydp_service_flows", **host) == 27


def test_backends_above_the_bound_count_for_their_service() -> None:
    found = served(3)
    assert len([name for name, _ in found if name == "pydp_service_flows"]) == 2
    together = {"instance": "nat", "service": "web", "backend": ""}
    assert of(found, "pydp_service_packets_total", direction="send", **together) == 30
    assert of(found, "pydp_service_flows", **together) == 11
    assert of(found, "pydp_service_backend_up", **together) is None
    assert of(found, "pydp_service_failures_total", instance="nat", service="dns", reason="backend") == 1


def test_services_above_the_bound_count_together() -> None:
    found = served(1)
    whole = {"instance": "nat", "service": "", "backend": ""}
    assert of(found, "pydp_service_packets_total", direction="send", **whole) == 100
    assert of(found, "pydp_service_flows", **whole) == 38
    assert of(found, "pydp_service_failures_total", instance="nat", service="", reason="exhausted") == 2
    assert of(found, "pydp_services", instance="nat") == 2


def test_rules_of_the_kernel() -> None:
    rules = [NatRules("iptables", "dnat", 3, 40), NatRules("nftables", "masquerade", 1, 5)]
    found = values(Page(lambda: Fixed(filters=rules)))
    labels = {"path": "kernel", "tool": "iptables", "action": "dnat"}
    assert of(found, "pydp_nat_rules", **labels) == 3
    assert of(found, "pydp_nat_rule_packets_total", **labels) == 40


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
