# SPDX-License-Identifier: Apache-2.0
"""Ways between the containers of two nodes: the kernel's VXLAN device and bridge, pydp, and the bare hook."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pydp.bench import paths
from pydp.bench.errors import BenchError
from pydp.datapath import Datapath, Request
from pydp.lab import Container, Node, Nodes, ping

VNI = 100
_OVERHEAD = 50  # bytes of VXLAN over IPv4
_AGEING = 3600  # s: longer than a run


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """One way. ``build`` makes it on two nodes, joined directly. A way that does not ``encapsulate`` sends on what it
    gets, from node 0 only; ``polls`` says that node 0 has XDP programs, and so takes frames of the generator as they
    are; ``bare`` ones decide nothing, so that there is nothing to be learned.
    """

    name: str
    title: str
    build: Callable[[Nodes, ExitStack], object]
    encapsulates: bool = True
    polls: bool = False
    bare: bool = False


def make_nodes(path: TunnelPath, stack: ExitStack, *, xdp: bool = False, routed: bool = False, mtu: int = 0) -> Nodes:
    """Two nodes of one container each, and the way between them, for as long as STACK; with ``xdp`` all devices have
    the offloads that XDP wants; with ``mtu`` the containers have that one, and the underlay what a tunnel takes more.
    Raises PydpError, EbpfError, OSError.
    """
    offloads = paths.XDP_OFFLOADS if xdp else {}
    inner, outer = (mtu, mtu + _OVERHEAD) if mtu else (1450, 1500)
    nodes = stack.enter_context(
        Nodes(
            2, prefix=paths.PREFIX, direct=True, routed=routed, offloads=offloads, node_offloads=offloads,
            container_mtu=inner, underlay_mtu=outer,
        )
    )  # fmt: skip
    path.build(nodes, stack)
    return nodes


def kernel_vxlan() -> TunnelPath:
    """The kernel's VXLAN device and a bridge on both nodes."""
    return TunnelPath("kernel", "kernel vxlan and bridge", _both_kernel)


def pydp_vxlan(hook: str, *, both: bool = False) -> TunnelPath:
    """`pydp attach --mode vxlan` on node 0, and on node 1 the kernel, or with BOTH pydp as well."""
    build = functools.partial(_pydp_vxlan, hook=hook, both=both)
    return TunnelPath("pydp", f"pydp --hook {hook}", build, polls=hook == "xdp")


def pydp_ipip(hook: str = "xdp") -> TunnelPath:
    """`pydp attach --mode ipip` on node 0."""
    return TunnelPath("pydp", f"pydp --hook {hook}", functools.partial(_pydp_ipip, hook=hook), polls=hook == "xdp")


def bare(how: str, hook: str = "xdp") -> TunnelPath:
    """A program on node 0 that sends everything on, as it is, between the container's port and the underlay."""
    title = {"redirect": "bpf_redirect", "devmap": "redirect_map"}[how]
    build = functools.partial(_bare, program=f"limit_{how}", hook=hook)
    return TunnelPath(
        how, f"bare {'XDP' if hook == 'xdp' else hook} {title}", build,
        encapsulates=False, polls=hook == "xdp", bare=True,
    )  # fmt: skip


def bare_peer() -> TunnelPath:
    """tc on both nodes that sends everything on, as it is: to the other node, and at once into the container."""
    build = functools.partial(_bare_peer, out="limit_redirect", back="limit_peer")
    return TunnelPath("peer", "bare tc bpf_redirect and bpf_redirect_peer", build, encapsulates=False, bare=True)


def bare_peer_tunnel() -> TunnelPath:
    """The same with the bytes of VXLAN added and taken off."""
    build = functools.partial(_bare_peer, out="limit_vxlan_in", back="limit_vxlan_out")
    return TunnelPath("bytes", "bare tc that adds and takes off as many bytes", build, bare=True)


def bare_tunnel(kind: str, way: str) -> TunnelPath:
    """XDP that sends everything on with the bytes of a tunnel of that KIND added (WAY "in") or taken off ("out")."""
    title = f"bare XDP that {'adds' if way == 'in' else 'takes off'} as many bytes"
    build = functools.partial(_bare, program=f"limit_{kind}_{way}")
    return TunnelPath("bytes", title, build, polls=True, bare=True)


def check_answers(nodes: Nodes) -> None:
    """Have the containers find each other, and so everybody's neighbours. Raises BenchError when they do not."""
    near, far = nodes.containers
    if ping(near.ns, far.address4, count=3).received == 0:
        raise BenchError(f"{far.address4} does not answer {near.address4} through the tunnel")


def peer_of(nodes: Nodes, node: Node) -> Node:
    """The other one."""
    return nodes[1 - node.number]


def prefix_of(container: Container) -> str:
    """The subnet of a routed container."""
    return container.address4.rpartition(".")[0] + ".0/24"


def _both_kernel(nodes: Nodes, _stack: ExitStack) -> None:
    for node in nodes.nodes:
        nodes.kernel_vxlan(node, VNI, ageing=_AGEING)


def _pydp_vxlan(nodes: Nodes, stack: ExitStack, *, hook: str, both: bool) -> None:
    for node in nodes.nodes:
        if node.number == 1 and not both:
            nodes.kernel_vxlan(node, VNI, ageing=_AGEING)
            continue
        peer = peer_of(nodes, node)
        options = {"vni": VNI, "local": node.address4, "remote": (peer.address4,), "port": node.ports}
        attach_mode(node, stack, "vxlan", hook, options)


def _pydp_ipip(nodes: Nodes, stack: ExitStack, *, hook: str) -> None:
    node, peer = nodes.nodes
    prefixes = tuple(f"{peer.address4}={prefix_of(container)}" for container in peer.containers)
    attach_mode(node, stack, "ipip", hook, {"local": node.address4, "peer": prefixes, "port": node.ports})


def attach_mode(node: Node, stack: ExitStack, mode: str, hook: str, options: Mapping[str, Any]) -> None:
    datapath = node.ns.call(Datapath)
    instance = node.ns.call(datapath.attach, Request(mode, (node.dev,), hook=hook, options=options))
    stack.callback(node.ns.call, datapath.detach, [instance.name])


def _bare_peer(nodes: Nodes, stack: ExitStack, *, out: str, back: str) -> None:
    for node in nodes.nodes:
        (port,) = node.ports
        paths.redirect(node.ns, stack, "tc", out, port, node.dev)
        paths.redirect(node.ns, stack, "tc", back, node.dev, port)


def _bare(nodes: Nodes, stack: ExitStack, *, program: str, hook: str = "xdp") -> None:
    node = nodes[0]
    (port,) = node.ports
    for inward, outward in ((port, node.dev), (node.dev, port)):
        paths.redirect(node.ns, stack, hook, program, inward, outward)
