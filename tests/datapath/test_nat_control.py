# SPDX-License-Identifier: Apache-2.0
"""Ending flows: what is asked for goes, with its entries in the index, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ebpf.loader import load
from pydp.datapath.control import run_control, run_requests
from tests.datapath.frames import IP, UDP, Ether, IPv6, Raw
from tests.datapath.nat_rig import NatRig

pytestmark = pytest.mark.usefixtures("requires_root")

OUTSIDE, OUTSIDE6 = "198.51.100.7", "2001:db8:1::7"


@pytest.fixture(scope="module")
def made(requires_root: None) -> Iterator[NatRig]:
    with NatRig(options={"masquerade": ("10.0.1.0/24", "fd01::/64")}) as one:
        yield one


@pytest.fixture
def rig(made: NatRig) -> NatRig:
    """Flows of ten clients to the outside, five by each IP version."""
    made.reset()
    made.route(OUTSIDE, 0)
    made.route(OUTSIDE6, 0)
    for number in range(10):
        assert made.send(frame(number), 1).verdict == "FORWARD_NAT"
    assert len(made.flows()) == 10
    return made


def frame(number: int) -> bytes:
    ip = IPv6(src="fd01::2", dst=OUTSIDE6) if number % 2 else IP(src="10.0.1.2", dst=OUTSIDE)
    packet = Ether(dst="02:00:00:00:01:01", src="02:00:00:00:0b:01") / ip
    return bytes(packet / UDP(sport=1000 + number, dport=53) / Raw(b"x" * 20))


def ask(rig: NatRig, *requests: tuple[Any, ...]) -> list[int]:
    """Results of some requests."""
    compiled = rig.compiled("tc")
    maps = {name: rig.maps[name] for name in compiled.maps}
    with load(compiled, "nat_control", "tc", maps, constants=rig.written(0)) as program:
        if len(requests) <= 16:
            done = run_control(program, rig.maps["nat_requests"], rig.maps["nat_cursor"], requests)
            return [one.result for one in done]
        rig.maps["nat_requests"].update(dict(enumerate(requests)))
        run_requests(program, rig.maps["nat_cursor"], len(requests))
        return [one.result for _, one in rig.maps["nat_requests"]][: len(requests)]


def request(rig: NatRig, number: int, **changed: Any) -> tuple[Any, ...]:
    """A struct nat_request for a record."""
    one = rig.maps["nat_flows"].get(number)
    fields = {"original": one.original, "number": number, "protocol": one.protocol, "version": one.version, **changed}
    return (fields["original"], fields["number"], fields["protocol"], fields["version"], 0)


def ports(rig: NatRig) -> set[int]:
    return {one.original[1] for one in rig.flows()}


def numbers(rig: NatRig) -> list[int]:
    return [number for number, one in rig.maps["nat_flows"] if one.life]


def test_flows_go_with_their_entries_in_the_index(rig: NatRig) -> None:
    first, second, *others = numbers(rig)
    assert ask(rig, request(rig, first), request(rig, second)) == [1, 1]
    assert numbers(rig) == others
    assert sorted(rig.index()) == others
    assert all(len(places) == 2 for places in rig.index().values())


def test_a_record_that_is_another_flows_by_now_stays(rig: NatRig) -> None:
    one, other, *_ = numbers(rig)
    wrong = [
        request(rig, one, original=rig.maps["nat_flows"].get(other).original),
        request(rig, one, protocol=6),
        request(rig, one, version=10),
        request(rig, 0 if one else 1),
    ]
    assert ask(rig, *wrong) == [0, 0, 0, 0]
    assert len(rig.flows()) == 10


def test_asking_twice_is_asking_once(rig: NatRig) -> None:
    one = request(rig, numbers(rig)[0])
    assert ask(rig, one, one) == [1, 0]
    assert ask(rig, one) == [0]
    assert len(rig.flows()) == 9


def test_a_record_that_a_cpu_is_writing_stays(rig: NatRig) -> None:
    number = numbers(rig)[0]
    one = rig.maps["nat_flows"].get(number)
    busy = one._replace(life=1 << 32 | one.life & 0xFFFFFFFF)
    rig.maps["nat_flows"].set(number, busy)
    assert ask(rig, request(rig, number)) == [0]
    assert rig.maps["nat_flows"].get(number) == busy


def test_what_was_ended_begins_anew(rig: NatRig) -> None:
    before = rig.events()["created"]
    assert ask(rig, *(request(rig, number) for number in numbers(rig))) == [1] * 10
    assert rig.flows() == []
    assert rig.index() == {}
    assert rig.send(frame(0), 1).verdict == "FORWARD_NAT"
    assert ports(rig) == {1000}
    assert rig.events()["created"] == before + 1


def test_many_at_a_time(rig: NatRig) -> None:
    there = [request(rig, number) for number in numbers(rig)]
    found = ask(rig, *there, *[there[0]] * 4000)
    assert found[:10] == [1] * 10
    assert sum(found) == 10
    assert rig.index() == {}
