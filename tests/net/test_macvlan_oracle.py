# SPDX-License-Identifier: Apache-2.0
"""The kernel's macvlan devices as oracle: twin hosts, one with such devices, the other with veths and pydp, see the
same frames and must send the same frames to the same places.

The kernel's devices take all multicast, as a veth does; what a container wants of it is its stack's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.net.bridging import OFFLOADS, SegmentFactory, attached, mac, port_mac, verdicts
from tests.net.sharing import (
    CHILDREN,
    PARENT,
    NamespaceFactory,
    Side,
    containers,
    described,
    kernel_children,
    side,
)

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

MTU = 1500
NOBODY, OTHER = mac(8), mac(9)
GROUPS = [
    b"\xff" * 6,
    *map(
        bytes.fromhex, ("01005e000005", "333300000001", "0180c2000000", "0180c2000001", "0180c200000e", "030000000001")
    ),
]
_stations = [mac(number) for number in range(CHILDREN + 1)]
_dests = st.sampled_from([*_stations * 2, port_mac(0), NOBODY, bytes(6), *GROUPS])
_sources = st.sampled_from([*_stations * 2, port_mac(0), OTHER, bytes(6), b"\3" + mac(0)[1:]])
_tags = st.sampled_from(["", "", "", "8100 0005", "8100 6000", "88a8 0007", "8100 0005 8100 0006"])
_types = st.sampled_from(["88b6", "0800", "86dd", "0806", "0010", "8808", "88cc"])
_lengths = st.one_of(st.integers(0, 64), st.integers(MTU - 10, MTU), st.integers(0, MTU))


@dataclass(frozen=True, slots=True)
class Send:
    """A frame sent from outside (0) or by a child: its headers in hex, and how many bytes of padding follow."""

    sender: int
    head: str
    padding: int

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.head) + (b"\5" + bytes([self.sender]) * self.padding)[: self.padding]


@st.composite
def _sends(draw: st.DrawFn, children: int) -> Send:
    """One that the sender's own device would send, not above its MTU."""
    sender = draw(st.integers(0, children))
    source = mac(sender) if draw(st.booleans()) else draw(_sources)
    head = draw(_dests) + source + bytes.fromhex(draw(_tags)) + bytes.fromhex(draw(_types))
    room = MTU + 14 + (4 if head[12:14] == b"\x81\x00" else 0) - len(head)
    return Send(sender, head.hex(), max(4, min(draw(_lengths), room)))


@contextlib.contextmanager
def twins(segment: SegmentFactory, namespace: NamespaceFactory, kind: str, hook: str) -> Iterator[tuple[Side, Side]]:
    """The kernel's side and ours."""
    count = 1 if kind == "passthru" else CHILDREN
    theirs = segment(1, offloads=OFFLOADS[hook])
    ours = segment(count + 1, offloads=OFFLOADS[hook])
    made = kernel_children(theirs, namespace, "macvlan", kind, count)
    if kind == "passthru":  # the device has its parent's address
        ours[1].ns.run(["ip", "link", "set", "eth0", "address", port_mac(0).hex(":")])
    options = {"type": kind, "child": ours.ports[1:]}
    with (
        attached(ours.sw, PARENT, mode="macvlan", hook=hook, options=options),
        side(theirs, made) as one,
        side(ours, containers(ours)) as other,
    ):
        yield one, other
        seen = {name for _, name in verdicts(ours.sw)}
        assert "forward_port" in seen  # else the comparison is of the kernel with itself
        assert "flood_ports" in seen


CASES = [
    *((kind, hook) for kind in ("private", "vepa", "bridge", "passthru") for hook in ("tc", "xdp")),
    ("bridge", "xdp-generic"),
]


@pytest.mark.parametrize(("kind", "hook"), CASES)
def test_random_frames_go_where_the_kernel_sends_them(
    segment: SegmentFactory, namespace: NamespaceFactory, kind: str, hook: str
) -> None:
    with twins(segment, namespace, kind, hook) as (theirs, ours):
        senders = len(ours.captures) - 1

        @settings(max_examples=50, deadline=None)
        @given(sequence=st.lists(_sends(senders), min_size=1, max_size=6))
        def compare(sequence: list[Send]) -> None:
            for sent in sequence:
                expected, seen = (one.exchange(sent.sender, sent.data) for one in (theirs, ours))
                assert described(seen) == described(expected), sent
                assert seen == expected, sent

        compare()
