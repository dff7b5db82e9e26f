# SPDX-License-Identifier: Apache-2.0
"""Containers on a kernel bridge, as Docker has them: either the bridge is a port of the instance, or its ports are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pydp.lab import Container, Namespace, ping, wait_up
from pydp.services.text import parse_forward, parse_service
from tests.net.bridging import OFFLOADS, SegmentFactory, detach
from tests.net.iptabling import iptables
from tests.net.natting import VIP, VIP6, attach
from tests.net.speaking import Seen, Server, ask, outcome
from tests.net.tunnelling import counter

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

# Who translates, and where: netfilter, also between ports of the bridge (br_netfilter); pydp on the bridge or on its
# ports.
KINDS = ("kernel", "bridge", "ports", "ports on xdp")
UPLINK = "p3"
# By family: the bridge's address and its length, the host's outside, and that of who is there.
BRIDGE = {"4": ("10.0.9.9", 16), "6": ("fd00::909", 64)}
HERE = {"4": "192.0.2.1", "6": "2001:db8::1"}
THERE = {"4": "192.0.2.2", "6": "2001:db8::2"}
LENGTH = {"4": 24, "6": 64}
FAMILIES = ("4", "6")
CLIENTS = ("outside", "c0", "c1", "c2", "host")
SERVICES = {80: "c0", 81: "c1"}
BEHIND = (f"10.0.0.0/16@{UPLINK}", f"fd00::/64@{UPLINK}")
STREAM = 3_000_000


@dataclass(frozen=True, slots=True)
class Docker:
    """A host with three containers on its bridge br0, and another host at its uplink, that knows no way to them."""

    kind: str
    host: Namespace
    outside: Namespace
    inside: tuple[Container, ...]

    def ns(self, name: str) -> Namespace:
        return {"outside": self.outside, "host": self.host}.get(name) or self.inside[int(name[1])].ns

    def address(self, name: str, family: str) -> str:
        if name in ("outside", "host"):
            return (THERE if name == "outside" else HERE)[family]
        one = self.inside[int(name[1])]
        return one.address4 if family == "4" else one.address6

    def seen_as(self, client: str, server: str, family: str) -> str:
        """The address that a client of a service has for who answers. What stays on the bridge would be answered past
        a program that is on the bridge itself.
        """
        inside = client[0] == "c"
        hidden = client == server or (inside and self.kind == "bridge")
        return BRIDGE[family][0] if hidden else self.address(client, family)


def vip(family: str) -> str:
    return VIP if family == "4" else VIP6


def services() -> list[str]:
    return [
        f"{proto}:{front}:{port}={back.format(port - 79)}:8080"
        for proto in ("tcp", "udp")
        for port in SERVICES
        for front, back in ((VIP, "10.0.0.{}"), (f"[{VIP6}]", "[fd00::{}]"))
    ]


FORWARD = [f"{proto}:8090=10.0.0.2:8080,[fd00::2]:8080" for proto in ("tcp", "udp")]


def build(factory: SegmentFactory, kind: str) -> Docker:
    """The last port of a segment becomes the host's uplink."""
    offloads = OFFLOADS["xdp" if "xdp" in kind else "tc"]
    net = factory(4, kernel_bridge=True, ipv6=True, bridge_netfilter=kind == "kernel", offloads=offloads)
    host, outside = net.sw, net.containers[3].ns
    for key in ("all", "default", "lo", "br0", UPLINK):
        host.sysctl(f"ipv6.conf.{key}.disable_ipv6", 0)
    host.run(["ip", "link", "set", UPLINK, "nomaster"])
    for flag in ("-4", "-6"):
        outside.run(["ip", flag, "address", "flush", "dev", "eth0"])
    for family in FAMILIES:
        bridge, length = BRIDGE[family]
        for ns, dev, text in (
            (host, "br0", f"{bridge}/{length}"),
            (host, UPLINK, f"{HERE[family]}/{LENGTH[family]}"),
            (outside, "eth0", f"{THERE[family]}/{LENGTH[family]}"),
        ):
            ns.run(["ip", "address", "add", text, "dev", dev, *(("nodad",) if family == "6" else ())])
        outside.run(["ip", f"-{family}", "route", "add", vip(family), "via", HERE[family]])
        host.run(["ip", f"-{family}", "route", "add", "default", "via", THERE[family]])
        for one in net.containers[:3]:
            one.ns.run(["ip", f"-{family}", "route", "add", "default", "via", bridge])
    host.sysctl("ipv4.ip_forward", 1)
    host.sysctl("ipv6.conf.all.forwarding", 1)
    host.sysctl("ipv4.conf.all.rp_filter", 1)
    return Docker(kind, host, outside, net.containers[:3])


@contextlib.contextmanager
def translated(made: Docker) -> Iterator[None]:
    if made.kind == "kernel":
        made.host.run(["sh", "-ec", "for i in 0 1 2; do bridge link set dev p$i hairpin on; done"])
        rules = [parse_service(one) for one in services()] + [parse_forward(one) for one in FORWARD]
        with iptables(made.host, rules, BEHIND, ()):
            yield
        return
    ports = ["br0"] if made.kind == "bridge" else [one.port for one in made.inside]
    options = {"service": tuple(services()), "forward": tuple(FORWARD), "masquerade": BEHIND}
    try:
        if made.kind == "bridge":  # the last container comes later
            made.host.run(["ip", "link", "set", "p2", "nomaster"])
        attach(made.host, UPLINK, *ports, hook="xdp" if "xdp" in made.kind else "tc", **options)
        if made.kind == "bridge":
            made.host.run(["ip", "link", "set", "p2", "master", "br0"])
            wait_up(made.host.ipr(), [made.inside[2].port_index], forwarding=True)
        yield
    finally:
        detach(made.host)


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, module_segment: SegmentFactory) -> Iterator[Docker]:
    made = build(module_segment, request.param)
    with contextlib.ExitStack() as stack:
        for family in FAMILIES:
            for name in (*SERVICES.values(), "outside"):
                stack.enter_context(Server(made.ns(name), name, made.address(name, family)))
        stack.enter_context(translated(made))
        yield made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_services(site: Docker, proto: str, family: str) -> None:
    """Every client reaches every backend, itself included."""
    for client in CLIENTS:
        for port, server in SERVICES.items():
            said = outcome(site.ns(client), vip(family), port, proto=proto, size=1000)
            assert isinstance(said, Seen), (client, port, said)
            expected = server, site.seen_as(client, server, family), site.address(server, family), 8080
            assert (said.server, said.peer, said.own, said.own_port) == expected, client


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_port_of_the_host(site: Docker, proto: str, family: str) -> None:
    """As `docker run -p` has it, for who is outside and for containers."""
    for client in ("outside", "c0", "c1"):
        said = outcome(site.ns(client), HERE[family], 8090, proto=proto)
        assert isinstance(said, Seen), (client, said)
        assert (said.server, said.peer) == ("c1", site.seen_as(client, "c1", family)), client


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_masquerade(site: Docker, proto: str, family: str) -> None:
    for client in ("c0", "c1", "c2"):
        said = outcome(site.ns(client), THERE[family], 8080, proto=proto, source=("::" if family == "6" else "", 24000))
        assert isinstance(said, Seen), (client, said)
        assert (said.server, said.peer) == ("outside", HERE[family]), client
        assert ping(site.ns(client), THERE[family], count=3, size=1200).lost == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_streams(site: Docker, family: str) -> None:
    """With the offloads that the devices have: whole, and hardly anything is sent twice."""
    for client in CLIENTS:
        ns = site.ns(client)
        before = counter(ns, "Tcp", "RetransSegs")
        ask(ns, vip(family), 80, size=STREAM)
        if client[0] == "c":
            ask(ns, THERE[family], 8080, size=STREAM)
        assert counter(ns, "Tcp", "RetransSegs") - before < 2 * STREAM / 1448 / 20, client
        for size in (1472, 1473, 4000):
            assert isinstance(outcome(ns, vip(family), 80, proto="udp", size=size), Seen), (client, size)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_bridge_forwards_stays_as_it_is(site: Docker, family: str) -> None:
    for proto in ("tcp", "udp"):
        said = ask(site.ns("c2"), site.address("c0", family), 8080, proto=proto, size=1000)
        assert (said.server, said.peer) == ("c0", site.address("c2", family))
    assert ping(site.ns("c2"), site.address("c1", family), count=3).lost == 0
