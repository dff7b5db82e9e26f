# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: packets for services, there and back, whole frames as scapy has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pydp.services.model import Service
from pydp.services.text import parse_backends, parse_forward, parse_redirect, parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.frames import IPv6
from tests.datapath.harness import PASS, empty
from tests.datapath.nat_net import (
    FIRST,
    FORWARDED,
    NETS,
    SECOND,
    WORLD,
    Net,
    arriving,
    carry,
    check_forwarded,
    connect,
    datagram,
    outcome,
    ports_changed,
    segment,
    sent_on,
    tuple_of,
    unsummed,
)
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_packets import IPV4, IPV6, PORTLESS
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

PORTED = [
    (version, name)
    for version, builds in ((4, IPV4), (6, IPV6))
    for name in builds
    if not any(one in name for one in (*PORTLESS, "ICMP", "fragment")) or "atomic" in name
]
UNTOUCHED = ("PASS_UNCLAIMED", PASS)
HANDED_UP = ("PASS_NAT", PASS)
EIGHT = ",".join(f"10.0.1.{host}:8080" for host in range(1, 9))


# There and back


@pytest.mark.parametrize(("version", "name"), PORTED, ids=lambda one: str(one))
def test_there_and_back(nat: MakeNat, version: int, name: str) -> None:
    rig, net = nat(), NETS[version]
    build = {4: IPV4, 6: IPV6}[version][name]
    net.serve(rig, "sctp" if "SCTP" in name else "tcp" if "TCP" in name or name == "options" else "udp")
    for _ in range(2):
        there = check_forwarded(rig, build(net.asked), WORLD, build(net.given), FIRST)
        assert there.mode == rig.hook
    back = check_forwarded(rig, build(net.given.inverse), FIRST, build(net.asked.inverse), WORLD)
    assert back.mode == rig.hook
    (flow,) = rig.flows()
    assert (flow.original, flow.reply) == (tuple_of(net.asked), tuple_of(net.given.inverse))


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_several_backends(nat: MakeNat, net: Net, protocol: str) -> None:
    """Each of three gets some of the flows, whole frames as they should be, and answers as the service."""
    rig = nat()
    backends = [str(ip_address(net.backend) + number) for number in range(3)]
    ends = ",".join(net.end(one, 8080) for one in backends)
    rig.serve(parse_service(f"{protocol}:{net.end(net.vip, 80)}={ends}"))
    rig.route(net.client, WORLD)
    for one in backends:
        rig.route(one, FIRST)
    build = {4: IPV4, 6: IPV6}[net.version][protocol.upper()]
    found = Counter[str]()
    for sport in range(2000, 2040):
        empty(rig.maps["nat_ways"])  # every two seconds a packet is left to the kernel's neighbours
        asked = Ends(net.client, sport, net.vip, 80)
        frame = carry(rig, build(asked), WORLD).frame
        (backend,) = (one for one in backends if frame == sent_on(build(Ends(net.client, sport, one, 8080)), FIRST))
        given = Ends(net.client, sport, backend, 8080)
        check_forwarded(rig, build(asked), WORLD, build(given), FIRST)
        check_forwarded(rig, build(given.inverse), FIRST, build(asked.inverse), WORLD)
        found[backend] += 1
    assert len(found) == 3


def test_a_handshake(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    connect(rig, net)
    assert rig.events() == {"created": 1}
    (counts,) = rig.counts().values()
    sizes = [len(bytes(segment(net.asked, flags))) for flags in ("S", "A")]
    assert counts == (2, sum(sizes), 1, sizes[0], 1)


def test_other_ports_addresses_and_protocols_are_not_services(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    for packet in (
        segment(replace(net.asked, dport=81), "S"),
        segment(replace(net.asked, dest=net.second), "S"),
        datagram(net.asked),
    ):
        result = rig.send(arriving(packet, WORLD), WORLD)
        assert (outcome(result), result.frame) == (UNTOUCHED, arriving(packet, WORLD))
    assert rig.flows() == []


def test_a_way_that_is_not_known_leads_through_the_stack(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    rig.routes.clear()
    result = carry(rig, segment(net.asked, "S"), WORLD)
    assert (outcome(result), result.frame) == (HANDED_UP, arriving(segment(net.given, "S"), WORLD))


def test_a_neighbour_that_is_not_known_is_the_kernels(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    rig.route(net.backend, FIRST, ready=False)
    result = carry(rig, segment(net.asked, "S"), WORLD)
    assert (outcome(result), result.mode) == (FORWARDED, "tc")
    assert result.frame[14:] == sent_on(segment(net.given, "S"), FIRST)[14:]


# Every address of this host


def test_a_forwarded_port(nat: MakeNat, net: Net) -> None:
    rig = nat()
    rig.serve(parse_forward(f"tcp:8080={net.end(net.backend, 80)}"))
    net.routes(rig)
    for own in net.own:
        asked, given = replace(net.asked, dest=own, dport=8080), replace(net.given, dport=80)
        asked, given = replace(asked, sport=net.own.index(own) + 1), replace(given, sport=net.own.index(own) + 1)
        connect(rig, net, asked, given)
    another = segment(Ends(net.client, 1234, net.second, 8080), "S")
    assert outcome(rig.send(arriving(another, WORLD), WORLD)) == UNTOUCHED


def test_a_service_of_one_address_goes_before_that_of_all(nat: MakeNat, net: Net) -> None:
    rig = nat()
    rig.serve(
        parse_forward(f"tcp:80={net.end(net.second, 80)}"),
        parse_service(f"tcp:{net.end(net.own[0], 80)}={net.end(net.backend, 8080)}"),
    )
    net.routes(rig)
    connect(rig, net, replace(net.asked, dest=net.own[0]))
    other = replace(net.asked, dest=net.own[1])
    check_forwarded(rig, segment(other, "S"), WORLD, segment(replace(net.asked, dest=net.second), "S"), SECOND)


def test_redirect(nat: MakeNat, net: Net) -> None:
    """To a socket of this host: the stack gets it as it came, but for its port; what answers gets the port back."""
    rig = nat()
    rig.serve(parse_redirect("tcp:80=8080"))
    net.routes(rig)
    asked = replace(net.asked, dest=net.own[1])
    given = replace(asked, dport=8080)
    result = carry(rig, segment(asked, "S"), WORLD)
    assert (outcome(result), result.frame) == (HANDED_UP, arriving(segment(given, "S"), WORLD))
    result = rig.host(bytes(segment(given.inverse, "SA")), WORLD)
    assert (outcome(result), result.frame) == (HANDED_UP, bytes(segment(asked.inverse, "SA")))


# Another source for the backend


def test_hairpin(nat: MakeNat, net: Net) -> None:
    """A client that is its own service's backend would answer itself: it gets the request from this host."""
    rig = nat()
    net.serve(rig)
    asked, given = Ends(net.backend, 5000, net.vip, 80), Ends(net.own[FIRST], 5000, net.backend, 8080)
    check_forwarded(rig, segment(asked, "S"), FIRST, segment(given, "S"), FIRST)
    check_forwarded(rig, segment(given.inverse, "SA"), FIRST, segment(asked.inverse, "SA"), FIRST)
    check_forwarded(rig, segment(asked, "A"), FIRST, segment(given, "A"), FIRST)


def test_masquerade_of_a_service(nat: MakeNat, net: Net) -> None:
    rig = nat()
    text = f"tcp:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}"
    rig.serve(replace(parse_service(text), masquerade=True))
    net.routes(rig)
    connect(rig, net, given=Ends(net.own[FIRST], 1234, net.backend, 8080))


def test_one_client_port_and_two_services_with_one_backend(nat: MakeNat, net: Net) -> None:
    """What the backend answers must tell which service it was asked by: the second gets another client port."""
    rig = nat()
    back = net.end(net.backend, 8080)
    rig.serve(parse_service(f"tcp:{net.end(net.vip, 80)}={back}"), parse_service(f"tcp:{net.end(net.vip, 81)}={back}"))
    net.routes(rig)
    connect(rig, net)
    asked = replace(net.asked, dport=81)
    carry(rig, segment(asked, "S"), WORLD)
    (other,) = (flow for flow in rig.flows() if flow.original == tuple_of(asked))
    given = Ends(*other.reply).inverse
    assert given.source == net.client
    assert given.sport != 1234
    check_forwarded(rig, segment(given.inverse, "SA"), FIRST, segment(asked.inverse, "SA"), WORLD)
    check_forwarded(rig, segment(net.given.inverse, "PA"), FIRST, segment(net.asked.inverse, "PA"), WORLD)


# Which backend


def asked_by(rig: NatRig, frontend: str, clients: Sequence[tuple[str, int]]) -> list[str]:
    """Which backend each client (address and port) gets."""
    address, _, port = frontend.rpartition(":")
    like = {one: unsummed(Ends(one, 0, address, int(port)), WORLD) for one in {one for one, _ in clients}}
    frames = (ports_changed(like[one], sport=sport) for one, sport in clients)
    return [str(ip_address(frame[30:34])) for frame in rig.sends(frames)]


def ports_of(count: int, client: str = "198.51.100.7") -> list[tuple[str, int]]:
    return [(client, 1024 + number) for number in range(count)]


def chi_square(found: Counter[str], weights: dict[str, int]) -> float:
    total, whole = sum(found.values()), sum(weights.values())
    assert found.keys() <= weights.keys()
    expected = {one: total * weight / whole for one, weight in weights.items()}
    return sum((found[one] - many) ** 2 / many for one, many in expected.items())


def udp(backends: str, **fields: object) -> Service:
    return replace(parse_service(f"udp:10.96.0.1:53={backends}"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["random", "maglev"])
@pytest.mark.parametrize(("weights", "limit"), [([1] * 8, 29.9), ([1, 2, 5], 18.4)], ids=["even", "weighted"])
def test_distribution(nat_on: MakeNat, scheduler: str, weights: Sequence[int], limit: float) -> None:
    """LIMIT is what chi square exceeds once in 10,000 times with 7 and 2 degrees of freedom."""
    rig = nat_on("tc")
    ends = {f"10.0.1.{host}": weight for host, weight in enumerate(weights, 1)}
    rig.serve(udp(",".join(f"{end}:8080*{weight}" for end, weight in ends.items()), scheduler=scheduler))
    found = Counter(asked_by(rig, "10.96.0.1:53", ports_of(10_000)))
    assert chi_square(found, ends) < limit


def test_maglev_chooses_alike_on_every_machine(nat_on: MakeNat) -> None:
    chosen: dict[str, list[list[str]]] = {}
    for scheduler in ("maglev", "random"):
        for seed in (1, 2):
            rig = nat_on("tc", seed=seed)
            rig.serve(udp(EIGHT, scheduler=scheduler))
            chosen.setdefault(scheduler, []).append(asked_by(rig, "10.96.0.1:53", ports_of(300)))
    assert chosen["maglev"][0] == chosen["maglev"][1]
    assert chosen["random"][0] != chosen["random"][1]


def test_maglev_moves_few_when_a_backend_leaves(nat_on: MakeNat) -> None:
    """At most 2/N + 1 % of the flows, those of the backend that left included."""
    rig, clients = nat_on("tc"), ports_of(2000)
    rig.serve(udp(EIGHT, scheduler="maglev"))
    before = asked_by(rig, "10.96.0.1:53", clients)
    rig.reset()
    rig.serve(udp(EIGHT.replace("10.0.1.3:8080,", ""), scheduler="maglev"))
    after = asked_by(rig, "10.96.0.1:53", clients)
    assert "10.0.1.3" in before
    assert "10.0.1.3" not in after
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= (2 / 8 + 0.01) * len(clients)


def test_affinity(nat_on: MakeNat) -> None:
    rig = nat_on("tc")
    rig.serve(udp(EIGHT, affinity=1000.0))
    clients = [f"198.51.100.{host}" for host in range(1, 21)]

    def homes() -> dict[str, set[str]]:
        return {one: set(asked_by(rig, "10.96.0.1:53", [(one, next(port)) for _ in range(4)])) for one in clients}

    port = iter(range(1024, 65536))
    first = homes()
    assert {len(home) for home in first.values()} == {1}
    assert len(set.union(*first.values())) > 1
    rig.age(900)
    assert homes() == first, "within the timeout"
    rig.age(900)
    assert homes() == first, "each connection begins it anew"
    rig.age(1100)
    later = homes()
    assert {len(home) for home in later.values()} == {1}
    assert later != first, "all twenty at home where they were before"


def test_affinity_to_a_backend_that_leaves(nat_on: MakeNat) -> None:
    rig = nat_on("tc")
    service = udp("10.0.1.1:8080,10.0.1.2:8080", affinity=10.0)
    programmer = rig.serve(service)
    (home,) = set(asked_by(rig, "10.96.0.1:53", ports_of(10)))
    other = {"10.0.1.1": "10.0.1.2", "10.0.1.2": "10.0.1.1"}[home]
    programmer.apply({service.name: replace(service, backends=parse_backends(f"{other}:8080"))})
    assert set(asked_by(rig, "10.96.0.1:53", ports_of(20)[10:])) == {other}


def test_affinity_is_each_services_own(nat_on: MakeNat) -> None:
    rig = nat_on("tc")
    other = replace(parse_service("udp:10.96.0.2:53=10.0.2.2:8080"), affinity=10.0)
    rig.serve(udp("10.0.1.2:8080", affinity=10.0), other)
    assert asked_by(rig, "10.96.0.1:53", ports_of(1)) == ["10.0.1.2"]
    assert asked_by(rig, "10.96.0.2:53", ports_of(1)) == ["10.0.2.2"]


def test_a_weight_of_zero_gets_nothing(nat_on: MakeNat) -> None:
    rig = nat_on("tc")
    rig.serve(udp("10.0.1.1:8080*0,10.0.1.2:8080"))
    assert set(asked_by(rig, "10.96.0.1:53", ports_of(200))) == {"10.0.1.2"}


def test_ipv6_backends_are_for_ipv6_clients(nat_on: MakeNat) -> None:
    rig, net = nat_on("tc"), NETS[6]
    rig.serve(parse_forward(f"udp:53={net.end(net.backend, 8080)},10.0.1.2:8080"))
    frames = [arriving(datagram(Ends(net.client, port, net.own[0], 53)), WORLD) for port in range(1024, 1124)]
    assert {str(IPv6(frame[14:]).dst) for frame in rig.sends(frames)} == {net.backend}
