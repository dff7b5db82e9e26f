# SPDX-License-Identifier: Apache-2.0
"""What the tests of mode bridge in namespaces share: attach and detach around a block, counters, frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pydp import fdb
from pydp.datapath import Datapath, Reader, Request
from pydp.datapath.state import Instance
from pydp.lab import Namespace, Segment

SegmentFactory = Callable[..., Segment]

# What a container's eth0 needs before XDP may take its port's frames (pydp/datapath/hooks.py).
XDP_OFFLOADS = {"tx": False, "txvlan": False, "gro": True}
OFFLOADS: dict[str, dict[str, bool]] = {"tc": {}, "xdp": XDP_OFFLOADS, "xdp-generic": XDP_OFFLOADS}

BROADCAST = b"\xff" * 6
EXPERIMENT = b"\x88\xb6"  # ethertype for local use that nothing answers (IEEE 802)


def mac(number: int) -> bytes:
    """Address of the container of that number in every segment."""
    return bytes([2, 0, 0, 0, 0, number + 1])


def port_mac(number: int) -> bytes:
    """Address of that port of every segment: one of the switch's own."""
    return bytes([2, 0, 0, 1, 0, number + 1])


def frame(dest: bytes, source: bytes, payload: bytes = bytes(46), *, tags: str = "") -> bytes:
    """An Ethernet frame of no protocol; TAGS in hex, such as "8100 0005"."""
    return dest + source + bytes.fromhex(tags) + EXPERIMENT + payload


def attach(ns: Namespace, *interfaces: str, mode: str = "bridge", hook: str = "tc", **request: Any) -> Instance:
    """Attach in a namespace; REQUEST as Request takes it (name, options, counters)."""
    return ns.call(lambda: Datapath().attach(Request(mode, interfaces, hook=hook, **request)))


def detach(ns: Namespace, *names: str) -> list[str]:
    return ns.call(lambda: Datapath().detach(names or None))


@contextlib.contextmanager
def attached(
    ns: Namespace, *interfaces: str, mode: str = "bridge", hook: str = "tc", **request: Any
) -> Iterator[Instance]:
    """Attached for the length of a block; whatever the test attached besides goes too."""
    instance = attach(ns, *interfaces, mode=mode, hook=hook, **request)
    try:
        yield instance
    finally:
        if ns.call(lambda: Datapath().read().instances):
            detach(ns)


def verdicts(ns: Namespace, *, hook: str = "", instance: str = "") -> dict[tuple[str, str], int]:
    """Packets so far by (port, verdict), the verdict as in "forward_port"; of one hook or instance, or of all."""

    def read() -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        with Reader.open(Datapath()) as reader:
            for one in reader.verdicts():
                if hook in ("", one.hook) and instance in ("", one.instance):
                    key = (one.device, f"{one.kind}_{one.reason}")
                    found[key] = found.get(key, 0) + one.packets
        return found

    return ns.call(read)


def count(ns: Namespace, verdict: str, *, port: str = "", hook: str = "") -> int:
    """Packets with a verdict so far, on one port or on all."""
    found = verdicts(ns, hook=hook)
    return sum(packets for (device, name), packets in found.items() if name == verdict and port in ("", device))


def addresses(ns: Namespace, instance: Instance) -> dict[tuple[bytes, int], str]:
    """{(address, VLAN): port} of what an instance has learned or was told, this host's addresses left out."""

    def read() -> dict[tuple[bytes, int], str]:
        with Reader.open(Datapath()) as reader:
            return {(row.mac, row.vid): row.device for row in fdb.rows(reader, instance) if not row.local}

    return ns.call(read)


def flush(ns: Namespace, instance: Instance) -> int:
    """Forget what was learned; gives how many addresses."""
    return ns.call(lambda: fdb.flush(Datapath(), instance))


def kernel_flush(segment: Segment) -> None:
    """Make the kernel bridge of a segment forget what it has learned."""
    segment.sw.ipr().link("set", index=segment.bridge_index, kind="bridge", br_fdb_flush=b"")


def set_flag(ns: Namespace, flag: str, *ports: str, value: str = "on") -> None:
    """Set a flag of kernel bridge ports, by its name in bridge(8)."""
    for port in ports:
        ns.run(["bridge", "link", "set", "dev", port, flag, value])
