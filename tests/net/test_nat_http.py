# SPDX-License-Identifier: Apache-2.0
"""Web servers in containers behind a service: curl and wrk ask them from outside, from a container and from the host,
and no request fails, whatever happens to the backends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer
from typing import Any

import pytest

from pydp.datapath import Datapath
from pydp.lab import Container, Namespace, poll
from pydp.services.api import Services
from pydp.services.text import parse_service
from tests.net.natting import VIP, VIP6, Site, make_site
from tests.net.speaking import PATIENCE
from tests.net.tunnelling import NodesFactory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

CONTAINERS = 3
FAMILIES = ("4", "6")
CLIENTS = ("outside", "c0", "host")  # c0 is one of the backends itself
PORT = 8000
PAGES = {f"/{size}": os.urandom(size) for size in (0, 1, 5000, 300_000)}
SHORT = "/5000"


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, as long as the client wants it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = PAGES.get(self.path)
        server = self.server
        assert isinstance(server, Server)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("X-Number", str(server.number))
        if self.close_connection:  # wrk takes an end that it is not told of for an error
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingTCPServer):
    """HTTPServer would look up its own name, and that takes seconds. ``opened`` and ``closed`` count connections."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128
    opened = closed = 0

    def __init__(self, address: str, number: int) -> None:
        self.number = number
        self.address_family = AF_INET6 if ":" in address else AF_INET
        self._lock = threading.Lock()
        super().__init__((address, PORT), Handler)

    def process_request(self, *arguments: Any) -> None:
        self.opened += 1
        super().process_request(*arguments)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._lock:
            self.closed += 1

    def handle_error(self, *_: object) -> None:
        """Nothing: clients that leave are none."""


@contextlib.contextmanager
def serving(one: Container, family: str) -> Iterator[Server]:
    server = one.ns.call(Server, one.address4 if family == "4" else one.address6, one.number)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Web:
    """A site with a server of each family in each container: ``servers`` by family and number."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.servers: dict[tuple[str, int], Server] = {}

    def ns(self, name: str) -> Namespace:
        site = self.site
        return {"outside": site.outside, "host": site.router}.get(name) or site.inside[int(name[1])].ns

    def services(self, verb: str, *arguments: Any, **more: Any) -> Any:
        """Do what a verb of `pydp service` or `pydp backend` does."""
        return self.site.router.call(lambda: getattr(Services(Datapath()), verb)(*arguments, **more))


def end(one: Container, family: str) -> str:
    return f"{one.address4}:{PORT}" if family == "4" else f"[{one.address6}]:{PORT}"


def front(family: str) -> str:
    return f"{VIP}:80" if family == "4" else f"[{VIP6}]:80"


@pytest.fixture(scope="module", params=["tc", "xdp"])
def web(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Web]:
    site = make_site(module_nodes, request.param, n=2, containers=CONTAINERS)
    made = Web(site)
    with contextlib.ExitStack() as stack:
        texts = []
        for family in FAMILIES:
            for number, one in enumerate(site.inside):
                made.servers[family, number] = stack.enter_context(serving(one, family))
            texts.append(f"tcp:{front(family)}={','.join(end(one, family) for one in site.inside)}")
        stack.enter_context(site.nat(service=tuple(texts)))
        yield made


def curl(ns: Namespace, family: str, *paths: str) -> tuple[list[bytes], int]:
    """What these pages are, asked for in one go, and how many connections that took."""
    command = ["curl", "-gsS", "--fail", "--max-time", str(PATIENCE), "-w", "%{stderr}%{num_connects}\n"]
    urls = [f"http://{front(family)}{path}" for path in paths]
    done = ns.call(subprocess.run, [*command, *urls], check=True, capture_output=True)
    bodies, at = [], 0
    for path in paths:
        size = int(path[1:])
        bodies.append(done.stdout[at : at + size])
        at += size
    assert at == len(done.stdout)
    return bodies, sum(map(int, done.stderr.split()))


@contextlib.contextmanager
def wrk(ns: Namespace, family: str, *, keep: bool) -> Iterator[None]:
    """Have wrk ask by eight connections while the block runs; without KEEP by one for each request. None may fail."""
    words = ["-t", "1", "-c", "8", "-d", "100", "--timeout", str(round(PATIENCE))]
    words += [] if keep else ["-H", "Connection: close"]
    child = ns.popen(["wrk", *words, f"http://{front(family)}{SHORT}"], stdout=-1, stderr=-1)
    try:
        yield
        child.send_signal(signal.SIGINT)  # it has asked by now, or would not say what it found
        out, err = child.communicate(timeout=PATIENCE)
    finally:
        ns.end(child)
    assert (child.returncode, err) == (0, ""), out
    assert "Socket errors" not in out, out
    assert "Non-2xx" not in out, out
    assert re.search(r"[1-9]\d* requests in", out), out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", CLIENTS)
def test_pages_are_whole(web: Web, client: str, family: str) -> None:
    """Many of them by one connection, too."""
    before = [web.servers[family, number].opened for number in range(CONTAINERS)]
    for _ in range(12):
        bodies, connections = curl(web.ns(client), family, *PAGES)
        assert bodies == [*PAGES.values()], [len(one) for one in bodies]
        assert connections == 1
    after = [web.servers[family, number].opened for number in range(CONTAINERS)]
    assert sum(after) - sum(before) == 12
    assert sum(now > then for now, then in zip(after, before, strict=True)) > 1, (before, after)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", CLIENTS)
def test_no_request_fails(web: Web, client: str, family: str) -> None:
    with wrk(web.ns(client), family, keep=True), wrk(web.ns("c1"), family, keep=False):
        Connections(web, family).get(500)


@contextlib.contextmanager
def kept(web: Web, family: str, number: int) -> Iterator[Callable[[], None]]:
    """A connection from outside that this container answers, on which another page is asked for by a call."""
    for _ in range(100):
        with contextlib.closing(HTTPConnection(VIP, 80)) as connection:
            connection.sock = web.ns("outside").socket(AF_INET if family == "4" else AF_INET6)
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect((VIP if family == "4" else VIP6, 80))

            def ask(connection: HTTPConnection = connection) -> str | None:
                connection.request("GET", SHORT)
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, PAGES[SHORT])
                return answer.headers["X-Number"]

            def again() -> None:
                assert ask() == str(number)

            if ask() == str(number):
                yield again
                return
    raise AssertionError(f"container {number} never answered")


class Connections:
    """Those to the servers of a family, from the container of that number on."""

    def __init__(self, web: Web, family: str, first: int = 0) -> None:
        self._servers = [web.servers[family, number] for number in range(first, CONTAINERS)]

    def get(self, more: int) -> None:
        """Wait until there were so many more."""
        until = sum(one.opened for one in self._servers) + more
        poll("new connections", lambda: sum(one.opened for one in self._servers) >= until, timeout=2 * PATIENCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_drain_under_load(web: Web, family: str) -> None:
    """Connections that a draining backend has go on, new ones go to others; nobody notices when it is back."""
    server, service, gone = web.servers[family, 0], f"tcp:{front(family)}", end(web.site.inside[0], family)
    outside, others = web.ns("outside"), Connections(web, family, 1)
    with (
        kept(web, family, 0) as again,
        wrk(outside, family, keep=True),
        wrk(outside, family, keep=False),
    ):
        others.get(20)
        web.services("drain", service, gone)
        others.get(20)  # what was begun before is accepted by now
        before = server.opened
        again()
        others.get(50)
        again()
        assert server.opened == before
        web.services("add_backends", service, list(parse_service(f"{service}={gone}").backends))
        poll("new connections to who is back", lambda: server.opened > before, timeout=PATIENCE)
        again()


@pytest.mark.parametrize("family", FAMILIES)
def test_deleted_once_it_is_drained(web: Web, family: str) -> None:
    server, service, gone = web.servers[family, 0], f"tcp:{front(family)}", end(web.site.inside[0], family)
    others, everybody = Connections(web, family, 1), Connections(web, family)
    with wrk(web.ns("outside"), family, keep=False):
        for _ in range(3):
            web.services("drain", service, gone)
            others.get(20)
            poll("its last connection ended", lambda: server.closed == server.opened, timeout=PATIENCE)
            web.services("delete_backend", service, gone, when_over="reset")
            others.get(20)
            before = server.opened
            web.services("add_backends", service, list(parse_service(f"{service}={gone}").backends))
            everybody.get(50)
            assert server.opened > before
