# SPDX-License-Identifier: Apache-2.0
"""What the tests of tunnels in namespaces share: one end made by pydp or by the kernel, and frames in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydp.datapath.state import Instance
from pydp.lab import Node, Nodes
from tests.net.bridging import OFFLOADS, attached

NodesFactory = Callable[..., Nodes]


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


def retransmitted(ns: Any) -> int:
    """TCP segments that a namespace has sent again so far."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = [line.split()[1:] for line in lines if line.startswith("Tcp:")]
        return int(dict(zip(names, values, strict=True))["RetransSegs"])

    found: int = ns.call(read)
    return found
