# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it builds carries traffic, tells the truth about it, and goes without a trace."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydp.lab import (
    Capture,
    End,
    LabError,
    Namespace,
    NumberedStream,
    Segment,
    Stations,
    Veth,
    connect_close,
    get_offload,
    iperf3,
    leftovers,
    ping,
    poll,
    request_response,
    send_frame,
    sweep,
    tcp_transfer,
    udp_sizes,
    wait_up,
    worker,
)

pytestmark = pytest.mark.usefixtures("requires_root")

BROADCAST = b"\xff" * 6
IPV4 = b"\x08\x00"
PREFIX = "pl"  # of namespaces made without the fixtures, to see them go

SegmentFactory = Callable[..., Segment]
NamespaceFactory = Callable[..., Namespace]


def mac(number: int) -> bytes:
    """MAC of the container of that number."""
    return bytes([2, 0, 0, 0, 0, number + 1])


def named() -> set[str]:
    return {path.name for path in Path("/run/netns").glob(f"{PREFIX}*")}


def assert_no_thread_stays_inside() -> None:
    """All threads are in the namespace of the tests again; of one that has ended the kernel takes a moment to know."""
    own = Path("/proc/self/ns/net").readlink()

    def outside() -> bool:
        tasks = list(Path("/proc/self/task").iterdir())
        with contextlib.suppress(FileNotFoundError):
            return all((task / "ns/net").readlink() == own for task in tasks)
        return False

    poll("threads are back", outside, timeout=1)


@contextlib.contextmanager
def unplugged(segment: Segment, number: int) -> Iterator[None]:
    """Takes one port of the switch down."""
    ipr, index = segment.sw.ipr(), segment[number].port_index
    ipr.link("set", index=index, state="down")
    try:
        yield
    finally:
        ipr.link("set", index=index, state="up")
        wait_up(ipr, [index], forwarding=True)


@pytest.fixture(scope="module")
def bridged(module_segment: SegmentFactory) -> Segment:
    return module_segment(3, kernel_bridge=True, ipv6=True)


@pytest.fixture(scope="module")
def quiet(module_segment: SegmentFactory) -> Segment:
    """Without IPv6, whose stations say which groups they are in whenever they like."""
    return module_segment(3, kernel_bridge=True)


@pytest.fixture(scope="module")
def twins(module_segment: SegmentFactory) -> Iterator[tuple[Stations, Stations]]:
    with (
        Stations(module_segment(3, kernel_bridge=True)) as one,
        Stations(module_segment(3, kernel_bridge=True)) as other,
    ):
        yield one, other


# Traffic through the kernel's bridge


def test_ping(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    assert ping(a.ns, b.address4, count=5).received == 5
    assert ping(b.ns, a.address6, count=2, size=1400).lost == 0


def test_ping_counts_what_is_lost(bridged: Segment) -> None:
    result = ping(bridged[0].ns, "10.0.200.1", count=2, wait=0.1)
    assert (result.sent, result.received, result.lost) == (2, 0, 2)


def test_ping_that_cannot_start_says_why(bridged: Segment) -> None:
    with pytest.raises(LabError, match="unreachable"):
        ping(bridged[0].ns, "192.0.2.1")


@pytest.mark.parametrize("family", ["address4", "address6"])
def test_tcp(bridged: Segment, family: str) -> None:
    a, b, _ = bridged.containers
    result = tcp_transfer(b.ns, a.ns, getattr(b, family), 3_000_001)
    assert result.bytes == 3_000_001
    assert result.bits_per_second > 0


def test_tcp_that_cannot_connect_fails_soon(bridged: Segment) -> None:
    a, _, c = bridged.containers
    start = time.monotonic()
    with unplugged(bridged, 2), pytest.raises(LabError, match=f"to {c.address4}"):
        tcp_transfer(c.ns, a.ns, c.address4, 1000, timeout=0.3)
    assert time.monotonic() - start < 5


def test_udp_of_all_sizes(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    sizes = [0, 1, 63, 1472, 1473, 65507]
    assert udp_sizes(b.ns, a.ns, b.address4, sizes) == dict.fromkeys(sizes, True)


def test_udp_without_an_echo_is_false(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    assert udp_sizes(b.ns, a.ns, b.address4, [100, 65508], timeout=0.2, tries=1) == {100: True, 65508: False}


def test_measurements(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    result = iperf3(b.ns, a.ns, b.address4, seconds=1)
    assert result.bits_per_second > 1e6
    assert result.retransmits is not None
    assert connect_close(b.ns, a.ns, b.address4, seconds=0.3) > 10
    assert request_response(b.ns, a.ns, b.address4, seconds=1) > 10


def test_iperf3_says_what_went_wrong(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    with pytest.raises(LabError, match="bogus"):
        iperf3(b.ns, a.ns, b.address4, extra=["--bogus"])


def test_jumbo_frames(segment: SegmentFactory) -> None:
    made = segment(2, kernel_bridge=True, mtu=9000)
    assert ping(made[0].ns, made[1].address4, size=8972, extra=["-M", "do"]).lost == 0


# Numbered datagrams


def test_a_stream_that_nothing_disturbs_is_intact(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    with NumberedStream(a.ns, b.ns, b.address4, pps=2000) as stream:
        stream.wait_received(300)
    assert stream.report.intact
    assert stream.report.sent >= 300


def test_a_stream_sees_loss(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    with NumberedStream(a.ns, b.ns, b.address4, pps=2000) as stream:
        with unplugged(bridged, 1):
            stream.wait_sent(100)
        stream.wait_received(100)
    assert stream.report.lost >= 90
    assert not stream.report.intact
    assert stream.report.duplicated == stream.report.reordered == 0


def test_a_receiver_sees_duplicates_and_disorder() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver, memoryview(bytearray(8 * worker.SLOTS)).cast("Q") as slots:
        for number in (0, 1, 3, 2, 3, 5):
            sender.send(number.to_bytes(8, "big"))
        slots[worker.STOP] = 1
        worker.receive(receiver, slots)
        assert [slots[worker.RECEIVED], slots[worker.DUPLICATED], slots[worker.REORDERED]] == [5, 1, 1]


def test_a_stream_to_nowhere_fails_and_leaves_no_process(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    stream = NumberedStream(a.ns, b.ns, b.address4, start_timeout=0.3)
    with unplugged(bridged, 1), pytest.raises(LabError, match="1 datagrams"), stream:
        pytest.fail("nothing can have arrived")
    assert not a.ns.processes
    assert not b.ns.processes


# Frames


def test_frames_come_out_as_they_went_in(quiet: Segment) -> None:
    with Stations(quiet) as stations:
        flooded = BROADCAST + mac(0) + IPV4 + bytes(range(200))
        assert stations.exchange(0, flooded) == ([], [flooded], [flooded])
        learned = mac(0) + mac(1) + IPV4 + os.urandom(60)
        assert stations.exchange(1, learned) == ([learned], [], [])


def test_a_burst_keeps_its_order(quiet: Segment) -> None:
    burst = [BROADCAST + mac(0) + IPV4 + i.to_bytes(4, "big") + bytes(46) for i in range(500)]
    with Stations(quiet) as stations:
        assert stations.exchange(0, *burst) == ([], burst, burst)


@pytest.mark.parametrize(
    "tags",
    ["8100 0005", "8100 e00a", "88a8 0007", "88a8 0007 8100 6005"],
    ids=["vlan", "priority", "service", "double"],
)
def test_vlan_tags_are_in_the_frame(quiet: Segment, tags: str) -> None:
    """The kernel takes the outer tag out of every received frame; a capture shows it where it was on the wire."""
    frame = BROADCAST + mac(0) + bytes.fromhex(tags) + IPV4 + os.urandom(60)
    with Stations(quiet) as stations:
        assert stations.exchange(0, frame) == ([], [frame], [frame])


def test_a_barrier_waits_for_frames_under_way(bridged: Segment) -> None:
    """Many frames, each sent just before the barrier: none may come later than it."""
    with Stations(bridged) as stations:
        for i in range(200):
            frame = BROADCAST + mac(i % 3) + IPV4 + i.to_bytes(4, "big") + bytes(46)
            assert [len(seen) for seen in stations.exchange(i % 3, frame)] == [int(p != i % 3) for p in range(3)]


@settings(max_examples=100, deadline=None)
@given(
    sender=st.integers(0, 2),
    destination=st.one_of(st.just(BROADCAST), st.integers(0, 5).map(mac)),
    source=st.integers(0, 5).map(mac),
    tag=st.sampled_from([b"", bytes.fromhex("81000005"), bytes.fromhex("88a80007")]),
    payload=st.binary(max_size=1490),
)
def test_twin_segments_see_the_same(
    twins: tuple[Stations, Stations], sender: int, destination: bytes, source: bytes, tag: bytes, payload: bytes
) -> None:
    """Two bridges with the same past do the same with the same frame, byte for byte at the same container."""
    frame = destination + source + tag + b"\x88\xb6" + payload
    here, there = (stations.exchange(sender, frame) for stations in twins)
    assert here == there
    assert here[sender] == []
    assert all(seen in ([], [frame]) for seen in here)


def test_a_barrier_needs_a_way_in(bridged: Segment) -> None:
    a = bridged[0]
    with Capture(a.ns, a.dev) as capture, pytest.raises(LabError, match="peer"):
        capture.barrier()


def test_capture_without_a_peer_counts_frames(bridged: Segment) -> None:
    a, b, _ = bridged.containers
    frame = BROADCAST + mac(0) + IPV4 + bytes(50)
    with Capture(b.ns, b.dev) as capture:
        send_frame(a.ns, a.dev, frame)
        assert capture.frames(1) == [frame]
        assert capture.frames(1, timeout=0.05) == []


def test_a_frame_above_the_mtu_is_refused(bridged: Segment) -> None:
    with pytest.raises(OSError) as caught:
        send_frame(bridged[0].ns, "eth0", BROADCAST + mac(0) + IPV4 + bytes(1510))
    assert caught.value.errno == errno.EMSGSIZE


def test_containers_are_quiet(segment: SegmentFactory) -> None:
    """Nobody has sent anything: with addresses, carrier and bridge just up, no frame may appear."""
    made = segment(2, kernel_bridge=True)
    with Stations(made) as stations:
        time.sleep(0.2)
        assert stations.drain() == ([], [])


def test_loose_ports_forward_nothing(segment: SegmentFactory) -> None:
    made = segment(2)
    with Stations(made) as stations:
        assert stations.exchange(0, BROADCAST + mac(0) + IPV4 + bytes(50)) == ([], [])


# Devices


def test_segment_options(segment: SegmentFactory) -> None:
    made = segment(
        2,
        kernel_bridge=True,
        mtu=[1500, 1400],
        macs=["02:00:00:00:aa:01", "02:00:00:00:aa:02"],
        ageing=30,
        offloads={"tx": False},
        bridge_options={"br_group_fwd_mask": 0x8},
    )
    bridge = made.sw.ipr().link("get", ifname="br0")[0].get(("linkinfo", "data"))
    assert bridge.get("br_ageing_time") == 3000
    assert bridge.get("br_group_fwd_mask") == 0x8
    assert bridge.get("br_stp_state") == 0
    assert bridge.get("br_mcast_snooping") == 0
    eth0 = made[1].ns.ipr().link("get", ifname="eth0")[0]
    assert (eth0.get("address"), eth0.get("mtu")) == ("02:00:00:00:aa:02", 1400)
    assert not get_offload(made[0].ns, "eth0", "tx")
    assert get_offload(made.sw, "p0", "tx")
    assert made.sw.ifindex("p1") == made[1].port_index


def test_bridged_frames_pass_iptables_only_when_asked(namespace: NamespaceFactory) -> None:
    key = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not key.exists():
        pytest.skip("br_netfilter is not loaded: no bridge hands frames to iptables")
    assert namespace().call(key.read_text).strip() == "0"
    assert namespace(bridge_netfilter=True).call(key.read_text).strip() == "1"


def test_veth_between_two_namespaces(namespace: NamespaceFactory) -> None:
    a, b = namespace(), namespace()
    ends = End(ns=a, name="left", addresses=("192.0.2.1/24",)), End(ns=b, name="right", addresses=("192.0.2.2/24",))
    with Veth(*ends):
        assert ping(a, "192.0.2.2", count=1).received == 1
    with pytest.raises(OSError, match="no interface"):
        a.ifindex("left")


@pytest.mark.parametrize("name", ["tx", "tso", "gso", "gro", "txvlan", "rxvlan"])
def test_offloads(namespace: NamespaceFactory, name: str) -> None:
    """Set by the lab, read back by ethtool."""
    long = {
        "tx": "tx-checksumming",
        "tso": "tx-tcp-segmentation",
        "gso": "generic-segmentation-offload",
        "gro": "generic-receive-offload",
        "txvlan": "tx-vlan-offload",
        "rxvlan": "rx-vlan-offload",
    }[name]
    a, b = namespace(), namespace()
    for on in (False, True):
        with Veth(End(ns=a, name="left", offloads={name: on}), End(ns=b, name="right")):
            assert f"{long}: {'on' if on else 'off'}" in a.run(["ethtool", "-k", "left"]).stdout
            assert get_offload(a, "left", name) is on


def test_an_unknown_offload_is_named(namespace: NamespaceFactory) -> None:
    a, b = namespace(), namespace()
    with (
        pytest.raises(LabError, match="unknown offload txx"),
        Veth(End(ns=a, name="left", offloads={"txx": True}), End(ns=b, name="right")),
    ):
        pass
    with pytest.raises(OSError, match="no interface"):
        b.ifindex("right")


# Namespaces and processes


def test_run_is_inside_and_sees_bpffs(namespace: NamespaceFactory, bpffs: Path) -> None:
    ns = namespace()
    assert ns.run(["ip", "-o", "link"]).stdout.count("\n") == 1
    assert ns.run(["stat", "-f", "-c", "%T", str(bpffs)]).stdout.strip() == "bpf_fs"
    assert ns.name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert_no_thread_stays_inside()


def test_run_fails_with_what_the_command_said(namespace: NamespaceFactory) -> None:
    ns = namespace()
    with pytest.raises(LabError, match=r"exit status 1: Device .*nosuch"):
        ns.run(["ip", "link", "show", "nosuch"])
    with pytest.raises(LabError, match="pydp-no-such-tool is not installed"):
        ns.run(["pydp-no-such-tool"])
    with pytest.raises(LabError, match=r"no end after 0\.1 s"):
        ns.run(["sleep", "5"], timeout=0.1)
    assert not ns.processes
    assert ns.run(["ip", "link", "show", "nosuch"], check=False).returncode == 1


def test_call_returns_values_and_raises_exceptions(namespace: NamespaceFactory) -> None:
    ns = namespace()
    assert ns.call(socket.if_nameindex) == [(1, "lo")]
    with pytest.raises(ZeroDivisionError):
        ns.call(divmod, 1, 0)
    assert_no_thread_stays_inside()


def test_sysctl_is_the_namespaces_own(namespace: NamespaceFactory) -> None:
    ns = namespace()
    key = Path("/proc/sys/net/ipv4/ip_forward")
    before = key.read_text()
    ns.sysctl("ipv4.ip_forward", 1 - int(before))
    assert (ns.call(key.read_text), key.read_text()) == (f"{1 - int(before)}\n", before)


@pytest.mark.parametrize(("key", "value"), [("forwarding", 1), ("rp_filter", 2)])
def test_settings_are_not_the_hosts(namespace: NamespaceFactory, key: str, value: int) -> None:
    """A new namespace takes the host's for IPv4; this has a device of the host's made later differ, and no other."""
    default, every = (Path("/proc/sys/net/ipv4/conf", scope, key) for scope in ("default", "all"))
    before = default.read_text()
    default.write_text(f"{value}")
    try:
        ns = namespace()
    finally:
        default.write_text(before)
    assert (ns.call(default.read_text), ns.call(every.read_text)) == ("0\n", "0\n")


def test_processes_end_with_their_namespace() -> None:
    with Namespace(PREFIX) as ns:
        child = ns.popen(["sleep", "60"], stdout=subprocess.PIPE)
        assert child.poll() is None
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(LabError, match="gone"):
        ns.popen(["true"])


# Nothing is left


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_left_after_an_exception(error: type[BaseException]) -> None:
    before, threads = named(), threading.active_count()
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir would hold a descriptor of its own

    def fail() -> None:
        with Segment(2, prefix=PREFIX, kernel_bridge=True) as made, Stations(made):
            assert len(named() - before) == 3
            raise error

    with pytest.raises(error):
        fail()
    assert named() == before
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == fds  # noqa: PTH208


def test_nothing_left_when_building_fails() -> None:
    before = named()
    with pytest.raises(LabError, match="unknown offload"), Segment(3, prefix=PREFIX, offloads={"warp": True}):
        pass
    assert named() == before


def test_ports_go_even_when_something_holds_the_namespace() -> None:
    """A socket keeps a namespace alive without its name; its devices, with the programs on them, must go still."""
    with Segment(2, prefix=PREFIX, kernel_bridge=True) as made:
        held = made.sw.socket(socket.AF_INET, socket.SOCK_DGRAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"p0")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"")
    with held, pytest.raises(OSError) as caught:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"p0")
    assert caught.value.errno == errno.ENODEV


SCRIPT = """
import subprocess, sys, time
from pydp.lab import Segment
print("start", flush=True)
with Segment(8, prefix=sys.argv[1], kernel_bridge=True) as made:
    made[0].ns.popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("up", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def script() -> Iterator[subprocess.Popen[str]]:
    """Runs SCRIPT until it has said that it starts."""
    command = [sys.executable, "-c", SCRIPT, PREFIX]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "start\n"
            yield process
        finally:
            process.kill()


def of(pid: int) -> list[str]:
    return [name for name in named() if name.startswith(f"{PREFIX}{pid:x}-")]


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.08, None], ids=lambda d: "when up" if d is None else f"{d} s")
def test_nothing_left_after_an_interrupt(delay: float | None) -> None:
    """Interrupted at some moment of building, or when all is up."""
    with script() as process:
        assert process.stdout is not None
        if delay is None:
            assert process.stdout.readline() == "up\n"
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert of(process.pid) == []


def test_sweep_removes_what_a_killed_process_left() -> None:
    with script() as process, Namespace(PREFIX) as mine:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        sleeper = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=True).stdout)
        assert sweep(PREFIX) == []  # it is alive
        process.kill()
        process.communicate()
        os.kill(sleeper, signal.SIGKILL)
        assert len(leftovers(PREFIX)) == 9
        assert len(sweep(PREFIX)) == 9
        assert of(process.pid) == []
        assert mine.name in named()
