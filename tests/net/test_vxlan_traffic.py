# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan with the traffic of real stacks: pydp and the kernel's own device at either end, in both directions."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from pydp.datapath import Datapath
from pydp.lab import Capture, Nodes, get_offload, ping, send_frame, set_offloads, tcp_transfer, udp_sizes
from tests.net.bridging import EXPERIMENT, attach, attached, count, detach, verdicts
from tests.net.tunnelling import NodesFactory, counter, ends, lab_options, others_of, polled, pydp_end, send_sizes

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

PAIRS = {"to-kernel": ("pydp", "kernel"), "from-kernel": ("kernel", "pydp"), "pydp": ("pydp", "pydp")}
HOOKS = ("tc", "xdp")


@pytest.fixture(scope="module", params=HOOKS)
def hook(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def two(hook: str, module_nodes: NodesFactory, bpffs: object) -> Nodes:
    """Two nodes with two containers each, both families everywhere."""
    return module_nodes(2, 2, direct=True, ipv6=True, underlay6=True, **lab_options(hook))


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, two: Nodes, hook: str) -> Iterator[Nodes]:
    with ends(two, PAIRS[request.param], hook=hook):
        forget(two)
        yield two


def shell(ns: Any, *commands: str) -> None:
    ns.run(["sh", "-ec", "\n".join(commands)])


def forget(made: Nodes) -> None:
    for container in made.containers:
        for family in ("-4", "-6"):
            container.ns.run(["ip", family, "neighbour", "flush", "dev", "eth0"], check=False)


def drops(made: Nodes) -> dict[str, int]:
    """All that pydp has dropped, by node, port and verdict."""
    found = {}
    for node in made.nodes:
        if node.ns.call(lambda: Datapath().read().instances):
            for (device, verdict), packets in verdicts(node.ns).items():
                if verdict.startswith("drop"):
                    found[f"{node.number} {device} {verdict}"] = packets
    return found


# Two nodes


def test_ping_and_tcp_and_udp_both_ways(pair: Nodes) -> None:
    near, *_, far = pair.containers
    for one, other in ((near, far), (far, near)):
        for address in (other.address4, other.address6):
            assert ping(one.ns, address, count=5).lost == 0
        assert ping(one.ns, other.address4, size=1422, extra=["-M", "do"]).lost == 0
        tcp_transfer(other.ns, one.ns, other.address4, 5_000_001)
        tcp_transfer(other.ns, one.ns, other.address6, 1_000_001)
    assert ping(near.ns, pair[0].containers[1].address4).lost == 0
    assert not drops(pair)


@pytest.mark.parametrize("may_fragment", [False, True], ids=["df", "fragments"])
def test_udp_of_every_size(pair: Nodes, may_fragment: bool) -> None:
    """What exceeds the container's MTU is fragmented by its stack, and put together by the other one."""
    near, far = pair[0].containers[0], pair[1].containers[1]
    for one, other in ((near, far), (far, near)):
        send_sizes(one.ns, other.ns, other.address4, may_fragment=may_fragment)
        send_sizes(one.ns, other.ns, other.address6, may_fragment=may_fragment)
    assert not drops(pair)


@pytest.mark.parametrize("kinds", PAIRS.values(), ids=PAIRS)
def test_an_underlay_of_ipv6(two: Nodes, hook: str, kinds: Sequence[str]) -> None:
    """The kernel's device takes no packet without a checksum there, unless told to."""
    with ends(two, kinds, hook=hook, ipv6=True):
        for container in two.containers:
            container.ns.run(["ip", "link", "set", "eth0", "mtu", "1430"])
        try:
            forget(two)
            near, far = two[0].containers[0], two[1].containers[0]
            for one, other in ((near, far), (far, near)):
                assert ping(one.ns, other.address4, count=5).lost == 0
                assert ping(one.ns, other.address6, size=1382, extra=["-M", "do"]).lost == 0
                tcp_transfer(other.ns, one.ns, other.address4, 3_000_001)
                send_sizes(one.ns, other.ns, other.address4)
                send_sizes(one.ns, other.ns, other.address6)
        finally:
            for container in two.containers:
                container.ns.run(["ip", "link", "set", "eth0", "mtu", "1450"])


def test_gso_frames_stay_whole_and_few_are_sent_again(nodes: NodesFactory) -> None:
    """What the receiver is handed is as long as what TCP gave its device, on the way out and in; and no more of it is
    sent again than with the kernel at both ends."""
    made = nodes(2, 1, direct=True)
    near, far = made.containers
    assert get_offload(near.ns, "eth0", "tso")
    longest, again = {}, {}
    for name, kinds in {"kernel": ("kernel", "kernel"), **PAIRS}.items():
        with ends(made, kinds), Capture(far.ns, "eth0") as capture:
            ping(near.ns, far.address4)
            before = counter(near.ns, "Tcp", "RetransSegs")
            tcp_transfer(far.ns, near.ns, far.address4, 30_000_000)
            again[name] = counter(near.ns, "Tcp", "RetransSegs") - before
            longest[name] = max(map(len, capture.frames(20000, timeout=0.2)))
            if "pydp" in kinds:
                assert not drops(made), name
    assert min(longest.values()) > 20_000, longest
    assert max(again.values()) <= max(200, 4 * again["kernel"]), again  # 30 MB are 21,000 segments


def test_a_jumbo_underlay(nodes: NodesFactory) -> None:
    made = nodes(2, 1, direct=True, underlay_mtu=9000, container_mtu=8950)
    near, far = made.containers
    with ends(made, PAIRS["to-kernel"]):
        assert ping(near.ns, far.address4, size=8922, extra=["-M", "do"]).lost == 0
        tcp_transfer(far.ns, near.ns, far.address4, 5_000_000)
        tcp_transfer(near.ns, far.ns, near.address4, 5_000_000)
        sizes = [8922, 8923, 9000]
        assert udp_sizes(far.ns, near.ns, far.address4, sizes) == dict.fromkeys(sizes, True)


@pytest.mark.parametrize("kinds", PAIRS.values(), ids=PAIRS)
def test_containers_that_send_more_than_the_underlay_takes(nodes: NodesFactory, kinds: Sequence[str]) -> None:
    """An MTU of 9000 inside, 1500 outside: who forbids fragments is told, others' packets are fragmented outside."""
    made = nodes(2, 1, direct=True, container_mtu=9000, ipv6=True)
    near, far = made.containers
    with ends(made, kinds):
        for one, other in ((near, far), (far, near)):
            for container in (near, far):
                for family in ("-4", "-6"):
                    container.ns.run(["ip", family, "route", "flush", "cache"])
            tcp_transfer(other.ns, one.ns, other.address4, 3_000_000)
            tcp_transfer(other.ns, one.ns, other.address6, 1_000_000)
            for address in (other.address4, other.address6):
                assert "mtu 1450" in one.ns.run(["ip", "route", "get", address]).stdout
        if kinds[0] == "kernel":  # whose bridge drops what is longer than its vxlan device takes
            return
        near.ns.run(["ip", "route", "flush", "cache"])
        sizes = [1, 1422, 1423, 2000, 8972, 9000]
        assert udp_sizes(far.ns, near.ns, far.address4, sizes) == dict.fromkeys(sizes, True)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kinds", PAIRS.values(), ids=PAIRS)
def test_udp_of_every_size_that_is_fragmented_outside(nodes: NodesFactory, kinds: Sequence[str], hook: str) -> None:
    """The same containers, whose packets may be fragmented. The kernel's device takes those that are longer than the
    underlay does if it is told of no underlay (vxlan_change_mtu, drivers/net/vxlan/vxlan_core.c)."""
    made = nodes(2, 1, direct=True, container_mtu=9000, **lab_options(hook))
    if hook == "xdp":
        polled(made)
    near, far = made.containers
    with contextlib.ExitStack() as stack:
        for node, kind in zip(made.nodes, kinds, strict=True):
            if kind == "pydp":
                stack.enter_context(pydp_end(made, node, hook=hook))
                continue
            vxlan = made.kernel_vxlan(node, dev=None)
            stack.callback(made.kernel_down, node)
            node.ns.run(["ip", "link", "set", vxlan.device, "mtu", "9000"])
        for one, other, node in ((near, far, made[1]), (far, near, made[0])):
            before = counter(node.ns, "Ip", "ReasmOKs")
            send_sizes(one.ns, other.ns, other.address4, may_fragment=True)
            assert counter(node.ns, "Ip", "ReasmOKs") - before >= 9000 - 1422
        assert not drops(made)


@pytest.mark.parametrize("mtu", [1450, 8950])
def test_what_is_taken_out_and_forwarded_again(nodes: NodesFactory, namespace: Any, mtu: int) -> None:
    """The container is a router to a host behind it, over a device that is handed only frames that were cut up and
    whose checksums are filled in: nothing of the outer packet may cling to a decapsulated GSO frame."""
    made = nodes(2, 1, direct=True, underlay_mtu=mtu + 50, container_mtu=mtu)
    near, far = made.containers
    behind = namespace()
    shell(
        near.ns,
        f"ip link add inside mtu {mtu} type veth peer name eth0 netns {behind.name}",
        "ip address add 10.77.0.1/24 dev inside",
        "ip link set inside up",
    )
    near.ns.sysctl("ipv4.ip_forward", 1)
    shell(
        behind,
        f"ip link set eth0 mtu {mtu} up",
        "ip address add 10.77.0.2/24 dev eth0",
        "ip route add default via 10.77.0.1",
    )
    shell(far.ns, f"ip route add 10.77.0.0/24 via {near.address4}")
    with ends(made, PAIRS["to-kernel"]):
        for offloads in ({}, {"tso": False}, {"tso": False, "gso": False}, {"tx": False}):
            set_offloads(near.ns, "inside", offloads)
            tcp_transfer(behind, far.ns, "10.77.0.2", 2_000_000)
            tcp_transfer(far.ns, behind, far.address4, 2_000_000)
        assert not drops(made)


def test_what_is_taken_out_and_bridged_on(nodes: NodesFactory, namespace: Any) -> None:
    """The port is a bridge's way to a host whose link takes frames of the wire's size only."""
    made = nodes(2, 1, direct=True)
    near, far = made.containers
    behind = namespace()
    shell(near.ns, f"ip link add inside mtu 1450 type veth peer name eth0 netns {behind.name}")
    set_offloads(near.ns, "inside", {"tso": False, "gso": False, "tx": False})
    shell(
        near.ns,
        "ip link add br0 type bridge",
        "ip address flush dev eth0",
        "ip link set eth0 master br0",
        "ip link set inside master br0 up",
        "ip link set br0 up",
    )
    shell(behind, "ip link set eth0 mtu 1450 up", "ip address add 10.1.9.9/16 dev eth0")
    with ends(made, ("pydp", "kernel")):
        tcp_transfer(behind, far.ns, "10.1.9.9", 3_000_000)
        tcp_transfer(far.ns, behind, far.address4, 3_000_000)
        assert not drops(made)


# Several VTEPs


@pytest.mark.parametrize("hook", HOOKS)
def test_three_vteps(nodes: NodesFactory, hook: str) -> None:
    """What is for all reaches each container once, whoever sends it; what is for one reaches nobody else."""
    made = nodes(3, 2, **lab_options(hook))
    if hook == "xdp":
        polled(made)
    kinds = ("pydp", "kernel", "pydp" if hook == "tc" else "kernel")
    with ends(made, kinds, hook=hook), contextlib.ExitStack() as stack:
        for one in made.containers:
            for other in made.containers:
                if one is not other:
                    assert ping(one.ns, other.address4, count=1).lost == 0
        captures = [stack.enter_context(Capture(one.ns, one.dev)) for one in made.containers]
        for number, one in enumerate(made.containers):
            source = bytes.fromhex(one.mac.replace(":", ""))
            for dest in (b"\xff" * 6, bytes.fromhex("01005e000005"), bytes.fromhex("02000000ee00")):
                frame = dest + source + EXPERIMENT + bytes([number]) * 46
                send_frame(one.ns, one.dev, frame)
                for at, capture in enumerate(captures):
                    wanted = [] if at == number else [frame]
                    assert capture.frames(1, timeout=2 if wanted else 0) == wanted, (number, at, dest.hex())
        time.sleep(0.05)
        assert [capture.frames(1, timeout=0) for capture in captures] == [[]] * 6
        known = bytes.fromhex(made.containers[5].mac.replace(":", ""))
        frame = known + bytes.fromhex(made.containers[0].mac.replace(":", "")) + EXPERIMENT + bytes(46)
        send_frame(made.containers[0].ns, "eth0", frame)
        assert captures[5].frames(1) == [frame]
        assert [capture.frames(1, timeout=0) for capture in captures[:5]] == [[]] * 5


def test_a_multicast_group(nodes: NodesFactory) -> None:
    made = nodes(3, 1)
    with contextlib.ExitStack() as stack:
        for node in (made[0], made[2]):
            options = {"group": "239.1.1.1", "remote": others_of(made, node)}
            stack.enter_context(pydp_end(made, node, **options))
        made.kernel_vxlan(made[1], group="239.1.1.1")
        stack.callback(made.kernel_down, made[1])
        for one in made.containers:
            for other in made.containers:
                if one is not other:
                    assert ping(one.ns, other.address4, count=2).lost == 0
        tcp_transfer(made.containers[1].ns, made.containers[0].ns, made.containers[1].address4, 1_000_000)
        captures = [stack.enter_context(Capture(one.ns, one.dev)) for one in made.containers]
        frame = b"\xff" * 6 + bytes.fromhex(made.containers[0].mac.replace(":", "")) + EXPERIMENT + bytes(46)
        send_frame(made.containers[0].ns, "eth0", frame)
        assert [capture.frames(2, timeout=0.3) for capture in captures] == [[], [frame], [frame]]


# Changes on the way


@pytest.mark.parametrize("hook", HOOKS)
def test_the_way_changes(nodes: NodesFactory, hook: str) -> None:
    made = nodes(2, 1, direct=True, **lab_options(hook))
    near, far = made.containers
    one, other = made.nodes
    with ends(made, ("pydp", "kernel"), hook=hook):
        one.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
        assert ping(near.ns, far.address4, count=3).lost == 0
        mac = "02:00:00:00:77:77"
        other.ns.run(["ip", "link", "set", "eth0", "address", mac])
        request = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=other.address4, pdst=other.address4)
        send_frame(other.ns, "eth0", bytes(request))  # tells its neighbours
        time.sleep(0.1)
        assert ping(near.ns, far.address4, count=3).lost == 0
        before = count(one.ns, "forward_encap")
        assert ping(near.ns, far.address4, count=20).lost == 0
        assert count(one.ns, "forward_encap") - before >= 15


def test_a_route_moves(nodes: NodesFactory) -> None:
    """To another device, on which nothing of ours is: what leaves there is right, what comes in there goes by the
    stack."""
    made = nodes(2, 1, direct=True)
    one, other = made.nodes
    near, far = made.containers
    one.ns.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", other.ns.name])
    for node, own in ((one, "198.51.100.1"), (other, "198.51.100.2")):
        node.ns.run(["ip", "address", "add", f"{own}/24", "dev", "eth1"])
        node.ns.run(["ip", "link", "set", "eth1", "up"])
    with ends(made, ("pydp", "kernel")):
        assert ping(near.ns, far.address4).lost == 0
        for node, peer, via in ((one, other, "198.51.100.2"), (other, one, "198.51.100.1")):
            node.ns.run(["ip", "route", "add", f"{peer.address4}/32", "via", via, "dev", "eth1"])
        time.sleep(0.1)
        with Capture(other.ns, "eth1") as capture:
            assert ping(near.ns, far.address4, count=5).lost == 0
            assert len(capture.frames(5, timeout=0.5)) == 5
        tcp_transfer(far.ns, near.ns, far.address4, 500_000)


@pytest.mark.parametrize(
    ("kinds", "df"), [(PAIRS["to-kernel"], "set"), (PAIRS["from-kernel"], "set"), (PAIRS["to-kernel"], "unset")]
)
def test_the_path_is_narrower_than_the_underlay(nodes: NodesFactory, kinds: Sequence[str], df: str) -> None:
    """Behind a router with a link of 1300 bytes: without DF outside it fragments, with it says so, and then the senders
    are told."""
    made = nodes(2, 1, router_mtu=1300)
    near, far = made.containers
    with ends(made, kinds, df=df):
        assert ping(near.ns, far.address4).lost == 0
        tcp_transfer(far.ns, near.ns, far.address4, 500_000)
        tcp_transfer(near.ns, far.ns, near.address4, 500_000)
        sizes = [1, 1222, 1223, 1400, 1422, 3000]
        assert udp_sizes(far.ns, near.ns, far.address4, sizes) == dict.fromkeys(sizes, True)


# Coming and going


def devices(ns: Any) -> set[str]:
    return {link.get("ifname") for link in ns.ipr().link("dump")}


@pytest.mark.parametrize("hook", HOOKS)
def test_detach_leaves_nothing(nodes: NodesFactory, hook: str) -> None:
    made = nodes(2, 1, direct=True, **lab_options(hook))
    node = made[0]
    before = devices(node.ns), node.ns.run(["ip", "route", "show", "table", "all"]).stdout
    with pydp_end(made, node, hook=hook):
        assert devices(node.ns) - before[0] == {"pydp-vx4789"}
    assert (devices(node.ns), node.ns.run(["ip", "route", "show", "table", "all"]).stdout) == before
    assert not node.ns.run(["ss", "-uanH"]).stdout
    shown = (
        node.ns.run(["ip", "-d", "link"]).stdout
        + node.ns.run(["tc", "filter", "show", "dev", "eth0", "ingress"]).stdout
    )
    assert "xdp" not in shown
    assert "bpf" not in shown


def test_a_replace_interrupts_nothing(nodes: NodesFactory) -> None:
    made = nodes(2, 1, direct=True)
    near, far = made.containers
    with ends(made, ("pydp", "kernel")):
        assert ping(near.ns, far.address4).lost == 0
        child = near.ns.popen(["ping", "-n", "-q", "-i", "0.005", "-c", "200", far.address4], stdout=-1)
        for ttl in ("9", "10"):
            options = {
                "vni": 100, "local": made[0].address4, "remote": ["192.0.2.77", made[1].address4],
                "port": made[0].ports, "ttl": ttl,
            }  # fmt: skip
            attach(made[0].ns, "eth0", mode="vxlan", options=options)
        said, _ = child.communicate(timeout=20)
        assert " 0% packet loss" in said
        assert devices(made[0].ns) == {"lo", "eth0", "p0", "pydp-vx4789"}


KILLED = """
import os, signal, sys
from pydp.datapath import Datapath, Request
from pydp.datapath import change, companions
where, options = sys.argv[1], eval(sys.argv[2])
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def after(function):
    def run(*args, **more):
        function(*args, **more)
        die()
    return run
if where == "companion":
    companions.with_companion = after(companions.with_companion)
elif where == "tree":
    change.Change._build_tree = after(change.Change._build_tree)
elif where == "switch":
    change.Change._switch = after(change.Change._switch)
else:
    change.Change._finish = die
Datapath().attach(Request("vxlan", ("eth0",), hook="tc", options=options))
"""


@pytest.mark.parametrize("where", ["companion", "tree", "switch", "commit"])
def test_killed_in_the_middle(nodes: NodesFactory, where: str) -> None:
    """Whoever comes next finds all of it or nothing; after a detach there is nothing."""
    made = nodes(2, 1, direct=True)
    node = made[0]
    before = devices(node.ns)
    options = {"vni": 100, "local": node.address4, "remote": (made[1].address4,), "port": node.ports}
    killed = node.ns.run([sys.executable, "-c", KILLED, where, repr(options)], check=False, env={**os.environ})
    assert killed.returncode == -9, killed.stderr
    assert "pydp-vx4789" in devices(node.ns)
    if where == "commit":
        detach(node.ns)
    else:
        assert not node.ns.call(lambda: Datapath().read().instances)
        with attached(node.ns, "p0"):
            assert devices(node.ns) == before
    assert devices(node.ns) == before
    assert "bpf" not in node.ns.run(["tc", "filter", "show", "dev", "p0", "ingress"]).stdout
