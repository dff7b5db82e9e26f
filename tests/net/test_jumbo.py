# SPDX-License-Identifier: Apache-2.0
"""Frames of 9000 bytes on every hook, and ports whose MTU differs."""

from __future__ import annotations

import pytest

from pydp.lab import Stations, ping, tcp_transfer, udp_sizes
from tests.net.bridging import BROADCAST, OFFLOADS, SegmentFactory, attached, count, frame, mac

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

JUMBO = 9000
LARGEST = JUMBO - 28  # ICMP payload of a packet that fills the MTU
FULL = bytes(range(250)) * 36  # 9000 bytes


@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_jumbo_frames(segment: SegmentFactory, hook: str, adopt: bool) -> None:
    made = segment(3, mtu=JUMBO, kernel_bridge=adopt, offloads=OFFLOADS[hook])
    a, b, _ = made.containers
    with attached(made.sw, *((made.bridge,) if adopt else made.ports), hook=hook) as instance:
        assert instance.frags == (hook == "xdp")  # more than a page: several buffers
        assert ping(a.ns, b.address4, count=5, size=LARGEST, extra=["-M", "do"]).lost == 0
        assert udp_sizes(b.ns, a.ns, b.address4, [8972, 8973]) == {8972: True, 8973: True}
        tcp_transfer(b.ns, a.ns, b.address4, 5_000_000)
        assert count(made.sw, "forward_port", hook=hook) > 50
        with Stations(made) as stations:
            sent, flooded = frame(mac(1), mac(0), FULL, tags="8100 0005"), frame(BROADCAST, mac(0), FULL)
            assert stations.exchange(0, sent) == ([], [sent], [])
            assert stations.exchange(0, flooded) == ([], [flooded], [flooded])


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_a_frame_too_long_for_its_port(segment: SegmentFactory, hook: str) -> None:
    """Dropped, as by the kernel's bridge (is_skb_forwardable): up to the MTU and a tag it passes. Of a flooded one
    the other ports get their copies."""
    made = segment(3, mtu=[JUMBO, 1500, JUMBO], offloads=OFFLOADS[hook])
    with attached(made.sw, *made.ports, hook=hook), Stations(made) as stations:
        stations.exchange(1, frame(BROADCAST, mac(1)))
        fits, too_long = frame(mac(1), mac(0), FULL[:1504]), frame(mac(1), mac(0), FULL[:1505])
        assert stations.exchange(0, fits) == ([], [fits], [])
        assert stations.exchange(0, too_long) == ([], [], [])
        assert count(made.sw, "drop_mtu", port="p0") == 1
        flooded = frame(BROADCAST, mac(0), FULL)
        assert stations.exchange(0, flooded) == ([], [], [flooded])
