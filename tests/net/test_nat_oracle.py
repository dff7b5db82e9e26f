# SPDX-License-Identifier: Apache-2.0
"""The kernel's nat table as oracle: twin routers, one with rules of iptables, the other with mode nat, get the same
traffic, and both ends of it must see the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from pydp.lab import Namespace, ping
from tests.net.natting import KINDS, VIP, VIP6, Site, make_site
from tests.net.speaking import Complaint, Seen, Server, ask, complaint, outcome
from tests.net.tunnelling import NodesFactory, counter

_T = TypeVar("_T")

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

PROTOCOLS = ("tcp", "udp")
FAMILIES = ("4", "6")
HOOKS = ("tc", "xdp")
CLIENTS = ("outside", "c0", "c1", "host")
# By port of the service's address: who answers.
STREAM = 20_000_000
ANSWERS = {80: "c0", 81: "c1", 82: "other", 83: "host", 84: "nobody"}


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """The router translates for all services of these tests, and everybody who is to answer them does."""
    container0, container1 = site.inside
    ends = {
        "c0": (container0.ns, container0.address4, container0.address6),
        "c1": (container1.ns, container1.address4, container1.address6),
        "other": (site.other, site.made[2].address4, site.made[2].address6),
        "host": (site.router, site.node.address4, site.node.address6),
    }
    services, tables, forward, redirect = list[str](), list[dict[str, object]](), list[str](), list[str]()
    with contextlib.ExitStack() as stack:
        for name, (ns, v4, v6) in ends.items():
            for addr in (v4, v6):
                stack.enter_context(Server(ns, name, addr))
        for port, name in ANSWERS.items():
            _, v4, v6 = ends.get(name, (None, "", ""))
            for proto in PROTOCOLS:
                fronts = {
                    f"{proto}:{VIP}:{port}": v4 and f"{v4}:8080",
                    f"{proto}:[{VIP6}]:{port}": v6 and f"[{v6}]:8080",
                }
                for front, back in fronts.items():
                    if name == "other":
                        tables.append({"frontends": [front], "backends": [back], "masquerade": True})
                    else:
                        services.append(f"{front}={back}")
        for proto in PROTOCOLS:
            services += [
                f"{proto}:{VIP}:85={container0.address4}:8070",
                f"{proto}:[{VIP6}]:85=[{container0.address6}]:8070",
            ]
            forward.append(f"{proto}:8090={container0.address4}:8080,[{container0.address6}]:8080")
            redirect.append(f"{proto}:8091=8080")
        stack.enter_context(
            site.nat(service=tuple(services), tables=tables, forward=tuple(forward), redirect=tuple(redirect))
        )
        yield site


@pytest.fixture(scope="module")
def sites(module_nodes: NodesFactory) -> Iterator[dict[str, Site]]:
    """By who translates."""
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(serving(make_site(module_nodes, kind))) for kind in KINDS}


def who(site: Site, name: str) -> Namespace:
    return {
        "outside": site.outside, "other": site.other, "host": site.router,
        "c0": site.inside[0].ns, "c1": site.inside[1].ns,
    }[name]  # fmt: skip


def both(sites: dict[str, Site], hook: str, work: Callable[[Site], _T]) -> _T:
    """What WORK gives with either: the same."""
    theirs, ours = work(sites["kernel"]), work(sites[hook])
    assert ours == theirs
    return ours


def vip(family: str) -> str:
    return VIP if family == "4" else VIP6


def address(site: Site, name: str, family: str) -> str:
    if name in ("c0", "c1"):
        container = site.inside[int(name[1])]
        return container.address4 if family == "4" else container.address6
    node = site.made[{"host": 0, "outside": 1, "other": 2}[name]]
    return node.address4 if family == "4" else node.address6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_who_speaks_to_whom(sites: dict[str, Site], hook: str, proto: str, family: str) -> None:
    """Every client, every service: who answers, and as whom each sees the other."""
    addr = VIP if family == "4" else VIP6
    anyone, first = "0.0.0.0" if family == "4" else "::", 21000 + 1000 * HOOKS.index(hook)

    def spoken(site: Site) -> dict[tuple[str, int], Seen | str]:
        return {
            (name, port): outcome(
                who(site, name), addr, port, proto=proto, source=(anyone, first + port + 100 * CLIENTS.index(name))
            )
            for name in CLIENTS
            for port in ANSWERS
            if (proto, family, port) != ("tcp", "6", 84) or name == "outside"  # a second each: ICMPv6 is believed late
        }

    theirs, ours = spoken(sites["kernel"]), spoken(sites[hook])
    for (name, port), said in ours.items():
        if ANSWERS[port] == "nobody":
            assert said == "ECONNREFUSED", (name, port)
        else:
            assert isinstance(said, Seen), (name, port, said)
            assert said.server == ANSWERS[port], (name, port, said)
    # What is meant to differ: the host as client of itself seems to be the service, and a datagram of its own that is
    # refused is refused by an answer, where netfilter does not let it be sent.
    itself = [one for one in (ours.pop(("host", 83)), theirs.pop(("host", 83))) if isinstance(one, Seen)]
    assert [one.peer for one in itself] == [addr, address(sites[hook], "host", family)]
    if proto == "udp":
        assert theirs.pop(("host", 84)) == "EPERM"
        del ours["host", 84]
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize("hook", HOOKS)
def test_ports_of_the_host(sites: dict[str, Site], hook: str, proto: str, family: str) -> None:
    """Forwarded to a container, or to another port of the host."""
    anyone, first = "0.0.0.0" if family == "4" else "::", 23000 + 100 * HOOKS.index(hook)

    def spoken(site: Site) -> dict[tuple[str, int], Seen | str]:
        host = address(site, "host", family)
        return {
            (name, port): outcome(
                who(site, name), host, port, proto=proto, source=(anyone, first + 10 * number + port % 10)
            )
            for number, name in enumerate(("outside", "c0", "c1"))
            for port in (8090, 8091)
        }

    theirs, ours = spoken(sites["kernel"]), spoken(sites[hook])
    for (_, port), said in ours.items():
        assert isinstance(said, Seen), ours
        assert said.server == {8090: "c0", 8091: "host"}[port], ours
    for name in ("c0", "c1"):  # they are given the address that they asked for, not that of the device they are at
        assert theirs.pop((name, 8091)) == "ECONNREFUSED"
        del ours[name, 8091]
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", HOOKS)
def test_masquerade(sites: dict[str, Site], hook: str, family: str) -> None:
    """Who is spoken to outside sees the router, and the port that the client has."""
    port, anyone = 24000 + 10 * HOOKS.index(hook), "0.0.0.0" if family == "4" else "::"

    def spoken(site: Site) -> dict[tuple[str, str], Seen | str]:
        return {
            (name, proto): outcome(
                who(site, name),
                address(site, "other", family),
                8080,
                proto=proto,
                source=(anyone, port + 1000 * number),
            )
            for number, name in enumerate(("c0", "c1"))
            for proto in PROTOCOLS
        }

    for said in both(sites, hook, spoken).values():
        assert isinstance(said, Seen)
        assert said.peer == address(sites[hook], "host", family)
    for site in (sites["kernel"], sites[hook]):
        for name in ("c0", "c1"):
            assert ping(who(site, name), address(site, "other", family), count=5, size=1200).lost == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", HOOKS)
def test_what_routers_and_hosts_complain_of(sites: dict[str, Site], hook: str, family: str) -> None:
    """A hop too few, a port that nobody listens at, behind a service's address and behind the router."""
    anyone = "0.0.0.0" if family == "4" else "::"
    closed = 8070  # as 8080, but with nobody there

    def complained(site: Site) -> dict[str, Complaint | None]:
        first = 30000 + 100 * HOOKS.index(hook)

        def told(number: int, name: str, addr: str, port: int, ttl: int = 64) -> Complaint | None:
            return complaint(who(site, name), addr, port, ttl=ttl, source=(anyone, first + number))

        other = address(site, "other", family)
        return {
            "a client's hop too few": told(0, "outside", vip(family), 80, ttl=1),
            "a container's hop too few": told(1, "c0", other, 8080, ttl=1),
            "a container's, on its way to a service": told(2, "c1", vip(family), 80, ttl=1),
            "nobody there, outside": told(3, "c0", other, closed),
            "nobody there, behind a service": told(4, "outside", vip(family), 85),
            "nobody there, behind a service, for a container": told(5, "c1", vip(family), 85),
            "nobody there, behind a service, for the host": told(6, "host", vip(family), 85),
            "no backend": told(7, "outside", vip(family), 84),
            "no backend, for a container": told(8, "c0", vip(family), 84),
        }

    theirs, ours = complained(sites["kernel"]), complained(sites[hook])
    # What the router has to say itself is said by its own address; netfilter makes it come from the service's.
    for what, device in {"a client's hop too few": "eth0", "a container's, on its way to a service": "p1"}.items():
        one, other = ours.pop(what), theirs.pop(what)
        assert one
        assert other
        assert one.offender in sites[hook].router.run(["ip", "addr", "show", "dev", device]).stdout
        assert one._replace(offender=other.offender) == other
        assert other.offender == vip(family)
    assert ours == theirs
    assert {one.error for one in ours.values() if one} == {"EHOSTUNREACH", "ECONNREFUSED"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["outside", "c0", "c1", "host"])
@pytest.mark.parametrize("hook", HOOKS)
def test_streams(sites: dict[str, Site], hook: str, name: str, family: str) -> None:
    """With the offloads that the devices have: whole, and hardly anything is sent twice."""
    ns = who(sites[hook], name)
    before = counter(ns, "Tcp", "RetransSegs")
    for port in (80, 82):
        ask(ns, vip(family), port, size=STREAM)
    assert counter(ns, "Tcp", "RetransSegs") - before < 2 * STREAM / 1448 / 20


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["outside", "c0", "c1", "host"])
@pytest.mark.parametrize("hook", HOOKS)
def test_datagrams_of_every_size(sites: dict[str, Site], hook: str, name: str, family: str) -> None:
    """Also those that are sent in fragments, and answered so."""
    site = sites[hook]
    for port in (80, 82):
        for size in (0, 1, 7, 100, 1400, 1443, 1452, 1472, 1473, 1500, 2000, 2959, 4000, 9000):
            said = outcome(who(site, name), vip(family), port, proto="udp", size=size)
            assert isinstance(said, Seen), (port, size, said)
