# SPDX-License-Identifier: Apache-2.0
"""Probes of real servers in a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydp.lab import Namespace
from pydp.services import probes
from pydp.services.model import Health, HealthKind
from pydp.services.probes import Failed, Prober, Target, Unable

HOST, HOST6 = "127.0.0.1", "::1"


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says, and notes what it was asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        if self.path == "/silent":
            time.sleep(3)
            return
        if self.path == "/gone":
            return
        self.send_response(int(self.path[1:4]))
        self.send_header("Location", "/500")
        self.end_headers()
        if self.path != "/204":
            with contextlib.suppress(OSError):
                self.wfile.write(bytes(100_000))

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1000

    def handle_error(self, *_: object) -> None:
        pass


class Server6(Server):
    address_family = socket.AF_INET6


@pytest.fixture
def lab(namespace: Callable[..., Namespace]) -> Namespace:
    ns = namespace(ipv6=True)
    Handler.asked.clear()
    return ns


@contextlib.contextmanager
def serving(ns: Namespace, kind: type[Server] = Server, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """An HTTP server on loopback; gives its port."""
    server = ns.call(kind, (HOST6 if kind is Server6 else HOST, 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def probe(ns: Namespace, *targets: Target) -> list[str]:
    """What probes made at the same time say: "" for well."""

    async def one(prober: Prober, target: Target) -> str:
        try:
            await prober.probe(target)
        except (Failed, Unable) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    async def all_of_them() -> list[str]:
        async with Prober() as prober:
            return await asyncio.gather(*(one(prober, target) for target in targets))

    return ns.call(asyncio.run, all_of_them())


def target(port: int, kind: HealthKind = "tcp", address: str = HOST, **more: Any) -> Target:
    return Target("web", ip_address(address), port, address, Health(kind, **{"timeout": 1.0, **more}))


def elsewhere(port: int, *words: Any, **more: Any) -> Target:
    """A backend at port 1 that is probed at PORT."""
    found = target(1, *words, **more)
    return replace(found, health=replace(found.health, port=port))


def test_tcp(lab: Namespace) -> None:
    with serving(lab) as port, serving(lab, Server6) as port6:
        assert probe(lab, target(port), target(port6, address=HOST6), elsewhere(port)) == ["", "", ""]
        lab.run(["ip", "route", "add", "unreachable", "198.51.100.0/24"])
        found = probe(
            lab, target(1), target(1, address=HOST6), target(1, address="192.0.2.1"), target(1, address="198.51.100.1")
        )
    assert found == [
        "Failed: connection refused", "Failed: connection refused", "Failed: network is unreachable",
        "Failed: no route to host",
    ]  # fmt: skip


def test_tcp_that_nobody_answers(lab: Namespace) -> None:
    with contextlib.closing(lab.socket()) as full:
        full.bind((HOST, 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.closing(lab.socket()) as first:
            first.connect((HOST, port))
            begun = time.monotonic()
            assert probe(lab, target(port, timeout=0.3)) == ["Failed: no answer within 0.3 s"]
            assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/200", ""),
        ("/204", ""),
        ("/302", ""),
        ("/399", ""),
        ("/400", "Failed: HTTP status 400"),
        ("/503", "Failed: HTTP status 503"),
        ("/200?deep=1&x=%2F", ""),
        ("/gone", "Failed: closed without an answer"),
        ("/silent", "Failed: no answer within 1 s"),
    ],
)
def test_http(path: str, outcome: str, lab: Namespace) -> None:
    with serving(lab) as port:
        assert probe(lab, target(port, "http", path=path)) == [outcome]
        assert set(Handler.asked) == {(path, f"{HOST}:{port}")}


def test_http_over_ipv6_to_another_host_and_port(lab: Namespace) -> None:
    with serving(lab, Server6) as port:
        assert probe(lab, elsewhere(port, "http", HOST6, path="/200", host="shop.example")) == [""]
    assert Handler.asked == [("/200", "shop.example")]


def test_http_refused(lab: Namespace) -> None:
    assert probe(lab, target(1, "http")) == ["Failed: connection refused"]


def test_what_is_no_http(lab: Namespace) -> None:
    with contextlib.closing(lab.socket()) as listener:
        listener.bind((HOST, 0))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        (found,) = probe(lab, target(listener.getsockname()[1], "http"))
        thread.join()
    assert found == "Failed: no HTTP: bad status line"


def test_a_host_that_no_header_can_hold(lab: Namespace) -> None:
    with serving(lab) as port:
        (found,) = probe(lab, target(port, "http", path="/200", host="a\r\nX: b"))
    assert found.startswith("Unable: ")
    assert Handler.asked == []


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """With a certificate that nobody signed, of another name, and out of date."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other.example", "-days", "1",
         "-keyout", key, "-out", certificate], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_https_without_a_look_at_the_certificate(lab: Namespace, tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    with serving(lab, tls=tls) as port:
        found = probe(lab, target(port, "https", path="/200", host="shop.example"), target(port, "https", path="/503"))
    assert found == ["", "Failed: HTTP status 503"]
    assert "shop.example" in names


def test_https_of_a_server_without_tls(lab: Namespace) -> None:
    with serving(lab) as port:
        (found,) = probe(lab, target(port, "https", path="/200"))
    assert found.startswith("Failed: TLS: ")


def test_commands(lab: Namespace, tmp_path: Path) -> None:
    told = tmp_path / "told"

    def shell(script: str) -> Target:
        return target(8080, "exec", "10.0.1.2", command=("/bin/sh", "-c", script))

    found = probe(
        lab,
        shell(f"echo $BACKEND_ADDRESS $BACKEND_PORT $SERVICE > {told}; yes | head -c 1000000"),
        shell("exit 3"),
        shell("kill -9 $$"),
        target(8080, "exec", command=("/nonexistent", "x")),
        target(8080, "exec", command=("/bin/sh -c true",)),
    )
    assert found == [
        "",
        "Failed: exit status 3",
        "Failed: ended by signal 9",
        "Unable: /nonexistent: No such file or directory",
        "Unable: /bin/sh -c true: No such file or directory",
    ]
    assert told.read_text() == "10.0.1.2 8080 web\n"


def test_a_command_that_takes_too_long_ends_with_its_children(lab: Namespace, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; wait"
    begun = time.monotonic()
    assert probe(lab, target(1, "exec", timeout=0.5, command=("/bin/sh", "-c", script))) == [
        "Failed: no answer within 0.5 s"
    ]
    assert time.monotonic() - begun < 5
    state = Path(f"/proc/{int(pid.read_text())}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_commands_run_in_the_namespace(lab: Namespace, tmp_path: Path) -> None:
    where = tmp_path / "where"
    command = ("/bin/sh", "-c", f"readlink /proc/self/ns/net > {where}")
    assert probe(lab, target(1, "exec", command=command)) == [""]
    assert where.read_text().strip() == lab.run(["readlink", "/proc/self/ns/net"]).stdout.strip()


def test_many_at_a_time(lab: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there is room for, of which half are never answered."""
    monkeypatch.setattr(probes, "AT_ONCE", 100)
    with serving(lab) as port:
        lab.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"])
        lab.run(["ip", "address", "add", "192.0.2.1/24", "dev", "v0"])
        lab.run(["ip", "link", "set", "v0", "up"])
        lab.run(["ip", "neighbour", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "v0"])
        lab.run(["ip", "link", "set", "v1", "up"])
        begun = time.monotonic()
        found = probe(lab, *[target(port), target(1, address="192.0.2.2", timeout=0.2)] * 150)
        took = time.monotonic() - begun
    assert found == ["", "Failed: no answer within 0.2 s"] * 150
    assert took < 5


def test_a_lack_of_this_host_is_not_the_backends(lab: Namespace) -> None:
    """No port is left to connect from."""
    with serving(lab) as port, contextlib.ExitStack() as stack:
        lab.sysctl("ipv4.ip_local_port_range", "50000 50001")
        for _ in range(2):
            taken = stack.enter_context(contextlib.closing(lab.socket()))
            taken.connect((HOST, port))
        assert probe(lab, target(port)) == ["Unable: Cannot assign requested address"]
