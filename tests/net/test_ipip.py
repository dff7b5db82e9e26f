# SPDX-License-Identifier: Apache-2.0
"""Mode ipip between real namespaces: nodes without any tunnel device, and what their stacks make of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from ebpf.pins import Store
from pydp.datapath import Datapath, Reader, Request
from pydp.datapath import change as changes
from pydp.datapath.build import Builder
from pydp.errors import PydpError, UsageError
from pydp.kernel import routes as kernel_routes
from pydp.lab import Capture, Namespace, Node, Nodes, ping, tcp_transfer, udp_sizes
from pydp.tunnels import peers
from tests.net.bridging import OFFLOADS, attach, attached, count, detach, verdicts
from tests.net.tunnelling import NodesFactory, counter, send_sizes
from tests.system.cli import ok, ok_json, refused

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

OVERHEAD = {"ipip": 20, "sit": 20, "ip6ip6": 40, "ip4ip6": 40, "gre": 28}
STREAM = 20_000_000


def is_outer6(kind: str) -> bool:
    return kind in ("ip6ip6", "ip4ip6")


def is_inner6(kind: str) -> bool:
    return kind in ("sit", "ip6ip6")


def end(node: Node, kind: str) -> str:
    return node.address6 if is_outer6(kind) else node.address4


def network(node: Node, kind: str = "ipip") -> str:
    """What is behind a node: the subnet of its container."""
    container = node.containers[0]
    if is_inner6(kind):
        return f"{container.address6.rpartition('::')[0]}::/64"
    return f"{container.address4.rpartition('.')[0]}.0/24"


def target(node: Node, kind: str = "ipip") -> str:
    return node.containers[0].address6 if is_inner6(kind) else node.containers[0].address4


def options(node: Node, *others: Node, kind: str = "ipip", **more: Any) -> dict[str, Any]:
    key = {"key": 0xFFFFFFFF} if kind == "gre" else {}
    peers = tuple(f"{end(other, kind)}={network(other, kind)}" for other in others)
    return {"kind": kind, "local": end(node, kind), "peer": peers, **key, **more}


def shown_routes(ns: Namespace) -> str:
    return ns.run(["ip", "route"]).stdout + ns.run(["ip", "-6", "route"]).stdout


@contextlib.contextmanager
def tunnelled(made: Nodes, kind: str = "ipip", hook: str = "tc", **more: Any) -> Iterator[None]:
    """Between the first two nodes; the first one has its port in the instance, the second leaves that to the stack."""
    one, other = made.nodes[:2]
    before = shown_routes(one.ns), shown_routes(other.ns)
    with attached(
        one.ns, "eth0", mode="ipip", hook=hook, options=options(one, other, kind=kind, port=("p0",), **more)
    ), attached(other.ns, "eth0", mode="ipip", hook=hook, options=options(other, one, kind=kind, **more)):  # fmt: skip
        assert network(other, kind) in shown_routes(one.ns)
        yield
    assert (shown_routes(one.ns), shown_routes(other.ns)) == before


def both_ways(made: Nodes, kind: str = "ipip", *, size: int = STREAM) -> list[int]:
    """Gives how many TCP segments were sent again, each way."""
    near, far = made[0].containers[0], made[1].containers[0]
    again = []
    for server, client, node in ((far, near, made[1]), (near, far, made[0])):
        assert ping(client.ns, target(node, kind), count=2).lost == 0
        before = counter(client.ns, "Tcp", "RetransSegs")
        assert tcp_transfer(server.ns, client.ns, target(node, kind), size).bytes == size
        again.append(counter(client.ns, "Tcp", "RetransSegs") - before)
    return again


@pytest.mark.parametrize("kind", OVERHEAD)
def test_every_kind(nodes: NodesFactory, kind: str) -> None:
    """Ping, TCP with default offloads, and UDP of every size, both ways."""
    made = nodes(2, direct=True, routed=True, ipv6=is_inner6(kind), underlay6=is_outer6(kind), container_mtu=1500)
    for node in made.nodes if is_outer6(kind) else ():
        node.ns.sysctl("ipv6.conf.all.forwarding", 1)
    with tunnelled(made, kind):
        again = both_ways(made, kind)
        assert max(again) <= 200, again  # of 14,000 each way
        # Frames stay whole: far fewer of them than packets on a wire.
        frames = count(made[0].ns, "forward_encap", port="p0") + count(made[1].ns, "pass_encap", port="eth0")
        assert 0 < frames < 2 * STREAM // 1400
        assert count(made[0].ns, "forward_decap") > 0
        assert count(made[1].ns, "pass_decap") > 0
        fits = 1500 - OVERHEAD[kind] - (48 if is_inner6(kind) else 28)
        near, far = made[0].containers[0], made[1].containers[0]
        for one, other, node in ((near, far, made[1]), (far, near, made[0])):
            assert ping(one.ns, target(node, kind), size=fits, extra=["-M", "do"]).lost == 0
            assert ping(one.ns, target(node, kind), size=fits + 1, extra=["-M", "do"]).received == 0  # but hears why
            send_sizes(one.ns, other.ns, target(node, kind))
            if not is_inner6(kind):  # whose routers do not fragment
                send_sizes(one.ns, other.ns, target(node, kind), may_fragment=True)
        for hook in ("tc", "tc-egress"):
            assert not [name for name in ("drop_inner", "drop_spoofed") if count(made[0].ns, name, hook=hook)]


def test_on_xdp(nodes: NodesFactory) -> None:
    made = nodes(
        2, direct=True, routed=True, container_mtu=1500, offloads=OFFLOADS["xdp"], node_offloads=OFFLOADS["xdp"]
    )
    with tunnelled(made, hook="xdp"):
        both_ways(made, size=2_000_000)
        assert count(made[0].ns, "forward_encap", hook="xdp") > 0
        assert count(made[0].ns, "forward_decap", hook="xdp") > 0
        assert count(made[1].ns, "pass_decap", hook="xdp") > 0


def test_frames_that_the_device_cannot_cut_up(nodes: NodesFactory) -> None:
    """What came out of the tunnel in one frame is segmented in software, going into it and coming out."""
    made = nodes(2, direct=True, routed=True, container_mtu=1500, node_offloads={"tso": False, "tx": False})
    with tunnelled(made):
        both_ways(made, size=3_000_000)


def test_the_document_s_experiment(namespace: Callable[..., Namespace]) -> None:
    """Two nodes with a network each, joined by two commands: ping both ways, and two IP headers on the wire."""
    one, other = namespace(), namespace()
    one.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other.name])
    for ns, outer, inner in (
        (one, "192.168.123.111/24", "1.2.3.100/24"),
        (other, "192.168.123.114/24", "1.2.4.100/24"),
    ):
        ns.run(["ip", "address", "add", outer, "dev", "eth0"])
        ns.run(["ip", "link", "set", "eth0", "up"])
        ns.run(["ip", "address", "add", inner, "dev", "lo"])
        ns.sysctl("ipv4.conf.all.rp_filter", 1)  # strict
    before = shown_routes(one)
    command = ["attach", "--mode", "ipip", "--hook", "tc"]
    ok("-n", one.name, *command, "--local", "192.168.123.111", "--peer", "192.168.123.114=1.2.4.0/24", "eth0")
    ok("-n", other.name, *command, "--local", "192.168.123.114", "--peer", "192.168.123.111=1.2.3.0/24", "eth0")
    with Capture(other, "eth0", peer=(one, "eth0")) as wire:
        assert ping(one, "1.2.4.100", extra=("-I", "1.2.3.100")).lost == 0
        frames = [Ether(frame) for frame in wire.drain()]
    requests = [frame for frame in frames if IP in frame and frame[IP].proto == 4]
    assert len(requests) == 3
    for frame in requests:
        outer, inner = frame[IP], frame[IP].payload
        assert (outer.src, outer.dst, outer.ttl) == ("192.168.123.111", "192.168.123.114", 64)
        assert isinstance(inner, IP)
        assert (inner.src, inner.dst) == ("1.2.3.100", "1.2.4.100")
    assert ping(other, "1.2.3.100", extra=("-I", "1.2.4.100")).lost == 0
    assert ping(one, "1.2.4.100").lost == 0  # from the address of the underlay: the answer comes outside of the tunnel
    assert tcp_transfer(other, one, "1.2.4.100", 1_000_000).bytes == 1_000_000
    _verbs(one)
    for ns in (one, other):
        ok("-n", ns.name, "detach", "ipip")
    assert shown_routes(one) == before


def _verbs(ns: Namespace) -> None:
    """`pydp tunnel` on the first node: counters survive a change of the peers."""
    (instance,) = ok_json("-n", ns.name, "tunnel", "show", "--json")["instances"]
    (peer,) = instance["tunnels"]
    assert (peer["remote"], peer["networks"], peer["path_mtu"]) == ("192.168.123.114", ["1.2.4.0/24"], None)
    assert peer["sent_packets"] > 6
    assert peer["received_packets"] >= 6
    ok("-n", ns.name, "tunnel", "add", "ipip", "192.168.123.115=1.2.5.0/24,1.2.6.0/24")

    def add(text: str) -> None:
        ns.call(lambda: peers.add(Datapath(), "ipip", [text]))

    def delete(text: str) -> None:
        ns.call(lambda: peers.delete(Datapath(), "ipip", text))

    add("192.168.123.115=1.2.7.0/24")
    found = {one.remote: one for one in ns.call(_peers, "ipip")}
    assert found["192.168.123.114"].sent_packets >= peer["sent_packets"]
    assert found["192.168.123.115"].networks == ("1.2.5.0/24", "1.2.6.0/24", "1.2.7.0/24")
    assert found["192.168.123.115"].sent_packets == 0
    assert "1.2.7.0/24 via 192.168.123.115" in shown_routes(ns)
    for action, text, said in (
        (add, "192.168.123.116=1.2.5.0/24", "behind the peer 192.168.123.115 already"),
        (add, "192.168.123.116", "not of the form"),
        (delete, "192.168.123.116", "no peer of ipip"),
        (delete, "192.168.123.115=9.9.9.0/24", "not behind the peer"),
    ):
        with pytest.raises(UsageError, match=said):
            action(text)
    delete("192.168.123.115=1.2.6.0/24")
    assert "1.2.6.0/24" not in shown_routes(ns)
    delete("192.168.123.115")
    shown = ok("-n", ns.name, "tunnel", "show")
    assert "192.168.123.114" in shown
    assert "192.168.123.115" not in shown
    assert "pydp detach ipip" in refused("-n", ns.name, "tunnel", "del", "ipip", "192.168.123.114", status=2)


def test_a_path_that_is_narrower_than_both_ends(nodes: NodesFactory) -> None:
    """No black hole: what routers on the path say reaches the senders."""
    made = nodes(2, router_mtu=1400, routed=True, container_mtu=1500)
    near, far = made[0].containers[0], made[1].containers[0]
    with tunnelled(made):
        both_ways(made, size=2_000_000)
        assert count(made[0].ns, "forward_reply", hook="tc-egress") > 0
        sizes = [1000, *range(1340, 1380), 1460, 1472, 4000]
        assert udp_sizes(far.ns, near.ns, far.address4, sizes) == dict.fromkeys(sizes, True)
        said = near.ns.run(["ping", "-c", "1", "-W", "1", "-s", "1400", "-M", "do", far.address4], check=False)
        assert "1380" in said.stdout + said.stderr
        (peer,) = made[0].ns.call(_peers, "ipip")
        assert peer.path_mtu == 1400


def test_what_may_be_cut_up_on_a_narrow_path(nodes: NodesFactory) -> None:
    """Nobody puts together what is cut up outside, so the sender, which may cut it up, hears of the path as well."""
    made = nodes(2, router_mtu=1400, routed=True, container_mtu=1500)
    near, far = made[0].containers[0], made[1].containers[0]
    with tunnelled(made):
        for size in (1400, 4000):
            said = near.ns.run(
                ["ping", "-c", "10", "-i", "0.1", "-W", "1", "-s", str(size), "-M", "dont", far.address4]
            )
            assert re.search(r" ([4-9]|10) received", said.stdout), said.stdout  # each end hears of it once
        assert udp_sizes(far.ns, near.ns, far.address4, [1400, 4000], may_fragment=True) == {1400: True, 4000: True}


def test_attaching_again_keeps_counters_and_brings_routes_back(nodes: NodesFactory) -> None:
    """Also when there are so many peers now that their maps are larger."""
    made = nodes(2, direct=True, routed=True)
    near, far = made[0], made[1]
    given = options(near, far, port=("p0",))
    with tunnelled(made):
        both_ways(made, size=100_000)
        (before,) = near.ns.call(_peers, "ipip")
        near.ns.run(["ip", "link", "set", "eth0", "down"])
        near.ns.run(["ip", "link", "set", "eth0", "up"])
        assert near.ns.run(["ip", "route", "show", network(far)]).stdout == ""
        more = tuple(f"192.0.2.{100 + i}=10.99.{i}.0/24" for i in range(60))
        request = Request("ipip", ("eth0",), hook="tc", options={**given, "peer": (*given["peer"], *more)})
        near.ns.call(lambda: Datapath().attach(request))
        assert near.ns.run(["ip", "route", "show", network(far)]).stdout != ""
        peers = near.ns.call(_peers, "ipip")
        assert len(peers) == 61
        after = next(peer for peer in peers if peer.remote == before.remote)
        assert after.sent_packets >= before.sent_packets > 0
        both_ways(made, size=100_000)


def _peers(name: str) -> list[peers.Peer]:
    with Reader.open(Datapath()) as reader:
        return peers.rows(reader, reader.state.instances[name])


def test_from_one_peer_to_another(nodes: NodesFactory) -> None:
    """Frames that are to be cut up cannot go into a second tunnel, so they change the first one's headers."""
    made = nodes(3, routed=True, container_mtu=1500)
    one, hub, other = made.nodes
    behind_hub = {one: f"{network(hub)},{network(other)}", other: f"{network(hub)},{network(one)}"}
    with contextlib.ExitStack() as stack:
        for node, networks in behind_hub.items():
            given = {"local": node.address4, "peer": (f"{hub.address4}={networks}",)}
            stack.enter_context(attached(node.ns, "eth0", mode="ipip", options=given))
        stack.enter_context(attached(hub.ns, "eth0", mode="ipip", options=options(hub, one, other)))
        near, far = one.containers[0], other.containers[0]
        assert ping(near.ns, far.address4).lost == 0
        assert tcp_transfer(far.ns, near.ns, far.address4, STREAM).bytes == STREAM
        hops = near.ns.run(["ping", "-c", "1", "-W", "1", "-t", "2", far.address4], check=False).stdout
        assert "Time to live exceeded" in hops
        assert 0 < count(hub.ns, "forward_encap", hook="tc") < STREAM // 1400
        assert count(hub.ns, "drop_inner") == 0, verdicts(hub.ns)
        _follows_a_peer_that_changes(one, hub, other)


def _follows_a_peer_that_changes(one: Node, hub: Node, other: Node) -> None:
    """Its address moves to other hardware, as with a failover; neighbours learn of that from it."""
    other.ns.run(["ip", "link", "set", "eth0", "down"])
    other.ns.run(["ip", "link", "set", "eth0", "address", "02:99:00:00:00:01"])
    other.ns.run(["ip", "link", "set", "eth0", "up"])
    detach(other.ns)
    given = {"local": other.address4, "peer": (f"{hub.address4}={network(hub)},{network(one)}",)}
    attach(other.ns, "eth0", mode="ipip", options=given)
    other.ns.run(["ping", "-c", "1", "-W", "1", hub.address4], check=False)
    hub.ns.run(["ip", "neigh", "flush", "dev", "eth0"])
    assert ping(one.containers[0].ns, other.containers[0].address4, count=20, interval=0.05).received > 10


# What must not happen


def test_a_route_of_somebody_else_is_not_replaced(nodes: NodesFactory) -> None:
    made = nodes(2, direct=True, routed=True)
    one, other = made.nodes
    one.ns.run(["ip", "route", "add", network(other), "via", other.address4])
    before = shown_routes(one.ns)
    with pytest.raises(PydpError, match=r"there is a route to 10[.]21[.]0[.]0/24 already"):
        attach(one.ns, "eth0", mode="ipip", options=options(one, other))
    assert shown_routes(one.ns) == before
    assert one.ns.call(lambda: dict(Datapath().read().instances)) == {}
    with pytest.raises(UsageError, match="carries no IP tunnel device"):
        attach(one.ns, "eth0", mode="ipip")


MOMENTS: list[tuple[Any, str, bool]] = [
    (Builder, "make", True), (changes.Change, "_switch", False), (kernel_routes, "add_routes", False),
    (kernel_routes, "add_routes", True), (Store, "commit", False), (Store, "commit", True), (changes, "finish", False),
]  # fmt: skip


def test_killed_at_any_moment(nodes: NodesFactory) -> None:
    """Attached or not, with the routes or without: never half of it."""
    made = nodes(2, direct=True, routed=True)
    one, other = made.nodes
    before = shown_routes(one.ns)
    given = options(one, other)
    attach(one.ns, "eth0", mode="ipip", options=given)  # and so it is compiled
    detach(one.ns)
    for owner, name, after in MOMENTS:
        one.ns.call(
            _killed, owner, name, after, lambda: Datapath().attach(Request("ipip", ("eth0",), hook="tc", options=given))
        )
        there = bool(one.ns.call(lambda: Datapath().read().instances))
        assert (network(other) in shown_routes(one.ns)) == there, name
        if not there:
            assert shown_routes(one.ns) == before
            attach(one.ns, "eth0", mode="ipip", options=given)
        one.ns.call(_killed, owner, name, after, lambda: Datapath().detach(None))
        there = bool(one.ns.call(lambda: Datapath().read().instances))
        assert (network(other) in shown_routes(one.ns)) == there, name
        if there:
            detach(one.ns)
        assert shown_routes(one.ns) == before


def _killed(owner: Any, name: str, after: bool, operation: Callable[[], Any]) -> None:
    """Run OPERATION in a process that is killed when it comes to that function, or is done with it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    original = getattr(owner, name)

    def fatal(*arguments: Any, **keywords: Any) -> None:
        if after:
            original(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        setattr(owner, name, fatal)
        operation()
    finally:
        os._exit(0)
