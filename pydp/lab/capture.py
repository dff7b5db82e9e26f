# SPDX-License-Identifier: Apache-2.0
"""Whole frames in and out of devices by AF_PACKET, with a barrier that tells when everything sent has arrived."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from typing import Self

from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.topology import Segment

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_QDISC_BYPASS = 20
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_AUXDATA = struct.Struct("IIIHHHH")  # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_VLAN_VALID = 1 << 4
_TPID_VALID = 1 << 6
_LARGEST = 1 << 18  # bytes; a GSO frame may exceed 64 KiB (BIG TCP)
# Ethertype 0x88b5 is for local experiments (IEEE 802); addresses from the documentation range 00-00-5e-00-53 (RFC
# 7042).
_MARKER = bytes.fromhex("00005e0053fe 00005e0053ff 88b5") + b"pydp-lab"


class Capture:
    """Frames that arrive at ``dev``, as they were on the wire, and frames sent from it.

    What the device itself sends is not captured, unless ``outgoing``. A VLAN tag that the kernel moved into the
    metadata of its buffer is put back into the returned bytes. ``peer`` is the other end of the veth (namespace,
    name); `barrier` and `drain` need it.
    """

    def __init__(
        self, ns: Namespace, dev: str, *, peer: tuple[Namespace, str] | None = None, outgoing: bool = False
    ) -> None:
        self._outgoing = outgoing
        self._where = (ns, dev)
        self._name = f"{dev} in {ns.name}"
        self._peer = peer
        self._cookie = secrets.token_bytes(8)
        self._marks = 0
        self._frames: list[bytes] = []
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        self._sock: socket.socket
        self._marker_sock: socket.socket | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        ns, dev = self._where
        with contextlib.ExitStack() as stack:
            self._sock = stack.enter_context(ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            self._sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            self._sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, int(not self._outgoing))
            self._sock.bind((dev, _ETH_P_ALL))
            if self._peer is not None:
                self._marker_sock = stack.enter_context(_sender(*self._peer))
                # Past qdisc and tc: a marker must neither be counted nor stopped by the program under test.
                self._marker_sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def hardware(self) -> int:
        """What kind of device it is (ARPHRD_ETHER and so on, linux/if_arp.h)."""
        return int(self._sock.getsockname()[3])

    def send(self, frame: bytes) -> None:
        """Send a frame out of the device. Raises OSError: EMSGSIZE above the MTU, ENETDOWN when the device is down."""
        # Not by the socket's own protocol, all: not every device has the kernel look into the frame then (ipvlan).
        self._sock.sendto(frame, (self._where[1], int.from_bytes(frame[12:14], "big")))

    def frames(self, count: int, *, timeout: float = 2) -> list[bytes]:
        """Take the next ``count`` frames, or those that came within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while len(self._frames) < count and (rest := deadline - time.monotonic()) > 0:
            self._receive(rest)
        taken, self._frames = self._frames[:count], self._frames[count:]
        return taken

    def waiting(self) -> list[bytes]:
        """Take all frames that have arrived."""
        while self._receive(0):
            pass
        taken, self._frames = self._frames, []
        return taken

    def drain(self) -> list[bytes]:
        """Take all frames that were under way when it was called; see `barrier`."""
        self.barrier()
        taken, self._frames = self._frames, []
        return taken

    def barrier(self, *, rounds: int = 3, timeout: float = 2) -> None:
        """Wait until all frames sent before, by a thread on this CPU, have come as far as they will go.

        veth hands frames on by queues of the sender's CPU. A marker joins the last queue of the path directly; once
        it has arrived, every frame ahead has moved at least one queue on, so a round per hop (container to port, port
        to container, one spare) empties the path. Raises LabError when the peer's markers do not arrive or frames
        were lost for want of buffer.
        """
        if self._marker_sock is None:
            raise LabError("a barrier needs the peer of the captured device")
        for _ in range(rounds):
            self._marks += 1
            marker = _MARKER + self._cookie + struct.pack("!Q", self._marks) + bytes(20)
            self._marker_sock.send(marker)
            deadline = time.monotonic() + timeout
            while self._receive(deadline - time.monotonic()) != marker:
                if time.monotonic() > deadline:
                    raise LabError(f"{self._name}: no marker within {timeout} s; is the peer up?")
        _, dropped = struct.unpack("II", self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        if dropped:
            raise LabError(f"{self._name}: the capture lost {dropped} frames")

    def _receive(self, timeout: float) -> bytes:
        """Receive one frame, keep it unless it is a marker, and return it; empty after ``timeout`` seconds."""
        self._sock.settimeout(max(timeout, 0))
        try:
            length, ancillary, _, _ = self._sock.recvmsg_into([self._buffer], socket.CMSG_SPACE(_AUXDATA.size))
        except (TimeoutError, BlockingIOError):
            return b""
        frame = bytes(self._view[:length])
        for level, kind, data in ancillary:
            if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
                frame = _with_tag(frame, data)
        if not frame.startswith(_MARKER):
            self._frames.append(frame)
        return frame


class Stations:
    """A capture on eth0 of every container of a segment, for tests that send a frame and look where it comes out."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._captures: list[Capture] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for c in self._segment.containers:
                capture = Capture(c.ns, c.dev, peer=(self._segment.sw, c.port))
                self._captures.append(stack.enter_context(capture))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> Capture:
        return self._captures[number]

    def exchange(self, number: int, *frames: bytes) -> tuple[list[bytes], ...]:
        """Send frames from container ``number`` and return what arrived, per container and in order.

        Takes some 60 microseconds per container. What arrived before is thrown away.
        """
        with _one_cpu():
            for capture in self._captures:
                capture.drain()
            for frame in frames:
                self._captures[number].send(frame)
            return self.drain()

    def drain(self) -> tuple[list[bytes], ...]:
        """What has arrived at each container since the last call, complete for what this CPU sent: see `barrier`."""
        return tuple(capture.drain() for capture in self._captures)


def send_frame(ns: Namespace, dev: str, frame: bytes) -> None:
    """Send one frame out of ``dev``. Raises OSError: EMSGSIZE above the MTU, ENETDOWN when the device is down."""
    with _sender(ns, dev) as sock:
        sock.send(frame)


def _sender(ns: Namespace, dev: str) -> socket.socket:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))  # protocol 0: receives nothing
        sock.bind((dev, 0))
        stack.pop_all()
    return sock


def _with_tag(frame: bytes, auxdata: bytes) -> bytes:
    status, _, _, _, _, tci, tpid = _AUXDATA.unpack(auxdata[: _AUXDATA.size])
    if not status & _VLAN_VALID:
        return frame
    return frame[:12] + struct.pack("!HH", tpid if status & _TPID_VALID else 0x8100, tci) + frame[12:]


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep this thread on one CPU, so that its frames keep their order (see `Capture.barrier`)."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
