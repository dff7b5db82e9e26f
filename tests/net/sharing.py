# SPDX-License-Identifier: Apache-2.0
"""What the tests of devices that share a parent have in common: a host with the parent, what is outside of it, and its
children; and an exchange of frames between them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydp.lab import Capture, LabError, Namespace, Segment
from tests.net.bridging import BROADCAST, EXPERIMENT, mac

PARENT = "p0"  # of a segment, whose container 0 is outside
CHILDREN = 3
_END = bytes.fromhex("02000000fffe")  # source of the frame that comes last
NamespaceFactory = Callable[..., Namespace]


@dataclass(slots=True)
class Side:
    """Captures of one twin: number 0 is outside, the others are children."""

    captures: tuple[Capture, ...]
    ends: int = 0

    def exchange(self, sender: int, frame: bytes) -> list[list[bytes]]:
        """Send a frame from a capture; gives what arrived where.

        What ends it is a broadcast from outside that all children get: the kernel copies such frames in order, in its
        own time. Raises LabError when it does not arrive.
        """
        self.captures[sender].send(frame)
        self.ends += 1
        end = BROADCAST + _END + EXPERIMENT + self.ends.to_bytes(46, "big")
        self.captures[0].barrier()
        self.captures[0].send(end)
        outside = [one for one in self.captures[0].waiting() if one[6:12] != _END]
        return [outside, *(_until(capture, end) for capture in self.captures[1:])]


def _until(capture: Capture, end: bytes) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + 5
    while end not in found:
        if time.monotonic() > deadline:
            raise LabError("the frame that comes last did not arrive")
        found += capture.frames(1, timeout=0.2)
    return found[: found.index(end)]


@contextlib.contextmanager
def side(segment: Segment, children: Sequence[tuple[Namespace, str]]) -> Iterator[Side]:
    """The outside of a segment and devices of children, by namespace and name."""
    allowed = os.sched_getaffinity(0)
    outside = segment[0]
    with contextlib.ExitStack() as stack:
        os.sched_setaffinity(0, {min(allowed)})  # so that frames keep their order
        stack.callback(os.sched_setaffinity, 0, allowed)
        captures = [stack.enter_context(Capture(outside.ns, outside.dev, peer=(segment.sw, PARENT)))]
        captures += [stack.enter_context(Capture(ns, dev)) for ns, dev in children]
        yield Side(tuple(captures))


def containers(segment: Segment) -> list[tuple[Namespace, str]]:
    """The containers of our twin that are children."""
    return [(one.ns, one.dev) for one in segment.containers[1:]]


def kernel_children(
    segment: Segment, make: NamespaceFactory, kind: str, mode: str, count: int = CHILDREN, **options: bool
) -> list[tuple[Namespace, str]]:
    """Devices of KIND macvlan or ipvlan in namespaces of their own, with the MAC addresses of our containers."""
    found = []
    for number in range(1, count + 1):
        ns, name = make(**options), f"m{number}"
        own = ["address", mac(number).hex(":")] if kind == "macvlan" and mode != "passthru" else []
        segment.sw.run(["ip", "link", "add", "link", PARENT, "name", name, *own, "type", kind, "mode", mode])
        segment.sw.run(["ip", "link", "set", name, "netns", ns.name])
        ns.run(["ip", "link", "set", name, "name", "eth0"])
        ns.run(["ip", "link", "set", "eth0", "up", "allmulticast", "on"])
        found.append((ns, "eth0"))
    return found


def described(seen: Sequence[Sequence[bytes]]) -> list[list[str]]:
    """Frames by place in a form that a person can compare."""
    return [[f"{one[:22].hex(' ')} ({len(one)})" for one in frames] for frames in seen]
