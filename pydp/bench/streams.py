# SPDX-License-Identifier: Apache-2.0
"""Traffic of sockets with the containers' default offloads: iperf3 and sockperf.

The first of two containers is the client.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

from pydp import lab
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import Busy, pair, pinned
from pydp.lab import IperfResult, LabError, Namespace, Nodes, Segment
from pydp.lab.stream import Counters, Worker

ROUND_TRIPS = 1.6  # s that sockperf takes beside the seconds that it is given
_PORT = 7  # echo
_PATIENCE = 5  # s
_RATE = 4e9  # bits/s that are taken for granted before the first measurement


def tcp_stream(ends: Segment | Nodes, _path: object, _stack: ExitStack) -> Measure:
    """One TCP connection; client and server each on a CPU of its own, where there are two."""
    client, server = ends.containers
    near, far = pair()
    return iperf(
        lambda options: lab.iperf3(
            server.ns, client.ns, server.address4, extra=["-A", f"{near},{far}"], seconds=options[0], nbytes=options[1]
        )
    )


def iperf(send: Callable[[tuple[int, int]], IperfResult]) -> Measure:
    """Measure by SEND, which is given seconds, and bytes in their place if these are not 0: iperf3 knows whole seconds
    only, and for less the bytes follow from the rate before.
    """
    rate = _RATE

    def measure(seconds: float) -> Sample:
        nonlocal rate
        result = send((max(1, round(seconds)), 0 if seconds >= 1 else round(rate * seconds / 8)))
        rate = result.bits_per_second
        used = result.raw["end"]["cpu_utilization_percent"]
        # Softirqs are charged to who they interrupt: client and server together carry the whole way.
        cpu = (used["host_total"] + used["remote_total"]) / 100
        return Sample(rate, cpu * 1e9 / (rate / 8e3))

    return measure


def request_response(ends: Segment | Nodes, _path: object, _stack: ExitStack) -> Measure:
    """One request at a time, both ends on one CPU: what is measured is the way, not how fast an idle CPU wakes up.

    The rate is that of the median round trip, which whoever takes the CPU for a while does not change.
    """
    client, server = ends.containers
    near, _ = pair()

    def measure(seconds: float) -> Sample:
        with pinned(near):
            busy = Busy(near)
            trips = lab.round_trips(server.ns, client.ns, server.address4, seconds=seconds)
        # sockperf rounds up; what it takes to begin and to end is in it.
        return Sample(1e6 / trips.median_us, busy.nanoseconds() / (trips.per_second * math.ceil(seconds)))

    return measure


def connect_request(ends: Segment | Nodes, _path: object, stack: ExitStack) -> Measure:
    """Connections of one container to the other; see `connecting`."""
    client, server = ends.containers
    return connecting(server.ns, client.ns, (server.address4, _PORT), (server.address4, _PORT), stack)


def connecting(
    server: Namespace, client: Namespace, own: tuple[str, int], target: tuple[str, int], stack: ExitStack
) -> Measure:
    """Connect, one byte each way, close, one after the other, to TARGET, behind which a server listens at its OWN
    address. Both ends are on one CPU, and the rate is that of the median: see `request_response`.
    """
    near, _ = pair()
    listener = server.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(own)
    listener.listen(1024)
    counters = Counters()
    stack.callback(counters.close)
    with pinned(near):
        stack.callback(Worker(server, "accept", listener, counters.fd).kill)

    def measure(seconds: float) -> Sample:
        with pinned(near):
            busy = Busy(near)
            found = client.call(_connect, target, seconds)
            return Sample(1 / median(found), busy.nanoseconds() / len(found))

    return measure


def _connect(target: tuple[str, int], seconds: float) -> list[float]:
    """How long each connection took. Raises LabError."""
    found = []
    begin = time.perf_counter()
    while (start := time.perf_counter()) - begin < seconds:
        with socket.socket() as sock:
            sock.settimeout(_PATIENCE)
            try:
                sock.connect(target)
                sock.sendall(b"?")
                if sock.recv(2) != b"?" or sock.recv(1):
                    raise LabError(f"{target[0]}: not the byte that was sent")
            except OSError as error:
                raise LabError(f"TCP to {target[0]}: {error}") from error
        found.append(time.perf_counter() - start)
    return found
