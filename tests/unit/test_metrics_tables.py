# SPDX-License-Identifier: Apache-2.0
"""What stands in maps, on the page: tunnels, FDB, conntrack, services."""

from __future__ import annotations

import pytest

from pydp import conntrack
from pydp.datapath import Fill
from pydp.fdb import Census
from pydp.kernel.conntrack import KernelConntrack
from pydp.metrics import tables
from pydp.metrics.found import Conntrack, Conntracks, FdbTable, Tunnels
from pydp.metrics.page import Page
from pydp.metrics.serving import summed_up
from pydp.services.counts import Count
from pydp.services.model import BackendState
from pydp.services.names import Named, Names
from pydp.tunnels import Tunnel
from pydp.tunnels.fates import Fate
from tests.unit.exported import Fixed, Values, of, values


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


ENDS = (
    Tunnel(0, "192.0.2.2", 100), Tunnel(1, "192.0.2.3", 100), Tunnel(2, "192.0.2.2", 200),
)  # fmt: skip
FATES = (Fate(0, "punt", "neighbour", 3), Fate(1, "punt", "neighbour", 4), Fate(1, "drop", "mtu", 5),
         Fate(2, "drop", "mtu", 6), Fate(9, "drop", "mtu", 7))  # fmt: skip


def test_punts_and_drops_of_tunnels_have_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> dict[tuple[str, str, str, str], float]:
        found = values(Page(lambda: Fixed(ends=[Tunnels("vxlan", "vxlan", ENDS, fates=FATES)])))
        return {
            tuple(dict(key)[one] for one in ("vni", "remote", "verdict", "reason")): number  # type: ignore[misc]
            for (name, key), number in found.items()
            if name == "pydp_tunnel_verdicts_total"
        }

    assert seen() == {
        ("100", "192.0.2.2", "punt", "neighbour"): 3,
        ("100", "192.0.2.3", "punt", "neighbour"): 4,
        ("100", "192.0.2.3", "drop", "mtu"): 5,
        ("200", "192.0.2.2", "drop", "mtu"): 6,
    }
    monkeypatch.setattr(tables, "MOST", 2)
    assert seen() == {("100", "", "punt", "neighbour"): 7, ("100", "", "drop", "mtu"): 5, ("200", "", "drop", "mtu"): 6}


def test_vteps_that_nobody_named_are_counted_where_there_may_be_some() -> None:
    ends = [Tunnels("named", "vxlan", []), Tunnels("any", "vxlan", [], guests=3, max_guests=4096)]
    found = values(Page(lambda: Fixed(ends=ends)))
    assert of(found, "pydp_tunnel_vteps", instance="any") == 0
    for name, expected in (("pydp_tunnel_guests", 3), ("pydp_tunnel_max_guests", 4096)):
        assert of(found, name, instance="any") == expected
        assert of(found, name, instance="named") is None


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


def test_operations_on_tables_that_count_them() -> None:
    fdb_events = {"learned": 11, "moved": 2, "aged": 3, "evicted": 4, "full": 5}
    flow_events = {name: number for number, name in enumerate(conntrack.EVENTS, 10)}
    found = values(
        Page(
            lambda: Fixed(
                fdbs=[FdbTable("lan", Census(1, 1, 1), 16, 32, fdb_events)],
                flows=Conntracks([Conntrack("nat", conntrack.Census(3, 40), 64, flow_events)]),
            )
        )
    )

    def operations(of_instance: str, name: str) -> dict[str, float]:
        labels = [
            (dict(labels), value) for (metric, labels), value in found.items() if metric == "pydp_map_operations_total"
        ]
        return {one["operation"]: n for one, n in labels if (one["instance"], one["map"]) == (of_instance, name)}

    assert operations("lan", "fdb") == {"insert": 11, "update": 2, "expire": 3, "evict": 4, "fail": 5}
    assert operations("nat", "nat_flows") == {"insert": 10, "expire": 11, "evict": 12, "fail": 13, "update": 17}
    assert of(found, "pydp_map_entries", instance="nat", map="nat_flows") == 43


def test_tunnels_above_the_bound_count_together_by_vni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST", 2)
    ends = [Tunnel(n, f"192.0.2.{n}", 100 + n // 2, 0, False, 1, 10, 2, 20) for n in range(3)]
    found = values(Page(lambda: Fixed(ends=[Tunnels("vxlan", "vxlan", ends)])))
    both = {"instance": "vxlan", "mode": "vxlan", "remote": ""}
    for vni, number in (("100", 2), ("101", 1)):
        assert of(found, "pydp_tunnel_packets_total", vni=vni, direction="send", **both) == number
        assert of(found, "pydp_tunnel_bytes_total", vni=vni, direction="receive", **both) == 20 * number
    assert len([name for name, _ in found if name == "pydp_tunnel_packets_total"]) == 4
    assert of(found, "pydp_tunnel_vteps", instance="vxlan") == 3
