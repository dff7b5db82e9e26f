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
from pydp.modes import outer, table
from pydp.modes import vxlan_maps as maps
from pydp.modes.base import Companion, Context, Control, Entries, Mode, Role, Target, Traits, View
from pydp.modes.fdb import buckets, fdb_key, flush_request, forget_request, local_request, power_of_two, ticks
from pydp.modes.segments import Segment, adopted, ageing_of, standalone
from pydp.options import option

MAX_PORTS = 256  # VXLAN_PORTS
MAX_SEGMENTS = 4096  # VXLAN_SEGMENTS
MAX_VTEPS = 32768  # VXLAN_VTEPS
MAX_GUESTS = 4096  # VXLAN_GUESTS
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
            "PYDP_VXLAN_KNOWN": len(table.buckets(maps.known_vteps(segments, context))),
            "PYDP_VXLAN_NEIGHBOUR": int(any(segment.neighbours for segment in segments)),
            "PYDP_VXLAN_ANY_SOURCE": int(any(segment.any_source for segment in segments)),
            "PYDP_VXLAN_VTEPS": maps.room(context, "vtep"),
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
            "vxlan_known": len(table.buckets(maps.known_vteps(segments, context))),
            "vxlan_segments": maps.room(context, "segment"),
            "vxlan_vteps": maps.room(context, "vtep"),
            "vxlan_neighbours": max(sum(len(segment.neighbours) for segment in segments), 1),
            "vxlan_replicas": max(sum(len(segment.copies) for segment in segments), 1),
            "vxlan_guests": max(guests, 1),
            "vxlan_names": max(guests, 1),
            "vxlan_hops": maps.room(context, "vtep") + guests,
            "vxlan_counts": maps.room(context, "vtep") + guests,
            "recents": context.defaults.cpus,
        }

    def entries(self, options: VxlanOptions, context: Context) -> Entries:
        segments = _segments(options, context)
        neighbours = maps.neighbours(segments, context)
        return {
            "vxlan_ports": maps.ports(segments, context),
            "vxlan_segments": maps.segment_records(segments, context),
            "vxlan_vteps": maps.vteps(segments, context),
            "vxlan_replicas": maps.replicas(segments, context),
            "vxlan_known": dict(enumerate(table.buckets(maps.known_vteps(segments, context)))),
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
            number = maps.number_of(context, segment)
            for ifindex in segment.ports:
                if ifindex in context.slots and (mac := context.view.links[ifindex].mac):
                    key = fdb_key(mac, number)
                    wanted[key] = local_request(key, context.slots[ifindex])
            places = {address: maps.vtep_number(context, segment, address) for address in segment.vteps}
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
