# SPDX-License-Identifier: Apache-2.0
"""Stage bridge with VLAN filtering: which frames may pass, and the tag that they leave with, whole frames compared.

On XDP the tag is in the frame. On tc the kernel has moved it into metadata before, which prelude.c does here, and back
into the frame afterwards so that it can be seen; real devices are in test_vlan_devices.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pydp.model import Bridge, BridgePort, FdbEntry, PortState, Vlan
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, Dot1AD, eth, mac, tagged
from tests.datapath.harness import BASE, BRIDGE, DROP, PASS, REDIRECT

# p0: access to VLAN 10, and an untagged member of VLAN 1 still. p1 and p4: trunks. p2: access to 20. p3: as it begins.
VLANS = (
    "p0=10:pvid:untagged", "p1=10", "p1=20-30", "p2=20:pvid:untagged", "p4=1", "p4=10", "p4=20:untagged",
)  # fmt: skip
FILTERING = {"ports": 5, "options": {"vlan_filtering": True, "vlan": VLANS}}
SERVICE = {"ports": 5, "options": {"vlan_filtering": True, "vlan": VLANS, "vlan_protocol": "802.1ad"}}
# Stations: 1 in VLAN 10 behind p0, 2 in 10 and 3 in 20 behind p1, 4 in 20 behind p2, 5 in 1 behind p3, 6 in 10 behind
# p4, 7 in 1 behind p0, 8 in 20 behind p4.
HEARD = [
    (0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2, tagged(10))), (1, eth(BROADCAST, 3, tagged(20))),
    (2, eth(BROADCAST, 4)), (3, eth(BROADCAST, 5)), (4, eth(BROADCAST, 6, tagged(10))),
    (0, eth(BROADCAST, 7, tagged(1))), (4, eth(BROADCAST, 8, tagged(20))),
]  # fmt: skip
SERVICE_HEARD = [
    (0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2, Dot1AD(vlan=10))), (2, eth(BROADCAST, 4)),
    (4, eth(BROADCAST, 6, Dot1AD(vlan=10))),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """After HEARD, FRAME comes in at PORT and leaves the program as OUT (b"": as it came)."""

    sentence: str
    port: int
    frame: bytes
    verdict: str
    action: str
    out: bytes = b""
    rig: Mapping[str, Any] = field(default_factory=lambda: FILTERING)
    heard: Sequence[tuple[int, bytes]] = field(default_factory=lambda: HEARD)


def forwarded(sentence: str, port: int, frame: bytes, out: bytes, **more: Any) -> Case:
    return Case(sentence, port, frame, "FORWARD_PORT", REDIRECT, out, **more)


def dropped(sentence: str, port: int, frame: bytes, verdict: str, **more: Any) -> Case:
    return Case(sentence, port, frame, verdict, DROP, **more)


def adopted(ports: Mapping[int, Mapping[str, Any]], *fdb: tuple[int, int, int], **options: Any) -> dict[str, Any]:
    """A kernel bridge of five ports in VLAN 1 but for what PORTS says, which knows (port, station, VLAN)."""
    default: dict[str, Any] = {"pvid": 1, "vlans": (Vlan(1, True),)}
    made = tuple(
        BridgePort(BASE + i, BRIDGE, PortState.FORWARDING, **(default | dict(ports.get(i, {})))) for i in range(5)
    )
    known = tuple(
        FdbEntry(bytes.fromhex(mac(station).replace(":", "")), vid, BASE + port, BRIDGE) for port, station, vid in fdb
    )
    return {
        "ports": 5, "bridge": Bridge(BRIDGE, "br0", vlan_filtering=True, ports=made, **options), "fdb": known,
    }  # fmt: skip


CASES = [
    forwarded("access to trunk: the tag is pushed", 0, eth(2, 1), eth(2, 1, tagged(10))),
    forwarded("trunk to access: the tag is popped", 1, eth(1, 2, tagged(10)), eth(1, 2)),
    forwarded("trunk to trunk: the tag stays", 1, eth(6, 2, tagged(10)), eth(6, 2, tagged(10))),
    forwarded("its priority and DEI stay", 1, eth(6, 2, tagged(10, prio=6, dei=1)),
              eth(6, 2, tagged(10, prio=6, dei=1))),
    forwarded("access to access", 0, eth(5, 7, tagged(1)), eth(5, 7)),
    forwarded("a priority tag gets the PVID and keeps its priority", 0, eth(2, 1, tagged(0, prio=5, dei=1)),
              eth(2, 1, tagged(10, prio=5, dei=1))),
    forwarded("a priority tag is popped where frames leave untagged", 3, eth(7, 5, tagged(0, prio=5)), eth(7, 5)),
    forwarded("a port that is a trunk for one VLAN pops another's tag", 1, eth(8, 3, tagged(20)), eth(8, 3)),
    forwarded("a tag at an access port counts if the port is a member", 0, eth(5, 7, tagged(1, prio=3)), eth(5, 7)),
    forwarded("under the popped tag another one comes to light", 1, eth(1, 2, tagged(10), tagged(99, prio=2)),
              eth(1, 2, tagged(99, prio=2))),
    forwarded("under the popped tag a service tag", 1, eth(1, 2, tagged(10), Dot1AD(vlan=99)),
              eth(1, 2, Dot1AD(vlan=99))),
    forwarded("the tag is pushed over another one", 0, eth(6, 1, tagged(10), tagged(30)),
              eth(6, 1, tagged(10), tagged(30))),
    forwarded("a priority tag over another one", 0, eth(6, 1, tagged(0, prio=1), tagged(30)),
              eth(6, 1, tagged(10, prio=1), tagged(30))),
    forwarded("a tag of the other protocol is payload: the PVID counts", 0, eth(2, 1, Dot1AD(vlan=20)),
              eth(2, 1, tagged(10), Dot1AD(vlan=20))),
    forwarded("and stays when no tag is wanted", 3, eth(7, 5, Dot1AD(vlan=20, prio=3)),
              eth(7, 5, Dot1AD(vlan=20, prio=3))),
    dropped("not a member of the tag's VLAN", 0, eth(2, 1, tagged(20)), "DROP_VLAN_INGRESS"),
    dropped("a VLAN that nobody is a member of", 1, eth(2, 1, tagged(4000)), "DROP_VLAN_INGRESS"),
    dropped("VLAN 4095", 1, eth(2, 1, tagged(4095)), "DROP_VLAN_INGRESS"),
    dropped("a multicast source goes first", 0, eth(2, BROADCAST, tagged(20)), "DROP_SOURCE"),
    Case("a link-local group belongs to no VLAN", 0, eth("01:80:c2:00:00:0e", 1, tagged(20)), "PUNT_LINK_LOCAL", PASS),
    Case("a port's own address, in a VLAN of the port", 1, eth("02:00:00:00:01:00", 2, tagged(10)), "PUNT_LOCAL", PASS),
    Case("another station's address in a VLAN where it is not", 1, eth(4, 2, tagged(10)), "FLOOD_PORTS", DROP),
    Case("a port's own address in another VLAN", 1, eth("02:00:00:00:01:00", 2, tagged(20)), "FLOOD_PORTS", DROP),
    forwarded("as long as XDP sends, leaving with a tag", 0, eth(2, 1, size=1514),
              eth(2, 1, tagged(10), size=1514)),
    forwarded("as long as MTU, header and tag, leaving with a tag", 0, eth(2, 1, size=1518),
              eth(2, 1, tagged(10), size=1518)),
    dropped("a byte longer", 0, eth(2, 1, size=1519), "DROP_MTU"),
    forwarded("tagged on both sides and longest", 1, eth(6, 2, tagged(10), size=1518),
              eth(6, 2, tagged(10), size=1518)),
    dropped("tagged and a byte longer", 1, eth(6, 2, tagged(10), size=1519), "DROP_MTU"),
    forwarded("a tag of the other protocol counts for the MTU", 0, eth(2, 1, Dot1AD(vlan=20), size=1514),
              eth(2, 1, tagged(10), Dot1AD(vlan=20), size=1514)),
    dropped("and is one byte too much", 0, eth(2, 1, Dot1AD(vlan=20), size=1515), "DROP_MTU"),
    forwarded("802.1ad: a service tag is pushed", 0, eth(2, 1), eth(2, 1, Dot1AD(vlan=10)), rig=SERVICE,
              heard=SERVICE_HEARD),
    forwarded("802.1ad: over a customer's tag", 0, eth(2, 1, tagged(77)), eth(2, 1, Dot1AD(vlan=10), tagged(77)),
              rig=SERVICE, heard=SERVICE_HEARD),
    forwarded("802.1ad: popped, the customer's tag stays", 1, eth(1, 2, Dot1AD(vlan=10), tagged(77, prio=4)),
              eth(1, 2, tagged(77, prio=4)), rig=SERVICE, heard=SERVICE_HEARD),
    forwarded("802.1ad: kept", 1, eth(6, 2, Dot1AD(vlan=10, prio=2), tagged(77)),
              eth(6, 2, Dot1AD(vlan=10, prio=2), tagged(77)), rig=SERVICE, heard=SERVICE_HEARD),
    forwarded("adopted: tag pushed", 0, eth(2, 1), eth(2, 1, tagged(1)),
              rig=adopted({1: {"vlans": (Vlan(1),)}}, (0, 1, 1), (1, 2, 1)), heard=()),
    dropped("adopted: no PVID, no tag", 0, eth(2, 1), "DROP_VLAN_INGRESS",
            rig=adopted({0: {"pvid": None}}, (0, 1, 1), (1, 2, 1)), heard=()),
    dropped("adopted: no PVID, a priority tag", 0, eth(2, 1, tagged(0, prio=7)), "DROP_VLAN_INGRESS",
            rig=adopted({0: {"pvid": None}}, (0, 1, 1), (1, 2, 1)), heard=()),
    dropped("adopted: an address behind a port that has left the VLAN", 0, eth(2, 1), "DROP_VLAN_EGRESS",
            rig=adopted({1: {"vlans": (Vlan(2),), "pvid": 2}}, (0, 1, 1), (1, 2, 1)), heard=()),
    Case("adopted: unknown in this VLAN", 0, eth(2, 1), "PUNT_UNKNOWN", PASS,
         rig=adopted({}, (0, 1, 1), (1, 2, 5)), heard=()),
    Case("adopted: new in this VLAN", 0, eth(2, 1), "PUNT_NEW_SOURCE", PASS,
         rig=adopted({}, (0, 1, 5), (1, 2, 1)), heard=()),
    forwarded("adopted: service tags", 0, eth(2, 1, tagged(9)), eth(2, 1, Dot1AD(vlan=1), tagged(9)),
              rig=adopted({1: {"vlans": (Vlan(1),)}}, (0, 1, 1), (1, 2, 1), vlan_protocol=0x88A8), heard=()),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case.sentence) for case in CASES])
def test_vlan(rig: MakeRig, hook: str, case: Case) -> None:
    made = rig(**case.rig)
    for port, frame in case.heard:
        if hook == "tc":
            made.send_through("untag", frame, port)
        else:
            made.send(frame, port)
    verdict, action = case.verdict, case.action
    out = case.out or case.frame
    if hook == "xdp":
        if verdict == "FLOOD_PORTS":
            verdict, action = "PUNT_FLOOD", PASS
        if verdict == "FORWARD_PORT" and len(out) > 1518:  # MTU, header and tag: more XDP may not send
            verdict, action, out = "PUNT_LENGTH", PASS, case.frame
        seen = made.send(case.frame, case.port)
        assert (seen.verdict, seen.action, seen.frame) == (verdict, action, out)
        assert seen.length == len(case.frame)
        return
    seen = made.send_through("untag", case.frame, case.port, finish=True)
    assert (seen.verdict, seen.frame) == (verdict, out)
    if verdict != "PUNT_NEW_SOURCE":  # which is no longer new
        assert made.send_through("untag", case.frame, case.port).action == action


def test_one_address_in_two_vlans_is_two_stations(rig: MakeRig, hook: str) -> None:
    made = rig(**FILTERING)
    for port, frame in ((0, eth(BROADCAST, 1)), (2, eth(BROADCAST, 1))):
        made.send(frame, port)
    address = bytes.fromhex(mac(1).replace(":", ""))
    learned = {vid: entry.slot for (name, vid), entry in made.fdb().items() if name == address}
    assert learned == {10: 0, 20: 2}


def test_a_frame_that_may_not_enter_teaches_nothing(rig: MakeRig) -> None:
    made = rig(**FILTERING)
    before = made.fdb()
    assert made.send(eth(BROADCAST, 1, tagged(20))).verdict == "DROP_VLAN_INGRESS"
    assert made.fdb() == before
