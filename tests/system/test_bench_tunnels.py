# SPDX-License-Identifier: Apache-2.0
"""The tunnel benchmarks: that frames are what they should be before and behind a tunnel, and that paths carry them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from ebpf.loader import load
from ebpf.maps import Map
from ebpf.testrun import run
from pydp.bench import programs, tunnel_frames, tunnel_paths, tunnel_scenarios
from pydp.bench.blocks import Measure
from pydp.bench.errors import BenchError
from pydp.bench.frames import Sent, Sought
from pydp.bench.streams import request_response
from pydp.bench.tunnel_paths import TunnelPath
from pydp.lab import Nodes

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

KERNEL, REDIRECT, DEVMAP = tunnel_paths.kernel_vxlan(), tunnel_paths.bare("redirect"), tunnel_paths.bare("devmap")
BUILD = {
    "vxlan-encap": tunnel_scenarios.vxlan_encap,
    "vxlan-decap": tunnel_scenarios.vxlan_decap,
    "ipip-encap": tunnel_scenarios.ipip_encap,
    "ipip-decap": tunnel_scenarios.ipip_decap,
}
PYDP, PYDP_TC = tunnel_paths.pydp_vxlan("xdp"), tunnel_paths.pydp_vxlan("tc")
CASES = [
    *((kind, path) for kind in BUILD if kind.startswith("vxlan") for path in (KERNEL, PYDP)),
    *((kind, path) for kind in BUILD for path in (REDIRECT, DEVMAP)),
]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(scope="module")
def pair(module_nodes: Callable[..., Nodes]) -> Nodes:
    return module_nodes(2, direct=True, routed=True)


def forms(pair: Nodes) -> dict[str, tuple[Sent, Sought, programs.Draws]]:
    """What is sent, where it is then found, and the addresses of some frames."""
    one, other = pair.nodes
    (near,), (far,) = one.containers, other.containers
    plain = [(number % 3, number % 5) for number in range(programs.DRAWS)]
    there, back = tunnel_frames.from_one_to_subnet(near, far), tunnel_frames.from_subnet_to_one(near, far)
    return {
        "frame": (Sent(programs.frame(), 0), tunnel_frames.IN_FRAME, plain),
        "vxlan": (tunnel_frames.vxlan(one, other), tunnel_frames.IN_VXLAN, plain),
        "packet": (tunnel_frames.to_router(near, one), tunnel_frames.IN_ETHERNET, there),
        "ipip": (tunnel_frames.ipip(one, other), tunnel_frames.IN_IPIP, back),
    }


def generated(stack: ExitStack, sent: Sent, draws: programs.Draws, count: int) -> bytes:
    """The last of COUNT frames of the generator, all made in the same bytes."""
    name = "bench_send_packet" if sent.packet else "bench_send_frame"
    source = programs.compiled("generator")
    maps = programs.create_maps(source, name, stack)
    programs.write_draws(maps, draws)
    programs.write_head(maps, sent.frame)
    program = stack.enter_context(load(source, name, "xdp", maps, constants={0: sent.offset, 2: len(draws) - 1, 3: 0}))
    done = run(program, sent.frame, repeat=count)
    assert done.action == 3, "not XDP_TX"
    return done.frame


def assert_sums(packet: Ether) -> None:
    """All IPv4 headers, of 20 bytes, have the check sum of RFC 1071."""
    layers = [layer for layer in iter_layers(packet) if isinstance(layer, IP)]
    assert layers
    for layer in layers:
        header = bytearray(bytes(layer)[:20])
        stored = bytes(header[10:12])
        header[10:12] = bytes(2)
        total = sum(struct.unpack("!10H", header))
        total = (total & 0xFFFF) + (total >> 16)
        assert struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) == stored


def iter_layers(packet: Ether) -> Iterator[object]:
    layer = packet
    while layer:
        yield layer
        layer = layer.payload


@pytest.mark.parametrize("form", ["frame", "vxlan", "packet", "ipip"])
def test_the_generator_writes_whole_frames(stack: ExitStack, pair: Nodes, form: str) -> None:
    sent, _, draws = forms(pair)[form]
    for count in (1, 8, 300):
        frame = generated(stack, sent, draws, count)
        assert len(frame) == len(sent.frame)
        source, dest = draws[count - 1]
        number, check = struct.unpack_from("=QQ", frame, sent.offset + (28 if sent.packet else 42))
        assert number == count - 1
        assert check == (number ^ (source << 32 | dest)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        assert_sums(Ether(frame))
        inner = Ether(frame[sent.offset :]) if not sent.packet else IP(frame[sent.offset :])
        assert (inner[UDP].sport, inner[UDP].dport, inner[UDP].len) == (9, 9, 30)
        if sent.packet:
            assert inner.src == ".".join(map(str, source.to_bytes(4, "big")))
            assert inner.dst == ".".join(map(str, dest.to_bytes(4, "big")))
        else:
            assert inner.dst == f"02:b1:00:00:00:{dest:02x}"
            assert inner.src == f"02:b0:00:00:00:{source:02x}"


def test_tunnelled_frames_are_between_the_nodes(pair: Nodes) -> None:
    one, other = pair.nodes
    for form, protocol in (("vxlan", 17), ("ipip", 4)):
        packet = Ether(forms(pair)[form][0].frame)
        assert (packet.src, packet.dst) == (one.mac, other.mac)
        outer = packet[IP]
        assert (outer.src, outer.dst, outer.proto, outer.len) == ("192.0.2.1", "192.0.2.2", protocol, len(packet) - 14)
    vxlan = Ether(forms(pair)["vxlan"][0].frame)
    assert (vxlan[UDP].dport, vxlan[UDP].len, vxlan[VXLAN].vni) == (4789, 80, 100)
    assert int(vxlan[VXLAN].flags) == 8


@pytest.mark.parametrize("form", ["frame", "vxlan", "packet", "ipip"])
@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_the_sink_finds_what_is_inside_only_there(stack: ExitStack, pair: Nodes, form: str, hook: str) -> None:
    sent, sought, draws = forms(pair)[form]
    name = "bench_sink_packet" if sought.packet else "bench_sink_frame"
    source = programs.compiled("sink", hook)
    maps = programs.create_maps(source, name, stack)
    arrivals: Map = maps["bench_arrivals"]
    drop, passed = {"xdp": (1, 2), "tc": (2, 0xFFFFFFFF)}[hook]
    frame = generated(stack, sent, draws, 9)
    program = stack.enter_context(load(source, name, hook, maps, constants={0: sought.offset, 3: 0}))
    assert run(program, frame).action == drop
    assert arrivals.sums()[0][:4] == (1, len(frame), 0, 0)
    damaged = bytearray(frame)
    damaged[sent.offset + (15 if sent.packet else 5)] ^= 1  # an address
    assert run(program, bytes(damaged)).action == drop
    assert arrivals.sums()[0][:4] == (2, 2 * len(frame), 1, 0)
    elsewhere = {0: 50, 50: 0, 14: 34, 34: 14}[sought.offset]
    other = stack.enter_context(load(source, name, hook, maps, constants={0: elsewhere, 3: 0}))
    assert run(other, frame).action == passed
    assert arrivals.sums()[0][0] == 2


@pytest.mark.parametrize(("kind", "path"), CASES, ids=[f"{kind}-{path.name}" for kind, path in CASES])
def test_a_path_carries_what_is_sent(stack: ExitStack, kind: str, path: TunnelPath) -> None:
    measure: Measure = BUILD[kind](path, stack)
    found = measure(0.02)
    assert found.value > 0
    assert found.lost is not None
    assert found.lost < 0.01  # bursts of the scheduler may overflow a ring on a busy machine


@pytest.mark.parametrize("path", [KERNEL, PYDP_TC], ids=lambda path: path.name)
def test_a_tunnel_answers_requests(stack: ExitStack, path: TunnelPath) -> None:
    assert tunnel_scenarios.between_containers(request_response)(path, stack)(1).value > 10


def test_a_tunnel_that_does_not_carry_is_an_error(stack: ExitStack) -> None:
    def half(nodes: Nodes, _stack: ExitStack) -> None:
        nodes.kernel_vxlan(nodes[0])

    with pytest.raises(BenchError, match="does not answer"):
        tunnel_scenarios.vxlan_encap(TunnelPath("half", "one end only", half), stack)
