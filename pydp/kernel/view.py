# SPDX-License-Identifier: Apache-2.0
"""A frozen picture of the links, bridges and tunnels of one network namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from pydp.errors import NoSuchLink, PydpError, UsageError
from pydp.kernel.messages import AF_BRIDGE, AF_UNSPEC, Message, bridge_of, link_of, port_of, vlans_of
from pydp.kernel.tunnels import tunnel_of, vxlan_of
from pydp.model import Bridge, BridgePort, Link, NfCall, Tunnel, Vxlan

_RTM_DELLINK = 17
_BRVLAN_COMPRESSED = 4  # RTEXT_FILTER_BRVLAN_COMPRESSED: 4094 VLANs come as one range instead of 4094 attributes
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_SYSCTL = Path("/proc/sys/net/bridge")


@dataclass(frozen=True, slots=True)
class View:
    """Links, bridges, vxlan devices and IP tunnels as they were at one moment, by ifindex, and the sysctls
    net.bridge.bridge-nf-call-*.

    `read` takes the picture. `applied` gives the next one after further messages, so whoever follows events needs no
    new dump: both are the same fold over messages. The FDB is not in it (see `read_fdb`): not every command wants
    100,000 entries.
    """

    links: Mapping[int, Link] = field(default_factory=lambda: MappingProxyType({}))
    bridges: Mapping[int, Bridge] = field(default_factory=lambda: MappingProxyType({}))
    nf_call: NfCall = field(default_factory=NfCall)
    vxlans: Mapping[int, Vxlan] = field(default_factory=lambda: MappingProxyType({}))
    tunnels: Mapping[int, Tunnel] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(cls) -> View:
        """The network namespace of the calling thread. Raises PydpError when the kernel does not answer."""
        from pyroute2 import IPRoute  # takes a quarter of a second to import
        from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

        for _ in range(8):
            try:
                with IPRoute() as ipr:
                    messages = list(ipr.get_links(ext_mask=_SKIP_STATS))
                    messages += ipr.link("dump", family=AF_BRIDGE, ext_mask=_BRVLAN_COMPRESSED)
            except NetlinkDumpInterrupted:  # something changed meanwhile: once more
                continue
            except (NetlinkError, OSError) as error:
                raise PydpError(f"cannot read the interfaces: {error}") from error
            return cls.from_messages(messages, read_nf_call())
        raise PydpError("cannot read the interfaces: they change faster than they can be read")

    @classmethod
    def from_messages(cls, messages: Iterable[Message], nf_call: NfCall | None = None) -> View:
        """The picture that RTM_NEWLINK and RTM_DELLINK messages give, AF_UNSPEC ones before AF_BRIDGE ones as `read`
        asks for.
        """
        return cls(nf_call=nf_call or NfCall()).applied(messages)

    def applied(self, messages: Iterable[Message]) -> View:
        """The picture after these messages, in order of arrival. Records that no message touches stay the same
        objects.
        """
        links = dict(self.links)
        bridges = dict(self.bridges)
        ports = {port.ifindex: port for bridge in self.bridges.values() for port in bridge.ports}
        vxlans, tunnels = dict(self.vxlans), dict(self.tunnels)
        for msg in messages:
            _apply(msg, links, bridges, ports)
            _apply_tunnel(msg, links, vxlans, tunnels)
        return View(
            MappingProxyType(links),
            MappingProxyType(_with_ports(bridges, ports)),
            self.nf_call,
            MappingProxyType(vxlans),
            MappingProxyType(tunnels),
        )

    def link(self, name: str) -> Link:
        """The link of that name. Raises NoSuchLink."""
        for link in self.links.values():
            if link.name == name:
                return link
        raise NoSuchLink(name, (link.name for link in self.links.values()))

    def bridge(self, name: str) -> Bridge:
        """The kernel bridge of that name. Raises NoSuchLink, or UsageError when it is another kind of device."""
        link = self.link(name)
        if link.ifindex not in self.bridges:
            raise UsageError(f"{name} is not a bridge", hint="`ip link show type bridge` lists the bridges")
        return self.bridges[link.ifindex]

    def port(self, ifindex: int) -> BridgePort | None:
        """The bridge port that the device is, or None."""
        link = self.links.get(ifindex)
        bridge = self.bridges.get(link.master) if link else None
        return next((port for port in bridge.ports if port.ifindex == ifindex), None) if bridge else None

    def name(self, ifindex: int) -> str:
        """Name of a device for people, also of one that is gone: "if7"."""
        link = self.links.get(ifindex)
        return link.name if link else f"if{ifindex}"


def read_nf_call() -> NfCall:
    """The sysctls net.bridge.bridge-nf-call-* of the current namespace; all False without br_netfilter."""

    def on(name: str) -> bool:
        try:
            return (_SYSCTL / f"bridge-nf-call-{name}").read_text().strip() != "0"
        except OSError:
            return False

    return NfCall(on("iptables"), on("ip6tables"), on("arptables"))


def _apply(msg: Message, links: dict[int, Link], bridges: dict[int, Bridge], ports: dict[int, BridgePort]) -> None:
    """One message into the records. Only AF_BRIDGE messages know VLANs, so what AF_UNSPEC ones tell keeps those of
    before.
    """
    ifindex, family = msg["index"], msg["family"]
    if msg["header"]["type"] == _RTM_DELLINK:  # of family AF_BRIDGE: it left its bridge
        ports.pop(ifindex, None)
        if family == AF_UNSPEC:
            links.pop(ifindex, None)
            bridges.pop(ifindex, None)
    elif family == AF_BRIDGE:
        pvid, vlans = vlans_of(msg)
        if port := port_of(msg, pvid, vlans):
            ports[ifindex] = port
        elif ifindex in bridges:
            bridges[ifindex] = replace(bridges[ifindex], pvid=pvid, vlans=vlans)
    else:
        link = links[ifindex] = link_of(msg)
        if bridge := bridge_of(msg, link, bridges.get(ifindex)):
            bridges[ifindex] = bridge
        before = ports.pop(ifindex, None)
        if port := port_of(msg, before.pvid if before else None, before.vlans if before else ()):
            ports[ifindex] = port


def _apply_tunnel(msg: Message, links: dict[int, Link], vxlans: dict[int, Vxlan], tunnels: dict[int, Tunnel]) -> None:
    """The same for tunnels, after `_apply`; an index that was deleted may come back as another kind of device."""
    ifindex = msg["index"]
    if msg["family"] != AF_UNSPEC:
        return
    vxlans.pop(ifindex, None)
    tunnels.pop(ifindex, None)
    if link := links.get(ifindex):
        if vxlan := vxlan_of(msg, link):
            vxlans[ifindex] = vxlan
        if tunnel := tunnel_of(msg, link):
            tunnels[ifindex] = tunnel


def _with_ports(bridges: dict[int, Bridge], ports: dict[int, BridgePort]) -> dict[int, Bridge]:
    members: dict[int, list[BridgePort]] = {ifindex: [] for ifindex in bridges}
    for _, port in sorted(ports.items()):
        members.get(port.bridge, []).append(port)
    return {
        ifindex: bridge if (own := tuple(members[ifindex])) == bridge.ports else replace(bridge, ports=own)
        for ifindex, bridge in bridges.items()
    }
