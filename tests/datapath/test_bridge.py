# SPDX-License-Identifier: Apache-2.0
"""Stage bridge without VLANs: what becomes of a frame, in both forms and on both hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pydp.model import Bridge, BridgePort, FdbEntry, PortState
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, MULTICAST, Dot1AD, Ether, Raw, eth, mac, tagged
from tests.datapath.harness import BASE, BRIDGE, DROP, PASS, REDIRECT, Rig

GROUPS = [BROADCAST, MULTICAST, "33:33:00:00:00:01", "01:80:c2:00:00:10", "01:80:c2:00:01:00"]


def address(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def kernel_bridge(count: int = 4, /, *, ports: Mapping[int, Mapping[str, Any]] | None = None, **options: Any) -> Bridge:
    """br0 with p0 ... forwarding; PORTS changes some by number."""
    made = [
        BridgePort(**{"ifindex": BASE + i, "bridge": BRIDGE, "state": PortState.FORWARDING, **(ports or {}).get(i, {})})
        for i in range(count)
    ]
    return Bridge(BRIDGE, "br0", mac=b"\2\0\0\0\2\1", ports=tuple(made), **options)


def known(port: int, station: int, **flags: Any) -> FdbEntry:
    return FdbEntry(address(mac(station)), 0, BASE + port, BRIDGE, **flags)


@dataclass(frozen=True, slots=True)
class Case:
    """After the frames ``heard`` as (port, frame), FRAME comes in at PORT. It leaves the program as it came."""

    sentence: str
    frame: bytes
    verdict: str
    action: str
    port: int = 0
    heard: Sequence[tuple[int, bytes]] = ()
    rig: Mapping[str, Any] = field(default_factory=dict)

    def on(self, hook: str) -> Case:
        """The case with what the hook makes of it: XDP cannot copy, nor send what is longer than MTU, header and tag,
        and leaves both to the tc program beside it.
        """
        if hook == "xdp" and self.verdict == "FORWARD_PORT" and len(self.frame) > 1518:
            return replace(self, verdict="PUNT_LENGTH", action=PASS)
        if hook == "xdp" and self.verdict == "FLOOD_PORTS":
            return replace(self, verdict="PUNT_FLOOD", action=PASS)
        return self


HEARD = [(0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2)), (2, eth(BROADCAST, 3))]
FLOOD_UNICAST, FLOOD_GROUP = ("FLOOD_PORTS", DROP), ("FLOOD_PORTS", PASS)

STANDALONE = [
    Case("to a known station", eth(2, 1), "FORWARD_PORT", REDIRECT, heard=HEARD),
    Case("from a new one to a known one", eth(2, 9), "FORWARD_PORT", REDIRECT, heard=HEARD),
    Case("to an unknown station", eth(9, 1), *FLOOD_UNICAST, heard=HEARD),
    *(Case(f"to the group {one}", eth(one, 1), *FLOOD_GROUP, heard=HEARD) for one in GROUPS),
    Case("to a station on the port it came from", eth(2, 1), "DROP_SAME_PORT", DROP, port=1, heard=HEARD),
    Case("to itself", eth(1, 1), "DROP_SAME_PORT", DROP, heard=HEARD),
    Case(
        "to a station on its port, where hairpin is on", eth(2, 4), "FORWARD_PORT", REDIRECT, port=1, heard=HEARD,
        rig={"options": {"hairpin": ("p1",)}},
    ),
    Case("from a multicast source", eth(2, MULTICAST), "DROP_SOURCE", DROP, heard=HEARD),
    Case("from the broadcast address", eth(2, BROADCAST), "DROP_SOURCE", DROP, heard=HEARD),
    Case("from nobody", eth(2, "00:00:00:00:00:00"), "DROP_SOURCE", DROP, heard=HEARD),
    Case("a bad source goes before a link-local group", eth("01:80:c2:00:00:00", MULTICAST), "DROP_SOURCE", DROP),
    *(
        Case(f"to the link-local group {i:x}", eth(f"01:80:c2:00:00:{i:02x}", 1), "PUNT_LINK_LOCAL", PASS, heard=HEARD)
        for i in range(16)
    ),
    Case("to a port's own address", eth("02:00:00:00:01:02", 1), "PUNT_LOCAL", PASS, heard=HEARD),
    Case("to the port's own address it came in by", eth("02:00:00:00:01:00", 1), "PUNT_LOCAL", PASS, heard=HEARD),
    Case("from isolated to isolated", eth(2, 1), "DROP_ISOLATED", DROP, heard=HEARD,
         rig={"options": {"isolated": ("p0", "p1")}}),
    Case("from isolated to another port", eth(3, 1), "FORWARD_PORT", REDIRECT, heard=HEARD,
         rig={"options": {"isolated": ("p0", "p1")}}),
    Case("from another port to isolated", eth(1, 3), "FORWARD_PORT", REDIRECT, port=2, heard=HEARD,
         rig={"options": {"isolated": ("p0", "p1")}}),
    Case("of hairpin, yet isolated from itself", eth(1, 9), "DROP_ISOLATED", DROP, heard=HEARD,
         rig={"options": {"isolated": ("p0",), "hairpin": ("p0",)}}),
    Case("as long as the MTU, header and a tag", eth(2, 1, size=1518), "FORWARD_PORT", REDIRECT, heard=HEARD),
    Case("a byte longer", eth(2, 1, size=1519), "DROP_MTU", DROP, heard=HEARD),
    Case("a byte longer, to an unknown station", eth(9, 1, size=1519), *FLOOD_UNICAST, heard=HEARD),
    Case("tagged, as long as XDP sends", eth(2, 1, tagged(5), size=1514), "FORWARD_PORT", REDIRECT, heard=HEARD),
    Case("tagged, longest: a tag does not count", eth(2, 1, tagged(5), size=1518), "FORWARD_PORT", REDIRECT,
         heard=HEARD),
    Case("tagged, a byte longer", eth(2, 1, tagged(5), size=1519), "DROP_MTU", DROP, heard=HEARD),
    Case("two tags, longest: one of them counts", eth(2, 1, Dot1AD(vlan=7), tagged(5), size=1514), "FORWARD_PORT",
         REDIRECT, heard=HEARD),
    Case("two tags, a byte longer", eth(2, 1, Dot1AD(vlan=7), tagged(5), size=1515), "DROP_MTU", DROP, heard=HEARD),
    Case("tags mean nothing without VLAN filtering", eth(2, 1, Dot1AD(vlan=7), tagged(5)), "FORWARD_PORT", REDIRECT,
         heard=[(0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2, tagged(6)))]),
    Case("of no known protocol", bytes(Ether(dst=mac(2), src=mac(1), type=0x88B5) / Raw(bytes(46))), "FORWARD_PORT",
         REDIRECT, heard=HEARD),
]  # fmt: skip

LIVE = (known(0, 1), known(1, 2), known(2, 3))


def adopting(*, fdb: Sequence[FdbEntry] = LIVE, ports: Mapping[int, Mapping[str, Any]] | None = None,
             ageing: float = 300) -> dict[str, Any]:  # fmt: skip
    return {"bridge": kernel_bridge(ports=ports, ageing=ageing), "fdb": fdb}


ADOPTING = [
    Case("between stations that the bridge knows", eth(2, 1), "FORWARD_PORT", REDIRECT, rig=adopting()),
    Case("to an unknown station", eth(9, 1), "PUNT_UNKNOWN", PASS, rig=adopting()),
    *(Case(f"to the group {one}", eth(one, 1), "PUNT_GROUP", PASS, rig=adopting()) for one in GROUPS),
    Case("from a new station", eth(2, 9), "PUNT_NEW_SOURCE", PASS, rig=adopting()),
    Case("its second frame", eth(2, 9), "FORWARD_PORT", REDIRECT, heard=[(0, eth(2, 9))], rig=adopting()),
    Case("from a station that moved", eth(3, 2), "PUNT_NEW_SOURCE", PASS, rig=adopting()),
    Case("the second frame after the move", eth(3, 2), "FORWARD_PORT", REDIRECT, heard=[(0, eth(3, 2))],
         rig=adopting()),
    Case("from a station last heard a third of the ageing time ago", eth(2, 1), "PUNT_NEW_SOURCE", PASS,
         rig=adopting(fdb=(known(0, 1, updated=100), known(1, 2)))),
    Case("from a station last heard a fifth of it ago", eth(2, 1), "FORWARD_PORT", REDIRECT,
         rig=adopting(fdb=(known(0, 1, updated=60), known(1, 2)))),
    Case("to a station last heard too long ago", eth(2, 1), "PUNT_UNKNOWN", PASS,
         rig=adopting(fdb=(known(0, 1), known(1, 2, updated=301)))),
    Case("to a static entry, which does not age", eth(2, 1), "FORWARD_PORT", REDIRECT,
         rig=adopting(fdb=(known(0, 1), known(1, 2, static=True, updated=9999)))),
    Case("from a static entry, which the bridge need not see", eth(2, 1), "FORWARD_PORT", REDIRECT,
         rig=adopting(fdb=(known(0, 1, static=True, updated=9999), known(1, 2)))),
    Case("from a static entry on another port: it moves", eth(3, 2), "PUNT_NEW_SOURCE", PASS,
         rig=adopting(fdb=(known(1, 2, static=True), known(2, 3)))),
    Case("to a static entry that moved", eth(2, 3), "FORWARD_PORT", REDIRECT, port=2, heard=[(0, eth(3, 2))],
         rig=adopting(fdb=(known(2, 2, static=True), known(2, 3)))),
    Case("from a sticky entry on another port: it stays", eth(3, 2), "FORWARD_PORT", REDIRECT,
         rig=adopting(fdb=(known(1, 2, static=True, sticky=True), known(2, 3)))),
    Case("to a sticky entry heard elsewhere", eth(2, 3), "DROP_SAME_PORT", DROP, port=2, heard=[(0, eth(3, 2))],
         rig=adopting(fdb=(known(2, 2, static=True, sticky=True), known(2, 3)))),
    Case("to an address of this host", eth(9, 1), "PUNT_LOCAL", PASS,
         rig=adopting(fdb=(known(0, 1), FdbEntry(address(mac(9)), 0, BRIDGE, BRIDGE, local=True)))),
    Case("to a link-local group", eth("01:80:c2:00:00:0e", 1), "PUNT_LINK_LOCAL", PASS, rig=adopting()),
    Case("from a multicast source", eth(2, MULTICAST), "DROP_SOURCE", DROP, rig=adopting()),
    *(
        Case(f"in by a port in state {state.name}", eth(2, 1), "PUNT_PORT", PASS,
             rig=adopting(ports={0: {"state": state}}))
        for state in PortState if state != PortState.FORWARDING
    ),
    *(
        Case(f"out by a port in state {state.name}", eth(2, 1), "PUNT_PORT", PASS,
             rig=adopting(ports={1: {"state": state}}))
        for state in PortState if state != PortState.FORWARDING
    ),
    Case("in by a locked port", eth(2, 1), "PUNT_PORT", PASS, rig=adopting(ports={0: {"locked": True}})),
    Case("from a new station where learning is off", eth(2, 9), "FORWARD_PORT", REDIRECT,
         rig=adopting(ports={0: {"learning": False}})),
    Case("on one port", eth(2, 4), "DROP_SAME_PORT", DROP, port=1,
         rig=adopting(fdb=(known(1, 2), known(1, 4)))),
    Case("on one port with hairpin", eth(2, 4), "FORWARD_PORT", REDIRECT, port=1,
         rig=adopting(fdb=(known(1, 2), known(1, 4)), ports={1: {"hairpin": True}})),
    Case("between isolated ports", eth(2, 1), "DROP_ISOLATED", DROP,
         rig=adopting(ports={0: {"isolated": True}, 1: {"isolated": True}})),
    Case("too long", eth(2, 1, size=1519), "DROP_MTU", DROP, rig=adopting()),
    Case("with ageing 0 nothing is learned", eth(2, 9), "FORWARD_PORT", REDIRECT,
         rig=adopting(fdb=(known(1, 2, static=True),), ageing=0)),
]  # fmt: skip


def check(rig: MakeRig, hook: str, case: Case) -> None:
    made = rig(**case.rig)
    made.tell(*case.heard)
    wanted = case.on(hook)
    if hook == "tc" and case.frame[12:14] in (b"\x81\x00", b"\x88\xa8"):  # there the tag is not in the frame
        assert made.send_through("untag", case.frame, case.port).action == wanted.action
        seen = made.send_through("untag", case.frame, case.port, finish=True)
        assert (seen.verdict, seen.frame, seen.length) == (wanted.verdict, case.frame, len(case.frame) - 4)
        return
    seen = made.send(case.frame, case.port)
    assert (seen.verdict, seen.action) == (wanted.verdict, wanted.action)
    assert seen.frame == case.frame
    assert (seen.mode, seen.length) == ("bridge", len(case.frame))


def ids(cases: Sequence[Case]) -> list[Any]:
    return [pytest.param(case, id=case.sentence) for case in cases]


@pytest.mark.parametrize("case", ids(STANDALONE))
def test_standalone(rig: MakeRig, hook: str, case: Case) -> None:
    check(rig, hook, case)


@pytest.mark.parametrize("case", ids(ADOPTING))
def test_adopting(rig: MakeRig, hook: str, case: Case) -> None:
    check(rig, hook, case)


def test_gso_frames_may_be_longer_than_the_mtu(rig_on: Callable[..., Rig]) -> None:
    """The device below cuts them up (is_skb_forwardable)."""
    made = rig_on("tc")
    made.tell(*HEARD)
    long = eth(2, 1, size=3000)
    assert made.send(long, skb={"gso_size": 1448, "gso_segs": 3}).verdict == "FORWARD_PORT"
    assert made.send(long).verdict == "DROP_MTU"


def test_addresses_of_a_port_that_is_gone_are_flooded(rig: MakeRig, hook: str) -> None:
    """A replace with fewer ports clears their slots first."""
    made = rig()
    made.tell(*HEARD)
    made.maps["bridge_ports"].set(1, (0, 0, 0, 0))
    assert made.send(eth(2, 1)).verdict == ("PUNT_FLOOD" if hook == "xdp" else "FLOOD_PORTS")


def test_a_port_that_does_not_forward_drops_in_the_standalone_form(rig: MakeRig) -> None:
    made = rig()
    made.tell(*HEARD)
    port = made.maps["bridge_ports"].get(1)
    made.maps["bridge_ports"].set(1, port._replace(flags=port.flags & ~2))  # PORT_FORWARDING
    assert made.send(eth(2, 1)).verdict == "DROP_PORT_DOWN"


def test_without_counters_nothing_is_counted(rig: MakeRig) -> None:
    made = rig(counters=False)
    made.tell(*HEARD)
    seen = made.send(eth(2, 1))
    assert (seen.action, seen.verdict) == (REDIRECT, "")
    assert "counters" not in made.maps or made.counts() == {}


def test_counts_are_packets_and_bytes(rig: MakeRig) -> None:
    made = rig()
    made.tell(*HEARD)
    frames = [eth(2, 1, size=size) for size in (60, 61, 1000, 1518)]
    for frame in frames:
        assert made.send(frame).verdict == "FORWARD_PORT"
    assert made.counts()["bridge", "FORWARD_PORT"] == (4, sum(map(len, frames)))
