# SPDX-License-Identifier: Apache-2.0
"""Plots that more than one dashboard has."""

from __future__ import annotations

from pydp.monitoring.dashboards.plots import CHOSEN, NODE, WINDOW, Plot, total

_DEVICE, _TUNNEL = "{{instance}} {{device}} {{direction}}", "{{instance}} {{vni}} {{remote}} {{direction}}"
_EBPF, _KERNEL = 'path="ebpf"', 'path="kernel"'
_NOTE_EBPF = "Frames that eBPF carried to their end, at the port they came in by."
_NOTE_KERNEL = (
    "Link statistics of the same ports, and of the kernel's bridges and vxlan devices that the instance adopted: what "
    "came in and went out by either path."
)


def rates() -> list[Plot]:
    """eBPF and the kernel side by side."""
    return [
        Plot(
            "Packets: eBPF",
            {_DEVICE: total("pydp_path_packets_total", "instance, device, direction", _EBPF)},
            note=_NOTE_EBPF,
        ),
        Plot(
            "Packets: kernel",
            {_DEVICE: total("pydp_path_packets_total", "instance, device, direction", _KERNEL)},
            note=_NOTE_KERNEL,
        ),
        Plot(
            "Bits: eBPF",
            {"{{instance}} {{direction}}": f"8 * {total('pydp_path_bytes_total', 'instance, direction', _EBPF)}"},
            "bps",
        ),
        Plot(
            "Bits: kernel",
            {"{{instance}} {{direction}}": f"8 * {total('pydp_path_bytes_total', 'instance, direction', _KERNEL)}"},
            "bps",
        ),
    ]  # fmt: skip


def share() -> Plot:
    return Plot(
        "Share of the fast path",
        {
            "{{instance}}": f"{total('pydp_path_packets_total', 'node, instance', _EBPF)} / "
            f"(({total('pydp_path_packets_total', 'node, instance', _EBPF)} + "
            f"{total('pydp_path_punts_total', 'node, instance')}) > 0)"
        },
        "percentunit",
        "Of the packets that were the instance's business and were not dropped, those that eBPF carried to their end.",
        top=1,
    )


def verdicts() -> Plot:
    return Plot(
        "Verdicts",
        {"{{instance}} {{verdict}} {{reason}}": total("pydp_verdicts_total", "instance, verdict, reason")},
        note="What eBPF decided, with the reason of each punt and each drop.",
        stacked=True,
    )


def drops() -> list[Plot]:
    return [
        Plot("Drops: eBPF", {"{{instance}} {{device}}": total("pydp_path_drops_total", "instance, device", _EBPF)}),
        Plot(
            "Drops and errors: kernel",
            {
                "drops {{instance}} {{device}}": total("pydp_path_drops_total", "instance, device", _KERNEL),
                "errors {{instance}} {{device}}": total("pydp_link_errors_total", "instance, device"),
            },
        ),
    ]


def cost() -> list[Plot]:
    """What packets cost. The eBPF side needs `pydp exporter --program-stats`."""
    seconds = total("pydp_program_run_time_seconds_total", "instance, hook")
    busy = total("pydp_cpu_seconds_total", "node, state", 'state!="idle"', chosen=NODE)
    all_of_it = total("pydp_cpu_seconds_total", "node", chosen=NODE)
    softirq = total("pydp_cpu_seconds_total", "node", 'state="softirq"', chosen=NODE)
    taken = total("pydp_softnet_packets_total", "node", chosen=NODE)
    # What native XDP ends, softnet never takes. It may be that there is none.
    ended = total("pydp_verdicts_total", "node", 'hook="xdp", verdict=~"forward|drop"', chosen=NODE)
    return [
        Plot(
            "Time in eBPF programs per packet",
            {"{{instance}} {{hook}}": f"{seconds} / ({total('pydp_program_runs_total', 'instance, hook')} > 0)"},
            "s",
            "Mean of a run of the hook's program, without what the driver or the kernel then does to send the packet: "
            "the part of its latency that is eBPF's. Measured by the kernel while programs are timed (pydp exporter "
            "--program-stats, or sysctl kernel.bpf_stats_enabled).",
        ),
        Plot(
            "Softirq time per frame: the whole machine",
            {"{{node}}": f"{softirq} / (({taken} + ({ended} or 0 * {taken})) > 0)"},
            "s",
            "CPU time that a frame costs by the kernel's path and eBPF together, at each device that it comes in by; "
            "no time that it waits. Counted in ticks: good over seconds under load. Beside it stands what of that is "
            "eBPF's own. How long packets are under way by either path no counter tells: pydp bench and pydp compare "
            "measure that.",
        ),
        Plot(
            "CPUs busy with eBPF programs",
            {"{{instance}}": total("pydp_program_run_time_seconds_total", "instance")},
            "none",
            "1 is one CPU. Within the softirq time beside it, or system time for what this host sends.",
        ),
        Plot(
            "CPU time: the whole machine",
            {"{{node}} {{state}}": f"{busy} / ignoring (state) group_left {all_of_it}"},
            "percentunit",
            stacked=True,
        ),
    ]  # fmt: skip


def maps() -> list[Plot]:
    full = f"pydp_map_entries{{{CHOSEN}}} / (pydp_map_max_entries > 0)"
    return [
        Plot(
            "Maps: how full",
            {"{{instance}} {{map}}": f"max by (instance, map) ({full})"},
            "percentunit",
            top=1,
        ),
        Plot(
            "Table operations",
            {"{{instance}} {{map}} {{operation}}": total("pydp_map_operations_total", "instance, map, operation")},
            "ops",
            "Of the FDB and the conntrack table, which count them.",
        ),
    ]  # fmt: skip


def fdb() -> list[Plot]:
    events = ("learned", "moved", "aged", "evicted", "full")
    return [
        Plot(
            "Addresses in the FDB",
            {"{{instance}} {{kind}}": f"sum by (instance, kind) (pydp_fdb_entries{{{CHOSEN}}})",
             "{{instance}} room": f"sum by (instance) (pydp_fdb_max_entries{{{CHOSEN}}})"},
            "short",
        ),
        Plot(
            "FDB events",
            {f"{event} {{{{instance}}}}": total(f"pydp_fdb_{event}_total", "instance") for event in events},
            "ops",
        ),
    ]  # fmt: skip


def tunnels() -> list[Plot]:
    labels = "instance, vni, remote, direction"
    return [
        Plot(
            "Packets in tunnels",
            {_TUNNEL: f"topk(20, {total('pydp_tunnel_packets_total', labels)})"},
            note="As they are inside of it. The 20 busiest.",
        ),
        Plot(
            "Bits in tunnels",
            {_TUNNEL: f"topk(20, 8 * {total('pydp_tunnel_bytes_total', labels)})"},
            "bps",
        ),
        Plot(
            "Tunnels: left to the kernel, dropped",
            {
                "{{instance}} {{vni}} {{remote}} {{verdict}} {{reason}}": "topk(20, "
                + total("pydp_tunnel_verdicts_total", "instance, vni, remote, verdict, reason")
                + ")"
            },
            note="By tunnel and reason. What has no tunnel, as from a VTEP that is not known, is among the verdicts.",
        ),
        Plot("Other ends", {"{{instance}}": f"sum by (instance) (pydp_tunnel_vteps{{{CHOSEN}}})"}, "short"),
    ]  # fmt: skip


def conntrack() -> list[Plot]:
    table = f'{NODE}, instance=~"$instance|"'  # the kernel's own has no instance
    events = ("created", "expired", "evicted", "insert_failures", "port_exhausted")
    return [
        Plot(
            "Flows: eBPF and nf_conntrack",
            {"{{path}} {{instance}} {{kind}}": f"sum by (path, instance, kind) (pydp_conntrack_entries{{{table}}})"},
            "short",
        ),
        Plot(
            "Conntrack: how full",
            {
                "{{path}} {{instance}}": f"sum by (path, instance) (pydp_conntrack_entries{{{table}}}) / "
                f"sum by (path, instance) (pydp_conntrack_max_entries{{{table}}} > 0)"
            },
            "percentunit",
            top=1,
        ),
        Plot(
            "Conntrack events: eBPF",
            {
                f"{event} {{{{instance}}}}": total(f"pydp_conntrack_{event}_total", "instance", _EBPF)
                for event in events
            },
            "ops",
        ),
        Plot(
            "Conntrack events: kernel",
            {
                event: f"sum(rate(pydp_conntrack_{event}_total{{{NODE}, {_KERNEL}}}{WINDOW}))"
                for event in ("evicted", "insert_failures", "invalid")
            },
            "ops",
        ),
    ]  # fmt: skip


def netfilter() -> list[Plot]:
    """The kernel's rules beside what eBPF does instead."""
    return [
        Plot(
            "Packets that netfilter's rules matched",
            {
                "{{tool}} {{family}} {{table}} {{chain}}": "topk(20, "
                + total("pydp_netfilter_rule_packets_total", "tool, family, table, chain", chosen=NODE)
                + ")"
            },
        ),
        Plot(
            "Connections that netfilter's nat rules took",
            {"{{tool}} {{action}}": total("pydp_nat_rule_packets_total", "tool, action", chosen=NODE)},
            "ops",
        ),
    ]


def softnet() -> Plot:
    return Plot(
        "Softnet of each CPU",
        {
            "packets, CPU {{cpu}}": total("pydp_softnet_packets_total", "cpu", chosen=NODE),
            "dropped, CPU {{cpu}}": total("pydp_softnet_dropped_total", "cpu", chosen=NODE),
            "squeezed, CPU {{cpu}}": total("pydp_softnet_squeezed_total", "cpu", chosen=NODE),
        },
        note="The whole machine. Dropped: the backlog was full; squeezed: the time for frames was up, some were left.",
    )
