# SPDX-License-Identifier: Apache-2.0
"""What the tests of tunnels in namespaces share: one end made by pydp or by the kernel, and frames in between."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydp.datapath.state import Instance
from pydp.lab import Namespace, Node, Nodes
from tests.net.bridging import OFFLOADS, attached

NodesFactory = Callable[..., Nodes]

EVERY_SIZE = range(1, 9001)  # bytes of UDP payload
_WINDOW = 16  # datagrams under way: those of 9000 bytes are 112 fragments, and a veth's ring has 256 places
_PATIENCE = 2.0  # seconds without any of them
# IP_MTU_DISCOVER, IPV6_MTU_DISCOVER to IP_PMTUDISC_DONT (linux/in.h, linux/in6.h)
_DONT_DISCOVER = {socket.AF_INET: (socket.SOL_IP, 10, 0), socket.AF_INET6: (41, 23, 0)}


def lab_options(hook: str) -> dict[str, Any]:
    """Of Nodes, so that every device may have XDP with that hook."""
    offloads = OFFLOADS[hook]
    return {"offloads": offloads, "node_offloads": offloads, "middle_offloads": offloads} if offloads else {}


def polled(made: Nodes) -> Nodes:
    """Have the underlay take frames that XDP redirects. veth says so of a device only when its other end's GRO is
    switched on while that is up (veth_set_features)."""
    ends = [(ns, f"u{i}") for ns in made.middle for i in range(made.n)] + [(node.ns, node.dev) for node in made.nodes]
    for ns, dev in ends:
        ns.run(["ethtool", "-K", dev, "gro", "off"], check=False)
        ns.run(["ethtool", "-K", dev, "gro", "on"], check=False)
    return made


def others_of(made: Nodes, node: Node, *, ipv6: bool = False) -> tuple[str, ...]:
    """Underlay addresses of all other nodes."""
    return tuple(one.address6 if ipv6 else one.address4 for one in made.nodes if one is not node)


@contextlib.contextmanager
def pydp_end(
    made: Nodes, node: Node, *, hook: str = "tc", ipv6: bool = False, remote: Sequence[str] | None = None,
    **options: Any,
) -> Iterator[Instance]:  # fmt: skip
    """A node with mode vxlan on all its ports, VNI 100, all other nodes as VTEPs."""
    given = {
        "vni": 100,
        "local": node.address6 if ipv6 else node.address4,
        "remote": others_of(made, node, ipv6=ipv6) if remote is None else tuple(remote),
        "port": node.ports,
        **options,
    }
    with attached(node.ns, node.dev, mode="vxlan", hook=hook, options=given) as instance:
        yield instance


@contextlib.contextmanager
def ends(made: Nodes, kinds: Sequence[str], *, hook: str = "tc", ipv6: bool = False, **options: Any) -> Iterator[None]:
    """Every node as KINDS say, "pydp" or "kernel". OPTIONS are those of pydp's, df, ttl and tos of both."""
    shared = {key: value for key, value in options.items() if key in ("df", "ttl", "tos")}
    with contextlib.ExitStack() as stack:
        for node, kind in zip(made.nodes, kinds, strict=True):
            if kind == "pydp":
                stack.enter_context(pydp_end(made, node, hook=hook, ipv6=ipv6, **options))
            else:
                where = {"local": node.address6} if ipv6 else {}
                made.kernel_vxlan(node, **where, **shared)
                stack.callback(made.kernel_down, node)
        yield


def counter(ns: Namespace, protocol: str, name: str) -> int:
    """What a namespace's stack has counted so far, by the names of /proc/net/snmp: Tcp RetransSegs, Ip ReasmOKs."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = [line.split()[1:] for line in lines if line.startswith(f"{protocol}:")]
        return int(dict(zip(names, values, strict=True))[name])

    found: int = ns.call(read)
    return found


def send_sizes(
    source: Namespace, sink: Namespace, addr: str, sizes: Sequence[int] = EVERY_SIZE, *, may_fragment: bool = False
) -> None:
    """Send one UDP datagram of each size to ADDR, and none of them again: each must arrive once and as it was sent, or
    AssertionError names those that did not. Those that may be fragmented on the way have DF clear (IP_PMTUDISC_DONT).
    """
    noise = os.urandom(2 * max(sizes))
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    with sink.socket(family, socket.SOCK_DGRAM) as receiver, source.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((addr, 0))
        receiver.settimeout(_PATIENCE)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if may_fragment:
            sender.setsockopt(*_DONT_DISCOVER[family])
        sender.connect(receiver.getsockname()[:2])
        for at in range(0, len(sizes), _WINDOW):
            # The length tells which one it is; no two have the same bytes in the same place.
            waiting = {size: noise[size : 2 * size] for size in sizes[at : at + _WINDOW]}
            for payload in waiting.values():
                sender.send(payload)
            with contextlib.suppress(TimeoutError):
                while waiting:
                    found = receiver.recv(1 << 16)
                    assert waiting.pop(len(found), b"") == found, f"{len(found)} bytes to {addr}: twice, or not as sent"
            assert not waiting, f"UDP to {addr}: never arrived, of these sizes: {sorted(waiting)}"
        receiver.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            assert not receiver.recv(1 << 16), f"UDP to {addr}: one of the last came twice"
