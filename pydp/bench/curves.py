# SPDX-License-Identifier: Apache-2.0
"""What grows: the same traffic over more addresses, larger frames, more flows, more services."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack

from pydp.bench import frames, nat_frames, nat_paths, paths, programs
from pydp.bench.blocks import Measure, Plan, Sample
from pydp.bench.floods import flood_of_frames, on_segment
from pydp.bench.nat_paths import BACKENDS, NATIVE, NatPath
from pydp.bench.nat_scenarios import MANY, MOST, established, on_rigs
from pydp.bench.paths import Shape
from pydp.bench.scenario import Comparison, Point, Scenario
from pydp.bench.traffic import FLOOD, Port

_FULL, _QUICK = Plan(20, 0.1, 20), Plan(5, 0.05, 5)
_ENTRIES = (2, 64, 1024, 16384, 131_072, 1_048_576)  # FDB entries: as many as are talked to, half on each side
_SIZES = (64, 128, 256, 512, 1024, 1280, 1518)  # bytes of a frame, with its check sequence: RFC 2544, section 9.1
_FLOWS = (1, 100, MANY, MOST)
_MILLION = 1_000_000  # which takes a minute to begin
_TRACKED = 262_144  # flows that nf_conntrack takes unless somebody changes that for the whole machine
_ESTABLISHED = 20_000  # flows a second
_SERVICES = (1, 100, MANY, MOST)
_NAT_SIZES = (64, 512, 1514)  # without a check sequence
_CHECK_SEQUENCE = 4  # bytes that a veth has none of; the shortest frame has 64 all the same, as everywhere here
_ANNOUNCED = 50_000  # addresses a second
_DISTRIBUTIONS = {"uniform": programs.uniform, "zipf": programs.zipf}
_XDP = Shape(offloads=paths.XDP_OFFLOADS)


def _fdb(entries: int, distribution: str) -> Scenario:
    draws = functools.cache(lambda: _DISTRIBUTIONS[distribution](entries, count=programs.enough(entries // 2)))

    def prepare(*arguments: object) -> Measure:  # the draws are made when they are wanted
        return flood_of_frames(entries, "xdp", draws=draws())(*arguments)  # type: ignore[arg-type]

    ways = (
        paths.kernel(), paths.pydp("xdp", options={"fdb_size": max(65536, 2 * entries)}), paths.bare_xdp("devmap"),
    )  # fmt: skip
    return Scenario(
        name=f"bridge-fdb-{entries}-{distribution}",
        title=f"bridge, XDP, 64-byte packets, {entries:,} FDB entries, {distribution}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(ways, prepare, _XDP, slow=1 + entries / _ANNOUNCED),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("bridge-fdb", "Bridge: FDB entries", "FDB entries", entries, distribution),
    )  # fmt: skip


def _size(size: int) -> Scenario:
    length = max(programs.SHORTEST, size - _CHECK_SEQUENCE)
    return Scenario(
        name=f"bridge-size-{size}",
        title=f"bridge, XDP, frames of {size} bytes, 256 FDB entries",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (paths.kernel(), paths.pydp("xdp"), paths.bare_xdp("devmap")),
            flood_of_frames(256, "xdp", size=length), _XDP,
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("bridge-size", "Bridge: size of frames", "bytes of a frame", size),
    )  # fmt: skip


def flows(path: NatPath, stack: ExitStack, *, count: int, distribution: str) -> Measure:
    """Datagrams of COUNT flows that stand, drawn from, to one service with one backend."""
    service = nat_paths.address_of(0)
    rig = nat_paths.make_rig(path, nat_paths.services(1, protocol="udp"), stack, xdp=True)
    nat_paths.take_frames(path, rig)
    sink = frames.Sink(rig.server, "xdp", stack, nat_frames.sought("udp", translated=path.translates))
    draws = nat_frames.drawn(count, [service], distribution)
    generator = frames.Generator(rig.client, draws, stack, nat_frames.sent(rig, "udp"))
    if path.translates:
        nat_frames.establish(rig, "udp", count, service, BACKENDS[1])
    return FLOOD.begin(generator, sink, Port(rig.router.ns, rig.client.port))


def services(path: NatPath, stack: ExitStack, *, count: int, distribution: str) -> Measure:
    """Datagrams each of which begins a flow to one of COUNT services, in a table that is empty before."""
    rig = nat_paths.make_rig(path, nat_paths.services(count, protocol="udp"), stack, xdp=True)
    nat_paths.take_frames(path, rig)
    sink = frames.Sink(rig.server, "tc", stack, nat_frames.sought("udp", translated=path.translates))
    draws = nat_frames.drawn(1, [nat_paths.address_of(number) for number in range(count)], distribution)
    generator = frames.Generator(rig.client, draws, stack, nat_frames.sent(rig, "udp", fresh=True))
    flood = FLOOD.begin(generator, sink, Port(rig.router.ns, rig.client.port))

    def measure(seconds: float) -> Sample:
        rig.router.ns.call(path.forget)
        return flood(seconds)

    return measure


def _flows(count: int, distribution: str) -> Scenario:
    natives = NATIVE if count < _TRACKED else ()
    mine = nat_paths.pydp("xdp", options={"flows": max(_TRACKED, 2 * count)})
    ways = (*(nat_paths.native(name) for name in natives), mine, nat_paths.bare("xdp", "devmap"))
    return Scenario(
        name=f"nat-flows-{count}-{distribution}",
        title=f"NAT of a service, XDP, {count:,} flow{'s' * (count > 1)} of UDP that stand, {distribution}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_rigs(
            ways, functools.partial(flows, count=count, distribution=distribution), slow=2 + count / _ESTABLISHED
        ),
        comparisons=(*([Comparison("pydp", natives)] if natives else []), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("nat-flows", "NAT: flows that stand", "flows", count, distribution),
    )  # fmt: skip


def _nat_size(size: int) -> Scenario:
    build = functools.partial(established, protocol="udp", flows=1000, more=size - programs.SHORTEST)
    return Scenario(
        name=f"nat-size-{size}",
        title=f"NAT of a service, XDP, 1000 flows of UDP that stand, frames of {size} bytes",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_rigs((nat_paths.native("nftables"), nat_paths.pydp("xdp"), nat_paths.bare("xdp", "devmap")), build),
        comparisons=(Comparison("pydp", ("nftables",)), Comparison("pydp", ("devmap",))),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("nat-size", "NAT: size of frames", "bytes of a frame", size),
    )  # fmt: skip


def _services(count: int, distribution: str) -> Scenario:
    """Rules that are looked at one after the other end where a packet takes longer than a measurement."""
    natives = NATIVE if count < MANY else ("nftables",)
    ways = (*(nat_paths.native(name) for name in natives), nat_paths.pydp("xdp"))
    return Scenario(
        name=f"nat-services-{count}-{distribution}",
        title=f"NAT of {count:,} service{'s' * (count > 1)}: flows of UDP begun, {distribution}",
        unit="M/s", scale=1e6, cpu_per="flow",
        paths=on_rigs(ways, functools.partial(services, count=count, distribution=distribution)),
        comparisons=(Comparison("pydp", natives),),
        full=_FULL, quick=_QUICK, brief=False,
        point=Point("nat-services", "NAT: services", "services", count, distribution),
    )  # fmt: skip


def _nat() -> Iterator[Scenario]:
    yield from (_nat_size(size) for size in _NAT_SIZES)
    yield from (_flows(count, "uniform") for count in (*_FLOWS, _MILLION))
    yield from (_flows(count, "zipf") for count in _FLOWS)
    for distribution in _DISTRIBUTIONS:
        yield from (_services(count, distribution) for count in _SERVICES)


BRIDGE_CURVES: tuple[Scenario, ...] = (
    *(_size(size) for size in _SIZES),
    *(_fdb(entries, distribution) for distribution in _DISTRIBUTIONS for entries in _ENTRIES),
)
NAT_CURVES: tuple[Scenario, ...] = tuple(_nat())
