# SPDX-License-Identifier: Apache-2.0
"""The peers of mode ipip and what is behind them, from options or from the kernel's tunnel devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from pydp.errors import UsageError
from pydp.model import Route, Tunnel
from pydp.modes.base import View
from pydp.modes.fdb import power_of_two
from pydp.modes.outer import DF_INHERIT, DF_SET, TOS_INHERIT, TTL_INHERIT, parse_tos, parse_ttl
from pydp.modes.table import table_hash, table_key

if TYPE_CHECKING:
    from pydp.modes.ipip import IpipOptions

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_PEERS = 65536  # half of IPIP_PEERS
MAX_PREFIXES = 1048576  # IPIP_PREFIXES
PATH_KEPT = 35763  # ticks, enum path_limit
_FEWEST_PLACES = 64
_HOP_LIMIT = 64  # of a tunnel over IPv6, as iproute2 has it
# kind: (IP protocol, IP version outside, inside), 0 for either
KINDS = {"ipip": (4, 4, 4), "sit": (41, 4, 6), "ip6ip6": (41, 6, 6), "ip4ip6": (4, 6, 4), "gre": (47, 0, 0)}
# kind of a tunnel device: {protocol it carries: our kind}
_DEVICES = {
    "ipip": {0: "ipip", 4: "ipip"},
    "sit": {0: "sit", 41: "sit"},
    "gre": {0: "gre"},
    "ip6gre": {0: "gre"},
    "ip6tnl": {0: "ip6ip6", 41: "ip6ip6", 4: "ip4ip6"},
}


@dataclass(frozen=True, slots=True)
class Peers:
    """One kind of tunnel with one local end. ``networks``: what is behind each peer. ``inner``: IP version of these.

    ``ttl`` and ``tos`` are the fixed ones, ``flags`` as enum tunnel_flag has them. ``devices``: ifindices of the tunnel
    devices adopted.
    """

    kind: str
    local: Address
    networks: Mapping[Address, tuple[Network, ...]]
    inner: int
    key: int | None = None
    flags: int = 0
    ttl: int = 0
    tos: int = 0
    devices: tuple[int, ...] = ()

    @property
    def protocol(self) -> int:
        """IP protocol number outside."""
        return KINDS[self.kind][0]

    @property
    def overhead(self) -> int:
        """Bytes of outer headers."""
        outer = 40 if self.local.version == 6 else 20
        return outer + ((4 if self.key is None else 8) if self.kind == "gre" else 0)

    @property
    def places(self) -> int:
        """Places for peers in the maps: twice as many as there are, so that most keep theirs when others change."""
        return max(power_of_two(2 * len(self.networks)), _FEWEST_PLACES)

    def indices(self) -> dict[Address, int]:
        """The place of each peer: by its address, the next free one if that is taken."""
        found: dict[Address, int] = {}
        taken, mask = set[int](), self.places - 1
        for address in sorted(self.networks, key=int):
            at = table_hash(table_key(address, 0)) >> 20 & mask
            while at in taken:
                at = at + 1 & mask
            taken.add(at)
            found[address] = at
        return found


def standalone(options: IpipOptions) -> Peers:
    """What options ask for. Raises UsageError."""
    kind = options.kind or "ipip"
    if not options.local:
        raise UsageError("--local: which address of the underlay is this end of the tunnels?")
    local = _address(options.local, "--local")
    _, outer, inner = KINDS[kind]
    networks = parse_peers(options.peer)
    if len(networks) > MAX_PEERS:
        raise UsageError(f"--peer: {len(networks)} peers, {MAX_PEERS} at most")
    for name, one in (("--local", local), *(("--peer", one) for one in networks)):
        if outer and one.version != outer:
            raise UsageError(f"{name} {one}: --kind {kind} goes over IPv{outer}", hint=_kinds(one.version, inner))
        if one.version != local.version:
            raise UsageError(f"{name} {one}: --local {local} is of the other IP version")
    if local in networks:
        raise UsageError(f"--peer {local}: it is --local, this end of the tunnels")
    inner = inner or next((one.version for each in networks.values() for one in each), 4)
    _check_networks(networks, local, kind, inner)
    if options.key is not None and kind != "gre":
        raise UsageError(f"--key {options.key}: only --kind gre has keys")
    flags, ttl = parse_ttl(options.ttl, "--ttl", automatic=True)
    if options.ttl == "auto":  # as ip-link(8) makes tunnel devices without a ttl or hoplimit
        flags, ttl = (0, _HOP_LIMIT) if local.version == 6 else (TTL_INHERIT, 0)
    more, tos = parse_tos(options.tos, "--tos")
    return Peers(
        kind, local, networks, inner, options.key, flags | more | _df(options.pmtudisc, inner), ttl, tos
    )  # fmt: skip


def parse_peers(texts: Iterable[str]) -> dict[Address, tuple[Network, ...]]:
    """ADDR=PREFIX[,PREFIX...] as often as given. Raises UsageError."""
    found: dict[Address, tuple[Network, ...]] = {}
    owner: dict[Network, Address] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not equals or not left or not right:
            raise UsageError(f"--peer {text}: not of the form ADDR=PREFIX[,PREFIX...]")
        address = _address(left.strip(), "--peer")
        for word in right.split(","):
            network = _network(word.strip())
            if network in owner:
                whose = "it" if owner[network] == address else f"the peer {owner[network]}"
                raise UsageError(f"--peer {text}: {network} is behind {whose} already")
            owner[network] = address
            found[address] = (*found.get(address, ()), network)
    if len(owner) > MAX_PREFIXES:
        raise UsageError(f"--peer: {len(owner)} prefixes, {MAX_PREFIXES} at most")
    return found


def peer_text(address: Address, networks: Iterable[Network]) -> str:
    """A peer as --peer takes it."""
    return f"{address}={','.join(str(one) for one in networks)}"


def _address(text: str, name: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise UsageError(f"{name} {text}: not an IP address") from None
    if address.is_multicast or address.is_unspecified:
        raise UsageError(f"{name} {text}: not the address of one host")
    return address


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        try:
            hint = f"the network is {ip_network(text, strict=False)}"
        except ValueError:
            hint = ""
        raise UsageError(f"--peer {text}: {error}", hint=hint) from None


def _check_networks(networks: Mapping[Address, tuple[Network, ...]], local: Address, kind: str, inner: int) -> None:
    """Raise UsageError for one of another IP version, and for one that would send the tunnel's packets into it."""
    lengths: dict[int, set[int]] = {}
    for each in networks.values():
        for one in each:
            if one.version != inner:
                raise UsageError(
                    f"--peer {one}: --kind {kind} carries IPv{inner}"
                    + (" here, as the first prefix is" if kind == "gre" else ""),
                    hint=_kinds(local.version, one.version),
                )
            if one.is_multicast:
                raise UsageError(f"--peer {one}: a multicast network is behind nobody")
            lengths.setdefault(one.prefixlen, set()).add(int(one.network_address))
    if inner != local.version:
        return
    for address in (local, *networks):
        for length, starts in lengths.items():
            size = address.max_prefixlen - length
            if (start := int(address) >> size << size) in starts:
                around = ip_network((start, length)) if address.version == 4 else IPv6Network((start, length))
                whose = "this end" if address == local else "a peer"
                raise UsageError(
                    f"--peer {around}: it has {address} in it, the address of {whose}, so that the tunnel's own "
                    "packets would go into the tunnel"
                )


def _kinds(outer: int, inner: int) -> str:
    fitting = [name for name, (_, o, i) in KINDS.items() if o in (0, outer) and i in (0, inner)]
    return f"--kind {' or '.join(fitting)}"


def _df(pmtudisc: bool, inner: int) -> int:
    """With it always; without it as an inner IPv4 packet has it (tnl_update_pmtu() in net/ipv4/ip_tunnel.c)."""
    return DF_SET if pmtudisc else DF_INHERIT if inner == 4 else 0


def adopted(options: IpipOptions, underlay: int, view: View, routes: Sequence[Route] = ()) -> Peers | None:
    """The tunnel devices of the kernel over UNDERLAY that have the settings of the first one, or None.

    Over it are those that are bound to it, and those of the address --local that are bound to no device. Left to the
    kernel, as if they were not there: devices that are down, take packets from anybody, or have what is not built
    here. What is behind a device is what ROUTES lead into it.
    """
    fitting = [
        (one, kind)
        for one in sorted(view.tunnels.values(), key=lambda one: one.ifindex)
        if (kind := _kind_of(one, options.kind)) and _is_over(one, underlay, options.local) and not _foreign(one)
    ]
    if not fitting:
        return None
    first, kind = fitting[0]
    alike = [one for one, its in fitting if its == kind and _settings(one) == _settings(first)]
    behind = {
        ip_address(one.remote): tuple(ip_network(r.prefix) for r in routes if r.dev == one.ifindex) for one in alike
    }
    _, _, inner = KINDS[kind]
    inner = inner or next((network.version for each in behind.values() for network in each), 4)
    flags = (TTL_INHERIT if not first.ttl else 0) | (TOS_INHERIT if first.tos == 1 else 0)
    return Peers(
        kind=kind,
        local=ip_address(first.local),
        networks={peer: tuple(n for n in each if n.version == inner) for peer, each in behind.items()},
        inner=inner,
        key=first.key_out,
        flags=flags | _df(first.pmtudisc, inner),
        ttl=first.ttl,
        tos=0 if first.tos == 1 else first.tos,
        devices=tuple(one.ifindex for one in alike),
    )


def _kind_of(device: Tunnel, wanted: str | None) -> str:
    """Our kind, "" for none or one not wanted. An ip6tnl of any protocol is of the kind wanted."""
    kinds = _DEVICES.get(device.kind, {})
    if device.kind == "ip6tnl" and device.protocol == 0 and wanted in ("ip6ip6", "ip4ip6"):
        return wanted
    kind = kinds.get(device.protocol, "")
    return kind if wanted in (None, kind) else ""


def _is_over(device: Tunnel, underlay: int, local: str) -> bool:
    if device.lower:
        return device.lower == underlay
    return bool(local) and device.local == str(ip_address(local))


def _foreign(device: Tunnel) -> bool:
    """Whether a device has what changes packets on the wire, or has no one peer."""
    special = device.external or device.encap or device.checksum or device.sequence or device.ignore_df
    return special or not device.up or not device.local or not device.remote or device.key_in != device.key_out


def _settings(device: Tunnel) -> tuple[object, ...]:
    return device.kind, device.local, device.key_in, device.ttl, device.tos, device.pmtudisc
