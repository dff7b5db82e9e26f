# SPDX-License-Identifier: Apache-2.0
"""Mode bridge: what the maps of bpf_src/bridge.c should hold.

Given a kernel bridge it is adopted: its ports, VLANs, FDB and flags are taken as they stand. Given other interfaces
they become one segment of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.errors import UsageError
from pydp.model import Bridge, BridgePort, PortState, Vlan
from pydp.modes.base import Context, Control, Entries, Mode, Role, Target, Traits, View
from pydp.modes.fdb import buckets, fdb_key, forget_request, kernel_request, local_request, power_of_two, ticks
from pydp.options import option

MAX_PORTS = 256  # BRIDGE_PORTS
ETHERNET_AND_TAG = 18  # a frame may be longer than the MTU by both (is_skb_forwardable, net/core/dev.c)

# enum bridge_port_flag
PRESENT, FORWARDING, LEARNING, HAIRPIN, ISOLATED, PUNT, PEER = 1, 2, 4, 64, 128, 256, 512

PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}
_VLAN = re.compile(r"(?P<dev>[^=]+)=(?P<low>\d+)(?:-(?P<high>\d+))?(?P<flags>(?:[: ](?:pvid|untagged))*)")


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Options of --mode bridge. Ports, VLANs and flags are of the standalone form; a bridge that is adopted has its
    own.
    """

    ageing: float | None = option(
        None, "seconds", "forget an address not heard of for so long (default: 300, or the adopted bridge's)",
        metavar="SECONDS", low=0, high=1_000_000,
    )  # fmt: skip
    fdb_size: int = option(65536, "int", "addresses to keep", metavar="N", low=16, high=4_194_304)
    vlan_filtering: bool = option(False, "flag", "keep VLANs apart; each port begins as untagged member of VLAN 1")
    vlan_protocol: str = option("802.1q", "choice", "tag that counts", choices=tuple(PROTOCOLS))
    vlan: tuple[str, ...] = option(
        (),
        "texts",
        "membership of a port, as in eth1=10:pvid:untagged or eth1=20-30",
        metavar="DEV=VID[-VID][:pvid][:untagged]",
    )
    isolated: tuple[str, ...] = option((), "names", "port that talks to ports not isolated only", metavar="DEV")
    hairpin: tuple[str, ...] = option((), "names", "port that frames may leave by where they came in", metavar="DEV")
    ignore_netfilter: bool = option(
        False, "flag", "adopt a bridge whose frames pass through netfilter rules; forwarded ones will pass them by"
    )


class BridgeMode(Mode):
    """See bpf_src/bridge.c."""

    name = "bridge"
    traits = Traits(
        order=40,
        depth=2,
        maps=frozenset(
            {
                "bridge_ports", "bridge_floods", "bridge_vlans", "fdb_requests", "fdb_cursor", "bridge_tails",
                "fdb", "fdb_events", "fdb_clock",
            }
        ),
        learned=frozenset({"fdb", "fdb_events"}),
        tails={"bridge_tails": "bridge_copies"},
        control=Control("fdb_control", "fdb_requests", "fdb_cursor"),
        finishes=True,
        promiscuous=frozenset({Role.PORT}),
        written=("PYDP_FDB_BUCKETS", "PYDP_FDB_AGEING"),
    )  # fmt: skip
    Options = BridgeOptions

    def target(self, options: BridgeOptions, names: Sequence[str], view: View) -> Target:
        links = [view.link(name) for name in names]
        bridges = [link for link in links if link.ifindex in view.bridges]
        if bridges:
            return self._adopt(options, names, view.bridges[bridges[0].ifindex])
        for link in links:
            if link.master:
                master = view.name(link.master)
                raise UsageError(
                    f"{link.name} is a port of {master}",
                    hint=f"pydp attach --mode bridge {master} adopts it with its ports",
                )
            if link.loopback:
                raise UsageError(f"{link.name} is the loopback device, which cannot be a port")
        for key, wanted in (("isolated", options.isolated), ("hairpin", options.hairpin)):
            for name in wanted:
                if name not in names:
                    raise UsageError(f"--{key} {name}: it is not among the ports")
        if options.vlan and not options.vlan_filtering:
            raise UsageError("--vlan needs --vlan-filtering")
        _memberships(options, names)
        return Target(_counted(tuple(dict.fromkeys(link.ifindex for link in links))))

    def _adopt(self, options: BridgeOptions, names: Sequence[str], bridge: Bridge) -> Target:
        if len(names) > 1:
            raise UsageError(f"{bridge.name} is a bridge: it is adopted alone, with the ports it has")
        if options.vlan or options.isolated or options.hairpin or options.vlan_filtering:
            raise UsageError(
                f"{bridge.name} is adopted with the VLANs and flags it has", hint="set them with bridge(8), then attach"
            )
        if not bridge.ports:
            raise UsageError(f"{bridge.name} has no ports", hint=f"ip link set DEV master {bridge.name}")
        return Target(_counted(tuple(port.ifindex for port in bridge.ports)), bridge.ifindex)

    def hooks(self, options: BridgeOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """XDP cannot copy a frame: without a kernel bridge below, a tc program beside it does."""
        return (hook,) if hook == "tc" or target.adopted else (hook, "tc")

    def constants(self, options: BridgeOptions, context: Context) -> Mapping[str, int]:
        bridge = context.view.bridges.get(context.target.adopted)
        filtering = bridge.vlan_filtering if bridge else options.vlan_filtering
        protocol = bridge.vlan_protocol if bridge else PROTOCOLS[options.vlan_protocol]
        return {
            "PYDP_BRIDGE_ADOPTED": int(bridge is not None),
            "PYDP_BRIDGE_VLAN_FILTERING": int(filtering),
            "PYDP_BRIDGE_TAG_PROTOCOL": protocol,
            "PYDP_BRIDGE_SLOTS": power_of_two(max(context.slots.values()) + 1),
            "PYDP_FDB_BUCKETS": buckets(options.fdb_size),
            "PYDP_FDB_AGEING": ticks(ageing_of(options, bridge)),
        }

    def sizes(self, options: BridgeOptions, context: Context) -> Mapping[str, int]:
        return {"fdb": buckets(options.fdb_size)}

    def entries(self, options: BridgeOptions, context: Context) -> Entries:
        bridge = context.view.bridges.get(context.target.adopted)
        ports = {port.ifindex: port for port in (bridge.ports if bridge else _standalone(options, context))}
        found: dict[str, dict[Any, Any]] = {
            "bridge_ports": {slot: _port(context, ports[ifindex]) for ifindex, slot in context.slots.items()},
        }
        if not bridge:
            found["bridge_floods"] = _floods(context.slots, ports)
        if bridge.vlan_filtering if bridge else options.vlan_filtering:
            found["bridge_vlans"] = _vlans(context.slots, ports)
        return found

    def requests(self, options: BridgeOptions, context: Context) -> Sequence[tuple[Any, ...]]:
        """Forget what an earlier attach wrote, then enter this host's addresses and what the kernel bridge knows."""
        vids = self._vids(options, context)
        wanted: dict[int, tuple[Any, ...]] = {}
        for ifindex, slot in context.slots.items():
            for key in _own_keys(context.view.links[ifindex].mac, vids[ifindex]):
                wanted[key] = local_request(key, slot)
        for entry in context.fdb:
            if request := kernel_request(entry, context.slots):
                wanted[request[0]] = request
        return [forget_request(), *wanted.values()]

    def _vids(self, options: BridgeOptions, context: Context) -> Mapping[int, Sequence[int]]:
        """VLANs, by port, in which a port's own address is known beside 0 (a kernel bridge's FDB tells them itself)."""
        if context.target.adopted or not options.vlan_filtering:
            return dict.fromkeys(context.slots, ())
        return {port.ifindex: [vlan.vid for vlan in port.vlans] for port in _standalone(options, context)}


def ageing_of(options: BridgeOptions, bridge: Bridge | None) -> float:
    """Seconds: the option, or the adopted bridge's, or the kernel's default."""
    if options.ageing is not None:
        return options.ageing
    return bridge.ageing if bridge else 300.0


def _own_keys(mac: bytes, vids: Iterable[int]) -> list[int]:
    """Keys of a device's own address; a device may have none."""
    return [fdb_key(mac, vid) for vid in (0, *vids)] if mac else []


def _counted(ports: tuple[int, ...]) -> tuple[int, ...]:
    if len(ports) > MAX_PORTS:
        raise UsageError(f"{len(ports)} ports are too many: a bridge has up to {MAX_PORTS}")
    return ports


def _standalone(options: BridgeOptions, context: Context) -> Iterable[BridgePort]:
    """The ports of the standalone form, as a kernel bridge would have them."""
    names = [context.view.name(ifindex) for ifindex in context.slots]
    members = _memberships(options, names)
    for ifindex in context.slots:
        name = context.view.name(ifindex)
        vlans, pvid = members[name]
        yield BridgePort(
            ifindex=ifindex, bridge=0, state=PortState.FORWARDING, hairpin=name in options.hairpin,
            isolated=name in options.isolated, pvid=pvid, vlans=vlans,
        )  # fmt: skip


def _memberships(options: BridgeOptions, names: Sequence[str]) -> dict[str, tuple[tuple[Vlan, ...], int | None]]:
    """VLANs and PVID of each port. As on a kernel bridge each begins as untagged member of VLAN 1, its PVID."""
    vlans: dict[str, dict[int, bool]] = {name: {1: True} for name in names}
    pvids: dict[str, int | None] = dict.fromkeys(names, 1)
    for text in options.vlan:
        found = _VLAN.fullmatch(text)
        if not found:
            raise UsageError(f"--vlan {text}: not of the form DEV=VID[-VID][:pvid][:untagged]")
        low, high = int(found["low"]), int(found["high"] or found["low"])
        if not 1 <= low <= high <= 4094:
            raise UsageError(f"--vlan {text}: VLAN ids are 1 to 4094")
        if found["dev"] not in vlans:
            raise UsageError(f"--vlan {text}: {found['dev']} is not among the ports")
        flags = set(re.split("[: ]", found["flags"])) if found["flags"] else set()
        vlans[found["dev"]] |= dict.fromkeys(range(low, high + 1), "untagged" in flags)
        if "pvid" in flags:
            if low != high:
                raise UsageError(f"--vlan {text}: a port has one PVID")
            pvids[found["dev"]] = low
    return {
        name: (tuple(Vlan(vid, untagged) for vid, untagged in sorted(vlans[name].items())), pvids[name])
        for name in names
    }


def kernel_only(port: BridgePort) -> bool:
    """Whether a port's frames need what only the kernel does: any state but forwarding, or a feature not built here."""
    return port.state != PortState.FORWARDING or any(
        (
            port.locked,
            port.mab,
            port.neigh_suppress,
            port.proxy_arp,
            port.vlan_tunnel,
            port.group_fwd_mask,
            port.backup_port,
        )
    )


def _port(context: Context, port: BridgePort) -> tuple[Any, ...]:
    """A struct bridge_port. Frames *to* a port with a feature not built here are the kernel's too: it does not
    "forward".
    """
    link = context.view.links[port.ifindex]
    flags = PRESENT
    special = kernel_only(port)
    for wanted, flag in (
        (special, PUNT), (not special, FORWARDING), (port.learning, LEARNING), (port.hairpin, HAIRPIN),
        (port.isolated, ISOLATED), (port.ifindex in context.peers, PEER),
    ):  # fmt: skip
        flags |= flag if wanted else 0
    return (port.ifindex, link.mtu + ETHERNET_AND_TAG, port.pvid or 0, flags)


def _bits(slots: Iterable[int]) -> tuple[int, ...]:
    """A set of slots as four words of 64 bits."""
    whole = sum(1 << slot for slot in slots)
    return tuple((whole >> (64 * word)) & (1 << 64) - 1 for word in range(4))


def _floods(slots: Mapping[int, int], ports: Mapping[int, BridgePort]) -> dict[int, tuple[Any, ...]]:
    """struct bridge_flood of each slot."""
    found = {}
    for ifindex, slot in slots.items():
        source = ports[ifindex]
        others = [
            (slots[port.ifindex], port) for port in ports.values()
            if (port.ifindex != ifindex or port.hairpin) and not (port.isolated and source.isolated)
        ]  # fmt: skip
        found[slot] = tuple(
            _bits(number for number, port in others if getattr(port, kind))
            for kind in ("flood", "mcast_flood", "bcast_flood")
        )
    return found


def _vlans(slots: Mapping[int, int], ports: Mapping[int, BridgePort]) -> dict[int, tuple[Any, ...]]:
    """struct bridge_vlan of each VLAN that has a member."""
    members: dict[int, list[int]] = {}
    untagged: dict[int, list[int]] = {}
    for ifindex, slot in slots.items():
        for vlan in ports[ifindex].vlans:
            members.setdefault(vlan.vid, []).append(slot)
            if vlan.untagged:
                untagged.setdefault(vlan.vid, []).append(slot)
    return {vid: (_bits(who), _bits(untagged.get(vid, ()))) for vid, who in members.items()}
