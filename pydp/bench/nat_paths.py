# SPDX-License-Identifier: Apache-2.0
"""Ways from a client through a router to who answers for a service: netfilter, pydp, and the bare hook."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pydp.bench import nat_kernel, paths
from pydp.bench.errors import BenchError
from pydp.datapath import Datapath, Instance, Request
from pydp.lab import Container, Node, Nodes, ping, set_offloads
from pydp.services.attach import ServiceFiller
from pydp.services.model import Backend, Frontend, Protocol, Service

# Behind the client, behind the server, and of services.
CLIENTS = IPv4Network("198.18.0.0/15")
BACKENDS = IPv4Network("198.51.100.0/24")
SERVICES = IPv4Network("10.96.0.0/14")
SERVICE_PORT, BACKEND_PORT = 80, 8080
TITLES = {"legacy": "iptables-legacy", "iptables-nft": "iptables-nft", "nftables": "nftables map"}
NATIVE = tuple(TITLES)
_TWO_WAYS = ((0, 1), (1, 0))


@dataclass(frozen=True, slots=True)
class Rig:
    """A client, and a server that the addresses of backends lead to, each at a port of a router: p0 and p1."""

    nodes: Nodes

    @property
    def router(self) -> Node:
        return self.nodes[0]

    @property
    def client(self) -> Container:
        return self.router.containers[0]

    @property
    def server(self) -> Container:
        return self.router.containers[1]

    def port_mac(self, container: Container) -> str:
        """The address of the router's port at a container."""
        return str(self.router.ns.ipr().link("get", ifname=container.port)[0].get("address"))


Build = Callable[[Rig, Sequence[Service], ExitStack], object]


@dataclass(frozen=True, slots=True)
class NatPath:
    """One way. ``build`` has the router know services, and ``forget``, called in its namespace, has it forget all
    connections. ``polls`` says that its ports have XDP programs, and so take frames of the generator as they are. One
    that does not ``translate`` sends on what it gets.
    """

    name: str
    title: str
    build: Build
    forget: Callable[[], None]
    translates: bool = True
    polls: bool = False


def services(count: int, backends: int = 1, protocol: Protocol = "tcp", *, shift: int = 0) -> list[Service]:
    """So many services, with backends that are the same for all; another SHIFT gives other ones."""
    ends = tuple(Backend(BACKENDS[1 + (number + shift) % 200], BACKEND_PORT) for number in range(backends))
    return [
        Service(f"s{number}", (Frontend(protocol, address_of(number), SERVICE_PORT),), ends) for number in range(count)
    ]


def address_of(number: int) -> IPv4Address:
    """That of a service."""
    return SERVICES[1 + number]


def make_rig(path: NatPath, known: Sequence[Service], stack: ExitStack, *, xdp: bool = False) -> Rig:
    """A client, a server and the way between them, for as long as STACK; with ``xdp`` all devices have the offloads
    that XDP wants. Raises PydpError, EbpfError, OSError.
    """
    offloads = paths.XDP_OFFLOADS if xdp else {}
    nodes = stack.enter_context(
        Nodes(
            1, 2, prefix=paths.PREFIX, routed=True, container_mtu=1500, offloads=offloads, node_offloads=offloads
        )
    )  # fmt: skip
    rig = Rig(nodes)
    for network, container in ((CLIENTS, rig.client), (BACKENDS, rig.server)):
        with rig.router.ns.netlink() as ipr:
            ipr.route("add", dst=str(network), gateway=container.address4)
        if not ping(rig.router.ns, container.address4, count=1).received:
            raise BenchError(f"{container.address4} does not answer its router")
    path.build(rig, known, stack)
    return rig


def take_frames(path: NatPath, rig: Rig) -> None:
    """Have the client's port poll where it has no XDP program, and tell its peer that it may be sent XDP frames: GRO
    switched on before it was up does not do that (veth_open, drivers/net/veth.c).
    """
    if not path.polls:
        for on in (False, True):
            set_offloads(rig.router.ns, rig.client.port, {"gro": on})


def native(name: str, *, again: str = "") -> NatPath:
    """One of NATIVE, under that name with AGAIN behind it."""
    return NatPath(name + again, TITLES[name], functools.partial(_native, name=name), _flush)


def pydp(hook: str, *, name: str = "pydp", options: Mapping[str, Any] | None = None) -> NatPath:
    """`pydp attach --mode nat` on both ports."""
    build = functools.partial(attach_pydp, hook=hook, options=options)
    return NatPath(name, f"pydp --hook {hook}", build, _forget, polls=hook == "xdp")


def bare(hook: str, how: str) -> NatPath:
    """A program that sends everything on, as it is, from one port to the other."""
    title = {"redirect": "bpf_redirect", "devmap": "redirect_map", "peer": "bpf_redirect_peer"}[how]
    build = functools.partial(_bare, hook=hook, program=f"limit_{how}")
    return NatPath(how, f"bare {'XDP' if hook == 'xdp' else hook} {title}", build, _nothing, False, hook == "xdp")


def attach_pydp(
    rig: Rig, known: Sequence[Service], stack: ExitStack, *, hook: str, options: Mapping[str, Any] | None = None
) -> tuple[Datapath, Instance]:
    """Attach mode nat to the ports until STACK ends. Raises PydpError, EbpfError."""
    ns = rig.router.ns
    datapath = ns.call(Datapath)
    filler = ServiceFiller(datapath, known)
    instance = ns.call(datapath.attach, Request("nat", rig.router.ports, hook=hook, options=options or {}), filler)
    stack.callback(ns.call, datapath.detach, [instance.name])
    return datapath, instance


def _forget() -> None:
    """Empty the table of flows: nobody begins one meanwhile."""
    datapath = Datapath()
    (instance,) = datapath.read().instances.values()
    with datapath.open_maps(instance, ["nat_flows", "nat_index"]) as maps:
        for each in maps.values():
            keys, values = each.raw()
            each.update_raw(keys, bytes(len(values)))


def _flush() -> None:
    """Empty nf_conntrack."""
    from pyroute2 import NFCTSocket

    with NFCTSocket() as conntrack:
        conntrack.flush()


def _nothing() -> None:
    """There are none."""


def _native(rig: Rig, known: Sequence[Service], _stack: ExitStack, *, name: str) -> None:
    nat_kernel.WRITERS[name](rig.router.ns, known)


def _bare(rig: Rig, _known: Sequence[Service], stack: ExitStack, *, hook: str, program: str) -> None:
    for inward, outward in _TWO_WAYS:
        paths.redirect(rig.router.ns, stack, hook, program, rig.router.ports[inward], rig.router.ports[outward])
