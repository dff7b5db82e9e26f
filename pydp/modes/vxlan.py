# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan: what the maps of bpf_src/vxlan.c should hold.

With VNIs named, the ports given and the VTEPs given are one segment each (standalone). With none, the vxlan devices
that the kernel has on the underlay are adopted, with the bridges they are ports of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.errors import UsageError
from pydp.model import Group, Link
from pydp.modes import table
from pydp.modes.base import Companion, Context, Control, Entries, Mode, Role, Target, Traits, View
from pydp.modes.bridge import ETHERNET_AND_TAG
from pydp.modes.fdb import buckets, fdb_key, forget_request, local_request, power_of_two, ticks
from pydp.modes.segments import Segment, adopted, ageing_of, standalone
from pydp.options import option

MAX_PORTS = 256  # VXLAN_PORTS
MAX_SEGMENTS = 4096  # VXLAN_SEGMENTS
MAX_VTEPS = 65536  # VXLAN_VTEPS
MAX_COPIES = 1024  # VTEPs of one segment: what a program may loop over
PRESENT, PEER, PUNT, LEARNING = 1, 2, 4, 8  # enum vxlan_port_flag
VTEP_PRESENT, VTEP_GROUP, VTEP_LEARNING = 1, 2, 4  # enum vxlan_vtep_flag
IPV4_HEADERS, IPV6_HEADERS = 50, 70  # outer IP, UDP, VXLAN and the inner Ethernet header, in bytes


@dataclass(frozen=True, slots=True)
class VxlanOptions:
    """Options of --mode vxlan. Without --vni, vxlan devices of the kernel are adopted and have their own."""

    vni: int | None = option(None, "int", "VXLAN network identifier", metavar="N", low=1, high=(1 << 24) - 1)
    local: str = option("", "text", "this end of the tunnels, an address of the underlay", metavar="ADDR")
    remote: tuple[str, ...] = option((), "texts", "a VTEP of the segment", metavar="ADDR")
    group: str = option("", "text", "multicast group that takes what is for several VTEPs", metavar="ADDR")
    port: tuple[str, ...] = option((), "names", "local port of the segment", metavar="DEV")
    dstport: int = option(4789, "int", "UDP port of the VTEPs", metavar="PORT", low=1, high=65535)
    srcport: str = option("", "text", "UDP source ports, LOW-HIGH (default: those of the system)", metavar="LOW-HIGH")
    ttl: str = option("auto", "text", "TTL outside: auto, inherit, or 1 to 255", metavar="TTL")
    tos: str = option("0", "text", "TOS outside: inherit, or 0 to 255", metavar="TOS")
    df: str = option(
        "unset", "choice", "whether packets may be fragmented outside", choices=("unset", "set", "inherit")
    )
    udp_csum: bool | None = option(None, "flag", "UDP checksums outside (default: none, or as the adopted device)")
    learning: bool = option(True, "flag", "learn which VTEP an address is behind from what it sends")
    ageing: float | None = option(
        None, "seconds", "forget an address not heard of for so long (default: 300, or the adopted bridge's)",
        metavar="SECONDS", low=0, high=1_000_000,
    )  # fmt: skip
    fdb_size: int = option(65536, "int", "addresses to keep", metavar="N", low=16, high=4_194_304)
    more: tuple[Mapping[str, Any], ...] = option((), "tables", "further segments: repeat the table in the file")


class VxlanMode(Mode):
    """See bpf_src/vxlan.c."""

    name = "vxlan"
    traits = Traits(
        order=30,
        depth=2,
        maps=frozenset(
            {
                "vxlan_ports", "vxlan_segments", "vxlan_vteps", "vxlan_known", "vxlan_hops", "vxlan_counts",
                "vxlan_tails", "fdb", "fdb_events", "fdb_clock", "fdb_requests", "fdb_cursor",
            }
        ),
        learned=frozenset({"fdb", "fdb_events", "vxlan_counts"}),
        tails={"vxlan_tails": "vxlan_copies"},
        control=Control("fdb_control", "fdb_requests", "fdb_cursor"),
        finishes=True,
        promiscuous=True,
    )  # fmt: skip
    Options = VxlanOptions

    def target(self, options: VxlanOptions, names: Sequence[str], view: View) -> Target:
        if len(names) != 1:
            raise UsageError("mode vxlan has one underlay", hint="local ports of the segment: --port DEV")
        underlay = view.link(names[0])
        if options.vni is None:
            return self._adopt(options, underlay, view)
        segments = standalone(options, view)
        ports = tuple(dict.fromkeys(ifindex for segment in segments for ifindex in segment.ports))
        for ifindex in ports:
            _check_port(view.links[ifindex], underlay, view)
        if len(ports) + 2 > MAX_PORTS:
            raise UsageError(f"{len(ports)} local ports: {MAX_PORTS - 2} at most")
        companion = Companion(f"pydp-vx{options.dstport}", options.dstport, segments[0].port_range)
        return Target((underlay.ifindex, *ports), roles={underlay.ifindex: Role.UNDERLAY}, companion=companion)

    def _adopt(self, options: VxlanOptions, underlay: Link, view: View) -> Target:
        segments = adopted(options, underlay.ifindex, view)
        if not segments:
            raise UsageError(
                f"{underlay.name} carries no vxlan device of the kernel, and no --vni says what to make of it",
                hint=f"pydp attach --mode vxlan --vni N --local ADDR --remote ADDR --port DEV {underlay.name}, or "
                f"ip link add vxN type vxlan id N dev {underlay.name} ..., which is then adopted",
            )
        ports = tuple(dict.fromkeys(ifindex for segment in segments for ifindex in segment.ports))
        companion = Companion(f"pydp-vx{segments[0].dstport}", segments[0].dstport, serving=False)
        roles = {underlay.ifindex: Role.UNDERLAY}
        return Target((underlay.ifindex, *ports), adopted=segments[0].device, roles=roles, companion=companion)

    def hooks(self, options: VxlanOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """XDP cannot copy a frame nor hand it to a device: without the kernel's bridge a tc program beside it does."""
        role = target.role(ifindex)
        if role == Role.COMPANION:
            return ("tc",)
        return (hook,) if hook == "tc" or target.adopted or role == Role.UNDERLAY else (hook, "tc")

    def constants(self, options: VxlanOptions, context: Context) -> Mapping[str, int]:
        segments = _segments(options, context)
        underlay = next(ifindex for ifindex, role in context.target.roles.items() if role == Role.UNDERLAY)
        local = table.address_words(segments[0].local)
        ipv6 = segments[0].local.version == 6
        return {
            "PYDP_VXLAN_ADOPTED": int(bool(context.target.adopted)),
            "PYDP_VXLAN_PORT": segments[0].dstport,
            "PYDP_VXLAN_COMPANION": context.companion,
            "PYDP_VXLAN_SLOTS": power_of_two(max(context.slots.values()) + 1),
            "PYDP_VXLAN_COPIES": power_of_two(max(len(segment.copies) for segment in segments)),
            "PYDP_VXLAN_KNOWN": len(table.buckets(_known(segments))),
            "PYDP_TUNNEL_IPV6": int(ipv6),
            "PYDP_TUNNEL_VIEWPOINT": context.companion or underlay,
            "PYDP_TUNNEL_MTU": context.view.links[underlay].mtu,
            "PYDP_TUNNEL_TTL": context.defaults.hop_limit if ipv6 else context.defaults.ttl,
            **{f"PYDP_TUNNEL_LOCAL{number}": word for number, word in enumerate(local)},
            "PYDP_FDB_BUCKETS": buckets(options.fdb_size),
            "PYDP_FDB_AGEING": ticks(ageing_of(options, context)),
        }

    def sizes(self, options: VxlanOptions, context: Context) -> Mapping[str, int]:
        segments = _segments(options, context)
        vteps = max(sum(len(segment.vteps) for segment in segments), 1)
        return {
            "fdb": buckets(options.fdb_size),
            "vxlan_known": len(table.buckets(_known(segments))),
            "vxlan_segments": len(segments),
            "vxlan_vteps": vteps,
            "vxlan_hops": vteps,
            "vxlan_counts": vteps,
        }

    def entries(self, options: VxlanOptions, context: Context) -> Entries:
        segments = _segments(options, context)
        return {
            "vxlan_ports": _ports(segments, context),
            "vxlan_segments": _records(segments, context),
            "vxlan_vteps": _vteps(segments),
            "vxlan_known": dict(enumerate(table.buckets(_known(segments)))),
        }

    def requests(self, options: VxlanOptions, context: Context) -> Sequence[tuple[Any, ...]]:
        """Forget what an earlier attach wrote, then enter this host's addresses and what the kernel knows."""
        segments = _segments(options, context)
        wanted: dict[int, tuple[Any, ...]] = {}
        for number, segment in enumerate(segments):
            for ifindex in segment.ports:
                if ifindex in context.slots and (mac := context.view.links[ifindex].mac):
                    key = fdb_key(mac, number)
                    wanted[key] = local_request(key, context.slots[ifindex])
        first = 0
        for number, segment in enumerate(segments):
            places = {address: first + at for at, address in enumerate(segment.vteps)}
            for request in segment.known(number, places, context.slots):
                wanted[request[0]] = request
            first += len(segment.vteps)
        return [forget_request(), *wanted.values()]

    def groups(self, options: VxlanOptions, context: Context) -> Sequence[Group]:
        """Without a device of the kernel nobody else joins them."""
        if context.target.adopted:
            return ()
        underlay = next(ifindex for ifindex, role in context.target.roles.items() if role == Role.UNDERLAY)
        found = {segment.group for segment in _segments(options, context) if segment.group}
        return [Group(underlay, str(address)) for address in sorted(found, key=str)]


def _segments(options: VxlanOptions, context: Context) -> list[Segment]:
    if not context.target.adopted:
        return standalone(options, context.view, context.defaults)
    underlay = next(ifindex for ifindex, role in context.target.roles.items() if role == Role.UNDERLAY)
    return adopted(options, underlay, context.view, context.defaults, context.fdb, context.vxlan_fdb)


def _check_port(link: Link, underlay: Link, view: View) -> None:
    if link.ifindex == underlay.ifindex:
        raise UsageError(f"--port {link.name}: it is the underlay")
    if link.loopback:
        raise UsageError(f"--port {link.name}: the loopback device cannot be a port")
    if link.master:
        raise UsageError(
            f"--port {link.name}: it is a port of {view.name(link.master)}", hint=f"ip link set {link.name} nomaster"
        )


def vtep_index(options: VxlanOptions, context: Context) -> Mapping[tuple[int, str], int]:
    """Index of each VTEP by (number of the segment, address)."""
    found: dict[tuple[int, str], int] = {}
    for number, segment in enumerate(_segments(options, context)):
        for address in segment.vteps:
            found[number, str(address)] = len(found)
    return found


def _known(segments: Sequence[Segment]) -> dict[int, int]:
    """Index of each VTEP by its key in the table; of the groups, which send nothing, none."""
    found, index = {}, 0
    for segment in segments:
        for address in segment.vteps:
            if not address.is_multicast:
                found[table.table_key(address, segment.vni)] = index
            index += 1
    return found


def _vteps(segments: Sequence[Segment]) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_vtep."""
    found: dict[int, tuple[Any, ...]] = {}
    for number, segment in enumerate(segments):
        for address in segment.vteps:
            flags = VTEP_PRESENT | (VTEP_GROUP if address.is_multicast else 0)
            flags |= VTEP_LEARNING if segment.learning else 0
            found[len(found)] = (table.address_words(address), number, flags)
    return found


def _ports(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_port of each slot; the underlay's has its address only."""
    of = {ifindex: number for number, segment in enumerate(segments) for ifindex in segment.ports}
    found = {}
    for ifindex, slot in context.slots.items():
        if context.target.role(ifindex) == Role.COMPANION:
            continue
        link = context.view.links[ifindex]
        flags = 0
        if ifindex in of:
            segment = segments[of[ifindex]]
            flags = PRESENT | (PEER if ifindex in context.peers else 0)
            flags |= PUNT if ifindex in segment.punted else 0
            flags |= LEARNING if ifindex not in segment.deaf else 0
        mac = int.from_bytes(link.mac, "little")
        found[slot] = (ifindex, link.mtu + ETHERNET_AND_TAG, of.get(ifindex, 0), flags, mac)
    return found


def _records(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_segment."""
    found, first = {}, 0
    for number, segment in enumerate(segments):
        members = sum(1 << context.slots[ifindex] for ifindex in segment.ports if ifindex in context.slots)
        words = tuple(members >> 64 * word & (1 << 64) - 1 for word in range(4))
        low, high = segment.port_range
        found[number] = (
            segment.vni, segment.flags, segment.tos, segment.ttl, low, high, 0,
            first, len(segment.copies), words,
        )  # fmt: skip
        first += len(segment.vteps)
    return found
