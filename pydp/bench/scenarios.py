# SPDX-License-Identifier: Apache-2.0
"""What is measured: kinds of traffic, the paths they take, and what is to be compared.

To add one, write a `Scenario` and put it into _ALL: everything else (interleaving, statistics, report) follows.
"""

from __future__ import annotations

from pydp.bench import paths
from pydp.bench.blocks import Plan
from pydp.bench.curves import BRIDGE_CURVES, NAT_CURVES
from pydp.bench.floods import flood_of_frames, on_segment
from pydp.bench.ipvlan_scenarios import IPVLAN_SCENARIOS
from pydp.bench.load_scenarios import LOAD_SCENARIOS
from pydp.bench.macvlan_scenarios import MACVLAN_SCENARIOS
from pydp.bench.nat_scenarios import NAT_SCENARIOS
from pydp.bench.paths import Shape
from pydp.bench.scenario import Comparison, Scenario
from pydp.bench.statistics import Target
from pydp.bench.streams import ROUND_TRIPS, connect_request, request_response, tcp_stream
from pydp.bench.tunnel_curves import TUNNEL_CURVES
from pydp.bench.tunnel_scenarios import TUNNEL_SCENARIOS

_XDP = Shape(offloads=paths.XDP_OFFLOADS)

# Frames: many short blocks. A virtual CPU changes its speed by half within moments, with what its neighbours do, and
# only close together do all paths meet the same. Sockets: a tool takes a second to say anything.
_ALL: tuple[Scenario, ...] = (
    Scenario(
        name="bridge-xdp-64",
        title="bridge, XDP, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("redirect"), paths.bare_xdp("devmap")),
            flood_of_frames(256, "xdp"), _XDP,
        ),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(3.4)),
            Comparison("pydp", ("redirect", "devmap"), Target(0.80)),
        ),
        full=Plan(60, 0.1, 60), quick=Plan(12, 0.05, 12),
    ),
    Scenario(
        name="bridge-counters",
        title="bridge, XDP, 64-byte packets: what counting costs",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.pydp("xdp"), paths.pydp("xdp", counters=False, name="uncounted")),
            flood_of_frames(256, "xdp"), _XDP,
        ),
        comparisons=(Comparison("pydp", ("uncounted",), Target(0.97)),),
        full=Plan(120, 0.1, 120), quick=Plan(40, 0.1, 40), brief=False,
    ),
    Scenario(
        name="bridge-tc-64",
        title="bridge, tc, 64-byte packets, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            flood_of_frames(256, "tc"),
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect", "peer"))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.05, 12),
    ),
    Scenario(
        name="bridge-stream",
        title="bridge, tc, TCP stream, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            tcp_stream,
        ),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(0.97)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("redirect", "peer")),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1),
    ),
    Scenario(
        name="bridge-request",
        title="bridge, tc, TCP request/response, 64 bytes",
        unit="k/s", scale=1e3, cpu_per="request",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("peer")),
            request_response,
        ),
        comparisons=(Comparison("pydp", ("kernel",), Target(1.1)), Comparison("pydp", ("peer",))),
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1), brief=False,
        around=ROUND_TRIPS,
    ),
    Scenario(
        name="bridge-connect",
        title="bridge, tc, TCP connect, request, close",
        unit="k/s", scale=1e3, cpu_per="connection",
        paths=on_segment(
            (paths.kernel(), paths.pydp("tc"), paths.bare_tc("peer")),
            connect_request,
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("peer",))),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    Scenario(
        name="bridge-xdp-stream",
        title="bridge, XDP, TCP stream, checksum offload off in the containers",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_segment(
            (paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("redirect")),
            tcp_stream, _XDP,
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect",))),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    *(
        Scenario(
            name=f"bridge-{hook}-stream-9000",
            title=f"bridge, {'XDP' if hook == 'xdp' else hook}, TCP stream, MTU 9000",
            unit="Gb/s", scale=1e9, cpu_per="kB",
            paths=on_segment((paths.kernel(), paths.pydp(hook)), tcp_stream, shape),
            comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("kernel",), per_cpu=True)),
            full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
        )
        for hook, shape in (("tc", Shape(mtu=9000)), ("xdp", Shape(paths.XDP_OFFLOADS, 9000)))
    ),
    *BRIDGE_CURVES,
    *TUNNEL_SCENARIOS,
    *TUNNEL_CURVES,
    *NAT_SCENARIOS,
    *NAT_CURVES,
    *MACVLAN_SCENARIOS,
    *IPVLAN_SCENARIOS,
    *LOAD_SCENARIOS,
)  # fmt: skip
_SUITES = list(dict.fromkeys(scenario.suite for scenario in _ALL))
SCENARIOS: tuple[Scenario, ...] = tuple(sorted(_ALL, key=lambda scenario: _SUITES.index(scenario.suite)))
