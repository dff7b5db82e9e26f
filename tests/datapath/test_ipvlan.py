# SPDX-License-Identifier: Apache-2.0
"""Stage ipvlan: what becomes of a frame, by type, flag and hook. Port 0 is the parent, 1 to 3 are its children's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.datapath.conftest import MakeRig
from tests.datapath.frames import mac
from tests.datapath.harness import PASS, Rig
from tests.datapath.ipvlan_cases import (
    BETWEEN,
    CHILDREN,
    FLAGS,
    FORWARD,
    HOST4,
    HOST6,
    IN,
    ISOLATED,
    LOCAL,
    OUT,
    OUT4,
    OUT6,
    OUTSIDE,
    PARENT,
    Case,
)
from tests.datapath.ipvlan_frames import ipv4, ipv6


def between() -> list[Case]:
    """By flag: at once, not at all, or as to anybody else."""
    found = []
    for one in BETWEEN:
        found += [replace(one, port=1, flags=("bridge",))]
        found += [replace(one, port=1, flags=("private",), verdict=ISOLATED[0], action=ISOLATED[1], out=b"")]
    return found


def rig_of(rig: MakeRig, kind: str, flag: str) -> Rig:
    return rig(modes=("ipvlan",), options={"type": kind, "flag": flag, **CHILDREN})


def cases() -> list[Any]:
    found = [*IN, *between(), *(replace(one, port=1) for one in OUT)]
    way = {0: "in", 1: "by a child"}
    return [
        pytest.param(kind, flag, one, id=f"{kind} {flag}, {way[one.port]}: {one.sentence}")
        for one in found
        for kind in one.types
        for flag in one.flags
    ]


@pytest.mark.parametrize(("kind", "flag", "case"), cases())
def test_frames(rig: MakeRig, hook: str, kind: str, flag: str, case: Case) -> None:
    made, wanted = rig_of(rig, kind, flag), case.on(hook)
    out = wanted.out or case.frame
    if hook == "tc" and case.frame[12:14] in (b"\x81\x00", b"\x88\xa8"):  # there the tag is not in the frame
        assert made.send_through("untag", case.frame, case.port).action == wanted.action
        seen = made.send_through("untag", case.frame, case.port, finish=True)
        assert (seen.verdict, seen.frame, seen.length) == (wanted.verdict, out, len(case.frame) - 4)
        return
    seen = made.send(case.frame, case.port)
    assert (seen.verdict, seen.action) == (wanted.verdict, wanted.action)
    assert seen.frame.hex(" ") == out.hex(" ")
    assert (seen.mode, seen.length) == ("ipvlan", len(case.frame))


@pytest.mark.parametrize("frame", [ipv4(PARENT, 1, HOST4, "10.0.0.1"), ipv6(PARENT, 1, HOST6, "fd00::1")])
def test_what_is_for_the_parents_address_and_no_child_is_the_hosts(rig: MakeRig, hook: str, frame: bytes) -> None:
    """As the kernel has it with type l2. XDP leaves it to the tc program."""
    seen = rig_of(rig, "l2", "bridge").send(frame, 1)
    if hook == "xdp":
        assert (seen.verdict, seen.action, seen.frame) == (*LOCAL, frame)
    else:
        assert (seen.verdict, seen.action) == FORWARD
        assert seen.frame == frame[:6] + bytes.fromhex(PARENT.replace(":", "")) + frame[12:]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("to", [OUT4, "10.0.0.2"])
def test_routing_is_the_kernels(rig: MakeRig, hook: str, to: str, flag: str) -> None:
    """Type l3: out by the host's routes. Here is no parent that the kernel knows, so XDP finds none."""
    if to != OUT4 and flag != "vepa":
        return
    frame = ipv4(PARENT, 1, to, "10.0.0.1")
    seen = rig_of(rig, "l3", flag).send(frame, 1)
    assert (seen.verdict, seen.action) == (FORWARD if hook == "tc" else ("PUNT_NEIGHBOUR", PASS))
    assert seen.frame == frame


def test_gso_frames_may_be_longer_than_the_mtu(rig_on: Callable[..., Rig]) -> None:
    made = rig_on("tc", modes=("ipvlan",), options={"type": "l2", **CHILDREN})
    long = ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4, size=3000)
    assert made.send(long, skb={"gso_size": 1448, "gso_segs": 3}).verdict == "FORWARD_PORT"
    assert made.send(long).verdict == "DROP_MTU"


@pytest.mark.parametrize("count", [1, 3, 40, 200])
def test_every_address_is_found(rig_on: Callable[..., Rig], count: int) -> None:
    """However many there are: the table is as full as it gets."""
    names = tuple(f"p{number}=10.1.0.{number},fd01::{number:x}" for number in range(1, count + 1))
    made = rig_on("xdp", ports=count + 1, modes=("ipvlan",), options={"type": "l2", "child": names})
    for number in range(1, count + 1):
        station = mac(number)
        seen = made.send(ipv4(PARENT, OUTSIDE, f"10.1.0.{number}", OUT4))
        assert seen.frame == ipv4(station, OUTSIDE, f"10.1.0.{number}", OUT4)
        seen = made.send(ipv6(PARENT, OUTSIDE, f"fd01::{number:x}", OUT6))
        assert seen.frame == ipv6(station, OUTSIDE, f"fd01::{number:x}", OUT6)
    assert made.send(ipv4(PARENT, OUTSIDE, "10.1.0.254", OUT4)).verdict == "PUNT_LOCAL"
    assert made.send(ipv6(PARENT, OUTSIDE, "fd01::fffe", OUT6)).verdict == "PUNT_LOCAL"


def test_a_child_has_as_many_addresses_as_it_likes(rig: MakeRig) -> None:
    many = ",".join(f"10.2.{number >> 8}.{number & 255}" for number in range(1, 1001))
    made = rig(modes=("ipvlan",), options={"child": (f"p1={many}", "p2=10.0.0.2")})
    for to in ("10.2.0.1", "10.2.3.232"):
        assert made.send(ipv4(PARENT, OUTSIDE, to, OUT4)).frame == ipv4(1, OUTSIDE, to, OUT4)


def test_a_child_that_is_gone_gets_nothing(rig: MakeRig) -> None:
    """Its slot is cleared in a replace before the table of addresses changes with the program."""
    made = rig_of(rig, "l2", "bridge")
    made.maps["child_ports"].set(1, (0, 0, 0, 0, 0, 0))
    assert made.send(ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4)).verdict == "DROP_PORT_DOWN"
