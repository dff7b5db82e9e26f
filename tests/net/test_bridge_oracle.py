# SPDX-License-Identifier: Apache-2.0
"""The kernel's bridge as oracle: twin segments, one bridged by the kernel alone, the other by pydp, see the same frames
and must send the same frames out of the same ports.

One difference is meant: 01:80:c2:00:00:00, which the kernel floods while STP is off, goes to the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydp.lab import Segment, Stations
from tests.net.bridging import (
    BROADCAST,
    OFFLOADS,
    SegmentFactory,
    attached,
    count,
    flush,
    frame,
    kernel_flush,
    mac,
    port_mac,
    set_flag,
)

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

PORTS = 4
MTUS = [1500, 1500, 1400, 1600]  # one that not all frames fit, one that sends frames too long for the others
OPTIONS = {"fdb_size": 256}
HAIRPIN, ISOLATED = ("p0", "p1"), ("p1", "p2")
BRIDGE_GROUP = bytes.fromhex("0180c2000000")


@dataclass(frozen=True, slots=True)
class Send:
    """A frame sent by the container of a port: its headers in hex, and how many bytes of padding follow."""

    port: int
    head: str
    padding: int

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.head) + (b"\5" + bytes([self.port]) * self.padding)[: self.padding]


# Few stations, so that frames for addresses that were learned are frequent.
STATIONS = [mac(0), mac(1), mac(2), mac(3), mac(4)] * 3 + [port_mac(0), port_mac(1)]
GROUPS = [
    BROADCAST,
    *map(bytes.fromhex, ("01005e000005", "333300000001", "0180c2000010", "010203040506", "030000000001")),
]
LINK_LOCAL = [BRIDGE_GROUP[:5] + bytes([last]) for last in range(1, 16)]
NEVER_SOURCES = [bytes(6), BROADCAST, b"\3" + mac(0)[1:]]

_dests = st.sampled_from([*STATIONS * 3, *GROUPS * 2, *LINK_LOCAL, bytes(6)])
_sources = st.sampled_from([*STATIONS * 2, *NEVER_SOURCES])
_tags = st.sampled_from(
    ["", "", "", "8100 0005", "8100 6000", "8100 0fff", "88a8 0007", "88a8 0007 8100 6005", "8100 0005 8100 0006"]
)
_types = st.sampled_from(["88b6", "0800", "86dd", "0806", "0010", "8863", "88cc", "8100", "88a8"])
_around_mtu = st.builds(lambda mtu, more: mtu + more, st.sampled_from(MTUS), st.integers(-10, 4))
_lengths = st.one_of(st.integers(0, 64), _around_mtu, st.integers(0, 1600))


@st.composite
def _sends(draw: st.DrawFn, least: int) -> Send:
    """A frame that the container's own device would send, not above its MTU; half of them from the container's own
    address. LEAST bytes follow the headers, and behind a tag those that whoever takes it off wants to see.

    Left out are frames that end in a second tag: a bridge forwards them, br_netfilter, which is built into some
    kernels, drops them (br_nf_pre_routing).
    """
    port = draw(st.integers(0, PORTS - 1))
    source = mac(port) if draw(st.booleans()) else draw(_sources)
    head = draw(_dests) + source + bytes.fromhex(draw(_tags)) + bytes.fromhex(draw(_types))
    room = MTUS[port] + 14 + (4 if head[12:14] == b"\x81\x00" else 0) - len(head)
    size = min(draw(_lengths), room)
    return Send(port, head.hex(), max(least, 4 if len(head) > 14 else 0, size))


@dataclass(frozen=True, slots=True)
class Twins:
    """The kernel's segment, ours, and how to make ours forget what it has learned."""

    theirs: Segment
    ours: Segment
    forget: Callable[[], object]
    captures: tuple[Stations, Stations]

    def compare(self, announced: bool, sequence: list[Send]) -> None:
        """Send a sequence through both, which know nobody or, if ANNOUNCED, each container."""
        kernel_flush(self.theirs)
        self.forget()
        for capture in self.captures if announced else ():
            for number in range(PORTS):
                capture.exchange(number, frame(BROADCAST, mac(number)))
        for sent in sequence:
            theirs, ours = (capture.exchange(sent.port, sent.data) for capture in self.captures)
            assert described(ours) == described(theirs), sent
            assert ours == theirs, sent

    def compare_random(self, examples: int, least: int = 0) -> None:
        """Compare EXAMPLES random sequences of frames that have LEAST bytes of content."""
        sequences = st.lists(_sends(least), min_size=1, max_size=10)
        random = given(announced=st.booleans(), sequence=sequences)(self.compare)
        settings(max_examples=examples, deadline=None)(random)()


def described(seen: tuple[list[bytes], ...]) -> list[list[str]]:
    """Frames by container in a form that a person can compare."""
    return [[f"{one[:22].hex(' ')} ({len(one)})" for one in frames] for frames in seen]


@contextlib.contextmanager
def twins(make: SegmentFactory, hook: str, *, adopt: bool, flags: bool) -> Iterator[Twins]:
    """Twin segments, ours attached in the standalone or the adopting form, with FLAGS hairpin and isolated ports."""
    common = {"mtu": MTUS, "offloads": OFFLOADS[hook]}
    theirs, ours = make(PORTS, kernel_bridge=True, **common), make(PORTS, kernel_bridge=adopt, **common)
    options: dict[str, object] = dict(OPTIONS)
    if flags:
        for segment in (theirs, ours) if adopt else (theirs,):
            set_flag(segment.sw, "hairpin", *HAIRPIN)
            set_flag(segment.sw, "isolated", *ISOLATED)
        if not adopt:
            options |= {"hairpin": HAIRPIN, "isolated": ISOLATED}
    interfaces = (ours.bridge,) if adopt else ours.ports
    with (
        attached(ours.sw, *interfaces, hook=hook, options=options) as instance,
        Stations(theirs) as one,
        Stations(ours) as other,
    ):

        def forget() -> None:
            flush(ours.sw, instance)
            if adopt:
                kernel_flush(ours)

        yield Twins(theirs, ours, forget, (one, other))


@pytest.mark.parametrize("flags", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
@pytest.mark.parametrize("hook", ["tc", "xdp", "xdp-generic"])
def test_random_frames_come_out_as_from_the_kernel(
    segment: SegmentFactory, hook: str, adopt: bool, flags: bool
) -> None:
    with twins(segment, hook, adopt=adopt, flags=flags) as pair:
        pair.compare_random(40)
        assert count(pair.ours.sw, "forward_port") > 0  # else the comparison is of the kernel with itself


@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
def test_the_bridge_group_address(segment: SegmentFactory, adopt: bool) -> None:
    """The one difference: without STP the kernel floods it, as a switch that is no bridge would; pydp standalone
    forwards no link-local address at all. Above an adopted bridge the kernel decides."""
    sent = frame(BRIDGE_GROUP, mac(0))
    with twins(segment, "tc", adopt=adopt, flags=False) as pair:
        theirs, ours = (capture.exchange(0, sent) for capture in pair.captures)
        assert theirs == ([], [sent], [sent], [sent])
        assert ours == (theirs if adopt else ([], [], [], []))
        assert count(pair.ours.sw, "punt_link_local") == 1


def test_sources_of_link_local_frames_are_learned(segment: SegmentFactory) -> None:
    """As by the kernel, from all but pause frames."""
    lldp, pause = BRIDGE_GROUP[:5] + b"\x0e", BRIDGE_GROUP[:5] + b"\x01"
    with twins(segment, "tc", adopt=False, flags=False) as pair:
        known, unknown = frame(mac(1), mac(0)), frame(mac(2), mac(0))
        for capture in pair.captures:
            assert capture.exchange(1, frame(lldp, mac(1))) == ([], [], [], [])
            assert capture.exchange(2, frame(pause, mac(2))) == ([], [], [], [])
            assert capture.exchange(0, known) == ([], [known], [], [])
            assert capture.exchange(0, unknown) == ([], [unknown], [unknown], [unknown])
