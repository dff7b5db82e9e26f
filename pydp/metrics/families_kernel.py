# SPDX-License-Identifier: Apache-2.0
"""Metrics of what the kernel counts by itself, beside those that have both sides."""

from __future__ import annotations

from pydp.metrics.family import Family

_BRIDGE = ("path", "instance", "device")
_NAT = ("path", "tool", "action")
_CHAIN = ("path", "tool", "family", "table", "chain")
KERNEL = (
    Family(
        "pydp_link_errors_total", "counter",
        "rx_errors and tx_errors of the link statistics, of the devices that pydp_path_packets_total has with "
        'path="kernel".',
        ("path", "mode", "instance", "device", "direction"),
    ),
    Family(
        "pydp_bridge_learned_entries", "gauge",
        "Addresses that a kernel bridge has learned and keeps; absent before Linux 6.7, which did not count them.",
        _BRIDGE,
    ),
    Family("pydp_bridge_max_learned_entries", "gauge", "How many it may learn, 0 for no limit.", _BRIDGE),
    Family(
        "pydp_nat_rules", "gauge",
        "Rules of netfilter's nat tables in this namespace, by what they do.",
        _NAT,
    ),
    Family(
        "pydp_nat_rule_packets_total", "counter",
        "Packets that these rules matched: the first of each connection. Of nftables' rules those with a counter.",
        _NAT,
    ),
    Family(
        "pydp_netfilter_rules", "gauge",
        "Rules of netfilter in this namespace by chain, those of iptables-nft among nftables'. With too many chains "
        "all of a tool and family count together.",
        _CHAIN,
    ),
    Family(
        "pydp_netfilter_rule_packets_total", "counter",
        "Packets that the rules of a chain matched, one as often as rules matched it; of nftables those with a "
        "counter. A rule that goes takes what it counted along.",
        _CHAIN,
    ),
    Family(
        "pydp_netfilter_rule_bytes_total", "counter",
        "Bytes of the packets of pydp_netfilter_rule_packets_total.",
        _CHAIN,
    ),
    Family(
        "pydp_softnet_packets_total", "counter",
        "Frames that a CPU's softnet took, of the whole machine: all but those that XDP sent on before.",
        ("path", "cpu"),
    ),
    Family(
        "pydp_softnet_dropped_total", "counter",
        "Frames dropped as a CPU's backlog was full (net.core.netdev_max_backlog), of the whole machine.",
        ("path", "cpu"),
    ),
    Family(
        "pydp_softnet_squeezed_total", "counter",
        "Times a CPU had frames left when its time for them was up (net.core.netdev_budget), of the whole machine.",
        ("path", "cpu"),
    ),
    Family(
        "pydp_cpu_seconds_total", "counter",
        'Time of all CPUs of the machine by state; the kernel\'s path and eBPF run in "softirq", or in "system" for '
        "what sockets of this host send.",
        ("path", "state"),
    ),
    Family(
        "pydp_program_stats_enabled", "gauge",
        "1 while the kernel counts and times runs of programs: by the sysctl kernel.bpf_stats_enabled, or by "
        "--program-stats of this exporter.",
    ),
)  # fmt: skip
