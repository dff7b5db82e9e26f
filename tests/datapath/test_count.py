# SPDX-License-Identifier: Apache-2.0
"""Stage count, and two stages in one program."""

from __future__ import annotations

import pytest

from tests.datapath.conftest import MakeRig
from tests.datapath.frames import (
    ARP,
    BROADCAST,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Packet,
    Raw,
    eth,
    mac,
    tagged,
)
from tests.datapath.harness import PASS, Rig

KINDS = {
    "ARP": (ARP(), "ARP"),
    "TCP": (IP() / TCP(), "TCP"),
    "UDP": (IP() / UDP(), "UDP"),
    "SCTP": (IP() / SCTP(), "SCTP"),
    "ICMP": (IP() / ICMP(), "ICMP"),
    "ICMPv6": (IPv6() / ICMPv6EchoRequest(), "ICMP"),
    "TCP over IPv6 behind an extension header": (IPv6() / IPv6ExtHdrHopByHop() / TCP(), "TCP"),
    "GRE": (IP(proto=47) / Raw(bytes(20)), "IP_OTHER"),
    "the first fragment": (IP(flags="MF") / UDP(), "UDP"),
    "a later fragment": (IP(frag=10, proto=17) / Raw(bytes(20)), "FRAGMENT"),
    "a later fragment of IPv6": (IPv6() / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(20)), "FRAGMENT"),
    "LLDP": (Raw(bytes(40)), "OTHER"),
}


def kinds(rig: Rig) -> dict[tuple[int, str], tuple[int, int]]:
    """Packets and bytes by slot and kind."""
    members = rig.compiled.abi.enum("count_kind")
    return {
        (index // 8, members.name_of(index % 8).removeprefix("COUNT_")): (packets, size)
        for index, (packets, size) in rig.maps["count_kinds"].sums().items()
    }


def ether(layers: Packet, *tags: Packet) -> bytes:
    packet = Ether(dst=mac(2), src=mac(1), type=0x88CC) if isinstance(layers, Raw) else Ether(dst=mac(2), src=mac(1))
    for tag in tags:
        packet /= tag
    return bytes(packet / layers)


@pytest.mark.parametrize("name", KINDS)
def test_kinds(rig: MakeRig, name: str) -> None:
    layers, kind = KINDS[name]
    made = rig(modes=("count",))
    frame = ether(layers)
    seen = made.send(frame, 2)
    assert (seen.verdict, seen.action, seen.frame, seen.length) == ("PASS_UNCLAIMED", PASS, frame, len(frame))
    assert kinds(made) == {(2, kind): (1, len(frame))}


def test_kinds_behind_tags(rig_on: MakeRig) -> None:
    made = rig_on("xdp", modes=("count",))
    frame = ether(IP() / TCP(), tagged(3), tagged(4))
    made.send(frame)
    assert kinds(made) == {(0, "TCP"): (1, len(frame))}


def test_two_stages_each_count_as_their_own(rig: MakeRig, hook: str) -> None:
    """One program: count sees all, bridge decides, and the verdict stands under the stage that gave it."""
    made = rig(modes=("count", "bridge"))
    frames = [(0, eth(BROADCAST, 1)), (1, eth(1, 2)), (0, eth(2, 1)), (0, eth(2, BROADCAST))]
    wanted = ["PUNT_FLOOD" if hook == "xdp" else "FLOOD_PORTS", "FORWARD_PORT", "FORWARD_PORT", "DROP_SOURCE"]
    seen = [made.send(frame, port) for port, frame in frames]
    assert [(one.mode, one.verdict) for one in seen] == [("bridge", verdict) for verdict in wanted]
    assert kinds(made) == {(0, "UDP"): (3, 180), (1, "UDP"): (1, 60)}
    assert sum(packets for packets, _ in made.counts().values()) == 4


def test_the_order_of_numbers_does_not_matter(rig: MakeRig) -> None:
    """Stages run in the order of their modes; numbers are given as they come and go."""
    made = rig(modes=("bridge", "count"))
    made.tell((1, eth(BROADCAST, 2)))
    assert made.send(eth(2, 1)).mode == "bridge"
    assert kinds(made)[0, "UDP"] == (1, 60)
