# SPDX-License-Identifier: Apache-2.0
"""What lies between nodes: a switch, nothing, or routers with a narrow link."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from pydp.lab.netns import Namespace
from pydp.lab.topology import GROUP, End, create_veth, make_mac, wait_up

GATEWAY = 254  # host part of a router's address
# Kinds of MAC addresses (make_mac), behind those of a segment.
_NODE, _MIDDLE, _BETWEEN = 3, 4, 6
_SWITCH = 0xFF00  # number of the switch's own address
_RTPROT_BOOT = 3  # linux/rtnetlink.h; pyroute2 would say "static"


class Underlay:
    """Addresses of the nodes' eth0, and the namespaces ``middle`` that it leads to; see `pydp.lab.nodes.Nodes`."""

    def __init__(
        self, prefix: str, *, mtu: int, ipv6: bool, direct: bool, router_mtu: int,
        node_offloads: Mapping[str, bool], middle_offloads: Mapping[str, bool],
    ) -> None:  # fmt: skip
        labels = () if direct else ("-mid", "-mid1") if router_mtu else ("-mid",)
        routed6 = bool(router_mtu) and ipv6
        self.middle = tuple(Namespace(prefix, label=label, ipv6=routed6) for label in labels)
        self._mtu = mtu
        self._ipv6 = ipv6
        self._router_mtu = router_mtu
        self._node_offloads = node_offloads
        self._middle_offloads = middle_offloads
        self._ports: list[tuple[Namespace, int]] = []

    def end(self, i: int, ns: Namespace) -> End:
        """eth0 of node I."""
        host = 1 if self._router_mtu else i + 1
        return End(
            ns=ns, name="eth0", mac=make_mac(_NODE, i), mtu=self._mtu, addresses=self._addresses(i, host),
            offloads=self._node_offloads,
        )  # fmt: skip

    def gateways(self, i: int) -> tuple[str, ...]:
        """Routers of node I, with prefix length."""
        return self._addresses(i, GATEWAY) if self._router_mtu else ()

    def plug(self, ends: Sequence[End]) -> None:
        """Make the devices, in namespaces that there are."""
        if not self.middle:
            create_veth(*ends, group=GROUP)
            return
        bridge = 0 if self._router_mtu else _make_switch(self.middle[0])
        for i, end in enumerate(ends):
            ns = self.middle[1] if self._router_mtu and i == 1 else self.middle[0]
            port = End(
                ns=ns, name=f"u{i}", mac=make_mac(_MIDDLE, i), mtu=end.mtu, addresses=self.gateways(i),
                offloads=self._middle_offloads, master=bridge,
            )  # fmt: skip
            self._ports.append((ns, create_veth(port, end, group=GROUP)))
        if self._router_mtu:
            self._join(*self.middle)

    def wait(self) -> None:
        """Wait until everything in between is up."""
        for ns, index in self._ports:
            wait_up(ns.ipr(), [index], forwarding=not self._router_mtu)

    def _addresses(self, i: int, host: int) -> tuple[str, ...]:
        v4, v6 = (f"198.18.{i}", f"2001:db8:{i:x}") if self._router_mtu else ("192.0.2", "2001:db8")
        return addresses(f"{v4}.{host}/24", f"{v6}::{host:x}/64" if self._ipv6 else "")

    def _join(self, one: Namespace, other: Namespace) -> None:
        """The narrow link between two routers, the second of which has node 1."""
        pairs = [addresses(f"198.19.0.{host}/24", f"2001:db8:ffff::{host}/64" if self._ipv6 else "") for host in (1, 2)]
        ends = [
            End(
                ns=ns, name="narrow", mac=make_mac(_BETWEEN, i), mtu=self._router_mtu, addresses=pairs[i],
                offloads=self._middle_offloads,
            )
            for i, ns in enumerate((one, other))
        ]  # fmt: skip
        index = create_veth(ends[0], ends[1], group=GROUP)
        self._ports.append((one, index))
        for network, gateway in zip(self._addresses(1, 0), pairs[1], strict=True):
            add_route(one, network, gateway)
        for gateway in pairs[0]:
            add_route(other, "default", gateway)
        for ns in (one, other):
            forward(ns, ipv6=self._ipv6)


def addresses(v4: str, v6: str) -> tuple[str, ...]:
    """In the form that the kernel prints; without V6 when that is empty."""
    return tuple(str(ipaddress.ip_interface(address)) for address in (v4, v6) if address)


def bare(address: str) -> str:
    """Without prefix length."""
    return address.partition("/")[0]


def add_route(ns: Namespace, network: str, gateway: str) -> None:
    """A route by GATEWAY, an address with or without prefix length, to a network or "default", as `ip route add` makes
    one.
    """
    family = 10 if ":" in gateway else 2  # AF_INET6, AF_INET
    with ns.netlink() as ipr:
        ipr.route("add", dst=network, gateway=bare(gateway), family=family, proto=_RTPROT_BOOT)


def forward(ns: Namespace, *, ipv6: bool) -> None:
    """Make it a router."""
    ns.sysctl("ipv4.ip_forward", 1)
    if ipv6:
        ns.sysctl("ipv6.conf.all.forwarding", 1)


def _make_switch(ns: Namespace) -> int:
    ns.ipr().link(
        "add", ifname="br0", kind="bridge", group=GROUP, address=make_mac(_MIDDLE, _SWITCH), state="up",
        br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0,
    )  # fmt: skip
    return ns.ifindex("br0")
