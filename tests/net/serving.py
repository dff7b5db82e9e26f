# SPDX-License-Identifier: Apache-2.0
"""What tests of services with real servers share: a host between a client and two backends, and who serves and asks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pydp.lab import Namespace, poll

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "pydp")


@dataclass
class Site:
    """A host with a client behind v0 and a backend each behind v1 and v2."""

    host: Namespace
    client: Namespace
    backends: list[Namespace]

    def pydp(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [*COMMAND, "-n", self.host.name, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def attach(self, file: Path) -> None:
        self.pydp("attach", "--mode", "nat", "--hook", "tc", "--services", str(file), "v0", "v1", "v2")

    def detach(self) -> None:
        subprocess.run([*COMMAND, "-n", self.host.name, "detach", "--all"], cwd=ROOT, capture_output=True, check=False)


def make_site(namespace: Callable[..., Namespace]) -> Site:
    """NAMESPACE makes them."""
    host, client, *backends = (namespace() for _ in range(4))
    for number, inner in enumerate((client, *backends)):
        add = ["ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", inner.name]
        host.run(add)
        host.run(["ip", "address", "add", f"10.0.{number}.1/24", "dev", f"v{number}"])
        host.run(["ip", "link", "set", f"v{number}", "up"])
        inner.run(["ip", "address", "add", f"10.0.{number}.2/24", "dev", "eth0"])
        inner.run(["ip", "link", "set", "eth0", "up"])
        inner.run(["ip", "route", "add", "default", "via", f"10.0.{number}.1"])
    host.sysctl("ipv4.ip_forward", 1)
    return Site(host, client, backends)


class Handler(BaseHTTPRequestHandler):
    """Says which server it is."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.clients.add(self.client_address[0])
        body = server.name.encode()
        self.send_response(503 if self.path == "/healthy" and not server.healthy else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    healthy = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 80), Handler)
        self.name = address
        self.clients: set[str] = set()

    def handle_error(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(ns: Namespace, address: str) -> Iterator[Server]:
    server = ns.call(Server, address)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Customer:
    """Asks a service over and over; ``answers`` are (time, address of the server or "" for none)."""

    ns: Namespace
    address: str
    port: int = 80
    answers: list[tuple[float, str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Customer:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.01):
            begun = time.monotonic()
            self.answers.append((begun, self._answer()))

    def _answer(self) -> str:
        with contextlib.suppress(OSError), self.ns.socket() as sock:
            sock.settimeout(1)
            sock.connect((self.address, self.port))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(4096), b"")).rpartition(b"\r\n")[2].decode()
        return ""

    def since(self, when: float, until: float = float("inf")) -> set[str]:
        return {answer for begun, answer in self.answers if when <= begun < until}


def wait(what: str, condition: Callable[[], object], seconds: float = 10) -> None:
    poll(what, lambda: bool(condition()), timeout=seconds)
