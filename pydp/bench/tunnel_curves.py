# SPDX-License-Identifier: Apache-2.0
"""What grows of tunnels: sizes of frames, and how many ends there are. All ends are behind node 1, which takes the
packets for each of them."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network

from pydp.bench import frames, programs, tunnel_frames, tunnel_paths
from pydp.bench.blocks import Measure, Plan
from pydp.bench.frames import Generator, Sink
from pydp.bench.nat_frames import choices
from pydp.bench.scenario import Comparison, Point, Scenario
from pydp.bench.traffic import FLOOD, Port
from pydp.bench.tunnel_paths import TunnelPath
from pydp.bench.tunnel_scenarios import find_neighbours, ipip_encap, on_nodes, take_frames, vxlan_encap
from pydp.lab import Nodes

_FULL, _QUICK = Plan(20, 0.1, 20), Plan(5, 0.05, 5)
_SIZES = (64, 512, 1464)  # bytes of an inner frame, without a check sequence: an MTU of 1450
_PEERS = (1, 100, 1000, 10_000)
_VTEPS = (1, 10, 100, 1000)  # a segment has 1024 at most
_ENDS = IPv4Network("100.64.0.0/10")  # addresses of peers
_BEHIND = IPv4Network("198.18.0.0/15")  # and a host behind each


def ipip_peers(path: TunnelPath, stack: ExitStack, *, count: int, distribution: str) -> Measure:
    """64-byte packets from the container of node 0 to hosts of which each is behind a peer of its own."""
    nodes = tunnel_paths.make_nodes(path, stack, xdp=True, routed=True)
    near, far = nodes.nodes
    (sender,) = near.containers
    take_frames(path, near.ns, sender.port)
    find_neighbours(path, nodes)
    sink = Sink(far, "xdp", stack, tunnel_frames.IN_IPIP if path.encapsulates else tunnel_frames.IN_ETHERNET)
    hosts = choices(random.Random(1), count, distribution, programs.DRAWS)
    draws = [(int(IPv4Address(sender.address4)), int(_BEHIND[host])) for host in hosts]
    generator = Generator(sender, draws, stack, tunnel_frames.to_router(sender, near))
    return FLOOD.begin(generator, sink, Port(near.ns, sender.port))


def _peers(nodes: Nodes, stack: ExitStack, *, count: int) -> None:
    """`pydp attach --mode ipip` on node 0, with so many peers that are all reached by node 1."""
    near, far = nodes.nodes
    near.ns.run(["ip", "route", "add", str(_ENDS), "via", far.address4])
    peers = tuple(f"{_ENDS[1 + number]}={_BEHIND[number]}/32" for number in range(count))
    tunnel_paths.attach_mode(near, stack, "ipip", "xdp", {"local": near.address4, "peer": peers, "port": near.ports})


def vxlan_vteps(path: TunnelPath, stack: ExitStack, *, count: int, distribution: str) -> Measure:
    """64-byte frames from the container of node 0 to addresses of which each is behind a VTEP of its own."""
    nodes = tunnel_paths.make_nodes(path, stack, xdp=True)
    near, far = nodes.nodes
    (sender,) = near.containers
    near.ns.run(["ip", "route", "add", str(_ENDS), "via", far.address4])
    take_frames(path, near.ns, sender.port)
    sink = Sink(far, "xdp", stack, tunnel_frames.IN_VXLAN if path.encapsulates else tunnel_frames.IN_FRAME)
    ends = choices(random.Random(1), count, distribution, programs.DRAWS)
    generator = Generator(sender, [(0, end) for end in ends], stack)
    if not path.bare:
        tunnel_paths.check_answers(nodes)
        frames.announce(sender, programs.SOURCE, 1)
        _announce_vteps(nodes, count)
    return FLOOD.begin(generator, sink, Port(near.ns, sender.port))


def _announce_vteps(nodes: Nodes, count: int) -> None:
    """Send a frame from each address, in VXLAN from the VTEP that it is behind, so that node 0 learns that."""
    near, far = nodes.nodes
    with frames.raw(far) as sock:
        for number in range(count):
            inner = (
                programs.address(programs.SOURCE, 0) + programs.address(programs.DEST, number) + programs.frame()[12:]
            )
            frames.put(sock, tunnel_frames.vxlan(far, near, source=str(_ENDS[1 + number]), inner=inner).frame)


def _vteps(nodes: Nodes, stack: ExitStack, *, count: int) -> None:
    """`pydp attach --mode vxlan` on node 0 with so many VTEPs besides node 1, which has the kernel's."""
    near, far = nodes.nodes
    nodes.kernel_vxlan(far, tunnel_paths.VNI)
    remotes = (far.address4, *(str(_ENDS[1 + number]) for number in range(count)))
    options = {"vni": tunnel_paths.VNI, "local": near.address4, "remote": remotes, "port": near.ports}
    tunnel_paths.attach_mode(near, stack, "vxlan", "xdp", options)


def _sizes(kind: str, paths: Sequence[TunnelPath], size: int) -> Scenario:
    build = functools.partial({"vxlan": vxlan_encap, "ipip": ipip_encap}[kind], size=size)
    kernel = [path.name for path in paths if path.name == "kernel"]
    return Scenario(
        name=f"{kind}-size-{size}",
        title=f"{kind.upper()}, XDP, frames of {size} bytes into the tunnel",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_nodes((*paths, tunnel_paths.bare("devmap")), build),
        comparisons=(*(Comparison("pydp", (name,)) for name in kernel), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point(f"{kind}-size", f"{kind.upper()}: size of frames", "bytes of an inner frame", size),
    )  # fmt: skip


def _ipip_peers(count: int, distribution: str) -> Scenario:
    path = TunnelPath("pydp", "pydp --hook xdp", functools.partial(_peers, count=count), polls=True)
    return Scenario(
        name=f"ipip-peers-{count}-{distribution}",
        title=f"IPIP, XDP, 64-byte packets into {count:,} tunnel{'s' * (count > 1)}, {distribution}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_nodes(
            (path, tunnel_paths.bare("devmap")),
            functools.partial(ipip_peers, count=count, distribution=distribution),
        ),
        comparisons=(Comparison("pydp", ("devmap",)),),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("ipip-peers", "IPIP: peers", "peers", count, distribution),
    )  # fmt: skip


def _vxlan_vteps(count: int, distribution: str) -> Scenario:
    path = TunnelPath("pydp", "pydp --hook xdp", functools.partial(_vteps, count=count), polls=True)
    return Scenario(
        name=f"vxlan-vteps-{count}-{distribution}",
        title=f"VXLAN, XDP, 64-byte packets to {count:,} VTEP{'s' * (count > 1)}, {distribution}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_nodes(
            (tunnel_paths.kernel_vxlan(), path, tunnel_paths.bare("devmap")),
            functools.partial(vxlan_vteps, count=count, distribution=distribution),
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("vxlan-vteps", "VXLAN: VTEPs", "VTEPs", count, distribution),
    )  # fmt: skip


def _all() -> Iterator[Scenario]:
    yield from (_sizes("vxlan", (tunnel_paths.kernel_vxlan(), tunnel_paths.pydp_vxlan("xdp")), size) for size in _SIZES)
    for distribution in ("uniform", "zipf"):
        yield from (_vxlan_vteps(count, distribution) for count in _VTEPS)
    yield from (_sizes("ipip", (tunnel_paths.pydp_ipip("xdp"),), size) for size in _SIZES)
    yield from (_ipip_peers(count, distribution) for distribution in ("uniform", "zipf") for count in _PEERS)


TUNNEL_CURVES: tuple[Scenario, ...] = tuple(_all())
