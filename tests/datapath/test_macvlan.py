# SPDX-License-Identifier: Apache-2.0
"""Stage macvlan: what becomes of a frame, by type and hook. Port 0 is the parent, stations 1 to 3 are its children."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, MULTICAST, Dot1AD, Ether, Raw, eth, mac, tagged
from tests.datapath.harness import DROP, PASS, REDIRECT, Rig

TYPES = ("private", "vepa", "bridge", "passthru")
PARENT = "02:00:00:00:01:00"
OUTSIDE, NOBODY = 9, 8  # a station behind the parent, and one that is nowhere
CHILDREN = {"child": ("p1", "p2", "p3")}
SEVERAL = ("private", "vepa", "bridge")
FORWARD, COPIES_UP, COPIES_ON = ("FORWARD_PORT", REDIRECT), ("FLOOD_PORTS", PASS), ("FLOOD_PORTS", REDIRECT)
LOCAL, NOT_OURS = ("PUNT_LOCAL", PASS), ("PASS_UNCLAIMED", PASS)
PAUSE = "01:80:c2:00:00:01"


def pause(source: int, *tags: Any) -> bytes:
    packet = Ether(dst=PAUSE, src=mac(source))
    for tag in tags:
        packet /= tag
    packet.lastlayer().type = 0x8808
    return bytes(packet / Raw(bytes(46)))


@dataclass(frozen=True, slots=True)
class Case:
    """FRAME comes in at PORT of an instance of one of TYPES. It leaves the program as it came."""

    sentence: str
    frame: bytes
    verdict: str
    action: str
    types: Sequence[str] = TYPES
    port: int = 0

    def on(self, hook: str) -> Case:
        """XDP cannot copy, nor send what is longer than MTU, header and tag: the tc program beside it does."""
        too_long = self.verdict == "FORWARD_PORT" and len(self.frame) > 1518
        if hook == "xdp" and (too_long or self.verdict == "FLOOD_PORTS"):
            return replace(self, verdict="PUNT_LENGTH" if too_long else "PUNT_FLOOD", action=PASS)
        return self


IN = [
    Case("for a child", eth(1, OUTSIDE), *FORWARD),
    Case("for the last child", eth(3, OUTSIDE), *FORWARD, types=SEVERAL),
    Case("for the parent", eth(PARENT, OUTSIDE), *LOCAL, types=SEVERAL),
    Case("for the parent, whose child gets everything", eth(PARENT, OUTSIDE), *FORWARD, types=("passthru",)),
    Case("for somebody else", eth(NOBODY, OUTSIDE), *NOT_OURS, types=SEVERAL),
    Case("for somebody else, to the child that gets everything", eth(NOBODY, OUTSIDE), *FORWARD, types=("passthru",)),
    Case("for nobody", eth("00:00:00:00:00:00", OUTSIDE), *NOT_OURS, types=SEVERAL),
    Case("for a child, from another one: sent back by the switch", eth(2, 1), *FORWARD),
    Case("for a child, from a multicast source", eth(1, MULTICAST), *FORWARD),
    Case("broadcast", eth(BROADCAST, OUTSIDE), *COPIES_UP),
    Case("multicast", eth(MULTICAST, OUTSIDE), *COPIES_UP),
    Case("to a link-local group", eth("01:80:c2:00:00:0e", OUTSIDE), *COPIES_UP),
    Case("a pause frame", pause(OUTSIDE), *NOT_OURS),
    Case("a pause frame with a tag", pause(OUTSIDE, tagged(5)), *NOT_OURS),
    Case("a pause frame with two tags", pause(OUTSIDE, tagged(5), tagged(6)), *COPIES_UP),
    Case("broadcast sent back: the others have not seen it", eth(BROADCAST, 1), *COPIES_UP, types=("vepa",)),
    Case("broadcast sent back: the others have seen it", eth(BROADCAST, 1), *NOT_OURS, types=("bridge",)),
    Case("broadcast sent back: to its sender alone", eth(BROADCAST, 1), *FORWARD, types=("private", "passthru")),
    Case("a pause frame sent back", pause(1), *FORWARD, types=("private", "passthru")),
    Case("as long as the MTU, header and a tag", eth(1, OUTSIDE, size=1518), *FORWARD),
    Case("a byte longer", eth(1, OUTSIDE, size=1519), "DROP_MTU", DROP),
    Case("tagged, as long as XDP sends", eth(1, OUTSIDE, tagged(5), size=1514), *FORWARD),
    Case("tagged, longest: a tag does not count", eth(1, OUTSIDE, tagged(5), size=1518), *FORWARD),
    Case("tagged, a byte longer", eth(1, OUTSIDE, tagged(5), size=1519), "DROP_MTU", DROP),
    Case("two tags", eth(1, OUTSIDE, Dot1AD(vlan=7), tagged(5), size=1514), *FORWARD),
]  # fmt: skip
OUT = [
    Case("out", eth(OUTSIDE, 1), *FORWARD),
    Case("to another child", eth(2, 1), *FORWARD),
    Case("to itself", eth(1, 1), *FORWARD),
    Case("to the parent's address: leaves for the wire", eth(PARENT, 1), *FORWARD),
    Case("from an address that is not its own", eth(OUTSIDE, NOBODY), *FORWARD),
    Case("from a multicast source", eth(OUTSIDE, MULTICAST), *FORWARD),
    Case("broadcast, to the others and out", eth(BROADCAST, 1), *COPIES_ON, types=("bridge",)),
    Case("broadcast, out", eth(BROADCAST, 1), *FORWARD, types=("private", "vepa", "passthru")),
    Case("a pause frame, out", pause(1), *FORWARD),
    Case("a pause frame with a tag", pause(1, tagged(5)), *COPIES_ON, types=("bridge",)),
    Case("as long as the MTU, header and a tag", eth(OUTSIDE, 1, size=1518), *FORWARD),
    Case("a byte longer", eth(OUTSIDE, 1, size=1519), "DROP_MTU", DROP),
]


def rig_of(rig: MakeRig, kind: str) -> Rig:
    children = ("p1",) if kind == "passthru" else CHILDREN["child"]
    return rig(modes=("macvlan",), options={"type": kind, "child": children})


def cases() -> list[Any]:
    found = [*IN, *(replace(one, port=1) for one in OUT)]
    way = {0: "in", 1: "by a child"}
    return [
        pytest.param(kind, one, id=f"{kind}, {way[one.port]}: {one.sentence}") for one in found for kind in one.types
    ]


@pytest.mark.parametrize(("kind", "case"), cases())
def test_frames(rig: MakeRig, hook: str, kind: str, case: Case) -> None:
    made, wanted = rig_of(rig, kind), case.on(hook)
    if hook == "tc" and case.frame[12:14] in (b"\x81\x00", b"\x88\xa8"):  # there the tag is not in the frame
        assert made.send_through("untag", case.frame, case.port).action == wanted.action
        seen = made.send_through("untag", case.frame, case.port, finish=True)
        assert (seen.verdict, seen.frame, seen.length) == (wanted.verdict, case.frame, len(case.frame) - 4)
        return
    seen = made.send(case.frame, case.port)
    assert (seen.verdict, seen.action) == (wanted.verdict, wanted.action)
    assert seen.frame == case.frame
    assert (seen.mode, seen.length) == ("macvlan", len(case.frame))


def test_gso_frames_may_be_longer_than_the_mtu(rig_on: Callable[..., Rig]) -> None:
    made = rig_on("tc", modes=("macvlan",), options=CHILDREN)
    long = eth(1, OUTSIDE, size=3000)
    assert made.send(long, skb={"gso_size": 1448, "gso_segs": 3}).verdict == "FORWARD_PORT"
    assert made.send(long).verdict == "DROP_MTU"


@pytest.mark.parametrize("count", [1, 3, 40, 200])
def test_every_child_is_found(rig_on: Callable[..., Rig], count: int) -> None:
    """However many there are: the table is as full as it gets."""
    names = tuple(f"p{number}" for number in range(1, count + 1))
    made = rig_on("xdp", ports=count + 1, modes=("macvlan",), options={"child": names})
    for number in range(1, count + 1):
        assert made.send(eth(number, 0xFE)).verdict == "FORWARD_PORT"
    assert made.send(eth(0xFD, 0xFE)).verdict == "PASS_UNCLAIMED"


def test_a_child_that_is_gone_gets_nothing(rig: MakeRig) -> None:
    """Its slot is cleared in a replace before the table of addresses changes with the program."""
    made = rig_of(rig, "bridge")
    made.maps["child_ports"].set(1, (0, 0, 0, 0, 0, 0))
    assert made.send(eth(1, OUTSIDE)).verdict == "DROP_PORT_DOWN"
