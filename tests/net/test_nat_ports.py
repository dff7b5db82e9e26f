# SPDX-License-Identifier: Apache-2.0
"""Sources under masquerade and SNAT: clients and the host itself that have one port do not get in each other's way."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from pydp.lab import Namespace
from tests.net.iptabling import iptables
from tests.net.natting import Site, make_site
from tests.net.speaking import Seen, Server, ask, client, heard, outcome, seen, stream
from tests.net.tunnelling import NodesFactory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

CONTAINERS = 4
FIXED = "198.51.100.77"  # the last two containers have it outside
ANYONE = {"4": "0.0.0.0", "6": "::"}


@pytest.fixture(scope="module", params=["kernel", "tc", "xdp"])
def site(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Site]:
    """A router that masquerades, and a server outside."""
    made = make_site(module_nodes, request.param, n=2, containers=CONTAINERS)
    node = made.made[1]
    made.outside.run(["ip", "route", "add", FIXED, "via", made.node.address4])
    with (
        made.nat(snat=(f"10.20.2.0/23={FIXED}@eth0",)),
        Server(made.outside, "outside", node.address4),
        Server(made.outside, "outside", node.address6),
    ):
        yield made


@pytest.fixture(scope="module", params=["tc", "xdp"])
def kerneled(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Site]:
    """A router whose first container is not behind a port of ours, and is masqueraded by the kernel."""
    made = make_site(module_nodes, request.param, n=2, containers=2)
    node, (first, second) = made.node, made.inside
    theirs, ours = (f"{one.address4}/32@{node.dev}" for one in (first, second))
    with (
        iptables(made.router, [], [theirs], []),
        made.nat(masquerade=[ours], interfaces=[node.dev, second.port]),
        Server(made.outside, "outside", made.made[1].address4),
    ):
        yield made


def there(site: Site, family: str) -> str:
    return site.made[1].address4 if family == "4" else site.made[1].address6


@contextlib.contextmanager
def spoken(ns: Namespace, addr: str, source: tuple[str, int], proto: str) -> Iterator[tuple[socket.socket, Seen]]:
    """A connection, or a socket that sends datagrams, and what the server says of it."""
    with client(ns, addr, proto=proto, source=source) as sock:
        sock.connect((addr, 8080))
        yield sock, said(sock, proto)


def said(sock: socket.socket, proto: str) -> Seen:
    if proto == "tcp":
        return heard(sock)
    sock.send(b"?")
    line, _, rest = sock.recv(1 << 16).partition(b"\n")
    assert rest == b"?"
    return seen(line)


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("host_first", [True, False])
def test_one_port_for_all(site: Site, proto: str, family: str, host_first: bool) -> None:
    """Every container and the host itself speak to one server from one port: each gets its own answers."""
    port, addr = 26000 + host_first, there(site, family)
    speakers = [one.ns for one in site.inside]
    speakers.insert(0 if host_first else CONTAINERS, site.router)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(spoken(ns, addr, (ANYONE[family], port), proto)) for ns in speakers]
        peers = [(one.peer, one.port) for _, one in made]
        assert len(set(peers)) == len(speakers), peers
        assert peers[0][1] == port, "the first one keeps its port"
        for sock, first in made:
            if proto == "tcp":
                stream(sock, 10_000)
            else:
                assert said(sock, proto) == first


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("kernel_first", [True, False])
def test_one_port_for_the_kernels_nat_and_ours(kerneled: Site, proto: str, kernel_first: bool) -> None:
    """One container is masqueraded by the kernel, the other one by us, to one server from one port."""
    port, addr = 26400 + kernel_first, there(kerneled, "4")
    speakers = [one.ns for one in kerneled.inside[:2]][:: 1 if kernel_first else -1]
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(spoken(ns, addr, ("0.0.0.0", port), proto)) for ns in speakers]
        assert {one.peer for _, one in made} == {kerneled.node.address4}
        assert made[0][1].port == port != made[1][1].port
        for sock, first in made:
            if proto == "tcp":
                stream(sock, 10_000)
            else:
                assert said(sock, proto) == first


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_port_that_the_host_listens_at(site: Site, proto: str) -> None:
    """What answers a container cannot be taken for what is sent to the host's own server."""
    port = 26100
    with Server(site.router, "host", site.node.address4, port):
        found = outcome(site.inside[0].ns, there(site, "4"), 8080, proto=proto, source=("0.0.0.0", port))
        assert isinstance(found, Seen)
        assert (found.port != port) == site.ours, "netfilter looks at connections, not at sockets"
        assert ask(site.outside, site.node.address4, port, proto=proto).server == "host"


def test_echoes_with_one_identifier(site: Site) -> None:
    for family in ("4", "6"):
        pings = [
            one.ns.popen(
                ["ping", "-n", "-q", "-e", "77", "-c", "10", "-i", "0.05", "-W", "1", there(site, family)],
                stdout=-1, stderr=-1,
            )
            for one in site.inside
        ]  # fmt: skip
        for one in pings:
            out, err = one.communicate(timeout=10)
            assert " 10 received" in out, out + err


def test_snat(site: Site) -> None:
    """To an address that the router has no device for, but the way to which leads by it."""
    for proto in ("tcp", "udp"):
        found = {
            (one.peer, one.port)
            for one in (
                ask(container.ns, there(site, "4"), 8080, proto=proto, source=("0.0.0.0", 26200))
                for container in site.inside[2:]
            )
        }
        assert {peer for peer, _ in found} == {FIXED}
        assert len(found) == 2
        assert 26200 in {port for _, port in found}


def test_ends_and_begins_again(site: Site) -> None:
    """The same ports, as soon as the client may have them again."""
    ns, addr = site.inside[0].ns, there(site, "4")
    for _ in range(20):
        with client(ns, addr, source=("0.0.0.0", 26300)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.connect((addr, 8080))
            assert heard(sock).port == 26300
        time.sleep(0.01)
