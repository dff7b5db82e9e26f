# SPDX-License-Identifier: Apache-2.0
"""Traffic of sockets with the containers' default offloads: iperf3 and sockperf.

The first of two containers is the client.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from pydp import lab
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair, pinned
from pydp.lab import IperfResult, Nodes, Segment

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
            trips = lab.round_trips(server.ns, client.ns, server.address4, seconds=seconds)
        return Sample(1e6 / trips.median_us)

    return measure
