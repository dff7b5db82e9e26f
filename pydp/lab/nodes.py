# SPDX-License-Identifier: Apache-2.0
"""Nodes on an underlay, each with containers of its own: what tunnels are built between."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.topology import GROUP, Container, End, create_veth, delete_links, make_mac, wait_up
from pydp.lab.underlay import GATEWAY, Underlay, add_route, addresses, bare, forward
from pydp.lab.vxlan import KernelVxlan, Option

_MOST = 100  # nodes, and containers of each: their numbers are bytes of addresses


@dataclass(frozen=True, slots=True)
class Node:
    """A namespace with the underlay device ``dev`` of that ``index`` and ``address4`` (``address6`` empty without
    IPv6), and one port for each of its containers.
    """

    number: int
    ns: Namespace
    dev: str
    index: int
    mac: str
    mtu: int
    address4: str
    address6: str
    containers: tuple[Container, ...]

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the devices that lead to the containers, in order."""
        return tuple(container.port for container in self.containers)


class Nodes:
    """``n`` nodes with eth0 on one underlay, and in each ``containers`` containers at its ports p0, p1, ...

    Node i has 192.0.2.<i+1>/24, with ``underlay6`` also 2001:db8::<i+1>/64. The underlay is a switch, a namespace with
    ports u<i> and a kernel bridge (no snooping, no STP); for two nodes with ``direct`` it is one veth pair. With
    ``router_mtu`` it is two routers with a link of that MTU between them, and node i has 198.18.<i>.1/24
    (2001:db8:<i>::1/64) and its default route by .254 (::fe): node 1 is behind the second router, all others behind the
    first, and none of them sees the narrow link but by what the routers answer. ``middle`` are the namespaces in
    between.

    Container k of node i has 10.1.<i+1>.<k+1>/16, with ``ipv6`` also fd01::<i+1>:<k+1>/64: one subnet for all of them,
    whose frames a tunnel is to carry. With ``routed`` it has a subnet of its own, 10.<20+i>.<k>.1/24
    (fd01:<i+1>:<k>::1/64) and the node as router by .254 (::fe): the nodes forward, and have no routes to each other's
    containers. ``container_mtu`` is that of both ends.

    MACs are the same in every lab of one shape. ``offloads`` are those of the containers' eth0, ``node_offloads`` those
    of all devices of the nodes, ``middle_offloads`` those of the switch or the routers.
    """

    def __init__(
        self,
        n: int,
        containers: int = 1,
        *,
        prefix: str = "pydp",
        underlay_mtu: int = 1500,
        container_mtu: int = 1450,
        underlay6: bool = False,
        ipv6: bool = False,
        direct: bool = False,
        router_mtu: int = 0,
        routed: bool = False,
        offloads: Mapping[str, bool] | None = None,
        node_offloads: Mapping[str, bool] | None = None,
        middle_offloads: Mapping[str, bool] | None = None,
    ) -> None:
        if not (1 <= n <= _MOST and 0 <= containers <= _MOST):
            raise LabError(f"1 to {_MOST} nodes with up to {_MOST} containers each, not {n} with {containers}")
        if direct and (n != 2 or router_mtu):
            raise LabError("direct is for two nodes with nothing in between")
        if router_mtu and n < 2:
            raise LabError("a router is for two nodes and more")
        self.n = n
        self.nodes: tuple[Node, ...] = ()
        self._underlay = Underlay(
            prefix, mtu=underlay_mtu, ipv6=underlay6, direct=direct, router_mtu=router_mtu,
            node_offloads=node_offloads or {}, middle_offloads=middle_offloads or {},
        )  # fmt: skip
        self.middle = self._underlay.middle
        node6 = underlay6 or (routed and ipv6)
        self._outer = [Namespace(prefix, label=f"-n{i}", ipv6=node6) for i in range(n)]
        self._inner = [[Namespace(prefix, label=f"-n{i}c{k}", ipv6=ipv6) for k in range(containers)] for i in range(n)]
        self._container_mtu = container_mtu
        self._underlay6 = underlay6
        self._ipv6 = ipv6
        self._routed = routed
        self._offloads = offloads or {}
        self._node_offloads = node_offloads or {}
        self._vxlans: dict[tuple[int, int], KernelVxlan] = {}  # by node and VNI
        self._stack = contextlib.ExitStack()

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    @property
    def containers(self) -> tuple[Container, ...]:
        """All containers, those of the first node first."""
        return tuple(container for node in self.nodes for container in node.containers)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            inner = [ns for each in self._inner for ns in each]
            outer = [*self._outer, *self._underlay.middle]
            for ns in (*outer, *inner):
                stack.enter_context(ns)
            for ns in outer:  # before the namespaces, which the kernel takes down in its own time
                stack.callback(delete_links, ns, group=GROUP)
            self._underlay.plug([self._underlay.end(i, ns) for i, ns in enumerate(self._outer)])
            for i in range(self.n):
                self._settle(i)
            self.nodes = tuple(self._make_node(i) for i in range(self.n))
            self._underlay.wait()
            for node in self.nodes:
                wait_up(node.ns.ipr(), [node.index, *(container.port_index for container in node.containers)])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._vxlans.clear()
        self._stack.close()

    # The kernel's tunnels

    def kernel_vxlan(
        self, node: Node, vni: int = 100, remotes: Sequence[str] | None = None, *, port: int = 4789,
        ports: Sequence[str] | None = None, ageing: int = 300, **options: Option,
    ) -> KernelVxlan:  # fmt: skip
        """Make ``vx<vni>`` on the node's underlay device, and the bridge ``br<vni>`` with it and ``ports`` (default:
        all). Broadcast goes to ``remotes`` (default: all other nodes, none with an option ``group`` or ``remote``).

        ``options`` as in `KernelVxlan`; ``dev`` and ``local`` are the node's unless given. A ``local`` with colons
        makes it an IPv6 underlay. Raises LabError with what ip said.
        """
        if (node.number, vni) in self._vxlans:
            raise LabError(f"node {node.number} has a VXLAN device for VNI {vni} already")
        words: dict[str, Option] = {"dstport": port, "dev": node.dev, "local": node.address4, **options}
        if remotes is None:
            others = [other for other in self.nodes if other.number != node.number]
            v6 = ":" in str(words["local"])
            remotes = [other.address6 if v6 else other.address4 for other in others]
            if options.keys() & {"group", "remote"}:
                remotes = []
        made = KernelVxlan(
            node.ns, vni, number=node.number, ports=node.ports if ports is None else ports, remotes=remotes,
            ageing=ageing, options=words,
        )  # fmt: skip
        made.up()
        self._vxlans[node.number, vni] = made
        return made

    def kernel_down(self, node: Node, vni: int | None = None) -> None:
        """Take away what `kernel_vxlan` made on a node, of one VNI or of all. The ports stay, and belong to nobody."""
        for key in [key for key in self._vxlans if key[0] == node.number and vni in (None, key[1])]:
            self._vxlans.pop(key).down()

    # Building

    def _settle(self, i: int) -> None:
        """What a node's namespace is told between its underlay device and its ports."""
        ns = self._outer[i]
        for gateway in self._underlay.gateways(i):
            add_route(ns, "default", gateway)
        if self._routed:
            forward(ns, ipv6=self._ipv6)
        elif self._underlay6:
            ns.sysctl("ipv6.conf.default.disable_ipv6", 1)  # or the ports would say hello to the containers

    def _make_node(self, i: int) -> Node:
        ns, end = self._outer[i], self._underlay.end(i, self._outer[i])
        containers = tuple(self._make_container(i, k) for k in range(len(self._inner[i])))
        v4, v6 = (*map(bare, end.addresses), "")[:2]
        return Node(i, ns, end.name, ns.ifindex(end.name), end.mac, end.mtu, v4, v6, containers)

    def _make_container(self, i: int, k: int) -> Container:
        ns, number, mtu, port = self._inner[i][k], (i + 1) * 256 + k, self._container_mtu, f"p{k}"
        own = self._overlay_addresses(i, k, 1)
        gateways = self._overlay_addresses(i, k, GATEWAY) if self._routed else ()
        inner = End(ns=ns, name="eth0", mac=make_mac(0, number), mtu=mtu, addresses=own, offloads=self._offloads)
        outer = End(
            ns=self._outer[i], name=port, mac=make_mac(1, number), mtu=mtu, addresses=gateways,
            offloads=self._node_offloads,
        )  # fmt: skip
        index = create_veth(outer, inner, group=GROUP)
        for gateway in gateways:
            add_route(ns, "default", gateway)
        v4, v6 = (*map(bare, own), "")[:2]
        return Container(k, ns, inner.name, inner.mac, mtu, v4, v6, port, index)

    def _overlay_addresses(self, i: int, k: int, host: int) -> tuple[str, ...]:
        """Of container K, or with HOST GATEWAY of its router."""
        if self._routed:
            v4, v6 = f"10.{20 + i}.{k}.{host}/24", f"fd01:{i + 1:x}:{k:x}::{host:x}/64"
        else:
            v4, v6 = f"10.1.{i + 1}.{k + 1}/16", f"fd01::{i + 1:x}:{k + 1:x}/64"
        return addresses(v4, v6 if self._ipv6 else "")
