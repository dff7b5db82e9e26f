# SPDX-License-Identifier: Apache-2.0
"""What is measured of frames that are sent by the clock: the highest rate without loss, and how long frames take at
shares of it, each way at its own; see traffic.py for what that means on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from pydp.bench import nat_paths, paths, tunnel_paths
from pydp.bench.blocks import Plan
from pydp.bench.floods import flood_of_frames, on_segment
from pydp.bench.nat_scenarios import established, on_rigs
from pydp.bench.paths import Shape
from pydp.bench.scenario import Comparison, Point, Scenario, Way
from pydp.bench.traffic import LOSS_FREE, Traffic, delay
from pydp.bench.tunnel_scenarios import ipip_encap, on_nodes, vxlan_encap

LOADS = {10: 0.03, 50: 0.3, 90: 1.0}  # percent of the rate without loss: s in which it is sought anew, after losses
_ADDRESSES = 256
_KERNEL, _NETFILTER = ("kernel",), ("iptables-nft", "nftables")
_SERVICE, _FLOWS = "NAT of a service", "1000 flows of UDP"
_SOUGHT = 1.5  # s until the rate without loss is known for the first time


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of frames, and the ways it may go; all are compared with pydp's. ``brief`` ones have a part in a quick
    run.
    """

    name: str
    title: str
    ways: Callable[[Traffic], tuple[Way, ...]]
    kernel: tuple[str, ...]
    limit: str
    brief: bool = False

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return (*([Comparison("pydp", self.kernel)] if self.kernel else []), Comparison("pydp", (self.limit,)))


def _bridge_xdp(traffic: Traffic) -> tuple[Way, ...]:
    ways = (paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("devmap"))
    return on_segment(ways, flood_of_frames(_ADDRESSES, "xdp", traffic=traffic), Shape(paths.XDP_OFFLOADS))


def _bridge_tc(traffic: Traffic) -> tuple[Way, ...]:
    ways = (paths.kernel(), paths.pydp("tc"), paths.bare_tc("peer"))
    return on_segment(ways, flood_of_frames(_ADDRESSES, "tc", traffic=traffic))


def _vxlan(traffic: Traffic, hook: str, limit: str) -> tuple[Way, ...]:
    ways = (tunnel_paths.kernel_vxlan(), tunnel_paths.pydp_vxlan(hook), tunnel_paths.bare(limit, hook))
    return on_nodes(ways, partial(vxlan_encap, hook=hook, traffic=traffic))


def _ipip(traffic: Traffic, hook: str, limit: str) -> tuple[Way, ...]:
    ways = (tunnel_paths.pydp_ipip(hook), tunnel_paths.bare(limit, hook))
    return on_nodes(ways, partial(ipip_encap, hook=hook, traffic=traffic))


def _nat(traffic: Traffic, hook: str, limit: str) -> tuple[Way, ...]:
    ways = (*map(nat_paths.native, _NETFILTER), nat_paths.pydp(hook))
    build = partial(established, protocol="udp", flows=1000, hook=hook, traffic=traffic)
    return on_rigs((*ways, nat_paths.bare(hook, limit)), build)


KINDS = (
    Kind("bridge-xdp", "bridge, XDP", _bridge_xdp, _KERNEL, "devmap", brief=True),
    Kind("bridge-tc", "bridge, tc", _bridge_tc, _KERNEL, "peer"),
    Kind("vxlan-xdp", "VXLAN, XDP, into the tunnel", partial(_vxlan, hook="xdp", limit="devmap"), _KERNEL, "devmap"),
    Kind("vxlan-tc", "VXLAN, tc, into the tunnel", partial(_vxlan, hook="tc", limit="redirect"), _KERNEL, "redirect"),
    Kind("ipip-xdp", "IPIP, XDP, into the tunnel", partial(_ipip, hook="xdp", limit="devmap"), (), "devmap"),
    Kind("ipip-tc", "IPIP, tc, into the tunnel", partial(_ipip, hook="tc", limit="redirect"), (), "redirect"),
    Kind("nat-xdp", f"{_SERVICE}, XDP, {_FLOWS}", partial(_nat, hook="xdp", limit="devmap"), _NETFILTER, "devmap"),
    Kind("nat-tc", f"{_SERVICE}, tc, {_FLOWS}", partial(_nat, hook="tc", limit="peer"), _NETFILTER, "peer"),
)


def _ways(kind: Kind, traffic: Traffic) -> tuple[Way, ...]:
    return tuple(replace(way, slow=way.slow + _SOUGHT) for way in kind.ways(traffic))


def _scenarios(kind: Kind) -> Iterator[Scenario]:
    yield Scenario(
        name=f"{kind.name}-lossfree",
        title=f"{kind.title}, 64-byte packets: highest rate without loss, sent from another CPU",
        unit="Mpps", scale=1e6,
        paths=_ways(kind, LOSS_FREE), comparisons=kind.comparisons,
        full=Plan(8, 0.8, 4), quick=Plan(5, 0.8, 2), brief=kind.brief,
    )  # fmt: skip
    for load, around in LOADS.items():
        yield Scenario(
            name=f"{kind.name}-latency-{load}",
            title=f"{kind.title}, 64-byte packets: one-way latency at {load} % of the rate without loss, median",
            unit="us", scale=1e-6, less=True,
            paths=_ways(kind, delay(load)), comparisons=kind.comparisons,
            full=Plan(12, 0.1, 12), quick=Plan(8, 0.05, 8), brief=kind.brief and load == 50,
            point=Point(f"{kind.name}-latency", f"{kind.title}: latency", "% of the rate without loss", load),
            around=around,
        )  # fmt: skip


LOAD_SCENARIOS: tuple[Scenario, ...] = tuple(one for kind in KINDS for one in _scenarios(kind))
