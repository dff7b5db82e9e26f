# SPDX-License-Identifier: Apache-2.0
"""Ways from one container to the other: the kernel's bridge, pydp, and the bare hook."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ebpf.attach import attach
from ebpf.loader import load
from pydp.bench import programs
from pydp.datapath import Datapath, Instance, Request
from pydp.lab import Container, Namespace, Segment

PREFIX = "pydp-bench-"
# What XDP on a veth needs of the container (pydp.datapath.hooks): checksums filled in, tags in the frame, NAPI.
XDP_OFFLOADS = {"tx": False, "txvlan": False, "gro": True}

Build = Callable[[Segment, ExitStack], object]


@dataclass(frozen=True, slots=True)
class Path:
    """One way. ``build`` makes it on a segment whose ports are bridged by the kernel or loose; ``port_polls`` says
    that there is an XDP program on the ports, so that they take frames of the generator as they are.
    """

    name: str
    title: str
    build: Build
    kernel_bridge: bool = False
    port_polls: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What the containers of a scenario are like."""

    offloads: Mapping[str, bool] = field(default_factory=dict)
    mtu: int = 1500


def make_segment(path: Path, shape: Shape, stack: ExitStack) -> Segment:
    """Two containers and the way between them, for as long as STACK. Raises PydpError, EbpfError, OSError."""
    segment = stack.enter_context(
        Segment(2, prefix=PREFIX, kernel_bridge=path.kernel_bridge, offloads=shape.offloads, mtu=shape.mtu)
    )
    path.build(segment, stack)
    return segment


def kernel() -> Path:
    """A Linux bridge. Its frames do not pass through iptables (bridge-nf-call-iptables 0)."""
    return Path("kernel", "kernel bridge", _nothing, kernel_bridge=True)


def pydp(hook: str, *, counters: bool = True, options: Mapping[str, Any] | None = None, name: str = "") -> Path:
    """`pydp attach --mode bridge` on the two ports, with no kernel bridge."""
    title = f"pydp --hook {hook}" + ("" if counters else ", counters off")
    build = functools.partial(attach_pydp, hook=hook, counters=counters, options=options or {})
    return Path(name or "pydp", title, build, port_polls=hook == "xdp")


def bare_xdp(how: str) -> Path:
    """XDP that sends everything out of the other port: "redirect" by its number, "devmap" by a device map."""
    title = {"redirect": "bare XDP bpf_redirect", "devmap": "bare XDP redirect_map"}[how]
    return Path(how, title, functools.partial(_bare, hook="xdp", program=f"limit_{how}"), port_polls=True)


def bare_tc(how: str) -> Path:
    """tc that does so: "redirect" to the port, "peer" to the device in the container."""
    title = {"redirect": "bare tc bpf_redirect", "peer": "bare tc bpf_redirect_peer"}[how]
    return Path(how, title, functools.partial(_bare, hook="tc", program=f"limit_{how}"))


def attach_pydp(
    segment: Segment, stack: ExitStack, *, hook: str, counters: bool = True, options: Mapping[str, Any] | None = None
) -> tuple[Datapath, Instance]:
    """Attach mode bridge to the ports of a segment until STACK ends. Raises PydpError, EbpfError."""
    datapath = segment.sw.call(Datapath)
    request = Request("bridge", segment.ports, hook=hook, counters=counters, options=options or {})
    instance = segment.sw.call(datapath.attach, request)
    stack.callback(segment.sw.call, datapath.detach, [instance.name])
    return datapath, instance


def _nothing(segment: Segment, stack: ExitStack) -> None:
    """The kernel's bridge is part of the segment."""


def _bare(segment: Segment, stack: ExitStack, *, hook: str, program: str) -> None:
    one, other = segment.containers
    for inward, outward in _ways(one, other):
        redirect(segment.sw, stack, hook, program, inward.port, outward.port)


def _ways(one: Container, other: Container) -> Iterable[tuple[Container, Container]]:
    return (one, other), (other, one)


def redirect(ns: Namespace, stack: ExitStack, hook: str, program: str, inward: str, outward: str) -> None:
    """Send all that comes in by one device of a namespace out of another, by a PROGRAM of limit_HOOK.c. Raises
    EbpfError, OSError.
    """
    source = programs.compiled(f"limit_{hook}")
    maps = programs.create_maps(source, program, stack)
    target = ns.ifindex(outward)
    if "limit_device" in maps:
        ns.call(maps["limit_device"].set, 0, target)  # a device map takes devices of the caller's
    loaded = stack.enter_context(load(source, program, hook, maps, constants={0: target}))
    link = ns.call(attach, loaded, ns.ifindex(inward), hook, name=inward)
    stack.callback(ns.call, link.detach)
