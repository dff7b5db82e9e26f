# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan and those who mean harm: more addresses than it can keep, storms, and packets of strangers."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from pydp import fdb
from pydp.datapath import Datapath, Reader
from pydp.datapath.state import Instance
from pydp.kernel.linkstats import read_link_stats
from pydp.lab import Capture, Container, Namespace, Nodes, ping, poll, send_frame, tcp_transfer
from tests.net.bridging import EXPERIMENT, count
from tests.net.tunnelling import NodesFactory, lab_options, pydp_end

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

MILLION = 1_000_000
NOBODY = "192.0.2.77"


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def in_vxlan(made: Nodes, source: str, vni: int = 100) -> Packet:
    """The headers of a packet to the first node from the second one's device."""
    near, far = made.nodes
    ip = IP(src=source, dst=near.address4)
    return Ether(src=far.mac, dst=near.mac) / ip / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=vni, flags=8)


def spoof(ns: Namespace, dest: bytes, numbers: Iterable[int], outer: Packet | None = None) -> None:
    """Send a frame out of eth0 for each number, which makes its source, in a packet with the headers OUTER if given.
    The send buffer is smaller than the rings on the way, so that none of these overflows.
    """
    begin, rest = dest + b"\x06", EXPERIMENT + bytes(46)
    frame = begin + bytes(5) + rest
    head = (bytes(outer / Raw(frame)) if outer else frame)[: -len(rest) - 5]
    with ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock.bind(("eth0", 0))
        for number in numbers:
            sock.send(head + number.to_bytes(5, "big") + rest)


def received(container: Container) -> int:
    """Frames that its device was handed so far."""
    return container.ns.call(read_link_stats)[container.ns.ifindex(container.dev)].rx_packets


def learned(made: Nodes, instance: Instance) -> int:
    """Addresses so far on the first node; those that it still has and those that had to go are all there are."""

    def read() -> int:
        with Reader.open(Datapath()) as reader:
            events, live = fdb.events(reader, instance), fdb.census(reader, instance).learned
        assert events["learned"] - events["evicted"] == live <= fdb.places(instance), (events, live)
        return events["learned"]

    found: int = made[0].ns.call(read)
    return found


@contextlib.contextmanager
def known_traffic(one: Container, other: Container) -> Iterator[None]:
    """Ping and TCP streams between two containers while the block runs."""
    stop = threading.Event()

    def stream() -> int:
        done = 0
        while not stop.is_set():
            tcp_transfer(other.ns, one.ns, other.address4, 200_000)
            tcp_transfer(one.ns, other.ns, one.address4, 200_000)
            done += 1
        return done

    child = one.ns.popen(["ping", "-n", "-q", "-i", "0.01", other.address4], stdout=subprocess.PIPE)
    with ThreadPoolExecutor(1) as pool:
        streams = pool.submit(stream)
        try:
            yield
        finally:
            stop.set()
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=30)
    assert streams.result() > 0
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found, said
    assert 20 < int(found[1]) <= int(found[2]) + 1, said  # the last one may be under way


@pytest.mark.parametrize("way", ["port", "tunnel"])
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_a_million_addresses(nodes: NodesFactory, hook: str, way: str) -> None:
    """From a container, or from behind a VTEP that is known: all are learned, more than there are places for, and all
    their frames delivered. What was known goes on, and nothing of those who are not known gets in."""
    made = nodes(2, 2, direct=True, **lab_options(hook))
    near, far = made.nodes
    victim, attacker = near.containers
    other = far.containers[0]
    with pydp_end(made, near, hook=hook) as instance, contextlib.ExitStack() as stack:
        made.kernel_vxlan(far)
        stack.callback(made.kernel_down, far)
        assert ping(victim.ns, other.address4).lost == 0
        known, before = learned(made, instance), received(victim)
        verdict, ns, outer = "forward_port", attacker.ns, None
        if way == "tunnel":
            verdict, ns, outer = "forward_decap", far.ns, in_vxlan(made, far.address4)
        with known_traffic(victim, other):
            spoof(ns, octets(victim.mac), range(MILLION), outer)
        known, more = learned(made, instance), learned(made, instance) - known
        assert more >= 0.99 * MILLION  # a ring may overflow while many run
        assert count(near.ns, verdict) >= more
        assert received(victim) - before >= more
        assert count(near.ns, "flood_ports") < 20  # those that were known have kept their places
        _strangers_get_nothing_in(made)
        assert learned(made, instance) - known < 10
        assert ping(victim.ns, other.address4).lost == 0
        tcp_transfer(other.ns, victim.ns, other.address4, 500_000)


def _strangers_get_nothing_in(made: Nodes) -> None:
    """Packets of a VTEP that nobody named, and such with another VNI of the one that is known."""
    near, far = made.nodes
    to = octets(near.containers[0].mac)
    for outer in (in_vxlan(made, NOBODY), in_vxlan(made, far.address4, vni=101)):
        before, punted = [received(one) for one in near.containers], count(near.ns, "punt_vtep", port="eth0")
        spoof(far.ns, to, range(MILLION, MILLION + 10_000), outer)
        assert count(near.ns, "punt_vtep", port="eth0") - punted >= 9_900
        # But for a question for an address now and then.
        assert all(received(one) - had < 10 for one, had in zip(near.containers, before, strict=True))


def test_a_storm_of_broadcast(nodes: NodesFactory) -> None:
    """Behind a known VTEP: all of it goes to all ports, and what is for one goes on."""
    made = nodes(2, 2, direct=True)
    near, far = made[0].containers[0], made[1].containers[0]
    attacker = made[1].containers[1]
    frame = b"\xff" * 6 + octets(attacker.mac) + EXPERIMENT + bytes(46)
    with pydp_end(made, made[0]), contextlib.ExitStack() as stack:
        made.kernel_vxlan(made[1])
        stack.callback(made.kernel_down, made[1])
        assert ping(near.ns, far.address4).lost == 0
        before = count(made[0].ns, "flood_ports", port="pydp-vx4789")
        with known_traffic(near, far), attacker.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("eth0", 0))
            for _ in range(100_000):
                sock.send(frame)
        assert count(made[0].ns, "flood_ports", port="pydp-vx4789") - before >= 90_000
        assert ping(near.ns, far.address4).lost == 0


def test_strangers_get_nothing_in(nodes: NodesFactory) -> None:
    """A third node that is no VTEP: its packets end at the companion, counted, whatever is in them."""
    made = nodes(3, 1)
    near, far, stranger = made.containers
    with contextlib.ExitStack() as stack:
        stack.enter_context(pydp_end(made, made[0], remote=[made[1].address4]))
        for node in made.nodes[1:]:  # the kernel's device would believe the third one
            made.kernel_vxlan(node, remotes=[made[0].address4])
            stack.callback(made.kernel_down, node)
        assert ping(near.ns, far.address4).lost == 0
        captures = [stack.enter_context(Capture(one.ns, one.dev)) for one in (near, far)]
        source = octets(far.mac)
        for dest in (octets(near.mac), b"\xff" * 6):
            for _ in range(20):
                send_frame(stranger.ns, "eth0", dest + source + EXPERIMENT + bytes(46))
        poll("the packets", lambda: count(made[0].ns, "drop_vtep", port="pydp-vx4789") >= 40)
        assert count(made[0].ns, "punt_vtep", port="eth0") >= 40
        assert [capture.frames(1, timeout=0) for capture in captures] == [[], []]
        assert ping(near.ns, far.address4).lost == 0
