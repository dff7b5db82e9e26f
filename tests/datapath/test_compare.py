# SPDX-License-Identifier: Apache-2.0
"""What a comparison puts before the stages (lib/compare.h): whose turn it is, flows that are shared, times of answers;
and that stages learn from what they leave to the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from pydp.compare.readings import EBPF, KERNEL, PATHS, SCALE, quantile
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import (
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Packet,
    Raw,
    eth,
    mac,
)
from tests.datapath.harness import PASS, REDIRECT, Rig, ticks_now
from tests.datapath.test_bridge import adopting
from tests.kernels.needs import sampled

pytestmark = pytest.mark.usefixtures("requires_root")

WHOLE = 1000  # COMPARE_WHOLE
HOUR = round(3600e9) >> 24  # in ticks
ADDRESSES = {IP: ("192.0.2.1", "192.0.2.2"), IPv6: ("2001:db8::1", "2001:db8::2")}


def make(rig: MakeRig, share: int | None = None, rest: int = WHOLE, *, until: int = HOUR) -> Rig:
    """A bridge that is compared, with the stations 1 to 3 behind its ports. SHARE of COMPARE_WHOLE goes by eBPF for so
    many ticks, None: as REST says.
    """
    made = rig(compare=rest, **adopting())
    made.maps["compare_turns"].set(0, (0, 0) if share is None else (ticks_now() + until & 0xFFFFFFFF, share))
    return made


def answers(made: Rig) -> dict[str, list[int]]:
    sums = made.maps["compare_times"].sums()
    return {
        path: [sums.get(number * SCALE + step, (0,))[0] for step in range(SCALE)] for number, path in enumerate(PATHS)
    }


@pytest.mark.parametrize(
    ("share", "rest", "until", "verdict"),
    [
        (None, WHOLE, 0, "FORWARD_PORT"),
        (None, 0, 0, "PUNT_COMPARE"),
        (0, WHOLE, HOUR, "PUNT_COMPARE"),
        (WHOLE, 0, HOUR, "FORWARD_PORT"),
        (0, WHOLE, -2, "FORWARD_PORT"),
        (WHOLE, 0, -2, "PUNT_COMPARE"),
    ],
    ids=["rests", "rests with the kernel", "kernel", "ebpf", "over", "over, back to the kernel"],
)
def test_whose_turn_it_is(rig: MakeRig, share: int | None, rest: int, until: int, verdict: str) -> None:
    made = make(rig, share, rest, until=until)
    seen = made.send(eth(2, 1))
    assert (seen.verdict, seen.action) == (verdict, REDIRECT if verdict == "FORWARD_PORT" else PASS)
    assert seen.frame == eth(2, 1)


def test_stages_learn_from_what_they_leave(rig: MakeRig) -> None:
    """New stations, those that move, and that one is still there."""
    made = make(rig, 0)
    made.age(100)
    assert made.send(eth(2, 9)).verdict == "PUNT_COMPARE"  # new
    assert made.send(eth(3, 2)).verdict == "PUNT_COMPARE"  # was behind port 1
    assert made.send(eth(3, 1)).verdict == "PUNT_COMPARE"  # had not been heard of for 100 s
    table = made.fdb()
    for number in (9, 2, 1):
        entry = table[bytes.fromhex(mac(number).replace(":", "")), 0]
        assert entry.slot == 0
        assert (ticks_now() - entry.seen) & 0xFFFFFFFF < 60
    made.maps["compare_turns"].set(0, (0, 0))
    assert made.send(eth(9, 3), port=2).verdict == "PUNT_NEW_SOURCE"  # had not, either
    assert made.send(eth(9, 3), port=2).verdict == "FORWARD_PORT"


@pytest.mark.parametrize("dst", ["02:00:00:00:01:02", "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:00", "02:00:00:00:0a:77"])
def test_the_kernel_gets_all_there_is(rig: MakeRig, dst: str) -> None:
    made = make(rig, 0)
    assert (made.send(eth(dst, 1)).verdict, made.send(eth(dst, 1)).action) == ("PUNT_COMPARE", PASS)


def is_chance(found: int, many: int, part: float) -> bool:
    """Whether so many of MANY may be that PART of them: one that is does not in one case of five million."""
    return abs(found - many * part) < 5.2 * math.sqrt(many * part * (1 - part))


def flows(network: Any, transport: Callable[[int], Packet]) -> list[tuple[bytes, bytes]]:
    """(there, back) of many flows, each told from the others by what TRANSPORT makes of its number."""
    here, there = ADDRESSES[network]
    found = []
    for number in sampled(range(400)):
        one, other = transport(number), transport(number)
        if hasattr(one, "sport"):
            other.sport, other.dport = one.dport, one.sport
        found.append((
            bytes(Ether(src=mac(1), dst=mac(2)) / network(src=here, dst=there) / one / Raw(bytes(20))),
            bytes(Ether(src=mac(2), dst=mac(1)) / network(src=there, dst=here) / other / Raw(bytes(20))),
        ))  # fmt: skip
    return found


@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("network", [IP, IPv6])
def test_a_share_of_the_flows_both_ways(rig: MakeRig, network: Any, transport: Any) -> None:
    made = make(rig, 300)
    by_ebpf, many = 0, flows(network, lambda number: transport(sport=1024 + number, dport=80))
    for there, back in many:
        way = made.send(there).verdict
        assert way in ("FORWARD_PORT", "PUNT_COMPARE")
        assert [made.send(there).verdict, made.send(back, port=1).verdict] == [way, way]
        by_ebpf += way == "FORWARD_PORT"
    assert is_chance(by_ebpf, len(many), 0.3)


def test_addresses_tell_flows_apart(rig: MakeRig) -> None:
    """Fragments have no ports, and all of them go one way; so do frames of other protocols between two stations."""
    made = make(rig, 500)
    ways = set()
    for number in range(1, 60):
        packet = IP(src="192.0.2.1", dst=f"192.0.2.{100 + number}", flags="MF") / UDP(sport=number) / Raw(bytes(24))
        later = IP(src="192.0.2.1", dst=f"192.0.2.{100 + number}", frag=4, proto=17) / Raw(bytes(64 - number))
        found = {made.send(bytes(Ether(src=mac(1), dst=mac(2)) / one)).verdict for one in (packet, later)}
        assert len(found) == 1
        ways |= found
    assert len(ways) == 2
    here, there = ADDRESSES[IPv6]
    first = IPv6(src=here, dst=there) / IPv6ExtHdrFragment(nh=17, m=1) / UDP(sport=5) / Raw(bytes(24))
    later6 = IPv6(src=here, dst=there) / IPv6ExtHdrFragment(nh=17, offset=4) / Raw(bytes(30))
    assert len({made.send(bytes(Ether(src=mac(1), dst=mac(2)) / one)).verdict for one in (first, later6)}) == 1


def stamped(number: int, value: int, echo: int, size: int = 20) -> Packet:
    return TCP(
        sport=number, dport=80, flags="A", options=[("NOP", None), ("NOP", None), ("Timestamp", (value, echo))]
    ) / (Raw(bytes(size)) if size else b"")


def pair(network: Any, one: Packet, other: Packet, *tags: Packet) -> tuple[bytes, bytes]:
    """A packet from station 1 to 2 and one back, with ports the other way around."""
    here, there = ADDRESSES[network]
    if hasattr(other, "sport"):
        other.sport, other.dport = other.dport, other.sport
    out, back = Ether(src=mac(1), dst=mac(2)), Ether(src=mac(2), dst=mac(1))
    for tag in tags:
        out, back = out / tag.copy(), back / tag.copy()
    return bytes(out / network(src=here, dst=there) / one), bytes(back / network(src=there, dst=here) / other)


def tcp(network: Any, number: int, *tags: Packet) -> tuple[bytes, bytes]:
    return pair(network, stamped(number, 7000 + number, 5), stamped(number, 9, 7000 + number, size=0), *tags)


def echo(network: Any, number: int, *tags: Packet) -> tuple[bytes, bytes]:
    if network is IP:
        return pair(IP, ICMP(type=8, id=1, seq=number), ICMP(type=0, id=1, seq=number), *tags)
    return pair(IPv6, ICMPv6EchoRequest(id=1, seq=number), ICMPv6EchoReply(id=1, seq=number), *tags)


@pytest.mark.parametrize("tags", [(), (Dot1Q(vlan=5),)], ids=["", "tagged"])
@pytest.mark.parametrize("network", [IP, IPv6])
@pytest.mark.parametrize("of", [tcp, echo])
@pytest.mark.parametrize("path", PATHS)
def test_answers_are_timed(rig: MakeRig, path: str, of: Any, network: Any, tags: tuple[Packet, ...]) -> None:
    """One in four, under the path that the packet took which was answered; a second answer is none."""
    made = make(rig, WHOLE if path == EBPF else 0)
    numbers = sampled(range(1, 401))
    for number in numbers:
        out, back = of(network, number, *tags)
        made.send(out)
        for _ in range(2):
            made.send(back, port=1)
    found = answers(made)
    assert is_chance(sum(found[path]), len(numbers), 0.25)
    assert not any(found[KERNEL if path == EBPF else EBPF])
    assert 1e-6 < quantile(tuple(found[path]), 0.5) < 1e-2


def test_what_is_no_answer_is_not_timed(rig: MakeRig) -> None:
    """Stamps of another flow, acknowledgements without data, replies that nobody asked for."""
    made = make(rig)
    for number in sampled(range(1, 201)):
        made.send(tcp(IP, number)[0])
        made.send(tcp(IP, number)[1].replace(bytes([192, 0, 2, 2]), bytes([192, 0, 2, 7])), port=1)
        out, back = pair(IP, stamped(number, 100, 5, size=0), stamped(number, 9, 100, size=0))
        made.send(out)
        made.send(back, port=1)
        made.send(echo(IP, number)[1], port=1)
    assert not any(map(sum, answers(made).values()))


def test_the_first_of_equal_stamps_counts(rig: MakeRig) -> None:
    """What comes after it was answered may be answered later: an acknowledgement that is under way already is not for
    it.
    """
    made = make(rig)
    numbers = sampled(range(1, 201))
    for number in numbers:
        out, back = tcp(IP, number)
        for frame, port in ((out, 0), (back, 1), (out, 0), (back, 1)):
            made.send(frame, port=port)
    assert is_chance(sum(answers(made)[EBPF]), len(numbers), 0.25)


def test_cut_short_anywhere_it_goes_its_way(rig: MakeRig) -> None:
    made = make(rig, 0)
    for frame in (*tcp(IP, 1, Dot1Q(vlan=5)), *tcp(IPv6, 1), *echo(IP, 1), *echo(IPv6, 1)):
        for length in range(18, len(frame) + 1):
            seen = made.send_cut(frame, length)
            assert (seen.verdict, seen.action) in (("PUNT_COMPARE", PASS), ("PUNT_TRUNCATED", PASS)), length


def test_other_stages_see_the_packet_all_the_same(rig: MakeRig) -> None:
    made = rig(compare=0, modes=("count", "bridge"), **adopting())
    seen = made.send(eth(2, 1))
    assert (seen.mode, seen.verdict, seen.action) == ("bridge", "PUNT_COMPARE", PASS)
    assert sum(packets for packets, _ in made.maps["count_kinds"].sums().values()) == 1
