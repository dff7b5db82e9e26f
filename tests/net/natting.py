# SPDX-License-Identifier: Apache-2.0
"""What the tests of mode nat in namespaces share: a router that translates, by pydp or by the kernel's nat table, with
containers behind it and hosts outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.datapath import Datapath, Request
from pydp.datapath.state import Instance
from pydp.lab import Container, Namespace, Node, Nodes
from pydp.services.attach import prepared
from pydp.services.files import from_tables
from pydp.services.text import parse_forward, parse_redirect, parse_service
from tests.net.bridging import detach
from tests.net.iptabling import iptables
from tests.net.tunnelling import NodesFactory, lab_options, polled

KINDS = ("kernel", "tc", "xdp")  # who translates: iptables, or pydp with that hook
VIP, VIP6 = "10.96.0.1", "fd96::1"
BEHIND = ("10.20.0.0/16", "fd01:1::/32")  # the router's containers
_SERVICES = {"-4": "10.96.0.0/12", "-6": "fd96::/64"}  # addresses that nobody has
_PARSERS = {"service": parse_service, "forward": parse_forward, "redirect": parse_redirect}


@dataclass(frozen=True, slots=True)
class Site:
    """A lab of nodes, whose first one is the router: `outside` and `other` are hosts that know no way to its containers
    but the one to addresses of services. Its default route leads to `outside`.
    """

    made: Nodes
    kind: str

    @property
    def node(self) -> Node:
        return self.made[0]

    @property
    def router(self) -> Namespace:
        return self.made[0].ns

    @property
    def outside(self) -> Namespace:
        return self.made[1].ns

    @property
    def other(self) -> Namespace:
        return self.made[2].ns

    @property
    def inside(self) -> tuple[Container, ...]:
        return self.made[0].containers

    @property
    def ours(self) -> bool:
        """pydp translates, not the kernel."""
        return self.kind != "kernel"

    @contextlib.contextmanager
    def nat(
        self, *, masquerade: Sequence[str] | None = None, snat: Sequence[str] = (),
        tables: Sequence[Mapping[str, Any]] = (), interfaces: Sequence[str] | None = None, **options: Any,
    ) -> Iterator[Instance | None]:  # fmt: skip
        """Translate for the length of a block. OPTIONS as those of the mode, TABLES as in TOML. What is behind the
        router is masqueraded where it leaves by eth0, unless MASQUERADE says otherwise.
        """
        sources = [f"{prefix}@{self.node.dev}" for prefix in BEHIND] if masquerade is None else list(masquerade)
        if self.ours:
            given = {"masquerade": tuple(sources), "snat": tuple(snat), **options}
            ports = (self.node.dev, *self.node.ports) if interfaces is None else tuple(interfaces)
            try:
                yield attach(self.router, *ports, hook=self.kind, tables=tables, **given)
            finally:
                detach(self.router)
            return
        services = [parse(text) for key, parse in _PARSERS.items() for text in options.get(key, ())]
        with iptables(self.router, services + from_tables(list(tables), "test: "), sources, snat):
            yield None


def attach(
    ns: Namespace, *interfaces: str, hook: str = "tc", tables: Sequence[Mapping[str, Any]] = (), **options: Any
) -> Instance:
    """Attach mode nat in a namespace, as the command does it."""

    def work() -> Instance:
        request, services = prepared(Datapath(), Request("nat", interfaces, hook=hook, options=options), tables)
        return Datapath().attach(request, services)

    return ns.call(work)


def make_site(factory: NodesFactory, kind: str, **options: Any) -> Site:
    """OPTIONS are those of Nodes: three nodes with two containers each, IPv4 and IPv6, unless they say otherwise."""
    given = {"n": 3, "containers": 2, "routed": True, "underlay6": True, "ipv6": True, "container_mtu": 1500, **options}
    made = factory(given.pop("n"), given.pop("containers"), **given, **lab_options("xdp" if kind == "xdp" else "tc"))
    if kind == "xdp":
        polled(made)
    router = made[0]
    for name in ("all", router.dev):  # what comes in by eth0 and leaves by it is no matter of neighbours here
        router.ns.sysctl(f"ipv4.conf.{name}.send_redirects", 0)
    router.ns.sysctl("ipv4.conf.all.rp_filter", 1)  # strict, on every device
    router.ns.sysctl("ipv4.icmp_ratelimit", 0)
    router.ns.sysctl("ipv6.icmp.ratelimit", 0)
    for flag, prefix in _SERVICES.items():
        gateway = router.address4 if flag == "-4" else router.address6
        outer = made[1].address4 if flag == "-4" else made[1].address6
        if "router_mtu" not in options:
            for node in made.nodes[1:]:
                node.ns.run(["ip", flag, "route", "add", prefix, "via", gateway])
            router.ns.run(["ip", flag, "route", "add", "default", "via", outer])
    return Site(made, kind)
