# SPDX-License-Identifier: Apache-2.0
"""Rewriting and answering between real stacks: checksums that devices are to fill in, segments that they are to cut."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum

from ebpf.attach import attach
from ebpf.compiler import compile_source
from ebpf.hooks import Hook
from ebpf.loader import load
from ebpf.maps import Map
from ebpf.source import flatten
from pydp.lab import Capture, Segment, ping, set_offloads, tcp_transfer, udp_sizes
from pydp.modes.table import address_words
from pydp.sources import bpf_src
from tests.net.bridging import OFFLOADS, SegmentFactory

pytestmark = pytest.mark.usefixtures("requires_root")

INCLUDES = ("config.h", "abi.h", "hook/{}.h", "lib/packet.h", "lib/rewrite.h", "lib/answer.h", "rewrite_wire.c")
SEEN = {4: "10.0.77.77", 6: "fd00::77"}  # what the first container has for an address behind the wire
REFUSED = 9  # WIRE_REFUSED
UDP_SEGMENT = 103
HOOKS: tuple[Hook, ...] = ("tc", "xdp")


@dataclass(frozen=True, slots=True)
class Wire:
    """Two containers and the wire between them."""

    segment: Segment
    version: int

    @property
    def far(self) -> str:
        """Address of the second container."""
        return self.segment[1].address6 if self.version == 6 else self.segment[1].address4

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if self.version == 6 else socket.AF_INET


def _laid(stack: contextlib.ExitStack, segment: Segment, hook: Hook) -> None:
    facts = ("DEPTH 2", "FRAGS 0", "COUNTERS 0", "EGRESS 0", "COMPARE 0")
    config = "".join(f"#define PYDP_{fact}\n" for fact in facts)
    text = "".join(f'#include "{name.format(hook)}"\n' for name in INCLUDES)
    folders = [bpf_src(), Path(__file__).parent]
    compiled = compile_source(flatten(text, include_dirs=folders, virtual={"config.h": config}))
    for here, there in ((segment[0], segment[1]), (segment[1], segment[0])):
        maps = {name: stack.enter_context(Map.create(spec)) for name, spec in compiled.maps.items()}
        for index, inside in enumerate((segment[0].address4, segment[0].address6)):
            ends = tuple(address_words(ip_address(one)) for one in (inside, SEEN[6 if index else 4]))
            maps["rewrite_wires"].set(index, (*ends, here.port_index, there.port_index))
        program = stack.enter_context(load(compiled, "rewrite_wire", hook, maps))
        link = segment.sw.call(attach, program, here.port_index, hook)
        stack.callback(segment.sw.call, link.detach)
    for address in SEEN.values():
        segment[1].ns.run(["ip", "neigh", "add", address, "lladdr", segment[0].mac, "dev", "eth0"])


@pytest.fixture(
    params=[(hook, version) for hook in HOOKS for version in (4, 6)], ids=lambda one: f"{one[0]}-IPv{one[1]}"
)
def wire(segment: SegmentFactory, request: pytest.FixtureRequest) -> Iterator[Wire]:
    hook, version = request.param
    with contextlib.ExitStack() as stack:
        made = segment(2, ipv6=True, offloads=OFFLOADS[hook])
        _laid(stack, made, hook)
        yield Wire(made, version)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def tc_wire(segment: SegmentFactory, request: pytest.FixtureRequest) -> Iterator[Wire]:
    with contextlib.ExitStack() as stack:
        made = segment(2, ipv6=True)
        _laid(stack, made, "tc")
        yield Wire(made, request.param)


@pytest.mark.parametrize("filled", [False, True], ids=["", "filled in below"])
def test_streams_and_datagrams(wire: Wire, filled: bool) -> None:
    """With the offloads that containers have: frames of 64 KiB without checksums, which the ports behind the wire cut
    up and fill in, or nobody.
    """
    near, far = wire.segment.containers
    for end in (near, far):
        set_offloads(wire.segment.sw, end.port, {"tx": not filled})
    assert ping(near.ns, wire.far, size=1400).lost == 0
    tcp_transfer(far.ns, near.ns, wire.far, 20_000_000)
    sizes = [1, 2, 3, 18, 19, 1000, 1400, 1452, 4000, 9001]
    assert all(udp_sizes(far.ns, near.ns, wire.far, sizes, may_fragment=True).values())


def test_an_error_from_the_far_end(wire: Wire) -> None:
    """It quotes the packet as it is behind the wire: nobody listens, so the stack says."""
    near, _ = wire.segment.containers
    with near.ns.socket(wire.family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((wire.far, 7))
        sock.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


@pytest.mark.parametrize("filled", [False, True], ids=["", "filled in below"])
def test_refused_streams(wire: Wire, filled: bool) -> None:
    near, _ = wire.segment.containers
    set_offloads(wire.segment.sw, near.port, {"tx": not filled})
    with near.ns.socket(wire.family) as sock:
        sock.settimeout(2)
        with pytest.raises(ConnectionRefusedError):
            sock.connect((wire.far, REFUSED))


@pytest.mark.parametrize("size", [0, 1, 5, 18, 500, 1400, 20000])
@pytest.mark.parametrize("filled", [False, True], ids=["", "filled in below"])
def test_refused_datagrams(tc_wire: Wire, size: int, filled: bool) -> None:
    """The ICMP checksum is right although the packet's own is not yet filled in, and also if a device does so
    afterwards. Datagrams of 20000 bytes come as one frame that is to be cut up.
    """
    near, _ = tc_wire.segment.containers
    set_offloads(tc_wire.segment.sw, near.port, {"tx": not filled})
    peer = (tc_wire.segment.sw, near.port)
    with Capture(near.ns, near.dev, peer=peer) as capture, near.ns.socket(tc_wire.family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((tc_wire.far, REFUSED))
        if size > 1400:
            sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        payload = bytes(range(250)) * (size // 250) + bytes(size % 250)
        sock.send(payload)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)
        capture.barrier()
        errors = [frame for frame in capture.drain() if _is_error(frame)]
    assert len(errors) == 1
    _check_error(errors[0], payload, tc_wire.version)


def _is_error(frame: bytes) -> bool:
    """Port unreachable."""
    return frame[23:24] + frame[34:36] == b"\1\3\3" or frame[20:21] + frame[54:56] == b"\x3a\1\4"


def _check_error(frame: bytes, payload: bytes, version: int) -> None:
    """The checksum is right over the bytes as they arrive."""
    if version == 4:
        quote, headers, longest = frame[42:], 28, 548
        assert checksum(frame[34:]) == 0
    else:
        quote, headers, longest = frame[62:], 48, 1232
        assert in6_chksum(58, IPv6(frame[14:54]), frame[54:]) == 0
    assert quote[headers:] == payload[: longest - headers]
