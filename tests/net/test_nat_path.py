# SPDX-License-Identifier: Apache-2.0
"""A narrow link on the path: both ends hear of it through the router that translates, as with the kernel's nat."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.net.natting import KINDS, VIP, VIP6, Site, make_site
from tests.net.speaking import Complaint, Server, ask, complaint, outcome
from tests.net.tunnelling import NodesFactory, counter

_T = TypeVar("_T")

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

NARROW = 1400
PROBE = 3  # IP_PMTUDISC_PROBE: not to be fragmented, whatever is known of the path
FAMILIES = ("4", "6")
HOOKS = ("tc", "xdp")
STREAM = 2_000_000


@pytest.fixture(scope="module")
def sites(module_nodes: NodesFactory) -> Iterator[dict[str, Site]]:
    """By who translates: the router is before the narrow link, the host outside behind it."""
    with contextlib.ExitStack() as stack:
        found = {}
        for kind in KINDS:
            site = found[kind] = make_site(module_nodes, kind, n=2, containers=1, router_mtu=NARROW)
            first, second = site.made.middle
            for ns, gateways in ((first, ("198.18.0.1", "2001:db8::1")), (second, ("198.19.0.1", "2001:db8:ffff::1"))):
                for prefix, gateway in zip(("10.96.0.0/12", "fd96::/64"), gateways, strict=True):
                    ns.run(["ip", "-6" if ":" in prefix else "-4", "route", "add", prefix, "via", gateway])
            for ns in (first, second):
                ns.sysctl("ipv4.icmp_ratelimit", 0)
                ns.sysctl("ipv6.icmp.ratelimit", 0)
            one = site.inside[0]
            ends = [(one.ns, "c0", one.address4, one.address6)]
            ends.append((site.outside, "outside", site.made[1].address4, site.made[1].address6))
            for ns, name, *addresses in ends:
                for addr in addresses:
                    stack.enter_context(Server(ns, name, addr))
            services = [
                f"{proto}:{front}:80={back}:8080"
                for proto in ("tcp", "udp")
                for front, back in ((VIP, one.address4), (f"[{VIP6}]", f"[{one.address6}]"))
            ]
            stack.enter_context(site.nat(service=tuple(services)))
        yield found


def vip(family: str) -> str:
    return VIP if family == "4" else VIP6


def outside(site: Site, family: str) -> str:
    return site.made[1].address4 if family == "4" else site.made[1].address6


def both(sites: dict[str, Site], hook: str, work: Callable[[Site], _T]) -> _T:
    theirs, ours = work(sites["kernel"]), work(sites[hook])
    assert ours == theirs
    return ours


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", HOOKS)
def test_streams_do_not_stall(sites: dict[str, Site], hook: str, family: str) -> None:
    """Up and down, to a service and under masquerade. Each end hears of the narrow link once, or so."""
    site = sites[hook]
    for ns, addr, port in ((site.outside, vip(family), 80), (site.inside[0].ns, outside(site, family), 8080)):
        before = [counter(one, "Tcp", "RetransSegs") for one in (site.outside, site.inside[0].ns)]
        ask(ns, addr, port, size=STREAM)
        after = [counter(one, "Tcp", "RetransSegs") for one in (site.outside, site.inside[0].ns)]
        assert max(now - then for now, then in zip(after, before, strict=True)) < 200


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", HOOKS)
def test_who_is_told_of_the_narrow_link(sites: dict[str, Site], hook: str, family: str) -> None:
    """A datagram too long, that must not be fragmented: the sender hears it, about where it sent it."""

    def told(site: Site) -> list[Complaint | None]:
        source = ("0.0.0.0" if family == "4" else "::", 27000)
        return [
            complaint(ns, addr, port, size=1450, discover=PROBE, source=source)
            for ns, addr, port in (
                (site.outside, vip(family), 80),
                (site.inside[0].ns, outside(site, family), 8080),
            )
        ]

    for one in both(sites, hook, told):
        assert one is not None
        assert (one.error, one.info) == ("EMSGSIZE", NARROW)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", HOOKS)
def test_fragments_on_the_way(sites: dict[str, Site], hook: str, family: str) -> None:
    """Datagrams that are cut up by their sender, or by routers in between."""

    def spoken(site: Site) -> list[str]:
        found = []
        for size in (1300, 1372, 1373, 1450, 1472, 3000, 8000):
            for ns, addr, port in ((site.outside, vip(family), 80), (site.inside[0].ns, outside(site, family), 8080)):
                for _ in range(3):  # the path may be news to either end
                    said = outcome(ns, addr, port, proto="udp", size=size, patience=0.5)
                    if not isinstance(said, str):
                        break
                found.append(said if isinstance(said, str) else said.server)
        return found

    assert set(both(sites, hook, spoken)) == {"c0", "outside"}
