# SPDX-License-Identifier: Apache-2.0
"""The short way of mode ipip on XDP (bpf_src/ipip/again.h): that it is taken, by whom, and what ends it.

That it sends and counts what the long way does, test_ipip.py sees as well: there every packet whose way is known goes
twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pydp.modes.ipip import IpipMode
from tests.datapath.frames import IP, Packet
from tests.datapath.harness import Result
from tests.datapath.ipip_rig import PORT, STATION, THERE, IpipRig, Net
from tests.datapath.recents import Recents, place
from tests.datapath.test_ipip import FIXED, INHERITED, aged, told
from tests.kernels.needs import at_full_speed, examples, sampled

pytestmark = pytest.mark.usefixtures("requires_root")

NET = Net("ipip", "xdp")
LOCAL, PEER, OTHER = NET.ends
INSTANT = 0.05  # s: longer than a record is good for
MARK = 0x5A
WAYS = ("arriving", "port")


@pytest.fixture(scope="module")
def module_rig(requires_root: None) -> Iterator[IpipRig]:
    with IpipRig("xdp", NET.options, places=WAYS) as one:
        yield one


@pytest.fixture
def rig(module_rig: IpipRig) -> IpipRig:
    module_rig.forget()
    return module_rig


def plain(way: str) -> bytes:
    """A frame that takes the short way, once there is one."""
    return NET.received(NET.inner()) if way == "arriving" else NET.frame(NET.outgoing(), PORT, STATION)


def send(rig: IpipRig, way: str, frame: bytes, **hop: Any) -> Result:
    """Where the way to whom it is for is known; for 50 ms, which a busy machine may need before the frame is sent."""
    for _ in range(50):
        if way == "arriving":
            rig.resolve_inner(NET.near, **hop)
        else:
            rig.resolve(PEER, **hop)
        result = rig.send(way, frame)
        if rig.knows(NET.near) if way == "arriving" else rig.knows_peer(PEER):
            return result
    raise AssertionError("the way was forgotten each time")


def word(address: str) -> int:
    return int.from_bytes(ip_address(address).packed, "little")


def target_place(way: str) -> int:
    """Of the record that the plain frame makes."""
    return place(word(NET.near)) if way == "arriving" else place(word(NET.far) | 1 << 32)


def targets(rig: IpipRig) -> Recents:
    return Recents(rig.maps["ipip_recents"], rig.abi, "targets", "ipip_target")


def cool(rig: IpipRig, way: str) -> None:
    """Have the next plain frame take the long way."""
    targets(rig).clear(target_place(way))


def mark(rig: IpipRig, way: str, **fields: Any) -> None:
    """Write FIELDS into the record of the plain frame's destination."""
    latest = max(targets(rig).get(target_place(way)), key=lambda one: one.stamp)
    if latest.stamp:
        targets(rig).set(target_place(way), latest._replace(**fields))


def eventually(done: Callable[[], bool]) -> None:
    """An instant may be over, or a way forgotten, before the next frame comes."""
    assert any(done() for _ in range(50))


@at_full_speed
@pytest.mark.parametrize("way", WAYS)
def test_it_is_taken(rig: IpipRig, way: str) -> None:
    """What is kept is what is sent: here a mark that the long way does not know."""

    def marked() -> bool:
        send(rig, way, plain(way))
        mark(rig, way, first=MARK)
        return send(rig, way, plain(way)).frame[:8] == bytes([MARK]) + bytes(7)

    eventually(marked)


@at_full_speed
@pytest.mark.parametrize("size", [0, 1, 30, 1000])
@pytest.mark.parametrize("way", WAYS)
def test_by_packets_of_every_size(rig: IpipRig, way: str, size: int) -> None:
    inner = NET.inner(size=size) if way == "arriving" else NET.outgoing(size=size)
    frame = NET.received(inner) if way == "arriving" else NET.frame(inner, PORT, STATION)

    def marked() -> bool:
        send(rig, way, frame)
        mark(rig, way, first=MARK)
        return send(rig, way, frame).frame[:8] == bytes([MARK]) + bytes(7)

    eventually(marked)
    length = len(rig.send(way, frame).frame)
    assert length in (len(frame), len(inner) + (14 if way == "arriving" else 34))


def changed(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def repaired(frame: bytes, at: int) -> bytes:
    """With the right checksum in the IPv4 header at AT."""
    header = IP(frame[at : at + 20])
    del header.chksum
    return changed(frame, at, bytes(header)[:20])


def odd_frames(way: str) -> list[bytes]:
    """Like the plain one but for something."""
    base = plain(way)
    inner = 34 if way == "arriving" else 14
    frames = [base[:length] for length in range(14, len(base))] + [base + bytes(count) for count in (1, 6)]
    for at in (14, inner):
        frames += [repaired(changed(base, at + 8, bytes([ttl])), at) for ttl in (0, 1, 2, 3, 255)]
        frames += [repaired(changed(base, at + 1, bytes([tos])), at) for tos in (1, 2, 3, 4, 0xB8, 0xFF)]
        frames += [repaired(changed(base, at + 6, field), at) for field in (b"\x20\0", b"\0\x01", b"\x80\0", b"\x40\0")]
        lengths = (0, 19, 20, 21, len(base) - at - 1, len(base) - at + 1, 1500, 65535)
        frames += [repaired(changed(base, at + 2, length.to_bytes(2, "big")), at) for length in lengths]
        frames += [repaired(changed(base, at + 9, bytes([protocol])), at) for protocol in (1, 4, 6, 41, 47)]
        frames += [repaired(changed(base, at, bytes([first])), at) for first in (0x44, 0x46, 0x65)]
        frames += [
            changed(base, at + 10, check) for check in (b"\0\0", b"\xff\xff", bytes([base[at + 11], base[at + 10]]))
        ]
    for source in (
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "128.0.0.1",
        "223.1.1.1",
        "224.0.0.1",
        "255.255.255.255",
        NET.far,
    ):
        frames.append(repaired(changed(base, inner + 12, ip_address(source).packed), inner))
    for dest in (NET.near, NET.far, NET.farther, LOCAL, PEER, "10.9.0.1"):
        frames.append(repaired(changed(base, inner + 16, ip_address(dest).packed), inner))
    frames.append(changed(base, 0, bytes.fromhex(STATION.replace(":", ""))))
    frames += [base[:12] + tag + base[12:] for tag in (b"\x81\0\0\5", b"\x88\xa8\0\5\x81\0\0\6")]
    frames += [changed(base, 12, kind) for kind in (b"\x86\xdd", b"\x08\x06", b"\0\x08")]
    return frames


def same_either_way(rig: IpipRig, way: str, frame: bytes) -> None:
    """FRAME fares as if no plain one had just gone before it, and as itself when it has. Three times, as an instant may
    be over in between.
    """
    for _ in range(3):
        cool(rig, way)
        cold = send(rig, way, frame)
        send(rig, way, plain(way))
        assert (send(rig, way, frame), send(rig, way, frame)) == (cold, cold), frame.hex()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_plain_fares_the_same(rig: IpipRig, way: str) -> None:
    for frame in sampled(odd_frames(way)):
        same_either_way(rig, way, frame)


@pytest.mark.parametrize("way", WAYS)
def test_random_bytes_fare_the_same(rig: IpipRig, way: str) -> None:
    draw = random.Random(7)
    base = plain(way)
    for _ in range(examples(300)):
        frame = changed(base, draw.randrange(14, 62), bytes([draw.getrandbits(8)]))
        if draw.random() < 0.5:
            frame = repaired(frame, 14)
        same_either_way(rig, way, frame)


@pytest.mark.parametrize("way", WAYS)
def test_every_turn_of_the_checksum(rig: IpipRig, way: str) -> None:
    """Taking one from the TTL carries, and 0 has two forms."""

    def frame_of(packet: Packet) -> bytes:
        return NET.received(packet) if way == "arriving" else NET.frame(packet, PORT, STATION)

    make = NET.inner if way == "arriving" else NET.outgoing
    base = make()
    base.id = 0
    rest = IP(bytes(base)).chksum
    for check in (0, 1, 2, 0xFF, 0x100, 0xFEFD, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE):
        packet = base.copy()
        packet.id = (rest - check) % 0xFFFF
        assert IP(bytes(packet)).chksum == check
        before = rig.sent(way, frame_of(packet), PEER) if way == "port" else rig.delivered(frame_of(packet), NET.near)
        expected = aged(packet)
        frame = NET.sent(expected, ttl=63) if way == "port" else NET.frame(expected, STATION, PORT)
        assert before.frame == frame
        if not check:
            same_either_way(rig, way, changed(frame_of(packet), 44 if way == "arriving" else 24, b"\xff\xff"))


@pytest.mark.parametrize("options", [FIXED, INHERITED, {"tos": "inherit"}, {"tos": "0x13", "ttl": "255"}])
def test_policies(requires_root: None, options: dict[str, Any]) -> None:
    with IpipRig("xdp", {**NET.options, **options}, places=("port",)) as rig:
        for tos in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xBB):
            packet = NET.outgoing(ttl=17, tos=tos, flags="DF")
            outside = tos & 0xFC if options["tos"] == "inherit" else int(options["tos"], 0) & 0xFC
            ecn = 2 if tos & 3 == 3 else tos & 3
            fields = {"ttl": int(options.get("ttl", 16)), "tos": outside | ecn}
            result = rig.sent("port", NET.frame(packet, PORT, STATION), PEER)
            assert result.frame == NET.sent(aged(packet), **fields)


def test_sources_are_not_looked_at_if_told_so(requires_root: None) -> None:
    with IpipRig("xdp", {**NET.options, "source_check": False}, places=("arriving",)) as rig:
        for source in ("10.9.0.1", "10.9.0.2"):
            packet = NET.inner(source)
            assert rig.delivered(NET.received(packet), NET.near).frame == NET.frame(aged(packet), STATION, PORT)
        assert send(rig, "arriving", NET.received(NET.inner("127.0.0.1"))).verdict == "PASS_DECAP"


# Who may not take it


def test_a_source_of_another_peer(rig: IpipRig) -> None:
    for _ in range(3):
        assert rig.delivered(plain("arriving"), NET.near).verdict == "FORWARD_DECAP"
        assert send(rig, "arriving", NET.received(NET.inner(), src=OTHER)).verdict == "DROP_SPOOFED"
        assert send(rig, "arriving", NET.received(NET.inner(), src="192.0.2.99")).verdict == "PUNT_VTEP"


def test_nothing_goes_back_to_its_peer(rig: IpipRig) -> None:
    """Not even where the same went there from another one."""
    from_one = NET.received(NET.inner(dst=OTHER))
    from_other = NET.received(NET.inner(NET.farther, OTHER), src=OTHER)
    assert rig.delivered(from_one, OTHER).verdict == "FORWARD_DECAP"
    plain_other = NET.received(NET.inner(NET.farther), src=OTHER)
    for _ in range(3):
        assert rig.delivered(plain_other, NET.near).verdict == "FORWARD_DECAP"
        rig.resolve_inner(OTHER)
        assert rig.send("arriving", from_one).verdict == "FORWARD_DECAP"
        assert rig.send("arriving", from_other).verdict == "DROP_LOOP"


# What ends it


@pytest.mark.parametrize("way", WAYS)
def test_a_smaller_mtu(rig: IpipRig, way: str) -> None:
    """Is heeded when the record's instant is over."""
    left = {"arriving": "PASS_DECAP", "port": "PUNT_TOO_BIG"}[way]
    eventually(lambda: send(rig, way, plain(way)).verdict.startswith("FORWARD"))
    time.sleep(INSTANT)
    assert send(rig, way, plain(way), mtu=50).verdict == left


def test_a_narrower_path(rig: IpipRig) -> None:
    frame = NET.frame(NET.outgoing(size=1000, flags="DF"), PORT, STATION)
    assert rig.sent("port", frame, PEER).verdict == "FORWARD_ENCAP"
    rig.send("arriving", told(NET, 600))
    time.sleep(INSTANT)
    assert rig.sent("port", frame, PEER).verdict == "PUNT_TOO_BIG"


def test_another_next_hop(rig: IpipRig) -> None:
    assert rig.sent("port", plain("port"), PEER).frame[:6] == bytes.fromhex(THERE.replace(":", ""))
    time.sleep(INSTANT)
    rig.resolve(PEER)
    hops, index = rig.maps["ipip_hops"], rig.index(PEER)
    one = hops.get(index)[0]
    hops.set(index, one._replace(header=one.header._replace(first=one.header.first ^ 1 << 40)))
    assert rig.send("port", plain("port")).frame[5] == int(THERE[-2:], 16) ^ 1


@pytest.mark.parametrize("way", WAYS)
def test_a_destination_of_an_earlier_instant(rig: IpipRig, way: str) -> None:
    first = send(rig, way, plain(way))
    mark(rig, way, first=MARK, stamp=1)
    assert send(rig, way, plain(way)) == first


def test_a_source_of_an_earlier_instant(rig: IpipRig) -> None:
    """Here one that would have packets counted for another peer. Many times, as only within an instant of the
    destination it would be looked at.
    """
    sources = Recents(rig.maps["ipip_recents"], rig.abi, "sources", "ipip_source")
    found = place(word(NET.far) | word(PEER) << 32)
    for _ in range(20):
        assert send(rig, "arriving", plain("arriving")).verdict == "FORWARD_DECAP"
        kept = max(sources.get(found), key=lambda one: one.stamp)
        sources.set(found, kept._replace(index=rig.index(OTHER), stamp=1))
        assert send(rig, "arriving", plain("arriving")).verdict == "FORWARD_DECAP"
    assert rig.counts(PEER)[2] >= 40
    assert rig.counts(OTHER)[2] == 0


def test_records_do_not_outlive_an_attach() -> None:
    """What Python writes is new with each, and peers and ports may have other numbers."""
    names = {"ipip_recents"}
    assert names <= IpipMode.traits.maps
    assert not names & IpipMode.traits.learned
