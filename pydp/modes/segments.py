# SPDX-License-Identifier: Apache-2.0
"""The segments of mode vxlan: one per VNI, from options or from the kernel's vxlan devices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from pydp.errors import UsageError
from pydp.model import Defaults, FdbEntry, Vxlan, VxlanFdbEntry
from pydp.modes.base import Context, View
from pydp.modes.bridge import kernel_only
from pydp.modes.fdb import fdb_key, kernel_request, remote_request
from pydp.modes.outer import CHECKSUM, DF_INHERIT, DF_SET, TOS_INHERIT, TTL_INHERIT, parse_tos, parse_ttl

if TYPE_CHECKING:
    from pydp.modes.vxlan import VxlanOptions

Address = IPv4Address | IPv6Address

MAX_COPIES = 1024  # VTEPs of one segment: what a program may loop over
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_SRCPORT = re.compile(r"(\d+)-(\d+)")
_OWN = (
    "vni",
    "remote",
    "group",
    "port",
    "srcport",
    "ttl",
    "tos",
    "df",
    "udp_csum",
    "learning",
    "any_source",
    "neighbour",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A VNI on this host. ``copies`` are the VTEPs that get what is for several, ``others`` those known besides;
    ``ports`` are the local ones by ifindex, of which ``punted`` are the kernel's business and ``deaf`` learn nothing;
    ``device`` is the vxlan device adopted, ``takes_zero`` whether packets without a UDP checksum are taken. ``tos`` and
    ``ttl`` (0: the default) are the fixed ones; ``flags`` as enum tunnel_flag has them.
    """

    vni: int
    local: Address
    dstport: int
    copies: tuple[Address, ...]
    ports: tuple[int, ...]
    flags: int = 0
    learning: bool = True
    any_source: bool = False
    neighbours: Mapping[Address, bytes] = field(default_factory=dict, repr=False)
    tos: int = 0
    ttl: int = 0
    port_range: tuple[int, int] = (32768, 60999)
    others: tuple[Address, ...] = ()
    punted: frozenset[int] = frozenset()
    deaf: frozenset[int] = frozenset()
    takes_zero: bool = True
    device: int = 0
    fdb: Sequence[FdbEntry] = field(default=(), repr=False)
    remote_fdb: Sequence[VxlanFdbEntry] = field(default=(), repr=False)

    @property
    def vteps(self) -> tuple[Address, ...]:
        """All of them, those that get copies first."""
        return tuple(dict.fromkeys((*self.copies, *self.others)))

    @property
    def group(self) -> Address | None:
        """The multicast group among them."""
        return next((one for one in self.copies if one.is_multicast), None)

    def known(self, number: int, places: Mapping[Address, int], slots: Mapping[int, int]) -> Iterable[tuple[Any, ...]]:
        """Requests for what the kernel's bridge and vxlan device know, for segment NUMBER with VTEPs at PLACES."""
        for entry in self.fdb:
            if request := kernel_request(replace(entry, vid=number), slots):
                yield request
        for one in self.remote_fdb:
            if any(one.mac) and one.dst and ip_address(one.dst) in places and not one.mac[0] & 1:
                fixed = one.static or one.extern_learn
                idle = 0.0 if fixed else one.updated
                yield remote_request(fdb_key(one.mac, number), places[ip_address(one.dst)], idle, static=fixed)


def standalone(options: VxlanOptions, view: View, defaults: Defaults | None = None) -> list[Segment]:
    """The segments that options ask for. Raises UsageError."""
    defaults = defaults or Defaults()
    tables = [{key: getattr(options, key) for key in _OWN}]
    for number, one in enumerate(options.more, 1):
        for key, value in one.items():
            if key not in _OWN and value != getattr(options, key):
                raise UsageError(f"vxlan[{number}].{key}: an instance has one, which stands in its first table")
        tables.append({**dict.fromkeys(_OWN), **one})
    found = [_segment(options, one, view, defaults, number) for number, one in enumerate(tables)]
    vnis = [segment.vni for segment in found]
    if len(set(vnis)) != len(vnis):
        raise UsageError(f"vni {max(vnis, key=vnis.count)}: it is there twice")
    ports = [ifindex for segment in found for ifindex in segment.ports]
    if len(set(ports)) != len(ports):
        raise UsageError(f"{view.name(max(ports, key=ports.count))}: a port belongs to one segment")
    return found


def _segment(options: VxlanOptions, given: Mapping[str, Any], view: View, defaults: Defaults, number: int) -> Segment:
    where = f"vxlan[{number}]." if number else "--"

    def of(key: str, default: Any) -> Any:
        return default if given.get(key) is None else given[key]

    if given.get("vni") is None:
        raise UsageError(f"{where}vni: which?")
    local = _address(options.local, "--local")
    if local.is_multicast or local.is_unspecified:
        raise UsageError(f"--local {local}: not an address of a host")
    remotes = [_address(text, f"{where}remote") for text in of("remote", ())]
    group = _address(given["group"], f"{where}group") if given.get("group") else None
    if group is not None and not group.is_multicast:
        raise UsageError(f"{where}group {group}: not a multicast address")
    for one in remotes:
        if one.is_multicast:
            raise UsageError(f"{where}remote {one}: a multicast group is given with --group")
        if one.is_unspecified:
            raise UsageError(f"{where}remote {one}: not an address of a host")
        if one == local:
            raise UsageError(f"{where}remote {one}: that is this end")
    for one in (*remotes, *([group] if group else [])):
        if one.version != local.version:
            raise UsageError(f"{where}remote {one}: an instance has one underlay, and --local {local} is of another")
    flags, ttl = parse_ttl(str(of("ttl", "auto")), f"{where}ttl", automatic=True)
    more, tos = parse_tos(str(of("tos", "0")), f"{where}tos")
    flags |= more | {"unset": 0, "set": DF_SET, "inherit": DF_INHERIT}[of("df", "unset")]
    flags |= CHECKSUM if of("udp_csum", local.version == 6) else 0
    copies = tuple(dict.fromkeys([group] if group else remotes))
    others = tuple(dict.fromkeys(remotes)) if group else ()
    ports = tuple(dict.fromkeys(view.link(name).ifindex for name in of("port", ())))
    if len(copies) > MAX_COPIES:
        raise UsageError(
            f"{where}remote: {len(copies)} VTEPs in one segment, {MAX_COPIES} at most", hint="--group serves more"
        )
    neighbours = dict(_neighbour(text, f"{where}neighbour") for text in of("neighbour", ()))
    return Segment(
        vni=given["vni"], local=local, dstport=options.dstport, copies=copies, ports=ports, flags=flags, tos=tos,
        ttl=ttl, learning=of("learning", True),
        any_source=of("any_source", False), port_range=_range(str(of("srcport", "")), where, defaults),
        others=others, neighbours=neighbours,
    )  # fmt: skip


def _neighbour(text: str, name: str) -> tuple[Address, bytes]:
    address, _, mac = text.partition("=")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        raise UsageError(f"{name} {text}: not of the form ADDR=MAC, as in 10.1.2.1=02:00:00:00:00:01")
    return _address(address, name), bytes.fromhex(mac.replace(":", ""))


def _address(text: str, name: str) -> Address:
    if not text:
        raise UsageError(f"{name}: which address?")
    try:
        return ip_address(text)
    except ValueError:
        raise UsageError(f"{name} {text}: not an IP address") from None


def _range(text: str, where: str, defaults: Defaults) -> tuple[int, int]:
    if not text:
        return defaults.port_range
    found = _SRCPORT.fullmatch(text)
    low, high = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < low < high <= 65535:
        raise UsageError(f"{where}srcport {text}: not LOW-HIGH with two ports")
    return low, high


def adopted(
    options: VxlanOptions,
    underlay: int,
    view: View,
    defaults: Defaults | None = None,
    fdb: Sequence[FdbEntry] = (),
    remote_fdb: Sequence[VxlanFdbEntry] = (),
) -> list[Segment]:
    """A segment for each vxlan device of the kernel on UNDERLAY that is a port of a bridge.

    Left to the kernel, as if they were not there: devices with an extension that is not built here, with a UDP port or
    an address other than the first one's, and those whose bridge filters VLANs.
    """
    defaults = defaults or Defaults()
    found: list[Segment] = []
    for device in sorted(view.vxlans.values(), key=lambda one: one.vni):
        if device.lower != underlay or device.master not in view.bridges or _foreign(device) or not device.local:
            continue
        bridge = view.bridges[device.master]
        if bridge.vlan_filtering:
            continue
        local = ip_address(device.local)
        if found and (found[0].local, found[0].dstport) != (local, device.port):
            continue
        found.append(_adopted_segment(_with(device, options), local, view, defaults, fdb, remote_fdb))
    return found


def _foreign(device: Vxlan) -> bool:
    """Whether a device has an extension that changes what is on the wire, or needs every packet."""
    return device.external or device.gbp or device.gpe or device.remcsum or device.vnifilter or device.rsc


def _with(device: Vxlan, options: VxlanOptions) -> Vxlan:
    """A device as options that were given want its packets."""
    if options.udp_csum is None:
        return device
    return replace(device, udp_csum=options.udp_csum, udp6_zero_tx=not options.udp_csum)


def _adopted_segment(
    device: Vxlan,
    local: Address,
    view: View,
    defaults: Defaults,
    fdb: Sequence[FdbEntry],
    remote_fdb: Sequence[VxlanFdbEntry],
) -> Segment:
    bridge = view.bridges[device.master]
    own = [port for port in bridge.ports if port.ifindex != device.ifindex]
    remotes = [one for one in remote_fdb if one.ifindex == device.ifindex and one.dst]
    vteps = [ip_address(text) for text in (device.remote, *(one.dst for one in remotes)) if text]
    flags = TTL_INHERIT if device.ttl_inherit else 0
    flags |= TOS_INHERIT if device.tos == 1 else 0
    flags |= {"unset": 0, "set": DF_SET, "inherit": DF_INHERIT}[device.df]
    flags |= CHECKSUM if (not device.udp6_zero_tx if local.version == 6 else device.udp_csum) else 0
    low, high = device.port_range
    return Segment(
        vni=device.vni,
        local=local,
        dstport=device.port,
        copies=(),
        ports=tuple(port.ifindex for port in own),
        flags=flags,
        learning=device.learning,
        tos=0 if device.tos == 1 else device.tos,
        ttl=device.ttl,
        port_range=(low, high) if low < high else defaults.port_range,
        others=tuple(dict.fromkeys(one for one in vteps if not one.is_multicast)),
        punted=frozenset(port.ifindex for port in own if kernel_only(port)),
        deaf=frozenset(port.ifindex for port in own if not port.learning),
        device=device.ifindex,
        takes_zero=local.version == 4 or device.udp6_zero_rx,
        fdb=[entry for entry in fdb if entry.bridge == bridge.ifindex and entry.ifindex != device.ifindex],
        remote_fdb=remotes,
    )


def ageing_of(options: VxlanOptions, context: Context) -> float:
    """Seconds: the option, or the adopted bridge's, or the kernel's default."""
    if options.ageing is not None:
        return options.ageing
    device = context.view.vxlans.get(context.target.adopted)
    bridge = context.view.bridges.get(device.master) if device else None
    return min(bridge.ageing, device.ageing or bridge.ageing) if bridge and device else 300.0
