# SPDX-License-Identifier: Apache-2.0
"""Mode bridge and its ports: what each hook asks of them, the shortest way out, what a detach puts back, and 256."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydp.datapath import Datapath
from pydp.errors import Unsupported
from pydp.lab import Namespace, Segment, Stations, ping, send_frame, tcp_transfer, wait_up
from tests.net.bridging import (
    BROADCAST,
    OFFLOADS,
    SegmentFactory,
    attach,
    attached,
    count,
    detach,
    frame,
    mac,
)

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

HOOKS = ["tc", "xdp"]

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
        assert instance.all_hooks == ("xdp", "tc")
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
        "pins": [str(path) for path in Path("/sys/fs/bpf").glob(f"pydp/{segment.sw.cookie}/**/*")],
        "offloads": [shown(c.ns, "ethtool", "-k", "eth0") for c in segment.containers],
        "inside": [json.loads(shown(c.ns, "ip", "-d", "-j", "link")) for c in segment.containers],
    }


@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
@pytest.mark.parametrize("hook", HOOKS)
def test_detach_restores_what_was_there(segment: SegmentFactory, bpffs: Path, hook: str, adopt: bool) -> None:
    made = segment(2, kernel_bridge=adopt, offloads=OFFLOADS[hook])
    (bpffs / "pydp").mkdir(mode=0o700, exist_ok=True)
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
