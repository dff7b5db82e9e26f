# SPDX-License-Identifier: Apache-2.0
"""The short way of mode vxlan (bpf_src/vxlan/again.h): that it is taken, by whom, and what ends it.

That it sends and counts what the long way does, test_vxlan.py sees: there every frame for a VTEP goes twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from pydp.modes.fdb import delete_request, flush_request
from pydp.modes.vxlan import VxlanMode
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, IP, eth, mac
from tests.datapath.harness import Rig
from tests.datapath.recents import Recents, place
from tests.datapath.test_vxlan import (
    INNER,
    P1,
    P2,
    RULES,
    THERE,
    UNDERLAY,
    encap,
    make,
    outer,
    resolve,
    tcp6,
    udp4,
)
from tests.kernels.needs import at_full_speed

pytestmark = pytest.mark.usefixtures("requires_root")

ELSEWHERE = "02:00:00:00:0c:01"  # MAC address of another next hop
OTHER = "192.0.2.3"
PEER = 2  # VXLAN_PEER
INSTANT = 0.05  # s: longer than a record is good for


@pytest.fixture
def made(rig: MakeRig) -> Rig:
    return make(rig)


def address(number: int) -> bytes:
    return bytes.fromhex(mac(number).replace(":", ""))


def targets(rig: Rig) -> Recents:
    return Recents(rig.maps["recents"], rig.compiled.abi, "targets", "recent_target")


def target(rig: Rig, number: int, *, out: bool = False) -> tuple[int, list[Any]]:
    """Place and record, per CPU, of a station that is asked for by VNI 100 (OUT) or by port 1."""
    where = 100 | 1 << 32 if out else P1
    found = place(int.from_bytes(address(number), "little") + where)
    return found, targets(rig).get(found)


def mark(rig: Rig, number: int, *, out: bool = False, **fields: Any) -> None:
    """Write FIELDS into the record of a station."""
    found, records = target(rig, number, out=out)
    latest = max(records, key=lambda one: one.stamp)
    assert latest.stamp
    targets(rig).set(found, latest._replace(**fields))


@at_full_speed
def test_frames_into_the_tunnel_take_it(made: Rig) -> None:
    """What is kept is what is sent: here a mark that the long way does not know."""
    for frame in (udp4(), tcp6(), udp4(1464)):
        found = b""
        for _ in range(50):
            resolve(made)
            made.send(frame, P1)
            mark(made, 9, words=(0x5A,) * 6)
            found = made.send(frame, P1).frame[:8]
            if found == b"\x5a" + bytes(7):
                break
        assert found == b"\x5a" + bytes(7)


def test_packets_out_of_the_tunnel_take_it(made: Rig) -> None:
    assert any(takes_it(made, udp4(1519, dst=1, src=9)) for _ in range(50))


@pytest.mark.parametrize("inner", [INNER["other"] + bytes(1455), tcp6(1519, dst=1, src=9)], ids=["other", "tcp6"])
def test_on_tc_what_changes_the_protocol_never_takes_it(made: Rig, inner: bytes) -> None:
    """The stack has to be told, or is not told at all."""
    assert any(takes_it(made, inner) for _ in range(50)) == (made.hook == "xdp")


def takes_it(rig: Rig, inner: bytes) -> bool:
    """Does a frame that is too long for port 1 go there all the same, once a record says that such ones may?"""
    short, packet = outer(INNER["udp"]), outer(inner)
    assert rig.send(packet).verdict == "DROP_MTU"
    rig.send(short)
    mark(rig, 1, out=True, longest=9000)
    return rig.send(packet).verdict == "FORWARD_DECAP"


def test_a_tag_beside_the_frame(rig_on: Callable[..., Rig]) -> None:
    """It would be lost on the way."""
    made = make(lambda **options: rig_on("tc", **options))
    plain, tagged_one = udp4(), udp4()[:12] + bytes.fromhex("81000005") + udp4()[12:]
    for _ in range(3):
        assert encap(made, plain).verdict == "FORWARD_ENCAP"
        assert made.send_through("untag", tagged_one, P1).verdict == "PUNT_TAGGED"
    for _ in range(3):
        assert made.send(outer(udp4(dst=1, src=9))).verdict == "FORWARD_DECAP"
        packet = outer(udp4(dst=1, src=9))
        tagged_one = packet[:12] + bytes.fromhex("81000005") + packet[12:]
        assert made.send_through("untag", tagged_one).verdict == "PASS_UNCLAIMED"


@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_plain_never_takes_it(made: Rig, rule: str) -> None:
    """The same rules as for a first packet."""
    verdict, fields = RULES[rule]
    plain, packet = outer(udp4(60, dst=1, src=9)), outer(udp4(60, dst=1, src=9), **fields)
    for _ in range(3):
        assert made.send(plain).verdict == "FORWARD_DECAP"
    assert made.send(packet).verdict == verdict


def test_every_congestion_mark(made: Rig) -> None:
    inner = udp4(dst=1, src=9)
    for tos in range(8):
        made.send(outer(inner))
        assert made.send(outer(inner, tos=tos)).verdict == ("PUNT_ECN" if tos & 1 else "FORWARD_DECAP")


@pytest.mark.parametrize("peer", [0, PEER])
def test_what_comes_out_goes_to_the_peer_where_it_may(made: Rig, peer: int) -> None:
    """As on the long way, by the port's flag (on tc; XDP does not ask)."""
    ports = made.maps["vxlan_ports"]
    before = ports.get(P1)
    ports.set(P1, before._replace(flags=before.flags & ~PEER | peer))
    try:
        assert made.send(outer(INNER["udp"])).verdict == "FORWARD_DECAP"
        assert max(target(made, 1, out=True)[1], key=lambda one: one.stamp).peer == bool(peer)
    finally:
        ports.set(P1, before)


# What ends it


def sent_to(rig: Rig, frame: bytes) -> str:
    """Address of the VTEP that a frame from port 1 goes to, or the verdict on it."""
    for index in (0, 1):
        resolve(rig, index)
    result = rig.send(frame, P1)
    return IP(result.frame[14:]).dst if result.verdict == "FORWARD_ENCAP" else result.verdict


def test_a_station_that_moves(made: Rig) -> None:
    frame = udp4()
    for _ in range(3):
        made.tell((UNDERLAY, outer(eth(BROADCAST, 9))))
        assert (sent_to(made, frame), sent_to(made, frame)) == ("192.0.2.2", "192.0.2.2")
        made.tell((UNDERLAY, outer(eth(BROADCAST, 9), src=OTHER)))
        assert (sent_to(made, frame), sent_to(made, frame)) == (OTHER, OTHER)
        made.tell((P2, eth(BROADCAST, 9)))
        assert sent_to(made, frame) == "FORWARD_PORT"


def test_a_sender_that_was_elsewhere_meanwhile(made: Rig) -> None:
    """Its frames are seen to be learned from, though one like them had nothing new to tell just before."""
    for _ in range(3):
        assert encap(made, udp4()).verdict == "FORWARD_ENCAP"
        assert made.fdb()[address(1), 0].slot == P1
        made.tell((P2, eth(BROADCAST, 1)))
        assert made.fdb()[address(1), 0].slot == P2
        assert encap(made, udp4()).verdict == "FORWARD_ENCAP"
        assert made.fdb()[address(1), 0].slot == P1


@pytest.mark.parametrize("request_", [delete_request(address(9), 0), flush_request(remote=True)], ids=["del", "flush"])
def test_an_entry_that_is_taken_out(made: Rig, request_: tuple[Any, ...]) -> None:
    assert encap(made, udp4()).verdict == "FORWARD_ENCAP"
    if request_[1] == 3:  # FDB_FLUSH: bucket by bucket
        made.control(request_)
    else:
        assert made.control(request_)[0].result == 1
    assert made.send(udp4(), P1).verdict == {"xdp": "PUNT_FLOOD", "tc": "FLOOD_PORTS"}[made.hook]


def test_a_port_whose_station_is_taken_out(made: Rig) -> None:
    packet = outer(udp4(dst=1, src=9))
    for _ in range(2):
        assert made.send(packet).verdict == "FORWARD_DECAP"
    made.control(delete_request(address(1), 0))
    assert made.send(packet).verdict == "PUNT_UNKNOWN"


def test_another_next_hop(made: Rig) -> None:
    """Is followed when the record's instant is over."""
    assert encap(made, udp4()).frame[:6] == address_of(THERE)
    found = b""
    deadline = time.monotonic() + 2
    while found != address_of(ELSEWHERE) and time.monotonic() < deadline:
        time.sleep(INSTANT)
        resolve(made)
        hops = made.maps["vxlan_hops"]
        first = int.from_bytes(address_of(ELSEWHERE), "little")
        header = hops.get(0)[0].header
        hops.set(0, hops.get(0)[0]._replace(header=header._replace(first=first | header.first >> 48 << 48)))
        found = made.send(udp4(), P1).frame[:6]
    assert found == address_of(ELSEWHERE)


def test_a_smaller_mtu(made: Rig) -> None:
    frame = udp4(1400, flags="DF")
    assert encap(made, frame).verdict == "FORWARD_ENCAP"
    verdict, deadline = "", time.monotonic() + 2
    while verdict != "FORWARD_REPLY" and time.monotonic() < deadline:
        time.sleep(INSTANT)
        resolve(made, mtu=1300)
        verdict = made.send(frame, P1).verdict
    assert verdict == "FORWARD_REPLY"


def test_records_do_not_outlive_an_attach() -> None:
    """What Python writes is new with each, and VTEPs and ports may have other numbers."""
    names = {"recent_changes", "recents"}
    assert names <= VxlanMode.traits.maps
    assert not names & VxlanMode.traits.learned


def address_of(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@pytest.mark.parametrize("options", [{"ttl": "inherit"}, {"tos": "inherit"}, {"df": "inherit"}, {"udp_csum": True}])
def test_what_varies_with_the_frame_goes_the_long_way(rig: MakeRig, options: dict[str, Any]) -> None:
    made = make(rig, **options)
    assert encap(made, udp4()).verdict == "FORWARD_ENCAP"
    changes = made.maps["recent_changes"].get(0)
    assert not [one for one in target(made, 9)[1] if one.stamp >= changes]
