# SPDX-License-Identifier: Apache-2.0
"""From outside to a container that shares its host's device: the kernel's macvlan device, pydp, and the bare hook.

Container 0 of a segment is outside, its port the parent; container 1 is the child.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack

from pydp.bench import paths, programs
from pydp.bench.blocks import Plan
from pydp.bench.floods import flood_of_frames, on_segment
from pydp.bench.paths import Path, Shape
from pydp.bench.scenario import Comparison, Scenario
from pydp.bench.streams import tcp_stream
from pydp.datapath import Datapath, Request
from pydp.lab import Segment

_XDP = Shape(offloads=paths.XDP_OFFLOADS)
_CHILD = programs.address(programs.DEST, 0).hex(":")  # whom the one flow of frames is for


def _kernel(mac: str) -> Path:
    return Path("kernel", "kernel macvlan, bridge mode", functools.partial(_make_macvlan, mac=mac))


def _pydp(hook: str, mac: str = "") -> Path:
    build = functools.partial(_attach, hook=hook, child=f"p1={mac}" if mac else "p1")
    return Path("pydp", f"pydp --hook {hook}", build, port_polls=hook == "xdp")


def _make_macvlan(segment: Segment, _stack: ExitStack, *, mac: str) -> None:
    """A macvlan device takes the place of the second container's veth."""
    outside, child = segment.containers
    child.ns.run(["ip", "link", "del", child.dev])
    own = ["address", mac] if mac else []
    made = ["ip", "link", "add", "link", outside.port, "name", "macvlan1", *own, "type", "macvlan", "mode", "bridge"]
    segment.sw.run(made)
    segment.sw.run(["ip", "link", "set", "macvlan1", "netns", child.ns.name])
    child.ns.run(["ip", "link", "set", "macvlan1", "name", child.dev])
    child.ns.run(["ip", "address", "add", f"{child.address4}/16", "dev", child.dev])
    child.ns.run(["ip", "link", "set", child.dev, "up"])


def _attach(segment: Segment, stack: ExitStack, *, hook: str, child: str) -> None:
    datapath = segment.sw.call(Datapath)
    request = Request("macvlan", (segment.ports[0],), hook=hook, options={"child": (child,)})
    instance = segment.sw.call(datapath.attach, request)
    stack.callback(segment.sw.call, datapath.detach, [instance.name])


MACVLAN_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="macvlan-xdp-64",
        title="macvlan, XDP, 64-byte packets to the child's stack",
        unit="Mpps", scale=1e6, cpu_per="packet",
        # What arrives is counted on tc, since a macvlan device has no XDP in its driver.
        paths=on_segment(
            (_kernel(_CHILD), _pydp("xdp", _CHILD), paths.bare_xdp("redirect"), paths.bare_xdp("devmap")),
            flood_of_frames(2, "tc"), _XDP,
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect", "devmap"))),
        full=Plan(60, 0.1, 60), quick=Plan(12, 0.05, 12),
    ),
    Scenario(
        name="macvlan-tc-64",
        title="macvlan, tc, 64-byte packets to the child's stack",
        unit="Mpps", scale=1e6, cpu_per="packet",
        paths=on_segment(
            (_kernel(_CHILD), _pydp("tc", _CHILD), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            flood_of_frames(2, "tc"),
        ),
        comparisons=(Comparison("pydp", ("kernel",)), Comparison("pydp", ("redirect", "peer"))),
        full=Plan(30, 0.1, 30), quick=Plan(12, 0.05, 12), brief=False,
    ),
    Scenario(
        name="macvlan-stream",
        title="macvlan, tc, TCP stream, default offloads",
        unit="Gb/s", scale=1e9, cpu_per="kB",
        paths=on_segment(
            (_kernel(""), _pydp("tc"), paths.bare_tc("redirect"), paths.bare_tc("peer")),
            tcp_stream,
        ),
        comparisons=(
            Comparison("pydp", ("kernel",)),
            Comparison("pydp", ("kernel",), per_cpu=True),
            Comparison("pydp", ("redirect", "peer")),
        ),
        full=Plan(12, 1, 6), quick=Plan(5, 0.3, 1), brief=False,
    ),
)  # fmt: skip
