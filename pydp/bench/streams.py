# SPDX-License-Identifier: Apache-2.0
"""Traffic of sockets with the containers' default offloads: iperf3 and sockperf.

The first of two containers is the client.
"""

from __future__ import annotations

from contextlib import ExitStack

from pydp import lab
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair, pinned
from pydp.lab import Nodes, Segment


def tcp_stream(ends: Segment | Nodes, _path: object, _stack: ExitStack) -> Measure:
    """One TCP connection; client and server each on a CPU of its own, where there are two."""
    client, server = ends.containers
    near, far = pair()
    placed = ["-A", f"{near},{far}"]

    def measure(seconds: float) -> Sample:
        result = lab.iperf3(server.ns, client.ns, server.address4, seconds=max(1, round(seconds)), extra=placed)
        used = result.raw["end"]["cpu_utilization_percent"]
        # Softirqs are charged to who they interrupt: client and server together carry the whole way.
        cpu = (used["host_total"] + used["remote_total"]) / 100
        return Sample(result.bits_per_second, cpu * 1e9 / (result.bits_per_second / 8e3))

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
