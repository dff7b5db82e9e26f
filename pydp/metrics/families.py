# SPDX-License-Identifier: Apache-2.0
"""Every metric that pydp exports: its name, its meaning, its labels.

Labels, all bounded by what is configured (no learned addresses, no flows):

path        "ebpf" or "kernel": who counted, or whose it is
mode        of the instance ("bridge", ...)
instance    its name; "" for a kernel bridge or vxlan device that no instance adopted
device      a port's name when it was attached, or that of a kernel bridge or vxlan device
direction   "receive" or "transmit", as the device sees it; of tunnels "send" or "receive", as this host sees it
service     its name; "" for all services of an instance, where they are too many
backend     ADDR:PORT, or PORT of this host; "" for all backends of a service, where they are too many
state       of backends: "ready", "draining", "down"
tool        "iptables", "ip6tables" (the legacy ones), "nftables" (and iptables-nft); action: what a rule does
vni         of a tunnel: its VXLAN network identifier, or key; "" without
remote      of a tunnel: the address of the VTEP, multicast group or peer
hook        "tc", "tc-egress", "xdp", "xdp-generic"
verdict     "forward", "flood", "punt", "drop", "pass"; reason is the rest of the verdict's name in abi.h, in lower case
map         name of a map in the C text
kind        of addresses: "learned", "permanent", "local"; of flows: "new", "assured", of the kernel's "all"
operation   "insert", "update", "expire", "evict", "fail" (there was no place)
family      of rules: "ip", "ip6", "inet", "arp", "bridge", "netdev"; table, chain: their names, "" where too many
cpu         number of a CPU; state, of CPU time: as in /proc/stat
collector   "datapath", "kernel", "programs", "maps", "fdb", "tunnels", "conntrack", "services", "rules", "machine"

A port counts for one instance in the pydp_path_* metrics, the one that decides about its frames, and has the same
labels on both sides but for path. Counters go on when an instance is replaced; a detach ends them.

The kernel does not count what programs do to a map: pydp_map_operations_total is there for tables that count that
themselves, the FDB and the conntrack table.

How many series there are at the most:

a port      4 of path="ebpf" for each direction, 8 of path="kernel", 4 for each hook, 2 for each verdict that occurred
            (there are 64, some 20 occur); an instance has up to 256 ports
a bridge or vxlan device of the kernel   10; 256 of those that no instance adopted, the others are left out
an instance 20, 2 for each of its maps that can fill up (up to 10), 25 with an FDB, 25 with a conntrack table
a tunnel    4, 1 for each punt or drop that occurred (some 5); above 10,000 tunnels of an instance those of a VNI count
            together, and 65,536 pairs of tunnel and verdict are counted at all
a backend   7, a service up to 4 failures; above 10,000 backends those of a service count together, and above 10,000
            services all of them
a chain of netfilter with rules   3; above 200 chains those of a tool and family count together; nat actions 2 each
a CPU       3; the machine 9; a collector 2

So 256 ports with a bridge make some 15,000 series, and 10,000 services with a backend each 70,000.
"""

from __future__ import annotations

from pydp.metrics.families_kernel import KERNEL
from pydp.metrics.family import Family
from pydp.metrics.serving import MOST

_PATH = ("path", "mode", "instance", "device", "direction")
_PORT = ("instance", "device", "hook")
_VERDICT = (*_PORT, "verdict", "reason")
_MAP = ("instance", "map")
_TUNNEL = ("instance", "mode", "vni", "remote", "direction")
_CONNTRACK = ("path", "instance")
_SERVED = ("instance", "service", "backend")
_ALL = (
    Family(
        "pydp_path_packets_total", "counter",
        'Frames by path. path="ebpf": those that eBPF forwarded, flooded, encapsulated or decapsulated, at the port '
        "they came in by; which port they left by is not counted, so there is direction transmit only where a program "
        "encapsulates what leaves by a port. What a companion device of the kernel carries is not among them. "
        'path="kernel": link statistics, by netlink, of ports and of all kernel bridges (mode "bridge") and vxlan '
        'devices (mode "vxlan"): what the device received and sent, by either path, but for frames that eBPF handed '
        "straight to a veth's peer, which no transmit counts.",
        _PATH,
    ),
    Family(
        "pydp_path_bytes_total", "counter",
        "Bytes of the frames of pydp_path_packets_total, from the Ethernet header on; on a tc hook and on veth a GSO "
        "frame counts once.",
        _PATH,
    ),
    Family(
        "pydp_path_drops_total", "counter",
        'Frames dropped. path="ebpf": by verdict. path="kernel": rx_dropped and tx_dropped of the link statistics.',
        _PATH,
    ),
    Family(
        "pydp_verdicts_total", "counter",
        "Packets by what eBPF decided about them. Verdicts that never occurred are left out. A packet that an XDP "
        'program leaves to the tc program of its port (punt, reason "flood", among others) is counted by both.',
        _VERDICT,
    ),
    Family(
        "pydp_path_punts_total", "counter",
        'Frames that eBPF left to the kernel, counted once by the program of the port that saw them last. Always '
        'path="ebpf": the share of the fast path is pydp_path_packets_total over its sum with these.',
        _PATH,
    ),
    Family("pydp_verdict_bytes_total", "counter", "Bytes of the packets of pydp_verdicts_total.", _VERDICT),
    Family(
        "pydp_fastpath_ratio", "gauge",
        "Share of the packets not dropped that eBPF carried to their end, since the counters began; the rest was left "
        "to the kernel. Packets that are none of the instance's business do not count. Absent until a packet came.",
        ("instance",),
    ),
    Family(
        "pydp_map_entries", "gauge",
        "Entries of maps that can fill up; of the FDB, a table inside an array, the live addresses.",
        _MAP,
    ),
    Family("pydp_map_max_entries", "gauge", "Entries that these maps have room for.", _MAP),
    Family(
        "pydp_map_operations_total", "counter",
        "What the datapath did to a table that counts it: the FDB and the conntrack table.",
        (*_MAP, "operation"),
    ),
    Family("pydp_instance_info", "gauge", "An attached instance, always 1.", ("instance", "mode", "hook")),
    Family(
        "pydp_program_info", "gauge",
        "A loaded program, always 1. Of several instances on a port the one that decides is named.",
        (*_PORT, "name", "id", "tag"),
    ),
    Family(
        "pydp_program_runs_total", "counter",
        "Runs of the hook's programs, counted by the kernel while pydp_program_stats_enabled is 1. Replaced programs "
        "count on, as far as this exporter saw them.",
        _PORT,
    ),
    Family(
        "pydp_program_run_time_seconds_total", "counter",
        "Time that the runs of pydp_program_runs_total took.",
        _PORT,
    ),
    Family("pydp_attached", "gauge", "1 while the program runs on the port, 0 when port or link are gone.", _PORT),
    Family("pydp_fdb_entries", "gauge", "Live addresses in the FDB, by kind.", ("instance", "kind")),
    Family("pydp_fdb_max_entries", "gauge", "Addresses that the FDB was made for (--fdb-size).", ("instance",)),
    Family("pydp_fdb_learned_total", "counter", "Addresses learned.", ("instance",)),
    Family("pydp_fdb_moved_total", "counter", "Addresses that moved to another port.", ("instance",)),
    Family("pydp_fdb_aged_total", "counter", "Entries found too old and replaced or learned again.", ("instance",)),
    Family(
        "pydp_fdb_evicted_total", "counter",
        "Live entries that had to go for a new address: the FDB is too small.",
        ("instance",),
    ),
    Family(
        "pydp_fdb_full_total", "counter",
        "Times an address was not learned for lack of a place: all it could have were permanent, or just being "
        "written.",
        ("instance",),
    ),
    Family(
        "pydp_tunnel_packets_total", "counter",
        "Packets that a tunnel carried, as they are inside of it: those that eBPF encapsulated and decapsulated, and "
        "those that it handed to a companion device of the kernel for it or got from there. A GSO frame counts once.",
        _TUNNEL,
    ),
    Family("pydp_tunnel_bytes_total", "counter", "Bytes of the packets of pydp_tunnel_packets_total.", _TUNNEL),
    Family(
        "pydp_tunnel_verdicts_total", "counter",
        "Packets from or for a tunnel that eBPF left to the kernel (punt) or dropped, by reason: a part of those in "
        "pydp_verdicts_total, counted as they are. Those that a companion device carries then are in "
        "pydp_tunnel_packets_total, too. Absent until one occurs; packets of nobody who is known have no tunnel.",
        ("instance", "mode", "vni", "remote", "verdict", "reason"),
    ),
    Family(
        "pydp_tunnel_vteps", "gauge",
        "Other ends of tunnels that the instance was told of: VTEPs and multicast groups, once per VNI, or peers.",
        ("instance",),
    ),
    Family(
        "pydp_tunnel_guests", "gauge",
        "VTEPs that nobody named and that are believed, once per VNI; absent without --any-source. What they carry is "
        "not in pydp_tunnel_packets_total.",
        ("instance",),
    ),
    Family("pydp_tunnel_max_guests", "gauge", "Room for such VTEPs until the next attach.", ("instance",)),
    Family(
        "pydp_conntrack_entries", "gauge",
        'Flows that live. kind="assured": both sides were heard, nothing evicts them; "new" are the others.',
        (*_CONNTRACK, "kind"),
    ),
    Family("pydp_conntrack_max_entries", "gauge", "Flows that there is room for (--flows).", _CONNTRACK),
    Family("pydp_conntrack_created_total", "counter", "Flows begun.", _CONNTRACK),
    Family(
        "pydp_conntrack_expired_total", "counter",
        "Flows whose time was over and that were found when room was needed.",
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_evicted_total", "counter",
        "Flows of which one side was heard only, and that had to go for others before their time: the table is full.",
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_insert_failures_total", "counter",
        'Flows that found no room. path="kernel": drop and insert_failed of nf_conntrack.',
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_port_exhausted_total", "counter", "Flows that found no free port for their source.", _CONNTRACK
    ),
    Family(
        "pydp_conntrack_races_total", "counter",
        "Flows that another CPU was just noting, too: the packet was dropped or came later.",
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_picked_up_total", "counter",
        "Connections that were there before the table knew them.",
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_moved_total", "counter",
        "Flows that went to another backend since theirs had gone.",
        _CONNTRACK,
    ),
    Family(
        "pydp_conntrack_reset_total", "counter", "Connections that were reset since their backend had gone.", _CONNTRACK
    ),
    Family("pydp_conntrack_invalid_total", "counter", "Packets that nf_conntrack found to belong to none.", _CONNTRACK),
    Family("pydp_services", "gauge", "Services of an instance.", ("instance",)),
    Family("pydp_service_backends", "gauge", "Backends of all services, by their state.", ("instance", "state")),
    Family(
        "pydp_service_backend_up", "gauge",
        "0 while probes say that the backend does not answer (pydp healthcheck), else 1. Absent where backends are too "
        "many for a series each.",
        _SERVED,
    ),
    Family(
        "pydp_service_connections_total", "counter",
        f"Connections that a backend was chosen for. With more than {MOST} backends all of a service count together, "
        "with as many services all of these; the same holds for the other pydp_service_* metrics.",
        _SERVED,
    ),
    Family("pydp_service_flows", "gauge", "Flows to a backend that live.", _SERVED),
    Family(
        "pydp_service_packets_total", "counter",
        "Packets that went to a backend (send) and came from it (receive). A GSO frame counts once.",
        (*_SERVED, "direction"),
    ),
    Family(
        "pydp_service_bytes_total", "counter",
        "Bytes of the packets of pydp_service_packets_total.",
        (*_SERVED, "direction"),
    ),
    Family(
        "pydp_service_failures_total", "counter",
        'Packets that could not go on to a backend. reason="backend": there was none; "full": no room for the flow; '
        '"exhausted": no free port for its source; "ended": its backend has gone. Absent until one occurs.',
        ("instance", "service", "reason"),
    ),
    *KERNEL,
    Family("pydp_build_info", "gauge", "Versions of pydp and of the running kernel, always 1.", ("version", "kernel")),
    Family("pydp_collector_success", "gauge", "1 if the collector got what it reads.", ("collector",)),
    Family("pydp_collector_duration_seconds", "gauge", "Time the collector took to read.", ("collector",)),
)  # fmt: skip

FAMILIES = {family.name: family for family in _ALL}
