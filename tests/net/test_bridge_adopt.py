# SPDX-License-Identifier: Apache-2.0
"""Mode bridge above a kernel bridge: known unicast passes it by, all else stays its own."""

from __future__ import annotations

import time

import pytest

from pydp.errors import PydpError, UsageError
from pydp.kernel import read_fdb
from pydp.lab import NumberedStream, Segment, Stations, ping, tcp_transfer
from tests.net.bridging import (
    BROADCAST,
    OFFLOADS,
    SegmentFactory,
    addresses,
    attach,
    attached,
    count,
    detach,
    flush,
    frame,
    kernel_flush,
    mac,
    set_flag,
    verdicts,
)
from tests.net.test_bridge_oracle import MTUS, OPTIONS, Twins

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

HOOKS = ["tc", "xdp"]
HOST = "10.0.255.1"


def bridged(make: SegmentFactory, hook: str, n: int = 3, **options: object) -> Segment:
    return make(n, kernel_bridge=True, offloads=OFFLOADS[hook], **options)


def kernel_ports(segment: Segment) -> dict[bytes, str]:
    """Port by address, as the kernel bridge has learned them."""
    names = {c.port_index: c.port for c in segment.containers}
    found = segment.sw.call(read_fdb, segment.bridge_index)
    return {entry.mac: names[entry.ifindex] for entry in found if not entry.local}


@pytest.mark.parametrize("hook", HOOKS)
def test_traffic_between_containers_and_with_the_host(segment: SegmentFactory, hook: str) -> None:
    made = bridged(segment, hook, ipv6=True)
    a, b, _ = made.containers
    made.sw.run(["ip", "address", "add", f"{HOST}/16", "dev", "br0"])
    with attached(made.sw, "br0", hook=hook) as instance:
        assert (instance.name, instance.hook, instance.all_hooks) == ("br0", hook, (hook,))
        assert ping(a.ns, b.address4, count=20, interval=0.005).lost == 0
        assert ping(a.ns, b.address6).lost == 0
        assert ping(a.ns, HOST).lost == 0
        assert ping(made.sw, b.address4).lost == 0
        tcp_transfer(b.ns, a.ns, b.address4, 3_000_000)
        tcp_transfer(made.sw, a.ns, HOST, 1_000_000)
        tcp_transfer(a.ns, made.sw, a.address4, 1_000_000)
        assert count(made.sw, "forward_port") > 100
        assert count(made.sw, "punt_local") > 10
        assert count(made.sw, "punt_group") > 0


@pytest.mark.parametrize("hook", HOOKS)
def test_attach_and_detach_lose_nothing(segment: SegmentFactory, hook: str) -> None:
    """The kernel bridge forwards before, and goes on afterwards."""
    made = bridged(segment, hook)
    a, b, _ = made.containers
    with NumberedStream(a.ns, b.ns, b.address4, pps=3000) as stream:
        stream.wait_received(100)
        attach(made.sw, "br0", hook=hook)
        stream.wait_received(500)
        assert count(made.sw, "forward_port", port="p0") > 400
        detach(made.sw)
        stream.wait_received(100)
    assert stream.report.intact, stream.report
    assert ping(a.ns, b.address4).lost == 0


def test_what_the_kernel_knows_is_taken_over(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    with Stations(made) as stations:
        stations.exchange(0, frame(BROADCAST, mac(0)))
        stations.exchange(1, frame(BROADCAST, mac(1)))
        with attached(made.sw, "br0") as instance:
            assert addresses(made.sw, instance) == {(mac(0), 0): "p0", (mac(1), 0): "p1"}
            sent = frame(mac(1), mac(0))
            assert stations.exchange(0, sent) == ([], [sent], [])
            assert verdicts(made.sw) == {("p0", "forward_port"): 1}


def test_a_new_source_is_shown_to_the_kernel_once(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    with attached(made.sw, "br0"), Stations(made) as stations:
        sent = frame(mac(1), mac(0))
        stations.exchange(1, frame(BROADCAST, mac(1)))
        assert [stations.exchange(0, sent) for _ in range(5)] == [([], [sent], [])] * 5
        assert kernel_ports(made) == {mac(0): "p0", mac(1): "p1"}
        assert verdicts(made.sw) == {
            ("p1", "punt_new_source"): 1,
            ("p0", "punt_new_source"): 1,
            ("p0", "forward_port"): 4,
        }


def test_a_station_moves_for_both(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    with attached(made.sw, "br0"), Stations(made) as stations:
        for number in (0, 1):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        to, back = frame(mac(0), mac(1)), frame(mac(1), mac(0))
        assert stations.exchange(1, to) == ([to], [], [])
        assert stations.exchange(2, back) == ([], [back], [])
        assert stations.exchange(1, to) == ([], [], [to])
        assert kernel_ports(made) == {mac(0): "p2", mac(1): "p1"}


def test_a_station_moves_to_a_port_that_is_the_kernels(segment: SegmentFactory) -> None:
    """Frames from a port with a feature that is not built here are all punted, but learned from: else frames for a
    station that went there would go to its old port until the entry has aged.
    """
    made = bridged(segment, "tc")
    set_flag(made.sw, "neigh_suppress", "p2")
    with attached(made.sw, "br0"), Stations(made) as stations:
        for number in (0, 1):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        to, back = frame(mac(0), mac(1)), frame(mac(1), mac(0))
        assert stations.exchange(1, to) == ([to], [], [])
        assert stations.exchange(2, back) == ([], [back], [])
        assert stations.exchange(1, to) == ([], [], [to])
        assert count(made.sw, "punt_port") == 2


def test_the_kernel_keeps_what_only_ebpf_sees(segment: SegmentFactory) -> None:
    """Its entry would age: it sees none of the frames that are forwarded here. A station that is silent ages in both,
    however much is sent to it."""
    made = bridged(segment, "tc", ageing=2)
    with attached(made.sw, "br0"), Stations(made) as stations:
        for number in (1, 0):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        sent, end = frame(mac(1), mac(0)), time.monotonic() + 4.5
        while time.monotonic() < end:
            assert mac(0) in kernel_ports(made)
            stations.exchange(0, sent)
            time.sleep(0.05)
        assert kernel_ports(made) == {mac(0): "p0"}
        assert stations.exchange(0, sent) == ([], [sent], [sent])
        found = verdicts(made.sw)
        assert found["p0", "forward_port"] > 10
        assert found["p0", "punt_new_source"] <= 12  # once, and every half second


def test_permanent_entries_of_the_kernel(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    static, local = bytes.fromhex("020000000a01"), bytes.fromhex("020000000a02")
    for address, kind in ((static, "static"), (local, "local")):
        made.sw.run(["bridge", "fdb", "add", address.hex(":"), "dev", "p2", "master", kind])
    with attached(made.sw, "br0"), Stations(made) as stations:
        stations.exchange(0, frame(BROADCAST, mac(0)))
        to_static, to_local = frame(static, mac(0)), frame(local, mac(0))
        assert stations.exchange(0, to_static) == ([], [], [to_static])
        assert stations.exchange(0, to_local) == ([], [], [])
        assert verdicts(made.sw) == {
            ("p0", "punt_new_source"): 1,
            ("p0", "forward_port"): 1,
            ("p0", "punt_local"): 1,
        }


SETTINGS = {
    "static": ["bridge fdb add 02:00:00:00:00:05 dev p3 master static"],
    "sticky": ["bridge fdb add 02:00:00:00:00:05 dev p3 master static sticky"],
    "learning off": ["bridge link set dev p0 learning off", "bridge link set dev p2 learning off"],
    "flood off": ["bridge link set dev p1 flood off mcast_flood off bcast_flood off"],
    "disabled": ["bridge link set dev p1 state 0", "bridge fdb add 02:00:00:00:00:02 dev p1 master static"],
    "locked": ["bridge link set dev p1 locked on", "bridge fdb add 02:00:00:00:00:02 dev p1 master static"],
    "no ageing": ["ip link set br0 type bridge ageing_time 0"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_kernel_bridge_hold(segment: SegmentFactory, setting: str) -> None:
    """Random frames through two kernel bridges with the same settings, one of them adopted."""
    theirs, ours = bridged(segment, "tc", 4, mtu=MTUS), bridged(segment, "tc", 4, mtu=MTUS)
    for made in (theirs, ours):
        for command in SETTINGS[setting]:
            made.sw.run(command.split())
    with attached(ours.sw, "br0", options=OPTIONS) as instance, Stations(theirs) as one, Stations(ours) as other:

        def forget() -> None:
            flush(ours.sw, instance)
            kernel_flush(ours)

        pair = Twins(theirs, ours, forget, (one, other))
        pair.compare_random(60)
        assert (count(ours.sw, "forward_port") > 0) == (setting != "no ageing")


def test_rules_of_netfilter_are_not_passed_by_unasked(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    made.sw.run(["nft", "add table bridge t; add chain bridge t f { type filter hook forward priority 0; }"])
    made.sw.run(["nft", "add rule bridge t f ip protocol icmp counter drop"])
    with pytest.raises(PydpError, match="bridge t f") as caught:
        attach(made.sw, "br0")
    assert "--ignore-netfilter" in caught.value.hint
    a, b, _ = made.containers
    with attached(made.sw, "br0", options={"ignore_netfilter": True}):
        tcp_transfer(b.ns, a.ns, b.address4, 1000)  # so that the addresses are learned
        assert ping(a.ns, b.address4).lost == 0
    assert ping(a.ns, b.address4, wait=0.1).received == 0


def test_what_cannot_be_adopted_says_why(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    with pytest.raises(UsageError, match="p0 is a port of br0") as caught:
        attach(made.sw, "p0", "p1")
    assert "--mode bridge br0" in caught.value.hint
    with pytest.raises(UsageError, match="adopted alone"):
        attach(made.sw, "br0", "p0")
    with pytest.raises(UsageError, match="VLANs and flags"):
        attach(made.sw, "br0", options={"isolated": ("p0",)})


def test_an_isolated_pair_and_a_hairpin(segment: SegmentFactory) -> None:
    made = bridged(segment, "tc")
    set_flag(made.sw, "isolated", "p0", "p1")
    set_flag(made.sw, "hairpin", "p2")
    with attached(made.sw, "br0"), Stations(made) as stations:
        for number in range(3):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        between, own = frame(mac(1), mac(0)), frame(mac(2), mac(2))
        assert stations.exchange(0, between) == ([], [], [])
        assert stations.exchange(2, own) == ([], [], [own])
        found = verdicts(made.sw)
        assert (found["p0", "drop_isolated"], found["p2", "forward_port"]) == (1, 1)
