# SPDX-License-Identifier: Apache-2.0
"""Direct server return between real stacks: backends have the service's address, take what comes to them out of its
outer packet by mode ipip, and answer the client past the router.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pydp.lab import Capture, Node
from tests.net.bridging import attached, count
from tests.net.natting import VIP, VIP6, Site, make_site
from tests.net.speaking import Seen, Server, ask, outcome
from tests.net.tunnelling import NodesFactory, counter

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

FAMILIES = ("4", "6")
BACKENDS = {"4": (2, 3), "6": (4, 5)}  # nodes: a device has one tunnel of mode ipip
STREAM = 5_000_000
# Of mode ipip, by family: what goes in what, and a network that nobody is in: clients are not behind the tunnel's
# other end, hence no check of the inner source.
TUNNELS = {"4": ("ipip", "203.0.113.0/24"), "6": ("ip6ip6", "2001:db8:f::/64")}


def vip(family: str) -> str:
    return VIP if family == "4" else VIP6


def address(node: Node, family: str) -> str:
    return node.address4 if family == "4" else node.address6


@contextlib.contextmanager
def backend(site: Site, node: Node, family: str) -> Iterator[None]:
    """The node has the service's address, a server there, and the end of the tunnel."""
    kind, nobody = TUNNELS[family]
    node.ns.run(["ip", "address", "add", vip(family), "dev", "lo"])
    options = {
        "kind": kind, "local": address(node, family), "peer": (f"{address(site.node, family)}={nobody}",),
        "source_check": False,
    }  # fmt: skip
    with (
        attached(node.ns, node.dev, mode="ipip", hook=site.kind, options=options),
        Server(node.ns, f"n{node.number}", vip(family), 80),
    ):
        yield


@pytest.fixture(scope="module", params=["tc", "xdp"])
def site(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Site]:
    made = make_site(module_nodes, request.param, n=6, containers=1)
    tables = []
    with contextlib.ExitStack() as stack:
        for family, numbers in BACKENDS.items():
            nodes = [made.made[number] for number in numbers]
            for node in nodes:
                stack.enter_context(backend(made, node, family))
            text = "{}:80" if family == "4" else "[{}]:80"
            front = text.format(vip(family))
            backends = [text.format(address(node, family)) for node in nodes]
            tables.append({"frontends": [f"tcp:{front}", f"udp:{front}"], "backends": backends, "dsr": True})
        stack.enter_context(made.nat(tables=tables))
        yield made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_the_backend_sees_the_client_and_answers_as_the_service(site: Site, proto: str, family: str) -> None:
    found = [ask(site.outside, vip(family), 80, proto=proto) for _ in range(20)]
    assert {one.server for one in found} == {f"n{number}" for number in BACKENDS[family]}
    for one in found:
        assert (one.peer, one.own, one.own_port) == (address(site.made[1], family), vip(family), 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_pass_the_router(site: Site, family: str) -> None:
    """What comes from the service's address comes from the backends' devices; what goes there goes to the router's."""
    with Capture(site.outside, "eth0") as capture:
        said = ask(site.outside, vip(family), 80, size=50_000)
        frames = [Ether(one) for one in capture.frames(10_000, timeout=0.3)]
    version = IP if family == "4" else IPv6
    macs = {one.src for one in frames if version in one and one[version].src == vip(family)}
    assert macs == {site.made[int(said.server[1:])].mac}


@pytest.mark.parametrize("family", FAMILIES)
def test_streams(site: Site, family: str) -> None:
    """Clients hear of the room that the outer header takes."""
    before = counter(site.outside, "Tcp", "RetransSegs")
    for _ in range(4):
        ask(site.outside, vip(family), 80, size=STREAM)
    assert counter(site.outside, "Tcp", "RetransSegs") - before < 2 * 4 * STREAM / 1448 / 20
    for size in (0, 1, 1400, 1452, 1472):
        assert isinstance(outcome(site.outside, vip(family), 80, proto="udp", size=size), Seen), size
    hook = "xdp" if site.kind == "xdp" else "tc"
    assert count(site.router, "forward_encap", hook=hook) > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_the_router_is_a_client(site: Site, proto: str, family: str) -> None:
    said = ask(site.router, vip(family), 80, proto=proto, size=1000)
    assert said.peer == address(site.node, family)
