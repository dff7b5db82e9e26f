# SPDX-License-Identifier: Apache-2.0
"""`pydp healthcheck` beside real servers: who is down gets no connections, and who is well again does."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pydp.lab import Namespace
from tests.net.serving import COMMAND, ROOT, Customer, Site, make_site, serving, wait

VIP = "10.96.0.1"
INTERVAL, RISE, FALL = 0.3, 2, 3
SERVICES = f"""
[[service]]
name = "web"
frontends = ["tcp:{VIP}:80"]
backends = ["10.0.1.2:80", "10.0.2.2:80"]
health = {{ kind = "http", path = "/healthy", interval = {INTERVAL}, timeout = 0.5, rise = {RISE}, fall = {FALL} }}
"""


@pytest.fixture
def site(namespace: Callable[..., Namespace]) -> Iterator[Site]:
    made = make_site(namespace)
    yield made
    made.detach()


@pytest.fixture
def services(tmp_path: Path) -> Path:
    path = tmp_path / "services.toml"
    path.write_text(SERVICES)
    return path


@dataclass
class Daemon:
    """`pydp healthcheck` with the lines that it writes."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.complaints)):
            assert stream
            threading.Thread(target=_collect, args=(stream, into)).start()

    def said(self, text: str, count: int = 1) -> bool:
        return sum(text in line for line in self.lines) >= count

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def _collect(stream: Any, into: list[str]) -> None:
    with stream:
        into.extend(line.rstrip("\n") for line in iter(stream.readline, ""))


@pytest.fixture
def daemon(site: Site) -> Iterator[Callable[..., Daemon]]:
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Daemon:
            process = subprocess.Popen(
                [*COMMAND, "-n", site.host.name, "healthcheck", *words],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Daemon(process)

        yield start


def wait_said(daemon: Daemon, text: str, count: int = 1, seconds: float = 10) -> None:
    wait(text, lambda: daemon.said(text, count), seconds)


def test_traffic_moves(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    one, two = "10.0.1.2", "10.0.2.2"
    with serving(site.backends[1], two), contextlib.ExitStack() as first:
        first.enter_context(serving(site.backends[0], one))
        site.attach(services)
        checks = daemon()
        wait_said(checks, "up", 2)
        with Customer(site.client, VIP) as customer:
            wait("both answer", lambda: customer.since(0) >= {one, two})

            first.close()
            down = time.monotonic()
            wait_said(checks, f"{one}:80 down: connection refused", seconds=INTERVAL * FALL + 1)
            time.sleep(max(down + INTERVAL * FALL + 1 - time.monotonic(), 0))
            moved = time.monotonic()
            time.sleep(1)

            with serving(site.backends[0], one) as server:
                up = time.monotonic()
                wait_said(checks, f"{one}:80 up", 2, seconds=INTERVAL * RISE + 1)
                wait("it answers again", lambda: one in customer.since(up), 2)
                server.healthy = False
                wait_said(checks, f"{one}:80 down: HTTP status 503", seconds=INTERVAL * FALL + 1)
                time.sleep(0.5)
                closing = time.monotonic()
    assert customer.since(moved, up) == {two}
    assert len([1 for when, _ in customer.answers if moved <= when < up]) > 20
    assert customer.since(closing - 0.2, closing) == {two}
    assert "" not in customer.since(up, closing)
    assert checks.end() == 0
    assert checks.complaints == []


def test_states_outlive_it(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    with serving(site.backends[1], "10.0.2.2"):
        site.attach(services)
        checks = daemon("--json")
        wait("two lines", lambda: len(checks.lines) == 2)
        assert checks.end() == 0
        found = {one["backend"]: one for one in map(json.loads, checks.lines)}
        assert found["10.0.1.2:80"] | {"since": 0} == {
            "version": 1, "service": "web", "backend": "10.0.1.2:80", "up": False, "since": 0,
            "reason": "connection refused", "checks": 1, "failures": 1,
        }  # fmt: skip
        assert found["10.0.2.2:80"]["up"]
        with Customer(site.client, VIP) as customer:
            wait("answers", lambda: len(customer.answers) > 40)
        assert customer.since(0) == {"10.0.2.2"}
        again = daemon()
        time.sleep(2 * INTERVAL + 1)
        assert again.lines == []  # nothing has changed
        assert again.end() == 0


def test_once(site: Site, services: Path) -> None:
    site.attach(services)
    with serving(site.backends[0], "10.0.1.2"):
        found = json.loads(site.pydp("healthcheck", "--once", "-j"))
    assert [(one["service"], one["backend"], one["up"], one["reason"]) for one in found["backends"]] == [
        ("web", "10.0.1.2:80", True, ""),
        ("web", "10.0.2.2:80", False, "connection refused"),
    ]
    assert "10.0.1.2:80  down: connection refused" in site.pydp("healthcheck", "--once")
    shown = site.pydp("service", "show", "web")
    assert "connection refused" in shown


def test_services_come_and_go(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    site.attach(services)
    checks = daemon()
    wait_said(checks, "down", 2)
    with serving(site.backends[0], "10.0.1.2"):
        site.pydp(
            "service", "add", "tcp:10.96.0.2:80=10.0.1.2:80", "--name", "new", "--health", "tcp", "--interval", "0.2"
        )
        wait_said(checks, "new 10.0.1.2:80 up")
        site.pydp("backend", "add", "new", "10.0.2.2:80")
        wait_said(checks, "new 10.0.2.2:80 down")
        site.pydp("service", "del", "web")
        site.pydp("service", "del", "new")
        site.pydp("service", "add", "tcp:10.96.0.3:80=10.0.2.2:80", "--name", "last", "--health", "tcp")
        wait_said(checks, "last 10.0.2.2:80 down", seconds=15)
    assert checks.end() == 0
    assert checks.complaints == []


def test_another_attach_is_followed(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    site.attach(services)
    checks = daemon()
    wait_said(checks, "down", 2)
    site.attach(services)
    with serving(site.backends[0], "10.0.1.2"):
        wait_said(checks, "10.0.1.2:80 up")
        site.pydp("detach", "--all")
        wait("a complaint", lambda: checks.complaints)
        site.attach(services)
        wait_said(checks, "10.0.2.2:80 down", 2)
    assert checks.end() == 0
    assert all("there is no instance nat" in one for one in checks.complaints)


def test_one_at_a_time(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    site.attach(services)
    first = daemon()
    wait_said(first, "down", 2)
    assert "another pydp healthcheck is probing for nat" in site.pydp("healthcheck", status=1)
    assert first.end() == 0
    site.pydp("healthcheck", "--once")


def test_with_nothing_attached(site: Site) -> None:
    assert "no instance of mode nat" in site.pydp("healthcheck", status=3)


def test_it_is_interrupted(site: Site, services: Path, daemon: Callable[..., Daemon]) -> None:
    site.attach(services)
    checks = daemon()
    wait_said(checks, "down", 2)
    checks.process.send_signal(signal.SIGINT)
    assert checks.process.wait(10) == 130
    assert checks.complaints == []


def test_probes_do_not_take_the_way_of_the_service(site: Site, services: Path) -> None:
    """The other backend answers by the VIP, and still this one is down."""
    site.attach(services)
    with serving(site.backends[1], "10.0.2.2"), contextlib.closing(site.client.socket()) as sock:
        found = json.loads(site.pydp("healthcheck", "--once", "-j"))["backends"]
        assert [one["up"] for one in found] == [False, True]
        sock.settimeout(5)
        sock.connect((VIP, 80))
        assert sock.getpeername() == (VIP, 80)
        assert sock.family == socket.AF_INET
