# SPDX-License-Identifier: Apache-2.0
"""Mode nat by test run: what the conntrack table knows of a flow, for how long, and who goes when it is full."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pydp.modes.fdb import TICK
from pydp.services.text import parse_backends, parse_service
from tests.datapath.conftest import MakeNat
from tests.datapath.harness import DROP, PASS
from tests.datapath.nat_net import (
    FIRST,
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
from tests.datapath.nat_rig import Flow, NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

OPEN = ">S <SA >A"
# Segments (> from the client), and state, class and seconds that the flow is left with: nf_conntrack_proto_tcp.c.
STATES = [
    (">S", "SYN_SENT", "NEW", 120),
    (">S >S", "SYN_SENT", "NEW", 120),
    (">S <SA", "SYN_RECV", "NEW", 60),
    (">S <SA <SA", "SYN_RECV", "NEW", 60),
    (OPEN, "ESTABLISHED", "ASSURED", 432_000),
    (f"{OPEN} >PA <A <PA >A", "ESTABLISHED", "ASSURED", 432_000),
    (f"{OPEN} >S", "ESTABLISHED", "ASSURED", 432_000),
    (f"{OPEN} >FA", "FIN_WAIT", "CLOSING", 120),
    (f"{OPEN} >FA >FA", "FIN_WAIT", "CLOSING", 120),
    (f"{OPEN} >FA <A", "CLOSE_WAIT", "CLOSING", 60),
    (f"{OPEN} >FA <A <PA >A", "CLOSE_WAIT", "CLOSING", 60),
    (f"{OPEN} >FA <A <FA", "LAST_ACK", "CLOSING", 30),
    (f"{OPEN} >FA <FA", "LAST_ACK", "CLOSING", 30),
    (f"{OPEN} >FA <A <FA >A", "TIME_WAIT", "CLOSING", 120),
    (f"{OPEN} <FA >A >FA <A", "TIME_WAIT", "CLOSING", 120),
    (f"{OPEN} <FA >FA <A", "TIME_WAIT", "CLOSING", 120),
    (f"{OPEN} >FA <A <FA >A <R", "TIME_WAIT", "CLOSING", 120),
    (">S <RA", "CLOSE", "NEW", 10),
    (f"{OPEN} >R", "CLOSE", "CLOSING", 10),
    (f"{OPEN} <RA", "CLOSE", "CLOSING", 10),
    (f"{OPEN} <R >A", "ESTABLISHED", "ASSURED", 432_000),
    (f"{OPEN} <R >S", "SYN_SENT", "NEW", 120),
    (f"{OPEN} >FA <A <FA >A >S <SA >A", "ESTABLISHED", "ASSURED", 432_000),
    (">A", "ESTABLISHED", "NEW", 300),
    (">A <A", "ESTABLISHED", "NEW", 300),
    (">A <A >A", "ESTABLISHED", "ASSURED", 432_000),
    (">S <SA <FA", "FIN_WAIT", "NEW", 120),
]
UNTOUCHED = ("PASS_UNCLAIMED", PASS)
UDP = "udp:10.96.0.1:53=10.0.1.2:5353"


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Each CPU looks for room on its own."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def say(rig: NatRig, net: Net, segments: str) -> None:
    """Segments of one connection; each has to be sent on translated."""
    for one in segments.split():
        if "R" in one:
            rig.pause()  # the short way of the other side goes on for so long
        if one[0] == ">":
            check_forwarded(rig, segment(net.asked, one[1:]), WORLD, segment(net.given, one[1:]), FIRST)
        else:
            back, seen = net.given.inverse, net.asked.inverse
            check_forwarded(rig, segment(back, one[1:]), FIRST, segment(seen, one[1:]), WORLD)


def left(life: int) -> int:
    """Seconds, from ticks."""
    return round(life * TICK)


@pytest.mark.parametrize(("segments", "state", "kind", "seconds"), STATES, ids=[one[0] for one in STATES])
def test_states_of_tcp(nat: MakeNat, segments: str, state: str, kind: str, seconds: int) -> None:
    rig, net = nat(), NETS[4]
    net.serve(rig)
    say(rig, net, segments)
    (flow,) = rig.flows()
    assert (flow.state, flow.kind) == (state, kind)
    assert abs(flow.life - seconds / TICK) < 30


def test_times_of_udp(nat: MakeNat, net: Net) -> None:
    """As nf_conntrack: it has to be answered, and to go on for two seconds."""
    rig = nat()
    net.serve(rig, "udp")

    def ask() -> Flow:
        check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
        return rig.flows()[0]

    def answer() -> Flow:
        check_forwarded(rig, datagram(net.given.inverse), FIRST, datagram(net.asked.inverse), WORLD)
        return rig.flows()[0]

    begun = time.monotonic()
    young = [ask(), ask(), answer(), ask(), answer()]
    if time.monotonic() - begun < 1.8:
        assert {(one.state, one.kind, left(one.life)) for one in young} == {("YOUNG", "NEW", 30)}
    rig.age(2.5)
    for one in (answer(), ask(), answer()):
        assert (one.state, one.kind, left(one.life)) == ("OLD", "ASSURED", 120)


@pytest.mark.parametrize("seconds", [2.5, 20, 25])
def test_a_late_answer_alone_assures_nobody(nat: MakeNat, seconds: float) -> None:
    rig, net = nat(), NETS[4]
    net.serve(rig, "udp")
    check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
    rig.age(seconds)
    for kind, timeout in (("NEW", 30), ("ASSURED", 120)):
        check_forwarded(rig, datagram(net.given.inverse), FIRST, datagram(net.asked.inverse), WORLD)
        (flow,) = rig.flows()
        assert (flow.state, flow.kind, left(flow.life)) == ("OLD", kind, timeout)
        rig.pause()


@pytest.mark.parametrize("flags", ["R", "RA", "", "SF", "SFA", "F", "FA", "SA", "SR", "U", "P"])
def test_what_begins_no_connection(nat: MakeNat, net: Net, flags: str) -> None:
    """Without state nf_conntrack calls these invalid, and nobody translates them."""
    rig = nat()
    net.serve(rig)
    result = rig.send(arriving(segment(net.asked, flags), WORLD), WORLD)
    assert (outcome(result), result.frame) == (UNTOUCHED, arriving(segment(net.asked, flags), WORLD))
    assert rig.flows() == []


@pytest.mark.parametrize("flags", ["S", "SEC", "SU", "A", "PA", "AU"])
def test_what_begins_a_connection(nat: MakeNat, net: Net, flags: str) -> None:
    rig = nat()
    net.serve(rig)
    check_forwarded(rig, segment(net.asked, flags), WORLD, segment(net.given, flags), FIRST)
    assert len(rig.flows()) == 1
    assert rig.events() == ({"created": 1} if "S" in flags else {"created": 1, "picked_up": 1})


def test_a_reply_alone_begins_nothing(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig)
    frame = arriving(segment(net.given.inverse, "A"), FIRST)
    result = rig.send(frame, FIRST)
    assert (outcome(result), result.frame, rig.flows()) == (UNTOUCHED, frame, [])


def test_a_flow_that_is_over_begins_anew(nat: MakeNat, net: Net) -> None:
    rig = nat()
    net.serve(rig, "udp")
    for count in range(1, 4):
        check_forwarded(rig, datagram(net.asked), WORLD, datagram(net.given), FIRST)
        assert rig.events().get("created") == count
        rig.age(31)
        result = rig.send(arriving(datagram(net.given.inverse), FIRST), FIRST)
        assert outcome(result) == UNTOUCHED, "too late"
    assert [len(places) for places in rig.index().values()] == [2]


@pytest.mark.parametrize("end", [">FA <A <FA >A", ">FA <A <FA", "<R"], ids=["time-wait", "last-ack", "reset"])
def test_a_syn_after_the_end_is_a_connection_of_its_own(nat: MakeNat, net: Net, end: str) -> None:
    """It may get another backend than the one before, which gets no new connections any more."""
    rig = nat()
    service = parse_service(f"tcp:{net.end(net.vip, 80)}={net.end(net.backend, 8080)}")
    programmer = rig.serve(service)
    net.routes(rig)
    connect(rig, net)
    say(rig, net, end)
    programmer.apply({service.name: replace(service, backends=parse_backends(net.end(net.second, 8080)))})
    given = replace(net.given, dest=net.second)
    check_forwarded(rig, segment(net.asked, "S"), WORLD, segment(given, "S"), SECOND)
    check_forwarded(rig, segment(given.inverse, "SA"), SECOND, segment(net.asked.inverse, "SA"), WORLD)
    (flow,) = rig.flows()
    assert (flow.reply, flow.state) == (tuple_of(given.inverse), "SYN_RECV")
    assert rig.events()["created"] == 2


def test_accounting(nat: MakeNat, net: Net) -> None:
    rig = nat(options={"accounting": True})
    net.serve(rig)
    connect(rig, net)
    say(rig, net, ">PA <A")
    size = len(bytes(segment(net.asked)))
    (flow,) = rig.flows()
    assert (flow.packets, flow.bytes) == ((3, 2), (3 * size, 2 * size))


# The table is full


def udp_frames(source: str, count: int, first: int = 1024) -> list[bytes]:
    """Datagrams to the service from COUNT ports."""
    like = unsummed(Ends(source, 0, "10.96.0.1", 53), WORLD)
    return [ports_changed(like, sport=first + number) for number in range(count)]


def answered(rig: NatRig, source: str, count: int) -> list[bytes]:
    """So many flows of UDP that both sides were heard of; what their clients send."""
    frames = udp_frames(source, count)
    rig.sends(frames, WORLD)
    reply = unsummed(Ends("10.0.1.2", 5353, source, 0), FIRST)
    rig.sends([ports_changed(reply, dport=1024 + number) for number in range(count)], FIRST)
    return frames


def assured(rig: NatRig, count: int) -> list[bytes]:
    """So many flows that are assured; what their clients send."""
    frames = answered(rig, "198.51.100.7", count)
    rig.age(3)
    rig.sends(frames, WORLD)
    assert kinds(rig)["ASSURED"] == count
    return frames


def ended(rig: NatRig, count: int) -> None:
    """So many connections that were assured and are ending."""
    asked, given = Ends("198.51.100.8", 0, "10.96.0.1", 80), Ends("10.0.1.2", 8080, "198.51.100.8", 0)
    for flags, back in (("S", False), ("SA", True), ("A", False), ("FA", False)):
        like = arriving(segment(given if back else asked, flags), FIRST if back else WORLD)
        ports = range(1024, 1024 + count)
        frames = [ports_changed(like, dport=one) if back else ports_changed(like, sport=one) for one in ports]
        rig.sends(frames, FIRST if back else WORLD)
    assert kinds(rig)["CLOSING"] == count


def kinds(rig: NatRig) -> Counter[str]:
    """How many flows of each class live."""
    return Counter(flow.kind for flow in rig.flows())


def translated(rig: NatRig, frames: list[bytes]) -> int:
    """How many of them get to the backend."""
    backend = bytes([10, 0, 1, 2])
    return sum(frame[30:34] == backend for frame in rig.sends(frames, WORLD))


@pytest.mark.parametrize("kind", ["udp", "tcp", "answered"])
def test_a_flood_evicts_nobody_who_is_assured(nat_on: MakeNat, kind: str) -> None:
    rig = nat_on("tc")
    rig.serve(parse_service(UDP), parse_service("tcp:10.96.0.1:80=10.0.1.2:8080"))
    mine = assured(rig, 600)
    flood = udp_frames("203.0.113.9", 4000)
    if kind == "tcp":
        like = arriving(segment(Ends("203.0.113.9", 0, "10.96.0.1", 80), "S"), WORLD)
        flood = [ports_changed(like, sport=1024 + number) for number in range(4000)]
    if kind == "answered":
        answered(rig, "203.0.113.9", 4000)
    else:
        assert translated(rig, flood) > 3900
    assert len(rig.flows()) == 1024
    assert rig.events()["evicted"] > 3400
    assert translated(rig, mine) == 600
    assert kinds(rig)["ASSURED"] == 600


def test_a_table_full_of_connections_takes_no_more(nat: MakeNat) -> None:
    rig = nat()
    rig.serve(parse_service(UDP))
    mine = assured(rig, 1024)
    result = carry(rig, datagram(Ends("203.0.113.9", 1, "10.96.0.1", 53)), WORLD)
    assert outcome(result) == ("DROP_FULL", DROP)
    assert rig.events() == {"created": 1024, "full": 1}
    assert rig.maps["nat_failures"].sums() == {0: (0, 1, 0, 0)}
    assert translated(rig, mine) == 1024
    assert {len(places) for places in rig.index().values()} == {2}


def test_connections_that_end_make_room(nat_on: MakeNat) -> None:
    """For want of others; what is assured and goes on stays."""
    rig = nat_on("tc")
    rig.serve(parse_service(UDP), parse_service("tcp:10.96.0.1:80=10.0.1.2:8080"))
    mine = assured(rig, 512)
    ended(rig, 512)
    assert len(rig.flows()) == 1024
    assert translated(rig, udp_frames("203.0.113.9", 256)) >= 254
    assert rig.events()["evicted"] >= 254
    assert kinds(rig)["ASSURED"] == 512
    assert translated(rig, mine) == 512
    assert {len(places) for places in rig.index().values()} == {2}


def test_new_flows_make_room_before_connections_that_end(nat_on: MakeNat) -> None:
    rig = nat_on("tc")
    rig.serve(parse_service(UDP), parse_service("tcp:10.96.0.1:80=10.0.1.2:8080"))
    ended(rig, 512)
    translated(rig, udp_frames("198.51.100.9", 512))
    assert kinds(rig) == {"CLOSING": 512, "NEW": 512}
    assert translated(rig, udp_frames("203.0.113.9", 256)) == 256
    assert kinds(rig) == {"CLOSING": 512, "NEW": 512}


def test_room_is_found_behind_many_connections(nat_on: MakeNat) -> None:
    """Half of the table, one connection beside the other, is long-lived, and where to look next is in their midst."""
    rig = nat_on("tc")
    rig.serve(parse_service(UDP))
    assured(rig, 512)
    taken = [number for number, one in rig.maps["nat_flows"] if one.life]
    rig.maps["nat_hand"].set(0, behind_gap(taken))
    assert translated(rig, udp_frames("203.0.113.9", 256)) >= 254, "each window that is looked at is as likely as any"


def behind_gap(taken: list[int]) -> int:
    """The first of these numbers in a ring of 1024 behind the largest gap."""
    gaps = {one - before: one for before, one in zip([taken[-1] - 1024, *taken], taken, strict=False)}
    return gaps[max(gaps)]


def test_connections_whose_time_is_over_make_room(nat: MakeNat) -> None:
    rig = nat()
    rig.serve(parse_service(UDP))
    assured(rig, 1024)
    rig.age(121)
    assert translated(rig, udp_frames("203.0.113.9", 1024)) == 1024
    assert rig.events() == {"created": 2048, "expired": 1024}
    assert {len(places) for places in rig.index().values()} == {2}


def test_neighbouring_ports_do_not_crowd(nat_on: MakeNat) -> None:
    """A table that is full of one client's flows has room in the index for all of them, whatever their ports."""
    rig = nat_on("tc")
    rig.serve(parse_service(UDP))
    assert translated(rig, udp_frames("203.0.113.9", 10_000)) == 10_000
    assert rig.events() == {"created": 10_000, "evicted": 8976}


def test_frames_in_a_full_table_are_whole(nat: MakeNat) -> None:
    """What a flow that took another's record sends is its own."""
    rig = nat()
    rig.serve(parse_service(UDP))
    rig.route("10.0.1.2", FIRST)
    rig.route("198.51.100.7", WORLD)
    translated(rig, udp_frames("203.0.113.9", 1024))
    asked, given = Ends("198.51.100.7", 1234, "10.96.0.1", 53), Ends("198.51.100.7", 1234, "10.0.1.2", 5353)
    check_forwarded(rig, datagram(asked), WORLD, datagram(given), FIRST)
    result = carry(rig, datagram(given.inverse), FIRST)
    assert result.frame == sent_on(datagram(asked.inverse), WORLD)
