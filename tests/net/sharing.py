# SPDX-License-Identifier: Apache-2.0
"""What the tests of devices that share a parent have in common: a host with the parent, what is outside of it, and its
children; and an exchange of frames between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydp.lab import Capture, LabError, Namespace, Segment
from tests.net.bridging import BROADCAST, EXPERIMENT, mac

PARENT = "p0"  # of a segment, whose container 0 is outside
CHILDREN = 3
END = bytes.fromhex("02000000fffe")  # source of the frame that comes last
HOST, HOST6 = "10.0.9.1", "fd00::9:1"
NamespaceFactory = Callable[..., Namespace]


def give_addresses(ns: Namespace, dev: str) -> None:
    """Addresses of the host itself, in the subnet of all others."""
    for key in ("all", "default", dev):
        ns.sysctl(f"ipv6.conf.{key}.disable_ipv6", 0)
        ns.sysctl(f"ipv6.conf.{key}.accept_dad", 0)
    ns.run(["ip", "address", "add", f"{HOST}/16", "dev", dev])
    ns.run(["ip", "address", "add", f"{HOST6}/64", "dev", dev, "nodad"])


def broadcast_end(number: int, child: int) -> tuple[bytes, bytes]:
    """The frame that comes last for a child, as it is sent from outside and as it arrives."""
    end = BROADCAST + END + EXPERIMENT + number.to_bytes(46, "big")
    return end, end


@dataclass(slots=True)
class Side:
    """Captures of one twin: number 0 is outside, the others are children. ``end``: the frames that come last."""

    captures: tuple[Capture, ...]
    end: Callable[[int, int], tuple[bytes, bytes]] = broadcast_end
    ends: int = 0

    def exchange(self, sender: int, frame: bytes) -> list[list[bytes]]:
        """Send a frame from a capture; gives what arrived where.

        What ends it is a frame from outside that each child gets, one for all where the kernel copies: that it does in
        order, in its own time. Raises LabError when it does not arrive.
        """
        try:
            self.captures[sender].send(frame)
        except OSError as error:  # so the kernel's ipvlan device tells its sender of what it drops
            if error.errno not in (errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise
        self.ends += 1
        ends = [self.end(self.ends, child) for child in range(1, len(self.captures))]
        self.captures[0].barrier()
        for sent in dict.fromkeys(sent for sent, _ in ends):
            self.captures[0].send(sent)
        seen = [_until(capture, arrived) for capture, (_, arrived) in zip(self.captures[1:], ends, strict=True)]
        # Only now: what a child sends to several goes out when it is copied, later (ipvlan_process_multicast()).
        self.captures[0].barrier()
        outside = [one for one in self.captures[0].waiting() if one[6:12] != END]
        return [outside, *seen]


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
    segment: Segment,
    make: NamespaceFactory,
    kind: str,
    mode: str,
    count: int = CHILDREN,
    *,
    flags: Sequence[str] = (),
    **options: bool,
) -> list[tuple[Namespace, str]]:
    """Devices of KIND macvlan or ipvlan in namespaces of their own. macvlan: with the MAC addresses of our
    containers.
    """
    found = []
    for number in range(1, count + 1):
        ns, name = make(**options), f"m{number}"
        own = ["address", mac(number).hex(":")] if kind == "macvlan" and mode != "passthru" else []
        segment.sw.run(["ip", "link", "add", "link", PARENT, "name", name, *own, "type", kind, "mode", mode, *flags])
        segment.sw.run(["ip", "link", "set", name, "netns", ns.name])
        ns.run(["ip", "link", "set", name, "name", "eth0"])
        ns.run(["ip", "link", "set", "eth0", "up", "allmulticast", "on"])
        found.append((ns, "eth0"))
    return found


def described(seen: Sequence[Sequence[bytes]]) -> list[list[str]]:
    """Frames by place in a form that a person can compare."""
    return [[f"{one[:22].hex(' ')} ({len(one)})" for one in frames] for frames in seen]
