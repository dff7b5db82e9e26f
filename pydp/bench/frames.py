# SPDX-License-Identifier: Apache-2.0
"""64-byte frames from one container to another: made in the kernel, counted and checked where they arrive.

They may be sent, or arrive, in a tunnel's: the other end is then at a node's underlay device.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from ebpf.attach import attach
from ebpf.loader import load
from ebpf.maps import Map
from ebpf.testrun import live_frames
from pydp.bench import programs
from pydp.bench.cpus import pair, pinned, undisturbed
from pydp.bench.errors import BenchError
from pydp.kernel.linkstats import read_link_stats
from pydp.lab import Namespace

_OFFSET = 0  # constant BENCH_OFFSET
_DRAWS_MASK = 2  # constant BENCH_DRAWS_MASK
_TIMED = 3  # constant BENCH_TIMED
_TICKS = 6  # BENCH_TICKS
MARK_EVERY, MARKS = 1024, 4096  # enum bench_mark
_SMALLEST = 20 * MARK_EVERY  # frames of a run
_LARGEST = (MARKS - 2) * MARK_EVERY  # or marks would be written twice
_SETTLE = 0.005  # s between two looks at the sink
_PATIENCE = 0.5  # s in all


class Station(Protocol):
    """Where frames are sent or counted: a device in a namespace, such as a container's or a node's."""

    @property
    def ns(self) -> Namespace: ...
    @property
    def dev(self) -> str: ...


class Programmed(Protocol):
    """The program of bpf_src/bench that makes or takes frames, and its constants by number."""

    @property
    def program(self) -> str: ...
    @property
    def constants(self) -> Mapping[int, int]: ...


class Headed(Programmed, Protocol):
    """A program that sends, and the frame that it begins with."""

    @property
    def frame(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent: ``frame``, and so many bytes into it an Ethernet frame whose addresses vary, or with ``packet`` an
    IPv4 packet whose addresses do. Its first 56 bytes are written anew each time.
    """

    frame: bytes
    offset: int
    packet: bool = False

    @property
    def program(self) -> str:
        return "bench_send_packet" if self.packet else "bench_send_frame"

    @property
    def constants(self) -> Mapping[int, int]:
        return {_OFFSET: self.offset}


@dataclass(frozen=True, slots=True)
class Sought:
    """What is counted: so many bytes into what arrives, an Ethernet frame or with ``packet`` an IPv4 packet."""

    offset: int
    packet: bool = False

    @property
    def program(self) -> str:
        return "bench_sink_packet" if self.packet else "bench_sink_frame"

    @property
    def constants(self) -> Mapping[int, int]:
        return {_OFFSET: self.offset}


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the sink has counted."""

    packets: int
    corrupt: int
    disordered: int

    def since(self, before: Arrivals) -> Arrivals:
        return Arrivals(
            self.packets - before.packets, self.corrupt - before.corrupt, self.disordered - before.disordered
        )


@dataclass(frozen=True, slots=True)
class Run:
    """``per_second`` frames arrived when nobody disturbed; ``lost`` is the share of those sent that did not, and
    ``disordered`` the share of those that did which came after a later one.
    """

    per_second: float
    lost: float
    disordered: float = 0


class Sink:
    """Counts what arrives at a station, on the hook where its traffic comes by: the generator's frames as they are, or
    what is SOUGHT; with TIMED also how long each was under way.
    """

    def __init__(
        self, station: Station, hook: str, stack: ExitStack, sought: Programmed | None = None, *, timed: bool = False
    ) -> None:
        name = sought.program if sought else "bench_sink"
        source = programs.compiled("sink", hook)
        self.maps = programs.create_maps(source, name, stack)
        self._arrivals: Map = self.maps["bench_arrivals"]
        self._marks: Map = self.maps["bench_marks"]
        constants = {**(sought.constants if sought else {}), _TIMED: int(timed)}
        program = stack.enter_context(load(source, name, hook, self.maps, constants=constants))
        ifindex = station.ns.ifindex(station.dev)
        link = station.ns.call(attach, program, ifindex, hook, name=station.dev)
        stack.callback(station.ns.call, link.detach)

    def read(self) -> Arrivals:
        packets, _, corrupt, disordered, _ = self._arrivals.sums().get(0, (0, 0, 0, 0, 0))
        return Arrivals(packets, corrupt, disordered)

    def pace(self, first: int, count: int) -> float:
        """Seconds per frame: the median over the stretches of MARK_EVERY frames from number FIRST on. Whoever takes the
        CPU for a while spoils a stretch, not the measurement. Raises BenchError when hardly any mark has arrived.
        """
        marks = range(-(-first // MARK_EVERY), (first + count - 1) // MARK_EVERY + 1)
        _, raw = self._marks.raw()
        times = memoryview(raw).cast("Q")
        taken = [times[mark % MARKS] for mark in marks]
        found = median(after - before for before, after in itertools.pairwise(taken)) / MARK_EVERY / 1e9
        if found <= 0:
            raise BenchError(f"of {count} frames so many were lost that there is no telling how fast the others were")
        return found

    def settled(self, wanted: int) -> Arrivals:
        """What has arrived once WANTED packets have, or no more come."""
        deadline = time.monotonic() + _PATIENCE
        before = self.read()
        while before.packets < wanted and time.monotonic() < deadline:
            time.sleep(_SETTLE)
            now = self.read()
            if now.packets == before.packets:
                break
            before = now
        return before


class Generator:
    """Sends from a station `programs.frame`, or what SENT says, with DRAWS in turn, of which there are a power of two.
    The device at the other end must poll with NAPI. With TIMED frames say when they left.
    """

    def __init__(
        self, station: Station, draws: programs.Draws, stack: ExitStack, sent: Headed | None = None,
        *, timed: bool = False,
    ) -> None:  # fmt: skip
        name = sent.program if sent else "bench_send"
        source = programs.compiled("generator")
        maps = programs.create_maps(source, name, stack, draws=len(draws))
        programs.write_draws(maps, draws)
        self._frame = sent.frame if sent else programs.frame()
        if sent:
            programs.write_head(maps, sent.frame)
        if timed:
            maps["bench_paces"].set(0, (0, 0, 1, 0, 0, 0, 0))
        self._paces: Map = maps["bench_paces"]
        constants = {**(sent.constants if sent else {}), _DRAWS_MASK: len(draws) - 1, _TIMED: int(timed)}
        self._program = stack.enter_context(load(source, name, "xdp", maps, constants=constants))
        self._ns = station.ns
        self._ifindex = station.ns.ifindex(station.dev)
        self._rate = 0.0
        self._sent = 0

    def run(self, sink: Sink, seconds: float) -> Run:
        """Send for about so long. Raises BenchError when nothing or something else arrives."""
        if not self._rate:
            self._rate = self._send(sink, _SMALLEST).per_second
        run = self._send(sink, min(max(int(self._rate * seconds), _SMALLEST), _LARGEST))
        self._rate = run.per_second
        return run

    def offer(self, count: int, rate: float, burst: int) -> float:
        """Send about so many timed frames at a RATE of frames a second, BURST of them together, a power of two; gives
        the rate at which they left but for when others had the CPU; it is less where there was no time.
        """
        count = -(-count // burst) * burst
        self._paces.set(0, (round(burst / rate * 1e9 * (1 << _TICKS)), 0, burst, 0, 0, 0, 0))
        with pinned(pair()[0]), undisturbed():
            self._ns.call(live_frames, self._program, self._frame, count, ifindex=self._ifindex, batch=burst)
        self._sent += count
        _, _, _, sent, begun, last, stalled = self._paces.get(0)
        return float((sent - burst) * 1e9 / max(last - begun - stalled, 1))

    def send_each(self, count: int) -> None:
        """Send so many frames, each when the one before has been dealt with."""

        def send() -> None:
            for _ in range(count):
                live_frames(self._program, self._frame, 1, ifindex=self._ifindex)

        with pinned(pair()[0]):
            self._ns.call(send)
        self._sent += count

    def _send(self, sink: Sink, count: int) -> Run:
        before = sink.read()
        with pinned(pair()[0]):
            self._ns.call(live_frames, self._program, self._frame, count, ifindex=self._ifindex)
        first, self._sent = self._sent, self._sent + count
        arrived = sink.settled(before.packets + count).since(before)
        if not arrived.packets:
            raise BenchError(f"{count} frames sent from {self._ns.name}, none arrived")
        if arrived.corrupt:
            raise BenchError(f"{arrived.corrupt} of {arrived.packets} frames did not arrive as they were sent")
        return Run(1 / sink.pace(first, count), 1 - arrived.packets / count, arrived.disordered / arrived.packets)


def announce(station: Station, side: int, count: int) -> None:
    """Send a frame from every address of one side, so that a bridge learns where they are."""
    with raw(station) as sock:
        for number in range(count):
            # To the other side's address of the same number; 0x88b5 is for experiments (IEEE 802).
            other = programs.DEST if side == programs.SOURCE else programs.SOURCE
            put(sock, programs.address(other, number) + programs.address(side, number) + b"\x88\xb5" + bytes(46))


@contextlib.contextmanager
def raw(station: Station) -> Iterator[socket.socket]:
    """A socket that sends whole frames out of a station."""
    with station.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((station.dev, 0))
        yield sock


def put(sock: socket.socket, frame: bytes) -> None:
    """Send a frame on a packet socket; again while the other end of the veth drops it because its ring or the backlog
    of a CPU is full, which the kernel tells by ENOBUFS. Raises OSError, that one when it lasts longer than `_PATIENCE`.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            sock.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS or time.monotonic() > end:
                raise
        else:
            return
        time.sleep(0.001)


def put_through(sock: socket.socket, sent: Sequence[bytes], to: Station) -> None:
    """Send frames, and wait until as many have come in at another station: what is sent after that comes later, however
    many CPUs take part. Raises BenchError when they do not come in, OSError.
    """
    ifindex = to.ns.ifindex(to.dev)
    wanted = _received(to, ifindex) + len(sent)
    for frame in sent:
        put(sock, frame)
    end = time.monotonic() + _PATIENCE
    while (missing := wanted - _received(to, ifindex)) > 0:
        if time.monotonic() > end:
            raise BenchError(f"{missing} of {len(sent)} frames did not arrive at {to.ns.name}")


def _received(station: Station, ifindex: int) -> int:
    return station.ns.call(read_link_stats)[ifindex].rx_packets
