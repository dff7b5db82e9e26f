# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of services: that packets are what they should be, and that paths translate and carry them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from ebpf.loader import load
from ebpf.testrun import run
from pydp.bench import curves, nat_frames, nat_host, nat_paths, nat_program, nat_scenarios, nat_streams, programs
from pydp.bench.errors import BenchError
from pydp.bench.nat_frames import FlowsSent
from pydp.bench.nat_paths import BACKENDS, NATIVE, NatPath, Rig
from pydp.services.model import Protocol, Service

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

KERNEL = [nat_paths.native(name) for name in NATIVE]
PYDP, PYDP_TC = nat_paths.pydp("xdp"), nat_paths.pydp("tc", name="pydp-tc")
BARE = [nat_paths.bare("xdp", "redirect"), nat_paths.bare("xdp", "devmap")]
NOTHING = NatPath("nothing", "no services", lambda *_: None, lambda: None)
SERVICES = [nat_paths.address_of(number) for number in range(5)]
DROP, PASS = 1, 2  # of XDP


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def named(path: NatPath) -> str:
    return path.name


# Packets


def generated(
    stack: ExitStack, rig: Rig, sent: FlowsSent, draws: programs.Draws, count: int, *, timed: bool = False
) -> bytes:
    """The last of COUNT frames of the generator, all made in the same bytes."""
    source = programs.compiled("generator")
    maps = programs.create_maps(source, sent.program, stack)
    programs.write_draws(maps, draws)
    programs.write_head(maps, sent.frame)
    program = stack.enter_context(
        load(source, sent.program, "xdp", maps, constants={**sent.constants, 2: len(draws) - 1, 3: int(timed)})
    )
    done = run(program, sent.frame, repeat=count)
    assert done.action == 3, "not XDP_TX"
    assert len(done.frame) == len(sent.frame)
    return done.frame


def assert_sums(packet: Ether) -> None:
    """The checksums are those that scapy computes."""
    again = packet.copy()
    layer = again[TCP if TCP in again else UDP]
    there = packet[IP].chksum, layer.chksum
    del again[IP].chksum, layer.chksum
    again = Ether(bytes(again))
    assert (again[IP].chksum, again[TCP if TCP in again else UDP].chksum) == there


def check_of(number: int, client: int, port: int) -> int:
    return (number ^ (client << 32 | port)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with ExitStack() as made:
        yield nat_paths.make_rig(NOTHING, [], made)


@pytest.mark.parametrize("fresh", [False, True], ids=["drawn", "fresh"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_generator_writes_whole_packets(stack: ExitStack, rig: Rig, protocol: Protocol, fresh: bool) -> None:
    sent = nat_frames.sent(rig, protocol, fresh=fresh)
    draws = nat_frames.draws(40_000, SERVICES)
    for count in (1, 8, 300, 36_000):
        frame = generated(stack, rig, sent, draws, count)
        packet = Ether(frame)
        number, check = struct.unpack("=QQ", bytes(packet[TCP if protocol == "tcp" else UDP].payload)[:16])
        flow = count - 1
        client, port = f"198.18.0.{flow >> 15}", 0x8000 | flow & 0x7FFF
        assert number == flow
        assert check == check_of(number, 0xC6120000 + (flow >> 15), port)
        assert (packet[IP].src, packet[IP].dst) == (client, str(SERVICES[flow % 5]))
        assert (packet[IP].payload.sport, packet[IP].payload.dport) == (port, 80)
        assert (packet.src, packet.dst) == (rig.client.mac, rig.port_mac(rig.client))
        assert_sums(packet)


def test_timed_packets_say_when_they_left(stack: ExitStack, rig: Rig) -> None:
    before = time.monotonic_ns()
    sent, draws = nat_frames.sent(rig, "udp", fresh=True), nat_frames.draws(1, SERVICES)
    frame = generated(stack, rig, sent, draws, 2, timed=True)
    number, check = struct.unpack_from("=QQ", frame, 42)
    assert before < number < time.monotonic_ns()
    assert check == check_of(number, 0xC6120000, 0x8001)
    assert_sums(Ether(frame))


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_sink_counts_what_is_for_backends(stack: ExitStack, protocol: Protocol) -> None:
    sought = nat_frames.sought(protocol)
    source = programs.compiled("sink", "xdp")
    maps = programs.create_maps(source, sought.program, stack)
    program = stack.enter_context(load(source, sought.program, "xdp", maps, constants={**sought.constants, 3: 0}))
    kind = TCP if protocol == "tcp" else UDP

    def frame(number: int, *, damage: int = 0, dest: str = "198.51.100.7", port: int = 8080, **header: int) -> bytes:
        check = check_of(number, 0xC6120001, 0x8005) ^ damage
        payload = struct.pack("=QQ", number, check) + bytes(0 if protocol == "tcp" else 6)
        return bytes(Ether() / IP(src="198.18.0.1", dst=dest) / kind(sport=0x8005, dport=port, **header) / payload)

    def arrived() -> tuple[int, ...]:
        packets, _, corrupt, disordered, _ = maps["bench_arrivals"].sums()[0]
        return packets, corrupt, disordered

    assert [run(program, frame(number)).action for number in (5, 1024)] == [DROP, DROP]
    assert arrived() == (2, 0, 0)
    assert run(program, frame(2048, chksum=0x1234)).action == DROP  # one whose checksums are looked at
    assert arrived() == (3, 1, 0)
    assert run(program, frame(2049, damage=1)).action == DROP
    assert arrived() == (4, 2, 0)
    others = (frame(3000, dest="10.96.0.1"), frame(3000, port=80), frame(3000)[:-8], bytes(64))
    assert [run(program, other).action for other in others] == [PASS] * 4
    assert arrived() == (4, 2, 0)


def test_delays_are_told(stack: ExitStack) -> None:
    sent = nat_streams.first_packets(nat_paths.native("nftables"), stack, count=3)(0.1)
    assert sent.lost == 0
    assert 1e9 / sent.value < 1e9  # ns


# Paths


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_flows_stand_once_they_are_established(stack: ExitStack, protocol: Protocol) -> None:
    rig = nat_paths.make_rig(KERNEL[0], nat_paths.services(1, protocol=protocol), stack)
    nat_frames.establish(rig, protocol, 20, nat_paths.address_of(0), BACKENDS[1])
    shown = rig.router.ns.call(Path("/proc/thread-self/net/nf_conntrack").read_text).splitlines()
    mine = [line for line in shown if "dst=10.96.0.1 " in line and "src=198.51.100.1 " in line]
    assert len(mine) == 20
    assert not [line for line in mine if "[UNREPLIED]" in line or (protocol == "tcp" and "ESTABLISHED" not in line)]


@pytest.mark.parametrize("path", [*KERNEL, PYDP, *BARE], ids=named)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_path_carries_flows_that_stand(stack: ExitStack, path: NatPath, protocol: Protocol) -> None:
    measure = nat_scenarios.established(path, stack, protocol=protocol, flows=100)
    found = measure(0.02)
    assert found.value > 0
    assert found.lost is not None
    assert found.lost < 0.01  # bursts of the scheduler may overflow a ring on a busy machine


@pytest.mark.parametrize("path", [*KERNEL, PYDP, PYDP_TC], ids=named)
def test_a_path_begins_flows_again_and_again(stack: ExitStack, path: NatPath) -> None:
    measure = nat_scenarios.fresh(path, stack)
    for _ in range(2):
        found = measure(0.02)
        assert found.value > 0
        assert found.lost is not None
        assert found.lost < 0.01


@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_flows_and_services_are_drawn(stack: ExitStack, distribution: str) -> None:
    draws = nat_frames.drawn(100, SERVICES, distribution)
    assert {flow for flow, _ in draws} == set(range(100))
    assert {service for _, service in draws} == {int(one) for one in SERVICES}
    first, fifth = (sum(service == int(one) for _, service in draws) for one in (SERVICES[0], SERVICES[4]))
    assert first / fifth == pytest.approx(1 if distribution == "uniform" else 5, rel=0.1)
    for build in (partial(curves.flows, count=100), partial(curves.services, count=3)):
        found = build(PYDP, stack, distribution=distribution)(0.02)
        assert found.value > 0
        assert found.lost is not None
        assert found.lost < 0.01


def test_packets_that_nobody_translates_are_an_error(stack: ExitStack) -> None:
    with pytest.raises(BenchError, match="20 of 20 frames did not arrive"):
        nat_scenarios.established(NOTHING, stack, protocol="udp", flows=20)


def answering(rig: Rig, service: Service, count: int = 60) -> set[str]:
    """Which backends answer for a service."""
    (frontend,) = service.frontends
    found = set()
    with rig.server.ns.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", nat_paths.BACKEND_PORT))
        listener.listen(count)
        listener.settimeout(5)
        for _ in range(count):
            with rig.client.ns.socket() as sock:
                sock.settimeout(5)
                sock.connect((str(frontend.address), frontend.port))
                with listener.accept()[0] as accepted:
                    found.add(accepted.getsockname()[0])
    return found


@pytest.mark.parametrize("path", KERNEL, ids=named)
def test_rules_spread_connections_and_can_be_changed(stack: ExitStack, path: NatPath) -> None:
    known = nat_paths.services(3, 4)
    rig = nat_streams.rig_with_server(path, 3, 4, stack)
    assert answering(rig, known[1]) == {str(BACKENDS[number]) for number in range(1, 5)}
    other = nat_paths.services(3, 4, shift=50)[1]
    nat_program.CHANGES[path.name](rig.router.ns, 1, known[1], other)
    assert answering(rig, other) == {str(BACKENDS[number]) for number in range(51, 55)}
    assert answering(rig, known[2]) == {str(BACKENDS[number]) for number in range(1, 5)}


@pytest.mark.parametrize("path", [*KERNEL, PYDP_TC], ids=named)
def test_clients_connect_and_services_are_written(stack: ExitStack, path: NatPath) -> None:
    builds = (
        partial(nat_streams.connections, count=3),
        partial(nat_program.program, count=20),
        partial(nat_program.change, count=20),
    )
    for build in builds:
        assert build(path, stack)(0.05).value > 0


@pytest.mark.parametrize("path", [*KERNEL, PYDP_TC, nat_host.connect_hook(), nat_host.direct()], ids=named)
def test_programs_of_the_host_are_clients(stack: ExitStack, path: NatPath) -> None:
    assert nat_host.connections(path, stack)(0.05).value > 0


@pytest.mark.parametrize("path", [PYDP_TC, nat_paths.bare("tc", "peer")], ids=named)
def test_a_stream_goes_through_a_service(stack: ExitStack, path: NatPath) -> None:
    assert nat_streams.stream(path, stack)(1).value > 1e6
