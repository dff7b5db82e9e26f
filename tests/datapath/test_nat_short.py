# SPDX-License-Identifier: Apache-2.0
"""The short way of packets whose flow was just seen (bpf_src/nat/short.h): the same frames and counts as by the long
way, and only packets that it is for. What takes it is told by taking the conntrack table and the services away
meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.datapath import harness
from tests.datapath.frames import IP, UDP, IPOption_NOP, Packet, Raw
from tests.datapath.nat_net import (
    FIRST,
    FORWARDED,
    NETS,
    WORLD,
    arriving,
    check_forwarded,
    connect,
    datagram,
    outcome,
    segment,
    sent_on,
)
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_rig import Ends

pytestmark = pytest.mark.usefixtures("requires_root")

NET = NETS[4]
TRIES = 40  # a record is good for some milliseconds, which the test does not always meet
TABLE = ("nat_flows", "nat_index")
SERVICES = "nat_frontends"
LONG = b"0123456789" * 142


@pytest.fixture(scope="module")
def _rig() -> Iterator[NatRig]:
    with NatRig("xdp", takers=(0, 1, 2)) as made:
        yield made


@pytest.fixture
def rig(_rig: NatRig) -> NatRig:
    _rig.reset()
    return _rig


def taken_short(rig: NatRig, warm: bytes, frame: bytes, port: int) -> bytes | None:
    """FRAME as it was sent on without table and services right after WARM; None if it was not in any of the tries."""
    saved = {name: dict(rig.maps[name].items()) for name in (*TABLE, SERVICES)}
    empty = {name: rig.maps[name].spec.value.unpack(bytes(rig.maps[name].spec.value.size)) for name in TABLE}
    try:
        for _ in range(TRIES):
            assert outcome(rig.send(warm, port)) == FORWARDED
            for name in TABLE:
                rig.maps[name].update({key: empty[name] for key, value in saved[name].items() if value != empty[name]})
            harness.empty(rig.maps[SERVICES])
            result = rig.send(frame, port)
            rig.maps[SERVICES].update(saved[SERVICES])
            for name in TABLE:
                rig.maps[name].update({key: value for key, value in saved[name].items() if value != empty[name]})
            if outcome(result) == FORWARDED:
                return result.frame
    finally:
        for name, entries in saved.items():
            rig.maps[name].update(entries)
    return None


def question(ends: Ends, data: bytes = b"long enough to be looked at") -> Packet:
    return datagram(ends, data)


def served(rig: NatRig, protocol: str) -> Callable[[Ends], Packet]:
    """A service with a flow in the middle of its life; gives what makes its packets."""
    NET.serve(rig, protocol)
    if protocol == "tcp":
        connect(rig, NET)
        return segment
    check_forwarded(rig, question(NET.asked), WORLD, question(NET.given), FIRST)
    return question


WAYS = {
    "there": (NET.asked, WORLD, NET.given, FIRST),
    "back": (NET.given.inverse, FIRST, NET.asked.inverse, WORLD),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_same_frame(rig: NatRig, protocol: str, way: str) -> None:
    build = served(rig, protocol)
    came, port, leaves, to = WAYS[way]
    frame = arriving(build(came), port)
    assert taken_short(rig, frame, frame, port) == sent_on(build(leaves), to)


@pytest.mark.parametrize("data", [b"x", LONG], ids=["odd", "1420 bytes"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_any_length(rig: NatRig, protocol: str, data: bytes) -> None:
    build = served(rig, protocol)
    data = b"ten bytes!" + data
    packets = [
        segment(ends, data=data) if protocol == "tcp" else datagram(ends, data) for ends in (NET.asked, NET.given)
    ]
    warm = arriving(build(NET.asked), WORLD)
    assert taken_short(rig, warm, arriving(packets[0], WORLD), WORLD) == sent_on(packets[1], FIRST)


def test_a_checksum_that_becomes_zero(rig: NatRig) -> None:
    """Over UDP, 0 says that there is none: all bits set stand for it (RFC 768)."""
    served(rig, "udp")
    without = question(NET.given, b"ten bytes!" + bytes(2))
    missing = bytes(without[UDP])[6:8]  # with these two bytes more the checksum comes to 0
    expected = question(NET.given, b"ten bytes!" + missing)
    assert bytes(expected[UDP])[6:8] == b"\xff\xff"
    frame = arriving(question(NET.asked, b"ten bytes!" + missing), WORLD)
    assert taken_short(rig, frame, frame, WORLD) == sent_on(expected, FIRST)


def others() -> dict[str, bytes]:
    """Packets of the flow of TCP that the long way has to see."""
    found = {flags: arriving(segment(NET.asked, flags), WORLD) for flags in ("S", "FA", "R", "RA", "SA")}
    plain = segment(NET.asked)
    changes: dict[str, dict[str, Any]] = {
        "TTL 1": {"ttl": 1}, "more fragments": {"flags": "MF"}, "later fragment": {"frag": 5},
        "options": {"options": [IPOption_NOP()] * 4}, "length": {"len": 2000},
    }  # fmt: skip
    for name, fields in changes.items():
        packet = plain.copy()
        for field, value in fields.items():
            setattr(packet[IP], field, value)
        found[name] = arriving(packet, WORLD)
    to_another = bytearray(arriving(plain, WORLD))
    to_another[5] ^= 1
    found["another station"] = bytes(to_another)
    found["another port"] = arriving(segment(Ends(NET.client, 1235, NET.vip, 80)), WORLD)
    found["too long"] = arriving(plain / Raw(LONG + b"0" * 60), WORLD)
    return found


@pytest.mark.parametrize("name", others())
def test_not_for_this_way(rig: NatRig, name: str) -> None:
    served(rig, "tcp")
    assert taken_short(rig, arriving(segment(NET.asked), WORLD), others()[name], WORLD) is None


def test_no_checksum(rig: NatRig) -> None:
    served(rig, "udp")
    packet = question(NET.asked)
    packet[UDP].chksum = 0
    assert taken_short(rig, arriving(question(NET.asked), WORLD), arriving(packet, WORLD), WORLD) is None


def test_another_port_of_the_instance(rig: NatRig) -> None:
    served(rig, "tcp")
    assert outcome(rig.send(arriving(segment(NET.asked), WORLD), WORLD)) == FORWARDED
    assert rig.send(arriving(segment(NET.asked), WORLD), FIRST).verdict == "PASS_UNCLAIMED"


def test_counted_alike(rig: NatRig) -> None:
    """Packets and bytes of the backend, whichever way they took."""
    served(rig, "udp")
    frame, back = arriving(question(NET.asked), WORLD), arriving(question(NET.given.inverse), FIRST)
    for _ in range(20):
        rig.send(frame, WORLD)
        rig.send(back, FIRST)
    ((sent, sent_bytes, received, received_bytes, flows),) = rig.counts().values()
    assert (sent, sent_bytes) == (21, 21 * len(frame))
    assert (received, received_bytes) == (20, 20 * len(back))
    assert flows == 1


def test_what_was_found_is_forgotten_by_itself(rig: NatRig) -> None:
    """A backend that has gone, and a flow that is over, are noticed: records last for milliseconds."""
    served(rig, "tcp")
    frame = arriving(segment(NET.asked), WORLD)
    assert outcome(rig.send(frame, WORLD)) == FORWARDED
    rig.serve()
    time.sleep(0.2)
    assert rig.send(frame, WORLD).verdict == "PUNT_NAT"
