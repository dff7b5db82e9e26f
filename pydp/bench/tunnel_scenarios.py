# SPDX-License-Identifier: Apache-2.0
"""What is measured of tunnels; see scenarios.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydp.bench import frames, programs, tunnel_frames, tunnel_paths
from pydp.bench.blocks import Measure, Plan
from pydp.bench.frames import Generator, Sink
from pydp.bench.scenario import Comparison, Scenario, Way
from pydp.bench.statistics import Target
from pydp.bench.streams import ROUND_TRIPS, connect_request, request_response, tcp_stream
from pydp.bench.traffic import FLOOD, Port, Traffic
from pydp.bench.tunnel_paths import TunnelPath
from pydp.lab import Namespace, Nodes, ping, set_offloads

_ADDRESSES = 256  # of both sides
JUMBO = 9000  # bytes of a packet


def vxlan_encap(
    path: TunnelPath, stack: ExitStack, *, hook: str = "xdp", traffic: Traffic = FLOOD, size: int = programs.SHORTEST
) -> Measure:
    """Frames of SIZE bytes from the container of node 0, counted where they reach node 1: in VXLAN, or as they are."""
    nodes = tunnel_paths.make_nodes(path, stack, xdp=hook == "xdp")
    near, far = nodes.nodes
    (sender,) = near.containers
    take_frames(path, near.ns, sender.port)
    sought = tunnel_frames.IN_VXLAN if path.encapsulates else tunnel_frames.IN_FRAME
    sink = Sink(far, hook, stack, sought, timed=traffic.timed)
    sent = tunnel_frames.plain(size) if size != programs.SHORTEST else None
    generator = Generator(sender, programs.uniform(_ADDRESSES), stack, sent, timed=traffic.timed)
    _announce(path, nodes, programs.SOURCE, programs.DEST)
    return traffic.begin(generator, sink, Port(near.ns, sender.port))


def vxlan_decap(path: TunnelPath, stack: ExitStack, *, hook: str = "xdp", traffic: Traffic = FLOOD) -> Measure:
    """Such frames in VXLAN from node 1, counted in the container of node 0: bare, or as they are."""
    nodes = tunnel_paths.make_nodes(path, stack, xdp=hook == "xdp")
    near, far = nodes.nodes
    (receiver,) = near.containers
    take_frames(path, near.ns, near.dev)
    sought = tunnel_frames.IN_FRAME if path.encapsulates else tunnel_frames.IN_VXLAN
    sink = Sink(receiver, hook, stack, sought, timed=traffic.timed)
    sent = tunnel_frames.vxlan(far, near)
    generator = Generator(far, programs.uniform(_ADDRESSES), stack, sent, timed=traffic.timed)
    _announce(path, nodes, programs.DEST, programs.SOURCE)
    return traffic.begin(generator, sink, Port(near.ns, near.dev))


def ipip_encap(
    path: TunnelPath, stack: ExitStack, *, hook: str = "xdp", traffic: Traffic = FLOOD, size: int = programs.SHORTEST
) -> Measure:
    """Packets of frames of SIZE bytes from the container of node 0 to the subnet of the other's, counted at
    node 1.
    """
    nodes = tunnel_paths.make_nodes(path, stack, xdp=hook == "xdp", routed=True)
    near, far = nodes.nodes
    (sender,) = near.containers
    take_frames(path, near.ns, sender.port)
    find_neighbours(path, nodes)
    sought = tunnel_frames.IN_IPIP if path.encapsulates else tunnel_frames.IN_ETHERNET
    sink = Sink(far, hook, stack, sought, timed=traffic.timed)
    draws = tunnel_frames.from_one_to_subnet(sender, far.containers[0])
    sent = tunnel_frames.to_router(sender, near, size)
    return traffic.begin(Generator(sender, draws, stack, sent, timed=traffic.timed), sink, Port(near.ns, sender.port))


def ipip_decap(path: TunnelPath, stack: ExitStack, *, hook: str = "xdp", traffic: Traffic = FLOOD) -> Measure:
    """Such packets in IPIP from node 1, counted in the container of node 0."""
    nodes = tunnel_paths.make_nodes(path, stack, xdp=hook == "xdp", routed=True)
    near, far = nodes.nodes
    (receiver,) = near.containers
    take_frames(path, near.ns, near.dev)
    find_neighbours(path, nodes)
    sought = tunnel_frames.IN_ETHERNET if path.encapsulates else tunnel_frames.IN_IPIP
    sink = Sink(receiver, hook, stack, sought, timed=traffic.timed)
    draws, sent = tunnel_frames.from_subnet_to_one(far.containers[0], receiver), tunnel_frames.ipip(far, near)
    return traffic.begin(Generator(far, draws, stack, sent, timed=traffic.timed), sink, Port(near.ns, near.dev))


def between_containers(
    prepare: Callable[[Nodes, object, ExitStack], Measure], mtu: int = 0
) -> Callable[..., Measure]:  # fmt: skip
    """Sockets of one node's container and the other's, whose devices have that MTU."""

    def build(path: TunnelPath, stack: ExitStack) -> Measure:
        nodes = tunnel_paths.make_nodes(path, stack, mtu=mtu)
        tunnel_paths.check_answers(nodes)
        return prepare(nodes, path, stack)

    return build


def on_nodes(tunnels: Sequence[TunnelPath], build: Callable[[TunnelPath, ExitStack], Measure]) -> tuple[Way, ...]:
    """These paths, each turned into what measures it by BUILD."""
    return tuple(Way(path.name, path.title, functools.partial(build, path)) for path in tunnels)


def take_frames(path: TunnelPath, ns: Namespace, dev: str) -> None:
    """Have a device without XDP poll, and tell its peer that it may be sent XDP frames: GRO switched on before it was
    up does not do that (veth_open, drivers/net/veth.c).
    """
    if not path.polls:
        set_offloads(ns, dev, {"gro": False})
        set_offloads(ns, dev, {"gro": True})


def _announce(path: TunnelPath, nodes: Nodes, near_side: int, far_side: int) -> None:
    """Have the tunnel learn where the addresses of both sides are: those of the far one through the tunnel."""
    if path.bare:
        return
    tunnel_paths.check_answers(nodes)
    near, far = nodes.containers
    frames.announce(near, near_side, _ADDRESSES // 2)
    frames.announce(far, far_side, _ADDRESSES // 2)


def find_neighbours(path: TunnelPath, nodes: Nodes) -> None:
    """Have node 0 find its container and node 1: nobody else asks for them here."""
    if not path.bare:
        near, far = nodes.nodes
        for address in (near.containers[0].address4, far.address4):
            ping(near.ns, address, count=1)


_KERNEL, _XDP = tunnel_paths.kernel_vxlan(), tunnel_paths.pydp_vxlan("xdp")
_BARE = (tunnel_paths.bare("redirect"), tunnel_paths.bare("devmap"))
_BARE_NAMES = tuple(path.name for path in _BARE)
_VXLAN = (
    Comparison("pydp", ("kernel",), Target(3.0)),
    Comparison("pydp", _BARE_NAMES, Target(0.82)),
    Comparison("pydp", ("bytes",)),
)
_IPIP = (Comparison("pydp", _BARE_NAMES, Target(0.85)), Comparison("pydp", ("bytes",)))
_TC = (_KERNEL, tunnel_paths.pydp_vxlan("tc", both=True), tunnel_paths.bare_peer_tunnel())


def _packets(
    kind: str, way: str, title: str, paths: Sequence[TunnelPath], comparisons: tuple[Comparison, ...],
    build: Callable[[TunnelPath, ExitStack], Measure],
) -> Scenario:  # fmt: skip
    """64-byte packets on XDP that go "in" or "out" of a tunnel of KIND: PATHS, and what can be had at most."""
    return Scenario(
        name=f"{kind}-xdp-{'encap' if way == 'in' else 'decap'}-64",
        title=title,
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_nodes((*paths, *_BARE, tunnel_paths.bare_tunnel(kind, way)), build),
        comparisons=comparisons,
        full=Plan(60, 0.1, 60), quick=Plan(12, 0.05, 12),
    )  # fmt: skip


def _packets_on_tc(kind: str, way: str, mine: TunnelPath, build: Callable[..., Measure]) -> Scenario:
    """The same on tc."""
    others = (_KERNEL,) if kind == "vxlan" else ()
    return Scenario(
        name=f"{kind}-tc-{'encap' if way == 'in' else 'decap'}-64",
        title=f"{kind.upper()}, tc, 64-byte packets {'into' if way == 'in' else 'out of'} the tunnel",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_nodes((*others, mine, tunnel_paths.bare("redirect", "tc")), functools.partial(build, hook="tc")),
        comparisons=(*(Comparison("pydp", (one.name,)) for one in others), Comparison("pydp", ("redirect",))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.05, 12), brief=False,
    )  # fmt: skip


TUNNEL_SCENARIOS: tuple[Scenario, ...] = (
    _packets(
        "vxlan", "in", "VXLAN, XDP, 64-byte packets into the tunnel, 256 FDB entries",
        (_KERNEL, _XDP), _VXLAN, vxlan_encap,
    ),
    _packets(
        "vxlan", "out", "VXLAN, XDP, 64-byte packets out of the tunnel, 256 FDB entries",
        (_KERNEL, _XDP), _VXLAN, vxlan_decap,
    ),
    Scenario(
        name="vxlan-stream",
        title="VXLAN, tc, TCP stream between containers of two nodes, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_nodes(_TC, between_containers(tcp_stream)),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(1.1)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("bytes",)),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1),
    ),
    Scenario(
        name="vxlan-stream-9000",
        title="VXLAN, tc, TCP stream between containers of two nodes, MTU 9000",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_nodes(_TC, between_containers(tcp_stream, JUMBO)),
        comparisons=(
            Comparison("pydp", ("kernel",)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("bytes",)),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    Scenario(
        name="vxlan-request",
        title="VXLAN, tc, TCP request/response between containers of two nodes, 64 bytes",
        unit="k/s", scale=1e3, cpu_per="request",
        paths=on_nodes((*_TC, tunnel_paths.bare_peer()), between_containers(request_response)),
        comparisons=(
            Comparison("pydp", ("kernel",), Target(1.25)), Comparison("pydp", ("bytes",)),
            Comparison("bytes", ("kernel",)), Comparison("pydp", ("peer",)),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 1, 1), brief=False,
        around=ROUND_TRIPS,
    ),
    Scenario(
        name="vxlan-connect",
        title="VXLAN, tc, TCP connect, request, close between containers of two nodes",
        unit="k/s", scale=1e3, cpu_per="connection",
        paths=on_nodes(_TC, between_containers(connect_request)),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("bytes",))),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    _packets_on_tc("vxlan", "in", tunnel_paths.pydp_vxlan("tc"), vxlan_encap),
    _packets_on_tc("vxlan", "out", tunnel_paths.pydp_vxlan("tc"), vxlan_decap),
    _packets(
        "ipip", "in", "IPIP, XDP, 64-byte packets into the tunnel, one peer",
        (tunnel_paths.pydp_ipip(),), _IPIP, ipip_encap,
    ),
    _packets(
        "ipip", "out", "IPIP, XDP, 64-byte packets out of the tunnel, one peer",
        (tunnel_paths.pydp_ipip(),), _IPIP, ipip_decap,
    ),
    _packets_on_tc("ipip", "in", tunnel_paths.pydp_ipip("tc"), ipip_encap),
    _packets_on_tc("ipip", "out", tunnel_paths.pydp_ipip("tc"), ipip_decap),
)  # fmt: skip
