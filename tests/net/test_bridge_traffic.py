# SPDX-License-Identifier: Apache-2.0
"""Mode bridge standalone, with the traffic of real stacks: two hooks, no kernel bridge anywhere."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pydp import fdb
from pydp.datapath import Datapath, Reader
from pydp.datapath.state import Instance
from pydp.errors import Unsupported
from pydp.lab import (
    Capture,
    Namespace,
    Segment,
    Stations,
    get_offload,
    ping,
    send_frame,
    tcp_transfer,
    udp_sizes,
    wait_up,
)
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


def test_a_station_that_moves_is_followed_at_once(switch: Switch, stations: Stations) -> None:
    before = events(switch)
    for number in (0, 1):
        stations.exchange(number, frame(BROADCAST, mac(number)))
    to_it, from_it = frame(mac(0), mac(1)), frame(mac(1), mac(0))
    assert stations.exchange(1, to_it) == ([to_it], [], [], [])
    assert stations.exchange(2, from_it) == ([], [from_it], [], [])
    assert stations.exchange(1, to_it) == ([], [], [to_it], [])
    assert addresses(switch.sw, switch.instance) == {(mac(0), 0): "p2", (mac(1), 0): "p1"}
    after = events(switch)
    assert (after["learned"] - before["learned"], after["moved"] - before["moved"]) == (2, 1)


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
    assert addresses(switch.sw, switch.instance) == {}


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


# XDP on a veth


def test_xdp_is_refused_until_the_printed_command_has_run(segment: SegmentFactory) -> None:
    made = segment(2)
    with pytest.raises(Unsupported) as caught:
        attach(made.sw, *made.ports, hook="xdp")
    assert "TCP would break" in str(caught.value)
    assert made.sw.call(lambda: Datapath().read().instances) == {}
    subprocess.run(["sh", "-ec", caught.value.hint], check=True, capture_output=True)
    a, b = made.containers
    with attached(made.sw, *made.ports, hook="xdp") as instance:
        assert instance.hooks == ("xdp", "tc")
        tcp_transfer(b.ns, a.ns, b.address4, 3_000_000)
        assert count(made.sw, "forward_port", hook="xdp") > 100
        with Stations(made) as stations:
            sent = frame(mac(1), mac(0), tags="8100 a005")
            assert stations.exchange(0, sent) == ([], [sent])


def test_generic_xdp_never_breaks_in_silence(segment: SegmentFactory) -> None:
    """What its refusal prints suffices for TCP too."""
    made = segment(2)
    with pytest.raises(Unsupported) as caught:
        attach(made.sw, *made.ports, hook="xdp-generic")
    subprocess.run(["sh", "-ec", caught.value.hint], check=True, capture_output=True)
    a, b = made.containers
    with attached(made.sw, *made.ports, hook="xdp-generic"):
        assert ping(a.ns, b.address4).lost == 0
        tcp_transfer(b.ns, a.ns, b.address4, 1_000_000, timeout=5)
        assert count(made.sw, "drop_mtu") == 0


# The shortest way into a container


def sent_by_port(ns: Namespace, port: str) -> int:
    """Frames that left by a port's own way out."""
    shown = json.loads(ns.run(["ip", "-s", "-j", "link", "show", port]).stdout)
    return int(shown[0]["stats64"]["tx"]["packets"])


MARKERS = 6  # that an exchange sends by every port: three for each of two barriers
EGRESS = {
    "nothing": [],
    "qdisc": ["tc qdisc add dev p1 root pfifo limit 100"],
    "filter": [
        "tc qdisc add dev p1 clsact",
        "tc filter add dev p1 egress protocol all u32 match u32 0 0 action mirred egress mirror dev p2",
    ],
}


@pytest.mark.parametrize("egress", EGRESS)
def test_redirect_peer_where_nothing_lies_on_the_way_out(segment: SegmentFactory, egress: str) -> None:
    """The frame appears in the container without passing the port's egress, unless somebody put something there."""
    made = segment(3)
    for command in EGRESS[egress]:
        made.sw.run(command.split())
    with attached(made.sw, *made.ports), Stations(made) as stations:
        for number in (0, 1):
            stations.exchange(number, frame(BROADCAST, mac(number)))
        sent = frame(mac(1), mac(0))
        before = sent_by_port(made.sw, "p1")
        seen = [stations.exchange(0, sent) for _ in range(10)]
        passed = sent_by_port(made.sw, "p1") - before - 10 * MARKERS
        mirrored = [sent] if egress == "filter" else []
        assert seen == [([], [sent], mirrored)] * 10
        assert passed == (0 if egress == "nothing" else 10)


# Restoring what was there


def picture(segment: Segment) -> dict[str, Any]:
    """All that an attach could have changed on the switch and in the containers."""

    def shown(ns: Namespace, *command: str) -> Any:
        return ns.run(command).stdout

    links = json.loads(shown(segment.sw, "ip", "-d", "-j", "link"))
    for link in links:
        about = link.get("linkinfo", {}).get("info_data", {})
        for timer in [key for key in about if key.endswith("_timer")]:
            del about[timer]
    return {
        "links": links,
        "qdiscs": shown(segment.sw, "tc", "qdisc"),
        "filters": [
            shown(segment.sw, "tc", "filter", "show", "dev", port, side)
            for port in segment.ports
            for side in ("ingress", "egress")
        ],
        "bpf": shown(segment.sw, "bpftool", "net"),
        "pins": shown(segment.sw, "find", "/sys/fs/bpf/pydp", "-path", f"*/{segment.sw.cookie}/*"),
        "offloads": [shown(c.ns, "ethtool", "-k", "eth0") for c in segment.containers],
        "inside": [json.loads(shown(c.ns, "ip", "-d", "-j", "link")) for c in segment.containers],
    }


@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
@pytest.mark.parametrize("hook", HOOKS)
def test_detach_restores_what_was_there(segment: SegmentFactory, bpffs: object, hook: str, adopt: bool) -> None:
    made = segment(2, kernel_bridge=adopt, offloads=OFFLOADS[hook])
    (bpffs / "pydp").mkdir(mode=0o700, exist_ok=True)  # type: ignore[operator]
    made.sw.run(["tc", "qdisc", "add", "dev", "p1", "clsact"])
    before = picture(made)
    attach(made.sw, *((made.bridge,) if adopt else made.ports), hook=hook)
    during = picture(made)
    assert during != before
    assert during["pins"]
    detach(made.sw)
    assert picture(made) == before


def flags(ns: Namespace, name: str) -> set[str]:
    return set(json.loads(ns.run(["ip", "-d", "-j", "link", "show", name]).stdout)[0]["flags"])


def test_ports_that_are_no_veths_take_all_frames(segment: SegmentFactory, namespace: Callable[..., Namespace]) -> None:
    """A segment over a VXLAN to a kernel bridge far away. Such a device must be promiscuous, as under a bridge; one
    that was before stays it."""
    here, there = segment(1, mtu=1450), segment(1, mtu=1450, kernel_bridge=True, macs=["02:00:00:00:00:09"])
    near, far = here.sw, there.sw
    near.run(["ip", "link", "add", "u0", "type", "veth", "peer", "name", "u1", "netns", far.name])
    for ns, dev, own, other in ((near, "u0", "192.0.2.1", "192.0.2.2"), (far, "u1", "192.0.2.2", "192.0.2.1")):
        ns.run(["ip", "address", "add", f"{own}/24", "dev", dev])
        ns.run(["ip", "link", "set", dev, "up"])
        ns.run(f"ip link add vx0 type vxlan id 5 remote {other} dstport 4789 dev {dev}".split())
        ns.run(["ip", "link", "set", "vx0", "up"])
    far.run(["ip", "link", "set", "vx0", "master", "br0"])
    there[0].ns.run(["ip", "address", "flush", "dev", "eth0"])
    there[0].ns.run(["ip", "address", "add", "10.0.9.9/16", "dev", "eth0"])
    wait_up(near.ipr(), [near.ifindex("u0")])
    assert "PROMISC" not in flags(near, "vx0")
    with attached(near, "p0", "vx0") as instance:
        assert (instance.hook, "PROMISC" in flags(near, "vx0"), "PROMISC" in flags(near, "p0")) == ("tc", True, False)
        assert ping(here[0].ns, "10.0.9.9", wait=2).received > 0  # the far bridge's port may still be coming up
        assert ping(here[0].ns, "10.0.9.9").lost == 0
        tcp_transfer(there[0].ns, here[0].ns, "10.0.9.9", 1_000_000)
    assert "PROMISC" not in flags(near, "vx0")
    near.run(["ip", "link", "set", "vx0", "promisc", "on"])
    with attached(near, "p0", "vx0"):
        pass
    assert "PROMISC" in flags(near, "vx0")


# Many ports


@pytest.mark.timeout(300)  # 256 programs to verify
def test_256_ports(namespace: Callable[..., Namespace], record_property: Callable[[str, object], None]) -> None:
    sw, far = namespace(), namespace()
    lines = "".join(
        f"link add p{i} index {2000 + i} up type veth peer name w{i} netns {far.name}\n" for i in range(256)
    )
    sw.run(["ip", "-batch", "-"], stdin=lines)
    far.run(["ip", "-batch", "-"], stdin="".join(f"link set w{i} up\n" for i in range(256)))
    wait_up(sw.ipr(), range(2000, 2256))
    ports = [f"p{i}" for i in range(256)]
    start = time.monotonic()
    with attached(sw, *ports) as instance:
        record_property("seconds to attach 256 ports", round(time.monotonic() - start, 2))
        assert sorted(instance.slots.values()) == list(range(256))
        with Arrivals(far) as arrivals:
            everywhere = frame(BROADCAST, mac(0))
            assert arrivals.after("w0", everywhere, 255) == {f"w{i}": 1 for i in range(1, 256)}
            assert arrivals.after("w255", frame(mac(0), mac(1)), 1) == {"w0": 1}
            assert arrivals.after("w0", frame(mac(1), mac(0)), 1) == {"w255": 1}
        start = time.monotonic()
    record_property("seconds to detach 256 ports", round(time.monotonic() - start, 2))


class Arrivals:
    """Frames of our ethertype that arrive at any device of a namespace, by one socket for all."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns

    def __enter__(self) -> Arrivals:
        self.sock = self.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B6))
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def after(self, dev: str, sent: bytes, wanted: int) -> dict[str, int]:
        """How often a frame that is sent from DEV arrives where: WANTED times in all, or for how long it takes to see
        that there are more."""
        send_frame(self.ns, dev, sent)
        found: dict[str, int] = {}
        self.sock.settimeout(2)
        while True:
            try:
                data, (name, _, kind, *_) = self.sock.recvfrom(2048)
            except TimeoutError:
                return found
            if kind == 4:  # PACKET_OUTGOING
                continue
            assert data == sent
            found[name] = found.get(name, 0) + 1
            if sum(found.values()) >= wanted:
                self.sock.settimeout(0.2)
