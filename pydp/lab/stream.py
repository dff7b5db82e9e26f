# SPDX-License-Identifier: Apache-2.0
"""A stream of numbered datagrams, to prove that an operation on the datapath loses, repeats and reorders none."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydp.lab import worker
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.topology import poll

_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 64 << 20


class Worker:
    """A process of `worker` in a role, sharing counters with this one. The socket passes to it and is closed here."""

    def __init__(self, ns: Namespace, role: str, sock: socket.socket, counters_fd: int, *numbers: int) -> None:
        self._ns = ns
        fds = (sock.fileno(), counters_fd)
        command = [sys.executable, "-I", "-S", str(Path(worker.__file__)), role, *map(str, (*fds, *numbers))]
        with sock:
            # A session of its own: an interrupt from the terminal must reach the parent alone, which then ends the
            # worker.
            self._process = ns.popen(command, pass_fds=fds, stderr=subprocess.PIPE, start_new_session=True)

    def wait(self, timeout: float) -> None:
        """Wait for its end; LabError with what it wrote when it failed or does not end."""
        try:
            _, err = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"a worker in {self._ns.name} does not end") from error
        finally:
            self.kill()
        if self._process.returncode:
            raise LabError(f"a worker in {self._ns.name} failed: {err.strip()}")

    def kill(self) -> None:
        """End it now."""
        self._ns.end(self._process)


class Counters:
    """The 64-bit counters shared with workers (slots: `worker.SENT` and so on)."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("pydp-lab")
        os.ftruncate(self.fd, 8 * worker.SLOTS)
        self._memory = mmap.mmap(self.fd, 0)
        self._view = memoryview(self._memory).cast("Q")
        self._view[worker.PARENT] = os.getpid()

    def __getitem__(self, slot: int) -> int:
        return int(self._view[slot])

    def stop(self) -> None:
        """Tell the workers to stop."""
        self._view[worker.STOP] = 1

    def close(self) -> None:
        """Give the memory back."""
        self._view.release()
        self._memory.close()
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class StreamReport:
    """Datagrams of a finished stream.

    ``overflowed`` are those lost in the receiver's own buffer (a slow receiver, not the way there); ``refused`` those
    that the sender could not send, for want of a route or because an ICMP error came back.
    """

    sent: int
    received: int
    duplicated: int
    reordered: int
    overflowed: int
    refused: int

    @property
    def lost(self) -> int:
        """Sent and never received."""
        return self.sent - self.received

    @property
    def intact(self) -> bool:
        """Every datagram arrived, once and in order."""
        return self.sent > 0 and not (self.lost or self.duplicated or self.reordered or self.refused)


class NumberedStream:
    """UDP datagrams with sequence numbers from ``source`` to ``addr`` in ``sink``, while the ``with`` block runs.

    The block starts when the first one has arrived, or fails with LabError after ``start_timeout`` seconds. ``size``
    is the UDP payload in bytes, 8 at least. Read `report` after the block, or call `finish` in it. Each end is a
    process of its own, and does up to some 20000 a second.
    """

    def __init__(
        self,
        source: Namespace,
        sink: Namespace,
        addr: str,
        *,
        pps: int = 5000,
        size: int = 64,
        port: int = 0,
        start_timeout: float = 5,
    ) -> None:
        if size < 8 or pps < 1:
            raise LabError("a numbered stream needs 8 bytes a datagram and a datagram a second")
        self._source = source
        self._sink = sink
        self._addr = addr
        self._pps = pps
        self._size = size
        self._port = port
        self._start_timeout = start_timeout
        self._workers: list[Worker] = []
        self._stack = contextlib.ExitStack()
        self._report: StreamReport | None = None
        self._counters: Counters

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._counters = Counters()
            stack.callback(self._counters.close)
            stack.callback(self._kill)
            family = socket.AF_INET6 if ":" in self._addr else socket.AF_INET
            incoming = self._sink.socket(family, socket.SOCK_DGRAM)
            stack.callback(incoming.close)
            incoming.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            incoming.bind((self._addr, self._port))
            outgoing = self._source.socket(family, socket.SOCK_DGRAM)
            stack.callback(outgoing.close)
            outgoing.connect(incoming.getsockname()[:2])
            fd = self._counters.fd
            self._workers.append(Worker(self._sink, "receive", incoming, fd))
            self._workers.append(Worker(self._source, "send", outgoing, fd, self._pps, self._size))
            self.wait_received(1, timeout=self._start_timeout)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self.finish()

    @property
    def received(self) -> int:
        """Distinct datagrams received so far."""
        return self._counters[worker.RECEIVED]

    @property
    def sent(self) -> int:
        """Datagrams sent so far."""
        return self._counters[worker.SENT]

    def wait_received(self, more: int, *, timeout: float = 5) -> None:
        """Wait until ``more`` datagrams have arrived from now on; LabError when the stream has stopped flowing."""
        goal = self.received + more
        poll(f"{more} datagrams to {self._addr}", lambda: self.received >= goal, timeout=timeout)

    def wait_sent(self, more: int, *, timeout: float = 5) -> None:
        """Wait until ``more`` datagrams have been sent from now on, whether they arrive or not."""
        goal = self.sent + more
        poll(f"{more} datagrams from {self._source.name}", lambda: self.sent >= goal, timeout=timeout)

    def finish(self) -> StreamReport:
        """Stop sending, wait for those under way, and report. The same report again when called again."""
        if self._report is None:
            self._counters.stop()
            for each in reversed(self._workers):
                each.wait(10)
            slots = (
                worker.SENT,
                worker.RECEIVED,
                worker.DUPLICATED,
                worker.REORDERED,
                worker.OVERFLOWED,
                worker.REFUSED,
            )
            self._report = StreamReport(*(self._counters[slot] for slot in slots))
        return self._report

    @property
    def report(self) -> StreamReport:
        """The report of the finished stream; LabError before."""
        if self._report is None:
            raise LabError("the stream has not finished")
        return self._report

    def _kill(self) -> None:
        for each in self._workers:
            each.kill()
