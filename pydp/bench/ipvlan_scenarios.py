# SPDX-License-Identifier: Apache-2.0
"""From outside to a container that shares its host's device and its MAC address: the kernel's ipvlan device where there
is one, pydp, and the bare hook.

Container 0 of a segment is outside, its port the parent; container 1 is the child.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path as File

from pydp.bench import frames, paths, programs
from pydp.bench.blocks import Measure, Plan
from pydp.bench.floods import on_segment
from pydp.bench.frames import Sent
from pydp.bench.paths import Path, Shape
from pydp.bench.scenario import Comparison, Scenario
from pydp.bench.streams import tcp_stream
from pydp.bench.traffic import FLOOD, Port
from pydp.bench.tunnel_frames import IN_ETHERNET, ethernet
from pydp.datapath import Datapath, Request
from pydp.lab import Segment, set_offloads

_XDP = Shape(offloads=paths.XDP_OFFLOADS)


def _kernel_has_it() -> bool:
    """Whether the running kernel was built with ipvlan, as a module or not."""
    folder = File("/lib/modules") / os.uname().release
    lists = (folder / name for name in ("modules.builtin", "modules.dep"))
    return any("/ipvlan.ko" in one.read_text() for one in lists if one.exists())


_NATIVE = _kernel_has_it()
_WITHOUT = "" if _NATIVE else " (this kernel has no ipvlan)"
_NATIVE_COMPARISON = (Comparison("pydp", ("kernel",)),) if _NATIVE else ()
_NATIVE_CPU = (Comparison("pydp", ("kernel",), per_cpu=True),) if _NATIVE else ()


def _kernel(kind: str) -> tuple[Path, ...]:
    build = functools.partial(_make_ipvlan, kind=kind)
    return (Path("kernel", f"kernel ipvlan, {kind}", build),) if _NATIVE else ()


def _pydp(kind: str, hook: str) -> Path:
    build = functools.partial(_attach, kind=kind, hook=hook)
    return Path("pydp", f"pydp --hook {hook}", build, port_polls=hook == "xdp")


def _make_ipvlan(segment: Segment, _stack: ExitStack, *, kind: str) -> None:
    """An ipvlan device takes the place of the second container's veth."""
    outside, child = segment.containers
    child.ns.run(["ip", "link", "del", child.dev])
    segment.sw.run(["ip", "link", "add", "link", outside.port, "name", "ipvlan1", "type", "ipvlan", "mode", kind])
    segment.sw.run(["ip", "link", "set", "ipvlan1", "netns", child.ns.name])
    child.ns.run(["ip", "link", "set", "ipvlan1", "name", child.dev])
    child.ns.run(["ip", "address", "add", f"{child.address4}/16", "dev", child.dev])
    child.ns.run(["ip", "link", "set", child.dev, "up"])


def _attach(segment: Segment, stack: ExitStack, *, kind: str, hook: str) -> None:
    datapath = segment.sw.call(Datapath)
    options = {"type": kind, "child": (f"p1={segment[1].address4}",)}
    request = Request("ipvlan", (segment.ports[0],), hook=hook, options=options)
    instance = segment.sw.call(datapath.attach, request)
    stack.callback(segment.sw.call, datapath.detach, [instance.name])


def _flood(sink: str) -> Callable[[Segment, Path, ExitStack], Measure]:
    """Packets of one flow to the child's IP address, counted on the hook SINK of the child."""

    def prepare(segment: Segment, path: Path, stack: ExitStack) -> Measure:
        sender, receiver = segment.containers
        if not path.port_polls:  # see pydp.bench.floods
            set_offloads(segment.sw, sender.port, {"gro": True})
        ends = [int(IPv4Address(one.address4)) for one in (sender, receiver)]
        packet = programs.packet("0.0.0.0", "0.0.0.0")
        parent = segment.sw.ipr().link("get", ifname=sender.port)[0].get("address")
        sent = Sent(ethernet(parent, sender.mac) + packet, 14, packet=True)
        counting = frames.Sink(receiver, sink, stack, IN_ETHERNET)
        generator = frames.Generator(sender, [(ends[0], ends[1])], stack, sent)
        return FLOOD.begin(generator, counting, Port(segment.sw, sender.port))

    return prepare


IPVLAN_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="ipvlan-xdp-64",
        title=f"ipvlan l2, XDP, 64-byte packets to the child's stack{_WITHOUT}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        # What arrives is counted on tc, since an ipvlan device has no XDP in its driver.
        paths=on_segment(
            (*_kernel("l2"), _pydp("l2", "xdp"), paths.bare_xdp("redirect"), paths.bare_xdp("devmap")),
            _flood("tc"), _XDP,
        ),
        comparisons=(*_NATIVE_COMPARISON, Comparison("pydp", ("redirect", "devmap"))),
        full=Plan(60, 0.1, 60), quick=Plan(12, 0.05, 12),
    ),
    Scenario(
        name="ipvlan-tc-64",
        title=f"ipvlan l2, tc, 64-byte packets to the child's stack{_WITHOUT}",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (*_kernel("l2"), _pydp("l2", "tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            _flood("tc"),
        ),
        comparisons=(*_NATIVE_COMPARISON, Comparison("pydp", ("redirect", "peer"))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.05, 12), brief=False,
    ),
    Scenario(
        name="ipvlan-stream",
        title=f"ipvlan l2, tc, TCP stream, default offloads{_WITHOUT}",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_segment(
            (*_kernel("l2"), _pydp("l2", "tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            tcp_stream,
        ),
        comparisons=(*_NATIVE_COMPARISON, *_NATIVE_CPU, Comparison("pydp", ("redirect", "peer"))),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
)  # fmt: skip
