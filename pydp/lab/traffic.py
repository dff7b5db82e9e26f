# SPDX-License-Identifier: Apache-2.0
"""Traffic between two namespaces with sockets of our own; every payload is checked where it arrives.

``server`` listens on its address ``addr`` (IPv4 or IPv6), ``client`` connects. Port 0 takes a free one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydp.lab import worker
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.stream import Counters, Worker

_CHUNK = 1 << 18
_WINDOW = 32  # datagrams of udp_sizes under way
_SO_RCVBUFFORCE = 33
# IP_MTU_DISCOVER, IPV6_MTU_DISCOVER to IP_PMTUDISC_DONT (linux/in.h, linux/in6.h)
_DONT_DISCOVER = {socket.AF_INET: (socket.SOL_IP, 10, 0), socket.AF_INET6: (41, 23, 0)}


@dataclass(frozen=True, slots=True)
class PingResult:
    """Echo requests sent and replies received."""

    sent: int
    received: int

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.received


def ping(
    ns: Namespace,
    addr: str,
    *,
    count: int = 3,
    size: int = 56,
    interval: float = 0.01,
    wait: float = 1,
    extra: Sequence[str] = (),
) -> PingResult:
    """Ping with ``size`` bytes of ICMP payload, and wait ``wait`` seconds for the last reply; ``extra`` such as -M do.

    Loss is a result, not an error; LabError when ping itself fails (no route, no such option, not installed).
    """
    command = [
        "ping",
        "-n",
        "-q",
        "-c",
        str(count),
        "-s",
        str(size),
        "-i",
        str(interval),
        "-W",
        str(wait),
        *extra,
        addr,
    ]
    done = ns.run(command, check=False, timeout=30 + count * interval + wait)
    summary = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    if summary is None:
        raise LabError(f"ping {addr} in {ns.name}: {done.stderr.strip() or done.stdout.strip()}")
    return PingResult(int(summary[1]), int(summary[2]))


@dataclass(frozen=True, slots=True)
class TcpResult:
    """Payload bytes carried, and the seconds from connecting until the receiver had the last one."""

    bytes: int
    seconds: float

    @property
    def bits_per_second(self) -> float:
        """Goodput."""
        return self.bytes * 8 / self.seconds


def tcp_transfer(
    server: Namespace, client: Namespace, addr: str, nbytes: int, *, port: int = 0, timeout: float = 30
) -> TcpResult:
    """Send ``nbytes`` of random payload from client to server over TCP and compare SHA-256 at both ends.

    Raises LabError when the connection fails, stalls for ``timeout`` seconds, or the payload differs.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(server, socket.SOCK_STREAM, addr, port))
        listener.listen(1)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        # Whatever happens, both ends are closed before the pool waits for the receiver.
        stack.callback(_shut, listener)
        out = stack.enter_context(client.socket(listener.family, socket.SOCK_STREAM))
        for sock in (listener, out):
            sock.settimeout(timeout)
        receiver = pool.submit(_receive, listener, timeout)
        start = time.monotonic()
        try:
            out.connect(listener.getsockname()[:2])
            sent = _send(out, nbytes)
            length, got, end = receiver.result()
        except OSError as error:
            raise LabError(f"TCP from {client.name} to {addr}: {error}") from error
    if (length, got) != (nbytes, sent):
        raise LabError(f"TCP from {client.name} to {addr}: {length} of {nbytes} bytes arrived, not all of them as sent")
    return TcpResult(nbytes, end - start)


def udp_sizes(
    server: Namespace,
    client: Namespace,
    addr: str,
    sizes: Iterable[int],
    *,
    port: int = 0,
    timeout: float = 1,
    tries: int = 3,
    may_fragment: bool = False,
) -> dict[int, bool]:
    """Send a random datagram of each payload size to an echo server; True for each that came back unchanged.

    Up to _WINDOW are under way at a time. Those without an answer after ``timeout`` seconds are tried again, ``tries``
    times in all: UDP may lose one on a busy machine, and one each way when the path's MTU is news. Both
    ends discover it, and fragment themselves what exceeds it, unless ``may_fragment`` leaves the DF bit clear both ways
    (IP_PMTUDISC_DONT).
    """
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(_bound(server, socket.SOCK_DGRAM, addr, port))
        sock = stack.enter_context(client.socket(echo.family, socket.SOCK_DGRAM))
        for end in (echo, sock):
            end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WINDOW << 18)
            if may_fragment:
                end.setsockopt(*_DONT_DISCOVER[end.family])
        sock.connect(echo.getsockname()[:2])
        stop = threading.Event()
        thread = threading.Thread(target=_echo, args=(echo, stop), daemon=True)
        stack.callback(thread.join)
        stack.callback(stop.set)
        thread.start()
        # The length tells which one came back. An answer to an earlier try, with the same payload, is as good.
        missing = {size: os.urandom(size) for size in sizes}
        result = dict.fromkeys(missing, False)
        for _ in range(tries):
            open_ = tuple(missing)
            for window in (open_[at : at + _WINDOW] for at in range(0, len(open_), _WINDOW)):
                for size in _echoed(sock, {size: missing[size] for size in window}, timeout):
                    result[size] = True
                    del missing[size]
    return result


def connect_close(server: Namespace, client: Namespace, addr: str, *, seconds: float = 1, port: int = 0) -> float:
    """Connections a second: connect, one byte each way, close, in turn. The server is a process of its own."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(server, socket.SOCK_STREAM, addr, port))
        listener.listen(1024)
        target, family = listener.getsockname()[:2], listener.family
        counters = Counters()
        stack.callback(counters.close)
        peer = Worker(server, "accept", listener, counters.fd)
        stack.callback(peer.kill)
        _connect(client, family, target)  # the first one waits for the worker
        start, count = time.monotonic(), 0
        while (elapsed := time.monotonic() - start) < seconds:
            # A thread per socket would cost more than the connection, so a batch is opened in one visit.
            count += client.call(_connect_many, family, target, min(start + seconds, time.monotonic() + 0.2))
        counters.stop()
        peer.wait(5)
        if counters[worker.RECEIVED] < count:
            raise LabError(f"{addr} served {counters[worker.RECEIVED]} of {count} connections")
    return count / elapsed


def _connect_many(family: int, target: tuple[str, int], until: float) -> int:
    count = 0
    while time.monotonic() < until:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            _one_byte(sock, target)
        count += 1
    return count


def _connect(ns: Namespace, family: int, target: tuple[str, int]) -> None:
    with ns.socket(family, socket.SOCK_STREAM) as sock:
        _one_byte(sock, target)


def _one_byte(sock: socket.socket, target: tuple[str, int]) -> None:
    sock.settimeout(5)
    try:
        sock.connect(target)
        sock.sendall(b"?")
        if sock.recv(2) != b"?" or sock.recv(1):
            raise LabError(f"{target[0]}: not the byte that was sent")
    except OSError as error:
        raise LabError(f"TCP to {target[0]}: {error}") from error


def _bound(ns: Namespace, kind: int, addr: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(ns.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((addr, port))
        except OSError as error:
            raise LabError(f"{ns.name} cannot listen on {addr}: {error}") from error
        stack.pop_all()
    return sock


def _send(sock: socket.socket, nbytes: int) -> bytes:
    digest = hashlib.sha256()
    while nbytes:
        chunk = os.urandom(min(nbytes, _CHUNK))
        digest.update(chunk)
        sock.sendall(chunk)
        nbytes -= len(chunk)
    sock.shutdown(socket.SHUT_WR)
    return digest.digest()


def _receive(listener: socket.socket, timeout: float) -> tuple[int, bytes, float]:
    """Take one connection to its end: bytes, digest, time of the last byte."""
    digest, length = hashlib.sha256(), 0
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(timeout)
        while chunk := connection.recv(_CHUNK):
            digest.update(chunk)
            length += len(chunk)
        return length, digest.digest(), time.monotonic()


def _shut(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _echo(sock: socket.socket, stop: threading.Event) -> None:
    sock.settimeout(0.05)
    while not stop.is_set():
        with contextlib.suppress(OSError):  # too big for the way back, or nobody there: the client sees no answer
            data, peer = sock.recvfrom(65536)
            _send_datagram(sock, data, peer)


def _send_datagram(sock: socket.socket, payload: bytes, peer: tuple[str, int] | None = None) -> None:
    """Send, or leave it when it is too big. An ICMP error about an earlier datagram is told by the next call, which
    then sends nothing: so once more.
    """
    for _ in range(2):
        try:
            if peer is None:
                sock.send(payload)
            else:
                sock.sendto(payload, peer)
        except OSError:
            continue
        break


def _echoed(sock: socket.socket, payloads: dict[int, bytes], timeout: float) -> list[int]:
    """Send these payloads, keyed by their length; gives the lengths of those that came back."""
    waiting, found = dict(payloads), []
    for payload in payloads.values():
        _send_datagram(sock, payload)
    deadline = time.monotonic() + timeout
    while waiting and (rest := deadline - time.monotonic()) > 0:
        sock.settimeout(rest)
        try:
            answer = sock.recv(65536)
        except TimeoutError:
            break
        except OSError:  # an ICMP error: the others may still arrive
            continue
        if waiting.get(len(answer)) == answer:
            del waiting[len(answer)]
            found.append(len(answer))
    return found
