# SPDX-License-Identifier: Apache-2.0
"""Clients of services with sockets, and the delay of the first packet of a flow."""

from __future__ import annotations

import random
from contextlib import ExitStack

from pydp import lab
from pydp.bench import frames, nat_frames, nat_paths, streams
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair
from pydp.bench.delays import Delays
from pydp.bench.nat_paths import BACKEND_PORT, BACKENDS, SERVICE_PORT, NatPath, Rig
from pydp.bench.streams import iperf
from pydp.lab import LabError

_BACKENDS = 4
_FIRSTS = 4000  # packets of a measurement
_FLOWS = 100_000  # after which the table is emptied: it has room for more than twice as many


def connections(path: NatPath, stack: ExitStack, *, count: int) -> Measure:
    """Connect, one byte each way, close, one after the other, to the middle one of COUNT services. Both ends are on one
    CPU, and the rate is that of the median: see `streams.request_response`.
    """
    rig = rig_with_server(path, count, _BACKENDS, stack)
    return streams.connecting(
        rig.server.ns, rig.client.ns, ("0.0.0.0", BACKEND_PORT), (str(nat_paths.address_of(count // 2)), SERVICE_PORT),
        stack,
    )  # fmt: skip


def stream(path: NatPath, stack: ExitStack) -> Measure:
    """One TCP connection to a service; see `streams.tcp_stream`."""
    rig = rig_with_server(path, 1, 1, stack)
    backend, service = str(BACKENDS[1]), str(nat_paths.address_of(0))
    if path.translates:
        to = ["-c", service, "-p", str(SERVICE_PORT)]
    else:
        to = []
        _shorten(rig)
    near, far = pair()
    return iperf(
        lambda options: lab.iperf3(
            rig.server.ns, rig.client.ns, backend, port=BACKEND_PORT, extra=["-A", f"{near},{far}", *to],
            seconds=options[0], nbytes=options[1],
        )
    )  # fmt: skip


def first_packets(path: NatPath, stack: ExitStack, *, count: int) -> Measure:
    """The 99th percentile of how long datagrams are under way that begin a flow, each to one of COUNT services and when
    nothing else is going on; as its inverse, more being better.
    """
    known = nat_paths.services(count, _BACKENDS, "udp")
    rig = nat_paths.make_rig(path, known, stack, xdp=True)
    nat_paths.take_frames(path, rig)
    sink = frames.Sink(rig.server, "tc", stack, nat_frames.sought("udp"), timed=True)
    numbers = random.Random(1).sample(range(count), k=min(count, 1 << 16))
    draws = nat_frames.draws(1, [nat_paths.address_of(number) for number in numbers])
    generator = frames.Generator(rig.client, draws, stack, nat_frames.sent(rig, "udp", fresh=True), timed=True)
    begun = 0

    def measure(_seconds: float) -> Sample:
        nonlocal begun
        if begun >= _FLOWS:
            rig.router.ns.call(path.forget)
            begun = 0
        begun += _FIRSTS
        before, delays = sink.read().packets, Delays.read(sink)
        generator.send_each(_FIRSTS)
        arrived = sink.settled(before + _FIRSTS).packets - before
        if not arrived:
            raise LabError(f"{_FIRSTS} datagrams to services, none arrived")
        found = Delays.read(sink).since(delays).percentiles()
        return Sample(1 / found["99"], lost=1 - arrived / _FIRSTS, percentiles=found)

    return measure


def rig_with_server(path: NatPath, count: int, backends: int, stack: ExitStack) -> Rig:
    """COUNT services, and a server that is all backends."""
    rig = nat_paths.make_rig(path, nat_paths.services(count, backends), stack)
    rig.server.ns.run(["ip", "route", "add", "local", str(BACKENDS), "dev", "lo"])
    return rig


def _shorten(rig: Rig) -> None:
    """Have both ends send to each other's hardware address: a bare hook between them changes none."""
    for one, other in ((rig.client, rig.server), (rig.server, rig.client)):
        gateway = one.address4.rpartition(".")[0] + ".254"
        one.ns.run(["ip", "neigh", "replace", gateway, "lladdr", other.mac, "dev", one.dev, "nud", "permanent"])
