# SPDX-License-Identifier: Apache-2.0
"""What is measured of services; see scenarios.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydp.bench import frames, nat_frames, nat_host, nat_paths, nat_program, nat_streams
from pydp.bench.blocks import Measure, Plan, Sample
from pydp.bench.nat_paths import BACKENDS, NATIVE, NatPath, Rig
from pydp.bench.scenario import Comparison, Scenario, Way
from pydp.bench.statistics import Target
from pydp.bench.traffic import FLOOD, Port, Traffic
from pydp.services.model import Protocol

_SLOW = 2.0  # s to build a way
Counted = Callable[..., Measure]  # what measures a path with a count of services


def established(
    path: NatPath, stack: ExitStack, *, protocol: Protocol, flows: int, hook: str = "xdp", traffic: Traffic = FLOOD,
    more: int = 0,
) -> Measure:  # fmt: skip
    """Packets of connections that stand, so many bytes MORE than the shortest, from clients to one service with one
    backend, counted at the server on HOOK: what tc hands to the server's device at once passes by XDP there.
    """
    draws = nat_frames.draws(flows, [nat_paths.address_of(0)])
    rig, generator, sink = _flood(path, stack, protocol, draws, hook, timed=traffic.timed, more=more)
    if path.translates:
        nat_frames.establish(rig, protocol, flows, nat_paths.address_of(0), BACKENDS[1])
    return traffic.begin(generator, sink, Port(rig.router.ns, rig.client.port))


def fresh(path: NatPath, stack: ExitStack) -> Measure:
    """Datagrams each of which begins a flow, in a table that is empty before."""
    draws = nat_frames.draws(1, [nat_paths.address_of(0)])
    rig, generator, sink = _flood(path, stack, "udp", draws, "tc", fresh=True)
    flood = FLOOD.begin(generator, sink, Port(rig.router.ns, rig.client.port))

    def measure(seconds: float) -> Sample:
        rig.router.ns.call(path.forget)
        return flood(seconds)

    return measure


def _flood(
    path: NatPath, stack: ExitStack, protocol: Protocol, draws: Sequence[tuple[int, int]], hook: str,
    *, fresh: bool = False, timed: bool = False, more: int = 0,
) -> tuple[Rig, frames.Generator, frames.Sink]:  # fmt: skip
    rig = nat_paths.make_rig(path, nat_paths.services(1, protocol=protocol), stack, xdp=hook == "xdp" or fresh)
    nat_paths.take_frames(path, rig)
    sought = nat_frames.sought(protocol, translated=path.translates)
    sink = frames.Sink(rig.server, hook, stack, sought, timed=timed)
    sent = nat_frames.sent(rig, protocol, fresh=fresh, more=more)
    return rig, frames.Generator(rig.client, draws, stack, sent, timed=timed), sink


def on_rigs(
    ways: Sequence[NatPath], build: Callable[[NatPath, ExitStack], Measure], *, slow: float = _SLOW
) -> tuple[Way, ...]:
    """These paths, each turned into what measures it by BUILD, in about SLOW seconds."""
    return tuple(Way(path.name, path.title, functools.partial(build, path), slow) for path in ways)


FEW = "pydp-1"
MANY, MOST = 10_000, 100_000  # services
_KERNEL = tuple(nat_paths.native(name) for name in NATIVE)
_BARE = (nat_paths.bare("xdp", "redirect"), nat_paths.bare("xdp", "devmap"))
_BARE_NAMES = tuple(path.name for path in _BARE)


def _established(protocol: Protocol, flows: int) -> Scenario:
    size = {"udp": 64, "tcp": 70}[protocol]
    connections = "1 flow" if flows == 1 else f"{flows} flows"
    return Scenario(
        name=f"nat-{protocol}-{flows}",
        title=f"NAT of a service, XDP, {connections} of {protocol.upper()} that stand, {size}-byte packets",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_rigs(
            (*_KERNEL, nat_paths.pydp("xdp"), *_BARE), functools.partial(established, protocol=protocol, flows=flows)
        ),
        comparisons=(Comparison("pydp", NATIVE, Target(4.0)), Comparison("pydp", _BARE_NAMES, Target(0.78))),
        full=Plan(60, 0.1, 60), quick=Plan(12, 0.05, 12), brief=(protocol, flows) == ("udp", 1),
    )  # fmt: skip


def _counted(build: Counted, path: NatPath, count: int) -> Way:
    """A path with so many services."""
    title = f"{path.title}, {count:,} service{'s' if count > 1 else ''}"
    return Way(path.name, title, functools.partial(build, path, count=count), _SLOW)


def _connect(count: int, comparisons: tuple[Comparison, ...], *more: tuple[NatPath, int]) -> Scenario:
    ways = [(path, count) for path in (*_KERNEL, nat_paths.pydp("tc"))] + list(more)
    return Scenario(
        name=f"nat-connect-{count}",
        title=f"NAT of {count:,} service{'s' if count > 1 else ''}, tc: TCP connect, request, close",
        unit="k/s", scale=1e3, cpu_per="connection",
        paths=tuple(_counted(nat_streams.connections, path, number) for path, number in ways),
        comparisons=comparisons,
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=count == 1,
    )  # fmt: skip


def _telling(name: str, what: str, build: Counted, full: Plan, quick: Plan) -> Scenario:
    """Programming: iptables with as many services as it can be asked to have, the others with ten times as many."""
    return Scenario(
        name=f"nat-{name}",
        title=f"NAT: {what}, 4 backends each",
        unit="/s", scale=1,
        paths=(
            _counted(build, _KERNEL[0], MANY), _counted(build, _KERNEL[1], MANY),
            _counted(build, _KERNEL[2], MOST), _counted(build, nat_paths.pydp("tc"), MOST),
        ),
        comparisons=tuple(Comparison("pydp", (other,)) for other in NATIVE),
        full=full, quick=quick, brief=False,
    )  # fmt: skip


NAT_SCENARIOS: tuple[Scenario, ...] = (
    *(_established(protocol, flows) for protocol in ("udp", "tcp") for flows in (1, 1000)),
    Scenario(
        name="nat-tc-udp-1000",
        title="NAT of a service, tc, 1000 flows of UDP that stand, 64-byte packets",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_rigs(
            (*_KERNEL, nat_paths.pydp("tc"), nat_paths.bare("tc", "redirect"), nat_paths.bare("tc", "peer")),
            functools.partial(established, protocol="udp", flows=1000, hook="tc"),
        ),
        comparisons=(Comparison("pydp", NATIVE), Comparison("pydp", ("redirect", "peer"))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.05, 12), brief=False,
    ),
    Scenario(
        name="nat-new",
        title="NAT of a service: flows of UDP begun, 64-byte packets",
        unit="M/s", scale=1e6, cpu_per="flow",
        paths=on_rigs((*_KERNEL, nat_paths.pydp("xdp"), nat_paths.pydp("tc", name="pydp-tc")), fresh),
        comparisons=(Comparison("pydp", NATIVE, Target(2.5)), Comparison("pydp-tc", NATIVE, Target(2.5))),
        full=Plan(40, 0.1, 40), quick=Plan(12, 0.05, 12),
    ),
    _connect(1, (Comparison("pydp", NATIVE, Target(1.0)),)),
    _connect(
        MANY, (Comparison("pydp", (FEW,), Target(0.9)), Comparison("pydp", NATIVE, Target(1.0))),
        (nat_paths.pydp("tc", name=FEW), 1),
    ),
    Scenario(
        name="nat-host",
        title="NAT of a service for programs of the host itself: TCP connect, request, close",
        unit="k/s", scale=1e3, cpu_per="connection",
        paths=on_rigs(
            (*_KERNEL, nat_paths.pydp("tc"), nat_host.connect_hook(), nat_host.direct()), nat_host.connections
        ),
        comparisons=(
            Comparison("pydp", NATIVE, Target(1.0)), Comparison("pydp", ("connect",)), Comparison("pydp", ("direct",)),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    Scenario(
        name="nat-first",
        title="NAT of a service: 99th percentile of the first packet's delay, inverse",
        unit="1/us", scale=1e6,
        paths=(
            _counted(nat_streams.first_packets, _KERNEL[0], 1),
            _counted(nat_streams.first_packets, nat_paths.native("legacy", again="-10000"), MANY),
            _counted(nat_streams.first_packets, _KERNEL[2], 1),
            _counted(nat_streams.first_packets, nat_paths.native("nftables", again="-100000"), MOST),
            _counted(nat_streams.first_packets, nat_paths.pydp("xdp", name=FEW), 1),
            _counted(nat_streams.first_packets, nat_paths.pydp("xdp"), MOST),
        ),
        comparisons=(
            Comparison("pydp", (FEW,), Target(1 / 1.3)),
            Comparison("pydp", ("nftables-100000",)),
            Comparison("pydp", ("legacy-10000",)),
        ),
        full=Plan(30, 0.1, 30), quick=Plan(10, 0.1, 10), brief=False,
    ),
    Scenario(
        name="nat-stream",
        title="NAT of a service, tc, TCP stream, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_rigs((*_KERNEL, nat_paths.pydp("tc"), nat_paths.bare("tc", "peer")), nat_streams.stream),
        comparisons=(
            Comparison("pydp", NATIVE, Target(0.95)),
            Comparison("pydp", NATIVE, per_cpu=True),
            Comparison("pydp", ("peer",)),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
    _telling(
        "program", "services written where there is one", nat_program.program,
        Plan(5, 1, 2), Plan(5, 1, 2),
    ),
    _telling(
        "change", "one among many gets other backends", nat_program.change,
        Plan(8, 2, 4), Plan(5, 1, 2),
    ),
)  # fmt: skip
