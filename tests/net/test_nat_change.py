# SPDX-License-Identifier: Apache-2.0
"""Services that change, and tables that are full, while connections go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP

from pydp import conntrack
from pydp.datapath import Datapath, Reader
from pydp.lab import Namespace
from pydp.services.api import Services
from pydp.services.text import parse_service
from tests.net.natting import VIP, Site, attach, make_site
from tests.net.speaking import PATIENCE, Seen, Server, ask, client, heard, outcome, reset, seen, stream
from tests.net.tunnelling import NodesFactory
from tests.system.served import answers

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

CONTAINERS = 3
FLOWS = 4096
CONNECTIONS = 10_000
CHI_SQUARE = 18.4  # of two degrees of freedom, exceeded once in 10,000 times
WEB = f"tcp:{VIP}:80"


@pytest.fixture(scope="module", params=["tc", "xdp"])
def site(request: pytest.FixtureRequest, module_nodes: NodesFactory) -> Iterator[Site]:
    """Three containers behind each service, and one on a service that a client stays with."""
    made = make_site(module_nodes, request.param, n=2, containers=CONTAINERS)
    with contextlib.ExitStack() as stack:
        for number, one in enumerate(made.inside):
            stack.enter_context(Server(one.ns, f"c{number}", one.address4))
        stack.enter_context(made.nat(flows=FLOWS, **options(made)))
        yield made


def options(site: Site) -> dict[str, Any]:
    backends = ",".join(f"{one.address4}:8080" for one in site.inside)
    ends = [f"{one.address4}:8080" for one in site.inside]
    closed = f"{site.inside[0].address4}:8070"
    sticky = {"frontends": [f"tcp:{VIP}:81"], "backends": ends, "affinity": 1}
    return {
        "service": (f"{WEB}={backends}", f"udp:{VIP}:80={backends}", f"udp:{VIP}:82={closed}", f"tcp:{VIP}:84="),
        "tables": [sticky],
    }


@pytest.fixture(autouse=True)
def as_it_was(site: Site) -> Iterator[None]:
    """Whatever a test changed, the next one finds the services as they are attached."""
    yield
    wanted = [parse_service(text) for text in options(site)["service"]]
    with_affinity = [one for one in services(site, "show") if one.service.affinity]
    services(site, "replace_all", [*wanted, *(one.service for one in with_affinity)])


def services(site: Site, verb: str, *arguments: Any, **more: Any) -> Any:
    """Do what a verb of `pydp service` or `pydp backend` does."""
    return site.router.call(lambda: getattr(Services(Datapath()), verb)(*arguments, **more))


def end(site: Site, number: int) -> str:
    return f"{site.inside[number].address4}:8080"


class Load:
    """Threads that ask a service again and again while the block runs; ``answers`` counts who answered what."""

    def __init__(self, ns: Namespace, port: int = 80, threads: int = 2) -> None:
        self.answers: Counter[str] = Counter()
        self._where = (ns, port)
        self._stop = threading.Event()
        self._asked = [0] * threads
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        ns, port = self._where
        while not self._stop.is_set():
            found = outcome(ns, VIP, port, size=2000)
            self.answers[found.server if isinstance(found, Seen) else found] += 1
            self._asked[number] += 1

    def settle(self, more: int = 10) -> None:
        """Wait until every thread has some more answers: with two, those it had asked for before are in."""
        until, deadline = [one + more for one in self._asked], time.monotonic() + PATIENCE
        while any(one < end for one, end in zip(self._asked, until, strict=True)):
            assert time.monotonic() < deadline, f"no answers: {self.answers}"
            time.sleep(0.01)


@contextlib.contextmanager
def connected(ns: Namespace, server: str, port: int = 80) -> Iterator[socket.socket]:
    """A connection to a service that this server answers."""
    for _ in range(100):
        with client(ns, VIP) as sock:
            sock.connect((VIP, port))
            if heard(sock).server == server:
                yield sock
                return
    raise AssertionError(f"{server} never answered")


def test_connections_are_distributed_evenly(site: Site) -> None:
    wanted = CONNECTIONS if site.kind == "tc" else CONNECTIONS // 10  # it is the tc program that chooses

    def connect() -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(wanted):
            with socket.socket() as sock:
                sock.settimeout(PATIENCE)
                sock.connect((VIP, 80))
                found[heard(sock).server] += 1
                reset(sock)
        return found

    found = site.outside.call(connect)
    expected = wanted / CONTAINERS
    assert found.total() == wanted
    assert sum((found[f"c{i}"] - expected) ** 2 / expected for i in range(CONTAINERS)) < CHI_SQUARE, found


def test_a_client_stays_with_its_backend(site: Site) -> None:
    """Until it has been away for as long as the service remembers it."""
    first = ask(site.outside, VIP, 81).server
    assert {ask(site.outside, VIP, 81).server for _ in range(30)} == {first}
    assert len({ask(site.outside, VIP, 80).server for _ in range(30)}) > 1
    for _ in range(8):  # one of three times it is the same again
        time.sleep(1.1)
        if ask(site.outside, VIP, 81).server != first:
            return
    raise AssertionError("remembered for longer")


def test_refused_at_once_and_counted(site: Site) -> None:
    before = time.monotonic()
    assert outcome(site.outside, VIP, 84) == "ECONNREFUSED"
    assert time.monotonic() - before < 0.5
    (shown,) = services(site, "show", f"tcp:{VIP}:84")
    assert sum(shown.failures.values() if isinstance(shown.failures, dict) else shown.failures) >= 1


def test_drain_under_load(site: Site) -> None:
    """No request fails, connections that are there go on, and new ones go to others."""
    with Load(site.outside) as load, connected(site.outside, "c0") as sock:
        load.settle()
        services(site, "drain", WEB, end(site, 0))
        load.settle(2)
        before = load.answers["c0"]
        load.settle(50)
        stream(sock, 50_000)
        assert load.answers["c0"] == before
        services(site, "delete_backend", WEB, end(site, 0), when_over="move")
        load.settle()
        services(site, "add_backends", WEB, list(parse_service(f"{WEB}={end(site, 0)}").backends))
        load.settle(50)
    assert load.answers.keys() == {"c0", "c1", "c2"}, load.answers
    assert load.answers["c0"] > before


def test_a_deadline_ends_what_is_left(site: Site) -> None:
    with connected(site.outside, "c1") as sock:
        services(site, "drain", WEB, end(site, 1), deadline=0.5)
        stream(sock, 1000)
        time.sleep(0.8)
        with pytest.raises(ConnectionResetError):
            stream(sock, 1000)


def test_deleted_and_reset(site: Site) -> None:
    with connected(site.outside, "c1") as sock, connected(site.outside, "c2") as other:
        services(site, "delete_backend", WEB, end(site, 1), when_over="reset")
        with pytest.raises(ConnectionResetError):
            stream(sock, 1000)
        stream(other, 1000)


def test_a_client_that_waits_is_told(site: Site) -> None:
    """Also one that says nothing more itself hears that its connection is reset, and so does the backend."""
    one = site.inside[0]
    waiting = f"tcp:{VIP}:86"
    services(site, "add", [parse_service(f"{waiting}={one.address4}:8060")])
    with one.ns.socket() as listener, client(site.outside, VIP) as sock:
        listener.settimeout(PATIENCE)
        listener.bind((one.address4, 8060))
        listener.listen()
        sock.connect((VIP, 86))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            services(site, "delete_backend", waiting, f"{one.address4}:8060", when_over="reset")
            connection.send(b"late")
            with pytest.raises(ConnectionResetError):
                _to_the_end(sock)
            with pytest.raises(ConnectionResetError):
                connection.recv(10)


def _to_the_end(sock: socket.socket) -> None:
    while sock.recv(10):
        pass


def test_a_port_that_had_a_connection_to_who_is_gone(site: Site) -> None:
    """A new connection from there is a new one: it goes to who is left."""
    for port in range(21000, 21100):  # ports that no connection of another test was given
        with client(site.outside, VIP, source=("0.0.0.0", port)) as sock:
            sock.connect((VIP, 80))
            if heard(sock).server != "c0":
                continue
            services(site, "delete_backend", WEB, end(site, 0), when_over="reset")
            reset(sock)
        found = outcome(site.outside, VIP, 80, source=("0.0.0.0", port))
        assert isinstance(found, Seen), found
        assert found.server in ("c1", "c2")
        return
    raise AssertionError("c0 never answered")


def test_datagrams_move_at_once(site: Site) -> None:
    with client(site.outside, VIP, proto="udp") as sock:
        sock.connect((VIP, 80))

        def answered() -> str:
            sock.send(b"?")
            return seen(sock.recv(1 << 16).partition(b"\n")[0]).server

        first = answered()
        assert {answered() for _ in range(10)} == {first}
        services(site, "drain", f"udp:{VIP}:80", end(site, int(first[1])))
        second = answered()
        assert second != first
        services(site, "delete_backend", f"udp:{VIP}:80", end(site, int(second[1])), when_over="move")
        assert answered() not in (first, second)


def test_ten_thousand_services_more(site: Site) -> None:
    many = [parse_service(f"tcp:10.97.{i >> 8}.{i & 255}:80={end(site, i % 3)}") for i in range(10_000)]
    with Load(site.outside) as load, connected(site.outside, "c0") as sock:
        before = load.answers.total()
        there = [one.service for one in services(site, "show")]
        services(site, "replace_all", [*there, *many])
        stream(sock, 50_000)
        for i in (0, 4_999, 9_999):
            site.outside.run(["ip", "route", "replace", "10.97.0.0/16", "via", site.node.address4])
            with client(site.outside, VIP) as one:
                one.connect((f"10.97.{i >> 8}.{i & 255}", 80))
                assert heard(one).server == f"c{i % 3}"
        services(site, "delete", [one.name for one in many])
        load.settle()
        stream(sock, 50_000)
    assert load.answers.total() > before
    assert load.answers.keys() <= {"c0", "c1", "c2"}, load.answers


def test_attached_again(site: Site) -> None:
    """Connections go on through programs and maps that are new."""
    given = options(site)
    with Load(site.outside) as load, connected(site.outside, "c2") as sock:
        ports = (site.node.dev, *site.node.ports)
        sources = tuple(f"{prefix}@eth0" for prefix in ("10.20.0.0/16", "fd01:1::/32"))
        attach(site.router, *ports, hook=site.kind, flows=FLOWS, masquerade=sources, **given)
        stream(sock, 50_000)
        load.settle()
    assert load.answers.keys() <= {"c0", "c1", "c2"}, load.answers


def test_killed_while_services_change(site: Site) -> None:
    """Every request finds the service, as it was or as it is to be; whoever comes next finishes what was begun."""
    both = [parse_service(f"{WEB}={end(site, 0)}*{one},{end(site, 1)}*{other}") for one, other in ((1, 9), (9, 1))]
    more = [parse_service(f"tcp:10.97.0.{i}:80={end(site, 0)}") for i in range(200)]
    services(site, "replace_all", [both[0]])
    with Load(site.outside) as load, connected(site.outside, "c1") as sock:
        for delay in range(1, 25, 2):
            site.router.call(_killed, [[*more[: 8 * delay], both[1]], [both[0], *more[:3]]], delay / 250)
        services(site, "replace_all", [both[1]])
        assert {key: set(ends) for key, ends in site.router.call(answers).items()} == {
            WEB: {f"{end(site, 0)}*9", end(site, 1)}
        }
        load.settle()
        stream(sock, 50_000)
    assert load.answers.keys() == {"c0", "c1"}, load.answers


def _killed(choices: Sequence[Any], after: float) -> None:
    """Replace all services in turn, in a process that is killed AFTER seconds."""
    child = os.fork()
    if child:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return
    try:
        while True:
            for wanted in choices:
                Services(Datapath()).replace_all(wanted)
    finally:
        os._exit(1)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_flood_does_not_end_what_is_established(site: Site, proto: str) -> None:
    """Several times as many openings as there is room for, from an address that nobody has."""
    packets = openings(proto)

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for packet in packets:
                raw.sendto(packet, (VIP, 0))

    with connected(site.outside, "c0") as sock, connected(site.outside, "c1") as other:
        for one in (sock, other):
            stream(one, 1000)
        site.outside.call(flood)
        for one in (sock, other):
            stream(one, 50_000)
        assert isinstance(outcome(site.outside, VIP, 80), Seen)
    assert site.router.call(_events)["evicted"] > FLOWS


def openings(proto: str) -> list[bytes]:
    """One for each of so many ports. What the port adds to the checksum of a TCP header its window takes away."""
    found = list[bytes]()
    for number in range(4 * FLOWS):
        port = 1024 + number
        if not found:
            above = TCP(sport=port, dport=80, window=0) if proto == "tcp" else UDP(sport=port, dport=82, chksum=0)
            first = bytes(IP(src="192.0.2.200", dst=VIP) / above)
        packet = bytearray(first)
        packet[20:22] = port.to_bytes(2, "big")
        if proto == "tcp":
            packet[34:36] = ((1024 - port) % 0xFFFF).to_bytes(2, "big")
        found.append(bytes(packet))
    return found


def _events() -> dict[str, int]:
    with Reader.open(Datapath()) as reader:
        return conntrack.events(reader, reader.state.instances["nat"])
