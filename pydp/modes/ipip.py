# SPDX-License-Identifier: Apache-2.0
"""Mode ipip: what the maps of bpf_src/ipip.c should hold.

With peers named there is no tunnel device: routes lead what is for them out of the underlay, where the program on the
way out encapsulates it. With none, the tunnel devices that the kernel has over the underlay are adopted: they stay, and
ports of the instance take a short way past them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.errors import UsageError
from pydp.model import Link, Route
from pydp.modes import outer, table
from pydp.modes.base import Context, Entries, Mode, Role, Target, Traits, View
from pydp.modes.fdb import power_of_two
from pydp.modes.peers import KINDS, Address, Peers, adopted, standalone
from pydp.options import option

MAX_PORTS = 256  # IPIP_PORTS
MAX_PLACES = 4096  # IPIP_PLACES
VETH_PEER = 1  # enum ipip_port_flag
LEAST_MTU6 = 1280  # RFC 8200 5
_GATEWAY = "fe80::5efe:"  # see bpf_src/lib/solicit.h


@dataclass(frozen=True, slots=True)
class IpipOptions:
    """Options of --mode ipip. Without --peer, tunnel devices of the kernel are adopted and have their own."""

    local: str = option("", "text", "this end of the tunnels, an address of the underlay", metavar="ADDR")
    peer: tuple[str, ...] = option(
        (), "texts", "a peer's underlay address and the networks behind it", metavar="ADDR=PREFIX[,...]"
    )
    port: tuple[str, ...] = option((), "names", "port whose packets are forwarded past the stack", metavar="DEV")
    kind: str | None = option(
        None, "choice", "what goes in what: ipip (default), sit, ip6ip6, ip4ip6, gre", choices=tuple(KINDS)
    )
    key: int | None = option(None, "int", "key of GRE", metavar="N", low=0, high=(1 << 32) - 1)
    ttl: str = option(
        "auto", "text", "TTL outside: inherit, or 1 to 255; auto: inherit over IPv4, 64 over IPv6", metavar="TTL"
    )  # fmt: skip
    tos: str = option("0", "text", "TOS outside: inherit, or 0 to 255", metavar="TOS")
    pmtudisc: bool = option(True, "flag", "set DF outside, and tell senders the MTU of the path")
    source_check: bool = option(True, "flag", "drop inner packets whose source is not behind the peer they come from")
    source: str = option("", "text", "address that this host's own packets to the peers' networks have", metavar="ADDR")


class IpipMode(Mode):
    """See bpf_src/ipip.c."""

    name = "ipip"
    traits = Traits(
        order=30,
        depth=2,
        maps=frozenset(
            {
                "ipip_ports", "ipip_devices", "ipip_peers", "ipip_known", "ipip_prefixes", "ipip_cache", "ipip_ways",
                "ipip_hops", "ipip_paths", "ipip_counts", "ipip_fates", "ipip_clock", "ipip_recents",
            }
        ),
        learned=frozenset({"ipip_counts", "ipip_fates"}),
        counted=frozenset({"ipip_counts"}),
        short=frozenset({"xdp"}),
        written=(
            "PYDP_IPIP_UNDERLAY", "PYDP_IPIP_KEY", "PYDP_IPIP_TTL", "PYDP_IPIP_TOS", "PYDP_IPIP_PLACES",
            "PYDP_IPIP_KNOWN", *outer.NUMBERS,
        ),
    )  # fmt: skip
    Options = IpipOptions

    def target(self, options: IpipOptions, names: Sequence[str], view: View) -> Target:
        if len(names) != 1:
            raise UsageError("mode ipip has one underlay", hint="ports whose packets take the short way: --port DEV")
        underlay = view.link(names[0])
        ports = tuple(dict.fromkeys(view.link(name).ifindex for name in options.port))
        for ifindex in ports:
            _check_port(view.links[ifindex], underlay, view)
        if len(ports) + 1 > MAX_PORTS:
            raise UsageError(f"{len(ports)} ports: {MAX_PORTS - 1} at most")
        device = 0
        if options.peer:
            _check_mtu(standalone(options), underlay)
        else:
            device = self._adopt(options, underlay, view)
        return Target((underlay.ifindex, *ports), adopted=device, roles={underlay.ifindex: Role.UNDERLAY})

    def _adopt(self, options: IpipOptions, underlay: Link, view: View) -> int:
        found = adopted(options, underlay.ifindex, view)
        if found is None:
            kind = options.kind or "ipip"
            raise UsageError(
                f"{underlay.name} carries no {options.kind or 'IP'} tunnel device of the kernel, and no --peer says "
                "what to make of it",
                hint=f"pydp attach --mode ipip --kind {kind} --local ADDR --peer ADDR=PREFIX {underlay.name}, or "
                f"ip tunnel add tun0 mode {kind} local ADDR remote ADDR dev {underlay.name}, which is then adopted",
            )
        return found.devices[0]

    def hooks(self, options: IpipOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """What the stack sends passes by no XDP program."""
        out = target.role(ifindex) == Role.UNDERLAY and not target.adopted
        return (hook, "tc-egress") if out else (hook,)

    def constants(self, options: IpipOptions, context: Context) -> Mapping[str, int]:
        peers = peers_of(options, context)
        underlay = _underlay(context)
        ipv6 = peers.local.version == 6
        local = table.address_words(peers.local)
        return {
            "PYDP_IPIP_ADOPTED": int(bool(context.target.adopted)),
            "PYDP_IPIP_UNDERLAY": underlay,
            "PYDP_IPIP_PROTOCOL": peers.protocol,
            "PYDP_IPIP_INNER6": int(peers.inner == 6),
            "PYDP_IPIP_GRE": int(peers.kind == "gre"),
            "PYDP_IPIP_KEYED": int(peers.key is not None),
            "PYDP_IPIP_KEY": peers.key or 0,
            "PYDP_IPIP_FLAGS": peers.flags,
            "PYDP_IPIP_TTL": peers.ttl,
            "PYDP_IPIP_TOS": peers.tos,
            "PYDP_IPIP_SOURCE_CHECK": int(options.source_check),
            "PYDP_IPIP_DIRECT": int(_is_direct(context)),
            "PYDP_IPIP_PLACES": _places(context),
            "PYDP_IPIP_KNOWN": len(table.buckets(_known(peers))),
            "PYDP_TUNNEL_IPV6": int(ipv6),
            "PYDP_TUNNEL_MTU": context.view.links[underlay].mtu,
            "PYDP_TUNNEL_TTL": context.defaults.hop_limit if ipv6 else context.defaults.ttl,
            **{f"PYDP_TUNNEL_LOCAL{number}": word for number, word in enumerate(local)},
        }

    def sizes(self, options: IpipOptions, context: Context) -> Mapping[str, int]:
        peers = peers_of(options, context)
        places = dict.fromkeys(("ipip_peers", "ipip_hops", "ipip_paths", "ipip_counts"), peers.places)
        return {
            **places,
            "ipip_known": len(table.buckets(_known(peers))),
            "ipip_prefixes": max(sum(len(networks) for networks in peers.networks.values()), 1),
            "ipip_devices": _places(context),
            "ipip_recents": context.defaults.cpus,
        }

    def entries(self, options: IpipOptions, context: Context) -> Entries:
        peers = peers_of(options, context)
        indices = peers.indices()
        return {
            "ipip_ports": _ports(context),
            **({"ipip_devices": _devices(context)} if _is_direct(context) else {}),
            "ipip_peers": {
                index: (table.address_words(address), table.table_key(address, 0)) for address, index in indices.items()
            },
            "ipip_known": dict(enumerate(table.buckets(_known(peers)))),
            "ipip_prefixes": {
                (network.prefixlen, table.address_words(network.network_address)): indices[address]
                for address, networks in peers.networks.items()
                for network in networks
            },
        }

    def routes(self, options: IpipOptions, context: Context) -> Sequence[Route]:
        """To the next hop on the way to each peer; the MTU leaves room for the outer headers."""
        if context.target.adopted:
            return ()
        peers = peers_of(options, context)
        underlay = context.view.links[_underlay(context)]
        mtu = underlay.mtu - peers.overhead
        return [
            Route(str(network), underlay.ifindex, gateway, src=options.source, mtu=mtu, onlink=gateway != str(address))
            for address, networks in peers.networks.items()
            for gateway in [_gateway(address, peers.inner)]
            for network in networks
        ]


def peers_of(options: IpipOptions, context: Context) -> Peers:
    """The peers of an instance: those named, or those of the devices adopted."""
    if not context.target.adopted:
        return standalone(options)
    found = adopted(options, _underlay(context), context.view, context.foreign_routes)
    if found is None:
        raise UsageError("the tunnel device that was to be adopted is gone")
    return found


def peer_indices(options: IpipOptions, context: Context) -> Mapping[Address, int]:
    """Index of each peer in the maps."""
    return peers_of(options, context).indices()


def _check_port(link: Link, underlay: Link, view: View) -> None:
    if link.ifindex == underlay.ifindex:
        raise UsageError(f"--port {link.name}: it is the underlay")
    if link.loopback:
        raise UsageError(f"--port {link.name}: the loopback device cannot be a port")
    if link.master:
        raise UsageError(
            f"--port {link.name}: it is a port of {view.name(link.master)}, which routed packets come in by",
            hint=f"--port {view.name(link.master)}",
        )


def _check_mtu(peers: Peers, underlay: Link) -> None:
    """IPv6 has no link with a smaller MTU than that."""
    left = underlay.mtu - peers.overhead
    if peers.inner == 6 and left < LEAST_MTU6:
        raise UsageError(
            f"{underlay.name}: its MTU of {underlay.mtu} leaves {left} bytes for IPv6, which needs {LEAST_MTU6}",
            hint=f"ip link set {underlay.name} mtu {LEAST_MTU6 + peers.overhead}",
        )


def _is_direct(context: Context) -> bool:
    """Whether there are ports, so that packets may go past the stack."""
    return len(context.slots) > 1


def _underlay(context: Context) -> int:
    return next(ifindex for ifindex, role in context.target.roles.items() if role == Role.UNDERLAY)


def _gateway(address: Address, inner: int) -> str:
    """What a route to a peer's networks leads to: the peer, or where an IPv6 route cannot, what stands for it."""
    if inner == 6 and address.version == 4:
        return _GATEWAY + ":".join(address.packed[at : at + 2].hex() for at in (0, 2))
    return str(address)


def _known(peers: Peers) -> dict[int, int]:
    """Index of each peer by its key in the table."""
    return {table.table_key(address, 0): index for address, index in peers.indices().items()}


def _ports(context: Context) -> dict[int, tuple[Any, ...]]:
    """struct ipip_port by slot."""
    found = {}
    for ifindex, slot in context.slots.items():
        flags = VETH_PEER if ifindex in context.peers else 0
        found[slot] = (int.from_bytes(context.view.links[ifindex].mac, "little"), ifindex, flags)
    return found


def _places(context: Context) -> int:
    """Places by the lower bits of an ifindex: so many that all ports have one of their own, if that is not too many."""
    places = power_of_two(2 * len(context.slots))
    while places < MAX_PLACES and len({ifindex & places - 1 for ifindex in context.slots}) < len(context.slots):
        places *= 2
    return places


def _devices(context: Context) -> dict[int, tuple[Any, ...]]:
    """struct ipip_port by place. What is for a port without one goes by the stack."""
    ports, places, found = _ports(context), _places(context), dict[int, tuple[Any, ...]]()
    for ifindex, slot in context.slots.items():
        if context.target.role(ifindex) == Role.PORT:
            found.setdefault(ifindex & places - 1, ports[slot])
    return found
