# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan: what the maps of bpf_src/vxlan.c should hold.

With VNIs named, the ports given and the VTEPs given are one segment each (standalone). With none, the vxlan devices
that the kernel has on the underlay are adopted, with the bridges they are ports of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pydp.errors import UsageError
from pydp.model import Group, Link
from pydp.modes import outer, table
from pydp.modes.base import Companion, Context, Control, Entries, Mode, Role, Target, Traits, View
from pydp.modes.bridge import ETHERNET_AND_TAG
from pydp.modes.fdb import buckets, fdb_key, flush_request, forget_request, local_request, power_of_two, ticks
from pydp.modes.segments import Address, Segment, adopted, ageing_of, standalone
from pydp.options import option

MAX_PORTS = 256  # VXLAN_PORTS
MAX_SEGMENTS = 4096  # VXLAN_SEGMENTS
MAX_VTEPS = 32768  # VXLAN_VTEPS
MAX_GUESTS = 4096  # VXLAN_GUESTS
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
    udp_csum: bool | None = option(
        None, "flag", "UDP checksums outside (default: over IPv6 only, or as the adopted device)"
    )
    learning: bool = option(True, "flag", "learn which VTEP an address is behind from what it sends")
    neighbour: tuple[str, ...] = option(
        (), "texts", "who has an address: ARP and neighbour solicitations for it are answered here", metavar="ADDR=MAC"
    )
    any_source: bool = option(
        False, "flag", "believe VTEPs that nobody named, as the kernel does; with --group they are not known otherwise"
    )
    ageing: float | None = option(
        None, "seconds", "forget an address not heard of for so long (default: 300, or the adopted bridge's)",
        metavar="SECONDS", low=0, high=1_000_000,
    )  # fmt: skip
    fdb_size: int = option(65536, "int", "addresses to keep", metavar="N", low=16, high=4_194_304)
    ignore_netfilter: bool = option(
        False, "flag", "adopt a bridge whose frames pass through netfilter rules; forwarded ones will pass them by"
    )
    more: tuple[Mapping[str, Any], ...] = option((), "tables", "further segments: repeat the table in the file")


class VxlanMode(Mode):
    """See bpf_src/vxlan.c."""

    name = "vxlan"
    traits = Traits(
        order=30,
        depth=2,
        maps=frozenset(
            {
                "vxlan_ports", "vxlan_segments", "vxlan_vteps", "vxlan_replicas", "vxlan_known", "vxlan_guests",
                "vxlan_names", "vxlan_fates",
                "vxlan_neighbours", "vxlan_census", "vxlan_hops", "vxlan_counts", "vxlan_tails", "fdb", "fdb_events",
                "fdb_clock", "fdb_requests", "fdb_cursor", "recent_changes", "recents",
            }
        ),
        learned=frozenset({"fdb", "fdb_events", "vxlan_counts", "vxlan_fates"}),
        counted=frozenset({"vxlan_counts"}),
        tails={"vxlan_tails": "vxlan_copies"},
        control=Control("fdb_control", "fdb_requests", "fdb_cursor"),
        finishes=True,
        short=frozenset({"tc", "xdp"}),
        promiscuous=frozenset({Role.PORT}),
        written=(
            "PYDP_VXLAN_COMPANION", "PYDP_VXLAN_KNOWN", "PYDP_VXLAN_VTEPS", "PYDP_FDB_BUCKETS", "PYDP_FDB_AGEING",
            *outer.NUMBERS, "PYDP_TUNNEL_VIEWPOINT",
        ),
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
        if len(segments) > MAX_SEGMENTS:
            raise UsageError(f"{len(segments)} segments: {MAX_SEGMENTS} at most")
        if (vteps := sum(len(segment.vteps) for segment in segments)) > MAX_VTEPS:
            raise UsageError(f"{vteps} VTEPs in all segments: {MAX_VTEPS} at most")
        port_range = segments[0].port_range if options.srcport else (0, 0)  # the system's, also after it changes
        companion = Companion(f"pydp-vx{options.dstport}", options.dstport, port_range)
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
            "PYDP_VXLAN_ZERO_CHECKSUM": int(all(segment.takes_zero for segment in segments)),
            "PYDP_VXLAN_SLOTS": power_of_two(max(context.slots.values()) + 1),
            "PYDP_VXLAN_COPIES": power_of_two(max(len(segment.copies) for segment in segments)),
            "PYDP_VXLAN_KNOWN": len(table.buckets(_known(segments, context))),
            "PYDP_VXLAN_NEIGHBOUR": int(any(segment.neighbours for segment in segments)),
            "PYDP_VXLAN_ANY_SOURCE": int(any(segment.any_source for segment in segments)),
            "PYDP_VXLAN_VTEPS": _room(context, "vtep"),
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
        guests = MAX_GUESTS if any(segment.any_source for segment in segments) else 0
        return {
            "fdb": buckets(options.fdb_size),
            "vxlan_known": len(table.buckets(_known(segments, context))),
            "vxlan_segments": _room(context, "segment"),
            "vxlan_vteps": _room(context, "vtep"),
            "vxlan_neighbours": max(sum(len(segment.neighbours) for segment in segments), 1),
            "vxlan_replicas": max(sum(len(segment.copies) for segment in segments), 1),
            "vxlan_guests": max(guests, 1),
            "vxlan_names": max(guests, 1),
            "vxlan_hops": _room(context, "vtep") + guests,
            "vxlan_counts": _room(context, "vtep") + guests,
            "recents": context.defaults.cpus,
        }

    def entries(self, options: VxlanOptions, context: Context) -> Entries:
        segments = _segments(options, context)
        neighbours = _neighbours(segments, context)
        return {
            "vxlan_ports": _ports(segments, context),
            "vxlan_segments": _records(segments, context),
            "vxlan_vteps": _vteps(segments, context),
            "vxlan_replicas": _replicas(segments, context),
            "vxlan_known": dict(enumerate(table.buckets(_known(segments, context)))),
            **({"vxlan_neighbours": neighbours} if neighbours else {}),
        }

    def members(self, options: VxlanOptions, context: Context) -> Mapping[str, Sequence[str]]:
        """Segments and VTEPs: what was learned, entered and counted goes by their numbers."""
        segments = _segments(options, context)
        return {
            "segment": [str(segment.vni) for segment in segments],
            "vtep": [f"{segment.vni} {address}" for segment in segments for address in segment.vteps],
        }

    def requests(self, options: VxlanOptions, context: Context) -> Sequence[tuple[Any, ...]]:
        """Forget what an earlier attach wrote and what was behind VTEPs that are gone, and enter this host's addresses
        and what the kernel knows. VTEPs that nobody named are new with each attach.
        """
        segments = _segments(options, context)
        gone = [flush_request(slot=number, remote=True, static=True) for number in sorted(context.released["vtep"])]
        if any(segment.any_source for segment in segments):
            gone.append(flush_request())
        wanted: dict[int, tuple[Any, ...]] = {}
        for segment in segments:
            number = _number(context, segment)
            for ifindex in segment.ports:
                if ifindex in context.slots and (mac := context.view.links[ifindex].mac):
                    key = fdb_key(mac, number)
                    wanted[key] = local_request(key, context.slots[ifindex])
            places = {address: _vtep_number(context, segment, address) for address in segment.vteps}
            for request in segment.known(number, places, context.slots):
                wanted[request[0]] = request
        return [forget_request(), *gone, *wanted.values()]

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


def _number(context: Context, segment: Segment) -> int:
    """The number of a segment."""
    return context.numbers["segment"][str(segment.vni)]


def _vtep_number(context: Context, segment: Segment, address: Address) -> int:
    """The number of a VTEP of a segment."""
    return context.numbers["vtep"][f"{segment.vni} {address}"]


def _known(segments: Sequence[Segment], context: Context) -> dict[int, int]:
    """Number of each VTEP by its key in the table; of the groups, which send nothing, none. With address 0, that of
    each segment that believes VTEPs which nobody named.
    """
    found = {}
    for segment in segments:
        for address in segment.vteps:
            if not address.is_multicast:
                found[table.table_key(address, segment.vni)] = _vtep_number(context, segment, address)
        if segment.any_source:
            nobody = ip_address(bytes(len(segment.local.packed)))
            found[table.table_key(nobody, segment.vni)] = _number(context, segment)
    return found


def _vteps(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_vtep."""
    found: dict[int, tuple[Any, ...]] = {}
    for segment in segments:
        low, high = segment.port_range
        for address in segment.vteps:
            flags = VTEP_PRESENT | (VTEP_GROUP if address.is_multicast else 0)
            flags |= VTEP_LEARNING if segment.learning else 0
            owner = table.table_key(address, segment.vni)
            found[_vtep_number(context, segment, address)] = (
                table.address_words(address), owner, _number(context, segment), segment.vni, segment.flags,
                segment.tos, segment.ttl, low, high, flags,
            )  # fmt: skip
    return found


def _ports(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_port of each slot; the underlay's has its address only."""
    of = {ifindex: segment for segment in segments for ifindex in segment.ports}
    found = {}
    for ifindex, slot in context.slots.items():
        if context.target.role(ifindex) == Role.COMPANION:
            continue
        link = context.view.links[ifindex]
        flags = 0
        if ifindex in of:
            segment = of[ifindex]
            flags = PRESENT | (PEER if ifindex in context.peers else 0)
            flags |= PUNT if ifindex in segment.punted else 0
            flags |= LEARNING if ifindex not in segment.deaf else 0
        mac = int.from_bytes(link.mac, "little")
        number = _number(context, of[ifindex]) if ifindex in of else 0
        found[slot] = (ifindex, link.mtu + ETHERNET_AND_TAG, number, flags, mac)
    return found


def _records(segments: Sequence[Segment], context: Context) -> dict[int, tuple[Any, ...]]:
    """struct vxlan_segment."""
    found, first = {}, 0
    for segment in segments:
        members = sum(1 << context.slots[ifindex] for ifindex in segment.ports if ifindex in context.slots)
        words = tuple(members >> 64 * word & (1 << 64) - 1 for word in range(4))
        low, high = segment.port_range
        guests = (VTEP_PRESENT | (VTEP_LEARNING if segment.learning else 0)) if segment.any_source else 0
        found[_number(context, segment)] = (
            segment.vni, segment.flags, segment.tos, segment.ttl, low, high, guests,
            first, len(segment.copies), words,
        )  # fmt: skip
        first += len(segment.copies)
    return found


def _neighbours(segments: Sequence[Segment], context: Context) -> dict[tuple[Any, ...], int]:
    """MAC address by struct vxlan_name."""
    return {
        (table.address_words(address), _number(context, segment)): int.from_bytes(mac, "little")
        for segment in segments
        for address, mac in segment.neighbours.items()
    }


def _replicas(segments: Sequence[Segment], context: Context) -> dict[int, int]:
    """Numbers of the VTEPs that get copies, segment by segment."""
    copies = [(segment, address) for segment in segments for address in segment.copies]
    return {at: _vtep_number(context, segment, address) for at, (segment, address) in enumerate(copies)}


def _room(context: Context, kind: str) -> int:
    """Places for members of a kind: a power of two, so that a few more do not make other maps."""
    return power_of_two(max(context.numbers[kind].values(), default=0) + 1)
