# SPDX-License-Identifier: Apache-2.0
"""Mode nat: what the maps of bpf_src/nat.c should hold, but for services, which are changed while it runs
(pydp.services).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.errors import UsageError
from pydp.model import Link
from pydp.modes.base import Context, Control, Entries, Interface, Mode, Target, Traits, View
from pydp.modes.fdb import power_of_two
from pydp.modes.nat_rules import TIMEOUTS, Rule, parse_ports, parse_rules, parse_timeouts
from pydp.modes.table import address_words
from pydp.options import option

MAX_PORTS = 256  # NAT_PORTS
MAX_PLACES = 4096  # NAT_PLACES
PORT_PRESENT, PORT_LOOSE, PORT_BRIDGE = 1, 2, 4  # enum nat_port_flag
DEVICE_PORT, DEVICE_PEER, DEVICE_XDP = 1, 2, 4  # enum nat_device_flag
WAYS = 8  # NAT_WAYS
# The maps that services are written into, while the instance runs.
SERVICE_MAPS = frozenset({"nat_frontends", "nat_hints", "nat_wild", "nat_slots", "nat_backends"})
_NOBODY = (0, 0, 0, 0)
_FEWEST_LOCALS = 64


@dataclass(frozen=True, slots=True)
class NatOptions:
    """Options of --mode nat. Those that name services are for `pydp.services.attach`, which takes them out."""

    service: tuple[str, ...] = option(
        (), "texts", "a service: what clients speak to, and who answers", metavar="PROTO:ADDR:PORT=ADDR:PORT[*N][,...]"
    )
    forward: tuple[str, ...] = option(
        (), "texts", "forward a port of this host's addresses", metavar="PROTO:PORT=ADDR:PORT[,...]"
    )
    redirect: tuple[str, ...] = option(
        (), "texts", "have another port of this host answer", metavar="PROTO:PORT=PORT"
    )  # fmt: skip
    services: str = option("", "text", "file of services, TOML or Kubernetes manifests in YAML", metavar="FILE")
    node: str = option(
        "", "text", "the node of the manifests' cluster that this host is (default: its host name)", metavar="NAME"
    )
    masquerade: tuple[str, ...] = option(
        (), "texts", "give what is behind PREFIX the address of the device it leaves by", metavar="PREFIX[@DEV]"
    )
    snat: tuple[str, ...] = option(
        (), "texts", "give what is behind PREFIX another source address", metavar="PREFIX=ADDR[@DEV]"
    )
    ports: str = option(
        "1024-65535", "text", "ports that sources get if they cannot keep their own", metavar="LOW-HIGH"
    )
    timeout: tuple[str, ...] = option(
        (), "texts", "how long an idle flow is kept, such as udp=30 (default: as nf_conntrack)", metavar="NAME=SECONDS"
    )
    flows: int = option(
        262_144, "int", "flows to know at a time, rounded up to a power of two", metavar="N", low=1024, high=1 << 24
    )
    max_services: int = option(65_536, "int", "room for services, at the least", metavar="N", low=1, high=1 << 20)
    max_backends: int = option(65_536, "int", "room for backends, at the least", metavar="N", low=1, high=1 << 22)
    max_slots: int = option(
        262_144, "int", "room for what points to backends, at the least", metavar="N", low=1, high=1 << 25
    )  # fmt: skip
    accounting: bool = option(False, "flag", "count packets and bytes of each flow")


class NatMode(Mode):
    """See bpf_src/nat.c."""

    name = "nat"
    traits = Traits(
        order=20,
        depth=2,
        maps=frozenset(
            {
                "nat_ports", "nat_devices", "nat_rules", "nat_locals", *SERVICE_MAPS, "nat_flows", "nat_index",
                "nat_hand", "nat_counts", "nat_failures", "nat_events", "nat_clients", "nat_pieces", "nat_ways",
                "nat_scratches", "nat_clocks", "nat_recents", "nat_tails", "nat_requests", "nat_cursor",
            }
        ),
        learned=frozenset(
            {"nat_flows", "nat_index", "nat_hand", "nat_counts", "nat_failures", "nat_events", "nat_clients"}
        ),
        counted=frozenset({"nat_counts", "nat_failures"}),
        control=Control("nat_control", "nat_requests", "nat_cursor"),
        written=(
            "PYDP_NAT_FLOWS", "PYDP_NAT_BUCKETS", "PYDP_NAT_PLACES", "PYDP_NAT_PORT_LOW", "PYDP_NAT_PORT_COUNT",
            "PYDP_NAT_HINT_SHIFT", "PYDP_NAT_TTL", "PYDP_NAT_HOP_LIMIT",
            *(f"PYDP_NAT_TIMEOUT_{name.upper()}" for name in TIMEOUTS),
        ),
        claims=False,
        separate=True,
        short=frozenset({"xdp"}),
        again={"tc": ("begin", "error", "answer"), "xdp": ("begin",)},
        again_map="nat_tails",
        alone="what is left to the kernel would not be translated",
    )  # fmt: skip
    Options = NatOptions

    def target(self, options: NatOptions, names: Sequence[str], view: View) -> Target:
        ports = tuple(dict.fromkeys(view.link(name).ifindex for name in names))
        if len(ports) > MAX_PORTS:
            raise UsageError(f"{len(ports)} ports: {MAX_PORTS} at most")
        for ifindex in ports:
            _check_port(view.links[ifindex])
        target = Target(ports)
        parse_rules(options.masquerade, options.snat, target, view)
        parse_timeouts(options.timeout)
        parse_ports(options.ports)
        return target

    def hooks(self, options: NatOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """What XDP cannot finish the tc program beside it does; what the stack sends passes by neither."""
        return (hook, "tc-egress") if hook == "tc" else (hook, "tc", "tc-egress")

    def constants(self, options: NatOptions, context: Context) -> Mapping[str, int]:
        flows = power_of_two(options.flows)
        timeouts = parse_timeouts(options.timeout)
        low, high = parse_ports(options.ports)
        return {
            "PYDP_NAT_FLOWS": flows,
            "PYDP_NAT_BUCKETS": _buckets(flows),
            "PYDP_NAT_PLACES": _places(context),
            "PYDP_NAT_RULES": len(_rules(options, context)),
            "PYDP_NAT_ACCOUNTING": int(options.accounting),
            "PYDP_NAT_PORT_LOW": low,
            "PYDP_NAT_PORT_COUNT": high - low + 1,
            "PYDP_NAT_HINT_SHIFT": 64 - (_hints(options) - 1).bit_length(),
            "PYDP_NAT_TTL": context.defaults.ttl,
            "PYDP_NAT_HOP_LIMIT": context.defaults.hop_limit,
            **{f"PYDP_NAT_TIMEOUT_{name.upper()}": ticks for name, ticks in timeouts.items()},
        }

    def sizes(self, options: NatOptions, context: Context) -> Mapping[str, int]:
        flows = power_of_two(options.flows)
        services, backends = power_of_two(options.max_services), power_of_two(options.max_backends)
        return {
            "nat_devices": _places(context),
            "nat_rules": len(_rules(options, context)) + 1,
            "nat_locals": max(power_of_two(2 * len(_locals(context))), _FEWEST_LOCALS),
            "nat_frontends": 4 * services,
            "nat_hints": _hints(options),
            "nat_failures": services,
            "nat_backends": backends,
            "nat_counts": backends * context.defaults.cpus,
            "nat_slots": power_of_two(options.max_slots),
            "nat_flows": flows,
            "nat_index": _buckets(flows),
            "nat_recents": context.defaults.cpus,
        }

    def entries(self, options: NatOptions, context: Context) -> Entries:
        return {
            "nat_ports": _ports(context),
            "nat_devices": _devices(context),
            "nat_rules": {number: _rule(rule) for number, rule in enumerate(_rules(options, context))},
            "nat_locals": _locals(context),
        }


def _check_port(link: Link) -> None:
    if link.loopback:
        raise UsageError(
            f"{link.name}: the loopback device cannot be a port",
            hint="what this host sends is seen where it leaves: name the devices that lead to clients and backends",
        )
    if len(link.mac) != 6:
        raise UsageError(f"{link.name}: a {link.kind or 'device'} without Ethernet addresses cannot be a port")


def _buckets(flows: int) -> int:
    """Each flow stands in the index twice, and half of the places stay free."""
    return max(4 * flows // WAYS, 1)


def _hints(options: NatOptions) -> int:
    """Places for hints: few frontends share one, and most of the table is at hand."""
    return 16 * power_of_two(options.max_services)


def _rules(options: NatOptions, context: Context) -> list[Rule]:
    return parse_rules(options.masquerade, options.snat, context.target, context.view)


def _rule(rule: Rule) -> tuple[Any, ...]:
    """struct nat_rule."""
    to = address_words(rule.to) if rule.to else _NOBODY
    network = rule.network
    return (address_words(network.network_address), address_words(network.netmask), to, rule.device, network.version)


def _ports(context: Context) -> dict[int, tuple[Any, ...]]:
    """struct nat_port by slot. What comes in by a port of a bridge or bond is that device's for the routing; a VRF is
    told from its port by the kernel itself.
    """
    found = {}
    for ifindex, slot in context.slots.items():
        link, above = context.view.links[ifindex], _above(context, ifindex)
        flags = PORT_PRESENT | (0 if above.name in context.defaults.strict else PORT_LOOSE)
        flags |= PORT_BRIDGE if link.kind == "bridge" else 0
        found[slot] = (_mac(link), _mac(above) or _mac(link), ifindex, above.ifindex, flags, 0)
    return found


def _above(context: Context, ifindex: int) -> Link:
    """The device that the routing sees packets of a port come in by."""
    link = context.view.links[ifindex]
    master = context.view.links.get(link.master)
    return master if master and master.kind != "vrf" else link


def _mac(link: Link) -> int:
    return int.from_bytes(link.mac, "little")


def _places(context: Context) -> int:
    """Places by the lower bits of an ifindex: so many that all devices have one of their own, if that is not too
    many."""
    devices = [link.ifindex for link in context.view.links.values() if not link.loopback]
    places = power_of_two(2 * len(devices))
    while places < MAX_PLACES and len({ifindex & places - 1 for ifindex in devices}) < len(devices):
        places *= 2
    return min(places, MAX_PLACES)


def _devices(context: Context) -> dict[int, tuple[Any, ...]]:
    """struct nat_device by place. Ports come first; what is for a device without a place goes by the stack. A bridge
    counts as a port if one of its own is: what comes and goes by it passes there.
    """
    places, found = _places(context), dict[int, tuple[Any, ...]]()
    passed = {_above(context, ifindex).ifindex for ifindex in context.slots} | set(context.slots)
    for ifindex in sorted(context.view.links, key=lambda one: (one not in context.slots, one)):
        link = context.view.links[ifindex]
        if link.loopback:
            continue
        flags = (
            (DEVICE_PORT if ifindex in passed else 0)
            | (DEVICE_PEER if ifindex in context.peers else 0)
            | (DEVICE_XDP if ifindex in context.takers else 0)
        )
        own = context.addresses.get(ifindex, ())
        one = (ifindex, flags, _source(own, 4)[0], _source(own, 6), link.mtu, _mac(link))
        found.setdefault(ifindex & places - 1, one)
    return found


def _source(addresses: Iterable[Interface], version: int) -> tuple[int, int, int, int]:
    """The first global address of an IP version."""
    for one in addresses:
        if one.version == version and not (one.ip.is_link_local or one.ip.is_loopback or one.ip.is_multicast):
            return address_words(one.ip)
    return _NOBODY


def _locals(context: Context) -> dict[tuple[Any, ...], int]:
    """The ifindex of the device that has an address, by struct nat_name."""
    return {
        (address_words(one.ip), 0, 0, one.version): ifindex
        for ifindex, addresses in context.addresses.items()
        for one in addresses
        if not one.ip.is_multicast
    }
