# SPDX-License-Identifier: Apache-2.0
"""Clients of services with sockets, and the delay of the first packet of a flow."""

from __future__ import annotations

import random
import socket
import time
from contextlib import ExitStack
from statistics import median, quantiles

from pydp import lab
from pydp.bench import frames, nat_frames, nat_paths
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair, pinned
from pydp.bench.nat_paths import BACKEND_PORT, BACKENDS, SERVICE_PORT, NatPath, Rig
from pydp.bench.streams import iperf
from pydp.lab import LabError
from pydp.lab.stream import Counters, Worker

_BACKENDS = 4
_PATIENCE = 5  # s
_FIRSTS = 4000  # packets of a measurement
_FLOWS = 100_000  # after which the table is emptied: it has room for more than twice as many


def connections(path: NatPath, stack: ExitStack, *, count: int) -> Measure:
    """Connect, one byte each way, close, one after the other, to the middle one of COUNT services. Both ends are on one
    CPU, and the rate is that of the median: see `streams.request_response`.
    """
    rig = rig_with_server(path, count, _BACKENDS, stack)
    near, _ = pair()
    target = str(nat_paths.address_of(count // 2)), SERVICE_PORT
    listener = rig.server.ns.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", BACKEND_PORT))
    listener.listen(1024)
    counters = Counters()
    stack.callback(counters.close)
    with pinned(near):
        stack.callback(Worker(rig.server.ns, "accept", listener, counters.fd).kill)

    def measure(seconds: float) -> Sample:
        with pinned(near):
            return Sample(1 / median(rig.client.ns.call(_connect, target, seconds)))

    return measure


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
    sink = frames.Sink(rig.server, "tc", stack, nat_frames.sought("udp", timed=True))
    numbers = random.Random(1).sample(range(count), k=min(count, 1 << 16))
    draws = nat_frames.draws(1, [nat_paths.address_of(number) for number in numbers])
    generator = frames.Generator(
        rig.client, draws, stack, nat_frames.sent(rig, "udp", fresh=True, timed=True)
    )  # fmt: skip
    begun = 0

    def measure(_seconds: float) -> Sample:
        nonlocal begun
        if begun >= _FLOWS:
            rig.router.ns.call(path.forget)
            begun = 0
        begun += _FIRSTS
        before = sink.read().packets
        generator.send_each(_FIRSTS)
        arrived = sink.settled(before + _FIRSTS).packets - before
        if not arrived:
            raise LabError(f"{_FIRSTS} datagrams to services, none arrived")
        ninety_ninth = quantiles(nat_frames.delays(sink, before, arrived), n=100)[-1]
        return Sample(1e9 / ninety_ninth, lost=1 - arrived / _FIRSTS)

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
