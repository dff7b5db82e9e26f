# SPDX-License-Identifier: Apache-2.0
"""A dashboard for each mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydp.monitoring.dashboards import common
from pydp.monitoring.dashboards.plots import CHOSEN, NODE, Board, Plot, total

_SERVED = "service, backend"


def _board(mode: str, about: str, rows: Mapping[str, Sequence[Plot]]) -> Board:
    """A dashboard with the ROWS of a mode between those that all modes have."""
    paths = {"Paths": [common.share(), common.verdicts(), *common.rates()]}
    rest = {"Drops": common.drops(), "Latency and CPU": common.cost()}
    return Board(f"pydp-{mode}", f"pydp: {mode}", about, {**paths, **rows, **rest}, mode)


_LEARNED = Plot(
    "Addresses learned by the kernel's bridges",
    {"{{device}}": f"sum by (device) (pydp_bridge_learned_entries{{{CHOSEN}}})"},
    "short",
    "Of adopted bridges, which stay in place and learn on; Linux 6.7 and later.",
)
BRIDGE = _board(
    "bridge",
    "Bridging: known unicast in eBPF, the rest by the kernel's bridge where one is adopted.",
    {"FDB": [*common.fdb(), _LEARNED, common.maps()[1]]},
)
VXLAN = _board(
    "vxlan",
    "VXLAN: encapsulation in eBPF, copies and whatever is not plain by a device of the kernel.",
    {"Tunnels": common.tunnels(), "FDB": [*common.fdb(), *common.maps()]},
)
IPIP = _board(
    "ipip",
    "IP in IP, SIT and GRE without a tunnel device.",
    {"Tunnels": [*common.tunnels(), common.maps()[0]]},
)
_SERVICES = [
    Plot(
        "Connections to backends",
        {"{{service}} {{backend}}": f"topk(20, {total('pydp_service_connections_total', _SERVED)})"},
        "ops",
        "The 20 busiest; so with the other plots of backends.",
    ),
    Plot(
        "Packets to and from services",
        {"{{service}} {{direction}}": f"topk(20, {total('pydp_service_packets_total', 'service, direction')})"},
    ),
    Plot(
        "Bits to and from services",
        {"{{service}} {{direction}}": f"topk(20, 8 * {total('pydp_service_bytes_total', 'service, direction')})"},
        "bps",
    ),
    Plot(
        "Flows of backends",
        {"{{service}} {{backend}}": f"topk(20, sum by ({_SERVED}) (pydp_service_flows{{{CHOSEN}}}))"},
        "short",
    ),
    Plot(
        "Services and backends",
        {
            "services": f"sum by (instance) (pydp_services{{{CHOSEN}}})",
            "backends {{state}}": f"sum by (state) (pydp_service_backends{{{CHOSEN}}})",
            "backends that do not answer": f"sum(1 - pydp_service_backend_up{{{CHOSEN}}})",
        },
        "short",
    ),
    Plot(
        "Connections that failed",
        {"{{service}} {{reason}}": total("pydp_service_failures_total", "service, reason")},
        "ops",
        "Nothing to be seen: none has failed since the instance was attached.",
    ),
]
_RULES = Plot(
    "Rules of netfilter",
    {
        "{{tool}} {{family}} {{table}}": f"sum by (tool, family, table) (pydp_netfilter_rules{{{NODE}}})",
        "nat: {{tool}} {{action}}": f"sum by (tool, action) (pydp_nat_rules{{{NODE}}})",
    },
    "short",
)
NAT = _board(
    "nat",
    "Services, port forwarding and masquerade, with netfilter's own beside them.",
    {
        "Services": _SERVICES,
        "Conntrack": [*common.conntrack(), *common.maps()],
        "Netfilter": [
            *common.netfilter(),
            _RULES,
        ],
    },
)
MACVLAN = _board(
    "macvlan",
    "Containers with MAC addresses of their own on one device: frames by a look-up, without a bridge.",
    {},
)
IPVLAN = _board(
    "ipvlan",
    "Containers with IP addresses of their own on one device, and its MAC address: packets by a look-up.",
    {},
)
