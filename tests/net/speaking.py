# SPDX-License-Identifier: Apache-2.0
"""Servers that say whom they see, and clients that hear it: what translation looks like at both ends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from pydp.lab import Namespace

PATIENCE = 10.0  # seconds, on a machine that has much else to do
_CHUNK = 1 << 18


class Seen(NamedTuple):
    """What a server sees: who it is, the client's address and port, and which of its own they were sent to."""

    server: str
    peer: str
    port: int
    own: str
    own_port: int


class Server:
    """Answers connections and datagrams at a port with a line (`Seen`), then gives back what it gets, until the client
    ends its half of a connection. ``served`` counts connections and datagrams.
    """

    def __init__(self, ns: Namespace, name: str, addr: str, port: int = 8080) -> None:
        self.name = name
        self.served = 0
        self.peers: list[tuple[str, int]] = []
        self._ns, self._end = ns, (addr, port)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._end[0] else socket.AF_INET
        for kind, work in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._answer)):
            sock = self._ns.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(0.1)
            sock.bind(self._end)
            if kind == socket.SOCK_STREAM:
                sock.listen(1024)
            self._start(work, sock)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _line(self, peer: Sequence[Any], own: Sequence[Any]) -> bytes:
        self.served += 1
        return " ".join(map(str, Seen(self.name, peer[0], peer[1], own[0], own[1]))).encode() + b"\n"

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, peer = listener.accept()
                    threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: Sequence[Any]) -> None:
        connection.settimeout(0.5)
        with contextlib.suppress(ConnectionError), connection:
            connection.sendall(self._line(peer, connection.getsockname()))
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(_CHUNK)
                    if not data:
                        return
                    connection.settimeout(PATIENCE)
                    connection.sendall(data)
                    connection.settimeout(0.5)

    def _answer(self, sock: socket.socket) -> None:
        with sock:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                    data, peer = sock.recvfrom(1 << 16)
                    sock.sendto(self._line(peer, sock.getsockname()) + data, peer)


def client(ns: Namespace, addr: str, *, proto: str = "tcp", source: tuple[str, int] | None = None) -> socket.socket:
    """A socket of that kind that is bound to SOURCE and connects to nobody yet."""
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    sock = ns.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, kind)
    sock.settimeout(PATIENCE)
    if source:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(source)
        except OSError:
            sock.close()
            raise
    return sock


def ask(
    ns: Namespace, addr: str, port: int, *, proto: str = "tcp", source: tuple[str, int] | None = None, size: int = 100,
    patience: float = PATIENCE,
) -> Seen:  # fmt: skip
    """What a server says of a client, which also sends SIZE bytes and must get them back. Raises OSError."""
    with client(ns, addr, proto=proto, source=source) as sock:
        sock.settimeout(patience)
        sock.connect((addr, port))
        if proto == "udp":
            payload = os.urandom(size)
            sock.send(payload)
            line, _, back = sock.recv(1 << 16).partition(b"\n")
            assert back == payload, f"{addr} port {port}: other bytes came back"
            return seen(line)
        said = heard(sock)
        stream(sock, size)
        return said


def heard(sock: socket.socket) -> Seen:
    """The line that a server begins with."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionResetError(errno.ECONNRESET, "ended before a word was said")
        line += byte
    return seen(line)


def seen(line: bytes) -> Seen:
    server, peer, port, own, own_port = line.decode().split()
    return Seen(server, peer, int(port), own, int(own_port))


def stream(sock: socket.socket, size: int) -> None:
    """Send SIZE random bytes over a connection whose line was heard, get them back, and compare."""
    there, back = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        left = size
        while left:
            chunk = os.urandom(min(left, _CHUNK))
            there.update(chunk)
            sock.sendall(chunk)
            left -= len(chunk)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    got = 0
    while got < size:
        data = sock.recv(min(_CHUNK, size - got))
        assert data, f"the stream ended after {got} of {size} bytes"
        back.update(data)
        got += len(data)
    thread.join()
    assert back.digest() == there.digest(), "other bytes came back"


def outcome(*arguments: Any, **options: Any) -> Seen | str:
    """As `ask`, but an error is told by its name, such as ECONNREFUSED; no answer is TIMEOUT."""
    try:
        return ask(*arguments, **options)
    except TimeoutError as error:
        return errno.errorcode[error.errno] if error.errno else "TIMEOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def reset(sock: socket.socket) -> None:
    """Close a connection by RST, so that its port is free at once."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Complaint(NamedTuple):
    """An ICMP error as a socket is told of it (struct sock_extended_err), and where its datagram was going."""

    error: str
    kind: int
    code: int
    info: int
    offender: str
    asked: str


_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_TTL = {socket.AF_INET: (socket.IPPROTO_IP, 2), socket.AF_INET6: (socket.IPPROTO_IPV6, 16)}


def complaint(
    ns: Namespace, addr: str, port: int, *, ttl: int = 64, size: int = 10, source: tuple[str, int] | None = None,
    discover: int | None = None,
) -> Complaint | None:  # fmt: skip
    """What is said of a datagram with that TTL; None for nothing within half a second. DISCOVER is IP_MTU_DISCOVER."""
    with client(ns, addr, proto="udp", source=source) as sock:
        sock.setsockopt(*_RECVERR[sock.family], 1)
        sock.setsockopt(*_TTL[sock.family], ttl)
        if discover is not None:
            sock.setsockopt(_RECVERR[sock.family][0], 10 if sock.family == socket.AF_INET else 23, discover)
        sock.sendto(bytes(size), (addr, port))
        poller = select.poll()
        poller.register(sock, select.POLLERR)
        if not poller.poll(500):
            return None
        _, ancillary, _, asked = sock.recvmsg(1 << 16, 512, socket.MSG_ERRQUEUE)
        data = ancillary[0][2]
        error, _, kind, code, _, info, _ = struct.unpack_from("=IBBBBII", data)
        at, length = (20, 4) if sock.family == socket.AF_INET else (24, 16)
        offender = socket.inet_ntop(sock.family, data[at : at + length])
        return Complaint(errno.errorcode[error], kind, code, info, offender, f"{asked[0]} {asked[1]}")
