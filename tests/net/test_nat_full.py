# SPDX-License-Identifier: Apache-2.0
"""A conntrack table that is full of connections, all of them alive: nobody is put out, and new ones have to wait."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from pydp import conntrack
from pydp.datapath import Datapath, Reader
from pydp.lab import ping
from pydp.services.api import Services
from tests.net.bridging import count
from tests.net.natting import VIP, Site, make_site
from tests.net.speaking import PATIENCE, Seen, Server, ask, client, heard, outcome, reset, stream
from tests.net.tunnelling import NodesFactory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

FLOWS = 1024  # the fewest there may be
WEB, CROWDED = f"tcp:{VIP}:80", f"tcp:{VIP}:81"
AGAIN = 1.5  # seconds; a SYN is sent once more after one


@pytest.fixture(params=["tc", "xdp"])
def site(request: pytest.FixtureRequest, nodes: NodesFactory) -> Iterator[Site]:
    made = make_site(nodes, request.param, n=2)
    one, other = made.inside
    services = (
        f"{WEB}={one.address4}:8080",
        f"udp:{VIP}:80={one.address4}:8080",
        f"{CROWDED}={other.address4}:8081",
    )
    with (
        Server(one.ns, "c0", one.address4),
        Server(made.outside, "outside", made.made[1].address4),
        made.nat(flows=FLOWS, service=services),
    ):
        yield made


@contextlib.contextmanager
def crowd(site: Site) -> Iterator[list[socket.socket]]:
    """Connections from outside until the table takes no more: then two in a row find no room."""
    found: list[socket.socket] = []
    other, failed = site.inside[1], 0
    with other.ns.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((other.address4, 8081))
        listener.listen(4 * FLOWS)  # the stack answers for a server that takes nobody in
        while failed < 2:
            assert len(found) <= FLOWS, "more than there is room for"
            sock = stack.enter_context(client(site.outside, VIP))
            sock.settimeout(AGAIN)
            try:
                sock.connect((VIP, 81))
                sock.settimeout(PATIENCE)
                sock.send(b"!")
                found.append(sock)
                failed = 0
            except TimeoutError:
                sock.close()
                failed += 1
        yield found


def events(site: Site) -> dict[str, int]:
    def read() -> dict[str, int]:
        with Reader.open(Datapath()) as reader:
            return conntrack.events(reader, reader.state.instances["nat"])

    return site.router.call(read)


def refused(site: Site, name: str) -> int:
    """How many connections to a service found no room."""
    (shown,) = site.router.call(lambda: Services(Datapath()).show(name))
    return shown.failures["full"]


def test_a_table_full_of_connections(site: Site) -> None:
    outside = site.made[1].address4
    with client(site.outside, VIP) as sock, client(site.inside[0].ns, outside) as masqueraded:
        sock.connect((VIP, 80))
        masqueraded.connect((outside, 8080))
        for one in (sock, masqueraded):
            heard(one)
            stream(one, 1000)
        with crowd(site) as others:
            assert len(others) > 0.9 * FLOWS
            before = events(site), count(site.router, "drop_full"), refused(site, WEB)
            # Whoever needs a flow finds no room, and that is counted.
            assert outcome(site.outside, VIP, 80, patience=AGAIN) == "TIMEOUT"
            assert outcome(site.router, VIP, 80, patience=AGAIN) == "TIMEOUT"
            assert outcome(site.outside, VIP, 80, proto="udp", patience=0.3) == "TIMEOUT"
            assert outcome(site.inside[1].ns, outside, 8080, patience=AGAIN) == "TIMEOUT"
            after = events(site), count(site.router, "drop_full"), refused(site, WEB)
            assert after[0]["full"] - before[0]["full"] >= 4
            assert after[0]["evicted"] == before[0]["evicted"]
            assert after[1] - before[1] >= 4
            assert after[2] - before[2] >= 2
            # Who has one goes on, and who needs none does not notice.
            for one in (sock, masqueraded):
                stream(one, 50_000)
            assert ask(site.inside[1].ns, site.inside[0].address4, 8080).server == "c0"
            assert ping(site.outside, site.node.address4, count=3).lost == 0
            # Some end: there is room again. A packet looks for it in a part of the table, and may have to come again.
            for one in others[:200]:
                reset(one)
            for ns, addr, port in ((site.outside, VIP, 80), (site.router, VIP, 80), (site.inside[1].ns, outside, 8080)):
                for _ in range(5):
                    assert isinstance(outcome(ns, addr, port), Seen), (ns, addr)
            datagrams = (outcome(site.outside, VIP, 80, proto="udp", patience=AGAIN) for _ in range(10))
            assert any(isinstance(one, Seen) for one in datagrams)
            for one in (sock, masqueraded):
                stream(one, 50_000)
            for one in others[200::100]:
                one.send(b"!")
