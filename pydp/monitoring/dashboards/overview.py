# SPDX-License-Identifier: Apache-2.0
"""The overview: kernel and eBPF side by side, for instances of every mode."""

from __future__ import annotations

from pydp.monitoring.dashboards import common
from pydp.monitoring.dashboards.plots import CHOSEN, NODE, Board, Plot, total

_CARRIED = total("pydp_path_packets_total", "node", 'path="ebpf"')
_DROPPED = total("pydp_path_drops_total", "node", 'path="ebpf"')
_SUCCESS = f"pydp_collector_success{{{NODE}}}"
_NOW = (
    Plot(
        "Share of the fast path",
        {"{{instance}}": f"pydp_fastpath_ratio{{{CHOSEN}}}"},
        "percentunit",
        "Since the counters began.",
        8,
        latest=True,
    ),
    Plot(
        "Packets: eBPF",
        {"eBPF": f"sum({_CARRIED})"},
        width=4,
        latest=True,
    ),
    Plot("Dropped", {"eBPF": f"sum({_DROPPED})"}, width=4, latest=True),
    Plot(
        "Programs that run",
        {"": f"sum(pydp_attached{{{CHOSEN}}})", "of": f"count(pydp_attached{{{CHOSEN}}})"},
        "none",
        width=4,
        latest=True,
    ),
    Plot(
        "Exporters that answer",
        {"": f'sum(up{{job="pydp", {NODE}}})', "of": f'count(up{{job="pydp", {NODE}}})'},
        "none",
        width=4,
        latest=True,
    ),
)
OVERVIEW = Board(
    "pydp-overview",
    "pydp: overview",
    "What eBPF carries, and what the kernel counts on the same devices.",
    {
        "Now": _NOW,
        "Rate": common.rates(),
        "Latency and CPU": common.cost(),
        "Drops": [*common.drops(), common.softnet(), common.verdicts()],
        "Fast path": [
            common.share(),
            Plot(
                "Of what the kernel's devices received, carried in eBPF",
                {"{{instance}}": f"instance:pydp_path_packets:ebpf_kernel_ratio_rate1m{{{CHOSEN}}}"},
                "percentunit",
                "By the recording rule of that name: both sides counted at the same devices.",
                top=1,
            ),
        ],
        "Tables": common.maps(),
        "Exporter": [
            Plot("Time to read", {"{{node}} {{collector}}": f"pydp_collector_duration_seconds{{{NODE}}}"}, "s"),
            Plot("Collectors that fail", {"{{node}}": f"sum by (node) (1 - {_SUCCESS})"}, "none"),
        ],
    },
)
