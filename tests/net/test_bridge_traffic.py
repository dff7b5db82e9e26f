# SPDX-License-Identifier: Apache-2.0
"""Mode bridge standalone, with the traffic of real stacks: two hooks, no kernel bridge anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pydp import fdb
from pydp.datapath import Datapath, Reader
from pydp.datapath.state import Instance
from pydp.lab import (
    Capture,
    Namespace,
    Segment,
    Stations,
    get_offload,
    ping,
    tcp_transfer,
    udp_sizes,
)
from tests.net.bridging import (
    BROADCAST,
    OFFLOADS,
    SegmentFactory,
    addresses,
    attached,
    count,
    flush,
    frame,
    mac,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

HOOKS = ["tc", "xdp"]
MULTICAST = bytes.fromhex("01005e000005")
NOBODY = bytes.fromhex("02000000ee00")
UDP_SIZES = [0, 1, 63, 1472, 1473, 9000, 65507]


@dataclass(frozen=True, slots=True)
class Switch:
    """A segment of four containers bridged by pydp."""

    segment: Segment
    instance: Instance

    @property
    def sw(self) -> Namespace:
        return self.segment.sw


@pytest.fixture(scope="module", params=HOOKS)
def switch(request: pytest.FixtureRequest, module_segment: SegmentFactory, bpffs: object) -> Iterator[Switch]:
    made = module_segment(4, ipv6=True, offloads=OFFLOADS[request.param])
    with attached(made.sw, *made.ports, hook=request.param) as instance:
        yield Switch(made, instance)


@pytest.fixture(params=HOOKS)
def quiet(request: pytest.FixtureRequest, segment: SegmentFactory) -> Iterator[Switch]:
    """One where nobody sends by itself, as IPv6 does."""
    made = segment(4, offloads=OFFLOADS[request.param])
    with attached(made.sw, *made.ports, hook=request.param) as instance:
        yield Switch(made, instance)


@pytest.fixture
def stations(switch: Switch) -> Iterator[Stations]:
    """Captures on a bridge that has learned nothing."""
    with Stations(switch.segment) as found:
        flush(switch.sw, switch.instance)
        yield found


def events(switch: Switch) -> dict[str, int]:
    def read() -> dict[str, int]:
        with Reader.open(Datapath()) as reader:
            return fdb.events(reader, switch.instance)

    return switch.sw.call(read)


# Real stacks


def test_ping_tcp_and_udp(switch: Switch) -> None:
    a, b, c, _ = switch.segment.containers
    before = count(switch.sw, "forward_port")
    assert ping(a.ns, b.address4, count=20, interval=0.005).lost == 0
    assert ping(c.ns, b.address4, size=1472, extra=["-M", "do"]).lost == 0
    tcp_transfer(b.ns, a.ns, b.address4, 5_000_001)
    assert udp_sizes(b.ns, a.ns, b.address4, UDP_SIZES) == dict.fromkeys(UDP_SIZES, True)
    assert count(switch.sw, "forward_port") - before > 100


def test_ipv6(switch: Switch) -> None:
    """Its neighbours find each other by multicast, which is flooded."""
    a, b, *_ = switch.segment.containers
    a.ns.run(["ip", "-6", "neighbour", "flush", "dev", "eth0"])
    before = count(switch.sw, "flood_ports")
    assert ping(a.ns, b.address6).lost == 0
    assert count(switch.sw, "flood_ports") > before
    tcp_transfer(a.ns, b.ns, a.address6, 2_000_000)
    assert udp_sizes(a.ns, b.ns, a.address6, [0, 1452, 1453]) == dict.fromkeys([0, 1452, 1453], True)


def test_gso_frames_pass_whole_on_tc(segment: SegmentFactory) -> None:
    """With default offloads the receiver is handed what TCP gave its own device: frames longer than the MTU, with
    checksums that nobody has computed."""
    made = segment(2)
    a, b = made.containers
    assert get_offload(a.ns, "eth0", "tso")
    assert get_offload(a.ns, "eth0", "tx")
    with attached(made.sw, *made.ports), Capture(b.ns, "eth0") as capture:
        tcp_transfer(b.ns, a.ns, b.address4, 3_000_000)
        assert get_offload(a.ns, "eth0", "tso")
        seen = [len(one) for one in capture.frames(5000, timeout=0.3)]
        assert max(seen) > 20_000
        assert sum(seen) > 3_000_000
        assert len(seen) < 1000
        assert not [name for _, name in verdicts(made.sw) if name.startswith("drop")]


# What goes where


def test_frames_come_out_as_they_went_in(switch: Switch, stations: Stations) -> None:
    for number in (0, 1):
        stations.exchange(number, frame(BROADCAST, mac(number)))
    for tags in ("", "8100 a005", "88a8 0007", "88a8 0007 8100 6005", "8100 0005 8100 0006"):
        sent = frame(mac(1), mac(0), bytes(range(200)), tags=tags)
        assert stations.exchange(0, sent) == ([], [sent], [], []), tags
        flooded = frame(BROADCAST, mac(0), bytes(range(100)), tags=tags)
        assert stations.exchange(0, flooded) == ([], [flooded], [flooded], [flooded]), tags


def test_a_station_that_moves_is_followed_at_once(quiet: Switch) -> None:
    to_it, from_it = frame(mac(0), mac(1)), frame(mac(1), mac(0))
    with Stations(quiet.segment) as stations:
        for number in (0, 1):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        assert stations.exchange(1, to_it) == ([to_it], [], [], [])
        assert stations.exchange(2, from_it) == ([], [from_it], [], [])
        assert stations.exchange(1, to_it) == ([], [], [to_it], [])
    assert addresses(quiet.sw, quiet.instance) == {(mac(0), 0): "p2", (mac(1), 0): "p1"}
    found = events(quiet)
    assert (found["learned"], found["moved"]) == (2, 1)


def test_what_is_sent_for_one_port_stays_on_it(switch: Switch, stations: Stations) -> None:
    before = count(switch.sw, "drop_same_port", port="p0")
    stations.exchange(0, frame(BROADCAST, mac(0)))
    assert stations.exchange(0, frame(mac(0), NOBODY)) == ([], [], [], [])
    assert count(switch.sw, "drop_same_port", port="p0") == before + 1


@pytest.mark.parametrize("source", [bytes(6), BROADCAST, MULTICAST], ids=["zero", "broadcast", "multicast"])
def test_sources_that_cannot_be(switch: Switch, stations: Stations, source: bytes) -> None:
    before = count(switch.sw, "drop_source", port="p1")
    assert stations.exchange(1, frame(BROADCAST, source)) == ([], [], [], [])
    assert count(switch.sw, "drop_source", port="p1") == before + 1
    assert source not in {learned for learned, _ in addresses(switch.sw, switch.instance)}


def test_permanent_addresses(switch: Switch, stations: Stations) -> None:
    switch.sw.call(lambda: fdb.add(Datapath(), switch.instance, NOBODY, "p3"))
    try:
        sent = frame(NOBODY, mac(0))
        assert stations.exchange(0, sent) == ([], [], [], [sent])
        flush(switch.sw, switch.instance)
        assert stations.exchange(0, sent) == ([], [], [], [sent])
    finally:
        switch.sw.call(lambda: fdb.delete(Datapath(), switch.instance, NOBODY))
    assert stations.exchange(0, sent) == ([], [sent], [sent], [sent])


@pytest.mark.parametrize("hook", HOOKS)
def test_eight_ports_get_one_copy_each(segment: SegmentFactory, hook: str) -> None:
    made = segment(8, offloads=OFFLOADS[hook])
    with attached(made.sw, *made.ports, hook=hook), Stations(made) as stations:
        for sender in range(8):
            for dest in (BROADCAST, MULTICAST, NOBODY):
                burst = [frame(dest, mac(sender), bytes([sender, i] * 30)) for i in range(20)]
                seen = stations.exchange(sender, *burst)
                assert seen == tuple([] if number == sender else burst for number in range(8))
        if hook == "xdp":  # it cannot copy: the tc program beside it does
            assert count(made.sw, "punt_flood", hook="xdp") == count(made.sw, "flood_ports", hook="tc") == 8 * 60


@pytest.mark.parametrize("hook", HOOKS)
def test_ageing_is_by_source_alone(segment: SegmentFactory, hook: str) -> None:
    made = segment(3, offloads=OFFLOADS[hook])
    with attached(made.sw, *made.ports, hook=hook, options={"ageing": 1.5}), Stations(made) as stations:
        start = time.monotonic()
        stations.exchange(1, frame(BROADCAST, mac(1)))
        stations.exchange(0, frame(BROADCAST, mac(0)))
        sent = frame(mac(1), mac(0))  # refreshes mac(0), not mac(1)
        while (seen := stations.exchange(0, sent)) == ([], [sent], []):
            assert time.monotonic() - start < 10
            time.sleep(0.02)
        assert time.monotonic() - start > 1.4
        assert seen == ([], [sent], [sent])
        back = frame(mac(0), mac(2))
        assert stations.exchange(2, back) == ([back], [], [])


@pytest.mark.parametrize("hook", HOOKS)
def test_hairpin_and_isolated_ports(segment: SegmentFactory, hook: str) -> None:
    made = segment(4, offloads=OFFLOADS[hook])
    options = {"hairpin": ("p0",), "isolated": ("p1", "p2")}
    with attached(made.sw, *made.ports, hook=hook, options=options), Stations(made) as stations:
        everywhere = frame(BROADCAST, mac(0))
        assert stations.exchange(0, everywhere) == ([everywhere],) * 4
        own = frame(mac(0), NOBODY)
        assert stations.exchange(0, own) == ([own], [], [], [])
        from_isolated = frame(BROADCAST, mac(1))
        assert stations.exchange(1, from_isolated) == ([from_isolated], [], [], [from_isolated])
        assert stations.exchange(2, frame(mac(1), mac(2))) == ([], [], [], [])
        to_isolated = frame(mac(1), mac(3))
        assert stations.exchange(3, to_isolated) == ([], [to_isolated], [], [])
        assert count(made.sw, "drop_isolated") == 1


# VLANs

VLANS = {
    "vlan_filtering": True,
    "vlan": ("p0=10:pvid:untagged", "p1=10:pvid:untagged", "p2=10", "p2=20", "p3=20:pvid:untagged"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_access_ports_and_a_trunk(segment: SegmentFactory, hook: str) -> None:
    made = segment(4, offloads=OFFLOADS[hook])
    with attached(made.sw, *made.ports, hook=hook, options=VLANS) as instance, Stations(made) as stations:

        def tagged(tags: str, dest: bytes, source: bytes) -> bytes:
            return frame(dest, source, bytes(range(80)), tags=tags)

        def flooded(sender: int, tags: str, out: dict[int, str]) -> None:
            """A broadcast arrives exactly at the ports of OUT, with their tags."""
            seen = stations.exchange(sender, tagged(tags, BROADCAST, mac(sender)))
            wanted = {port: [tagged(one, BROADCAST, mac(sender))] for port, one in out.items()}
            assert seen == tuple(wanted.get(port, []) for port in range(4))

        flooded(0, "", {1: "", 2: "8100 000a"})
        flooded(0, "8100 6000", {1: "", 2: "8100 600a"})  # a priority tag: the VLAN is the port's
        flooded(0, "8100 000a", {1: "", 2: "8100 000a"})
        flooded(2, "8100 0014", {3: ""})
        flooded(2, "8100 700a", {0: "", 1: ""})
        flooded(2, "8100 001e", {})  # nobody's VLAN
        flooded(3, "8100 000a", {})  # not a member
        # An address is one station in each VLAN.
        assert addresses(made.sw, instance)[mac(2), 10] == addresses(made.sw, instance)[mac(2), 20] == "p2"
        to_trunk = stations.exchange(3, tagged("", mac(2), mac(3)))
        assert to_trunk == ([], [], [tagged("8100 0014", mac(2), mac(3))], [])
        from_trunk = stations.exchange(2, tagged("8100 a00a", mac(0), mac(2)))
        assert from_trunk == ([tagged("", mac(0), mac(2))], [], [], [])
        assert count(made.sw, "drop_vlan_ingress") == 2


@pytest.mark.parametrize("hook", HOOKS)
def test_stacks_on_ports_of_one_vlan(segment: SegmentFactory, hook: str) -> None:
    made = segment(4, offloads=OFFLOADS[hook])
    a, b, _, d = made.containers
    with attached(made.sw, *made.ports, hook=hook, options=VLANS):
        assert ping(a.ns, b.address4).lost == 0
        tcp_transfer(b.ns, a.ns, b.address4, 2_000_000)
        assert ping(a.ns, d.address4, count=1, wait=0.2).received == 0
