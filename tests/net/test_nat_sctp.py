# SPDX-License-Identifier: Apache-2.0
"""SCTP associations between real sockets through a service, where the kernel has SCTP; test_nat_frames.py has single
packets on any.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pydp.lab import Namespace
from tests.net.natting import VIP, VIP6, Site, make_site
from tests.net.speaking import PATIENCE
from tests.net.tunnelling import NodesFactory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}
MESSAGES = [os.urandom(size) for size in (1, 100, 1400, 9000)]  # the last one goes in several packets


@pytest.fixture(scope="module", autouse=True)
def _requires_sctp() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as error:
        pytest.skip(f"this kernel has no SCTP: {error.strerror}")


@contextlib.contextmanager
def echoing(ns: Namespace, family: str, addr: str) -> Iterator[list[str]]:
    """A server at port 8080 that gives back what it gets; gives the addresses of its clients."""
    peers: list[str] = []
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, peer = listener.accept()
                peers.append(peer[0])
                with connection:
                    connection.settimeout(PATIENCE)
                    while data := connection.recv(1 << 16):
                        connection.sendall(data)

    with ns.socket(FAMILIES[family], socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.settimeout(0.1)
        listener.bind((addr, 8080))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield peers
        finally:
            stop.set()
            thread.join()


@pytest.fixture(scope="module", params=["tc", "xdp"])
def site(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Site]:
    made = make_site(module_nodes, request.param, n=2, containers=1)
    one = made.inside[0]
    with made.nat(service=(f"sctp:{VIP}:80={one.address4}:8080", f"sctp:[{VIP6}]:80=[{one.address6}]:8080")):
        yield made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", ["outside", "host"])
def test_a_service(site: Site, client: str, family: str) -> None:
    one = site.inside[0]
    ns = site.outside if client == "outside" else site.router
    addr, back = (VIP, one.address4) if family == "4" else (VIP6, one.address6)
    with echoing(one.ns, family, back) as peers:
        for _ in range(3):
            with ns.socket(FAMILIES[family], socket.SOCK_STREAM, socket.IPPROTO_SCTP) as sock:
                sock.settimeout(PATIENCE)
                sock.connect((addr, 80))
                for message in MESSAGES:
                    sock.sendall(message)
                    got = b""
                    while len(got) < len(message):
                        data = sock.recv(1 << 16)
                        assert data, "the association ended"
                        got += data
                    assert got == message
    node = site.made[1 if client == "outside" else 0]
    assert set(peers) == {node.address4 if family == "4" else node.address6}
