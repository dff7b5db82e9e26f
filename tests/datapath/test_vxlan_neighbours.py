# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan by test run: questions for neighbours that are known beforehand are answered, and only those."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr

from tests.datapath.conftest import MakeRig
from tests.datapath.frames import ARP, BROADCAST, Dot1Q, Ether, IPv6, Raw, mac
from tests.datapath.harness import BASE, REDIRECT, Result, Rig

pytestmark = pytest.mark.usefixtures("requires_root")

P1, P3 = 1, 3
OPTIONS: dict[str, Any] = {
    "vni": 100, "local": "192.0.2.1", "remote": ("192.0.2.2",), "port": ("p1", "p2"),
    "neighbour": (f"10.1.2.1={mac(9)}", f"fd01::9={mac(9)}"),
    "more": ({"vni": 7, "remote": ("192.0.2.3",), "port": ("p3",)},),
}  # fmt: skip


def make(rig: MakeRig) -> Rig:
    return rig(ports=4, modes=("vxlan",), options=OPTIONS)


def asked(hook: str) -> str:
    """The verdict on what goes to everybody."""
    return "FLOOD_PORTS" if hook == "tc" else "PUNT_FLOOD"


def arp(*, dst: str = "10.1.2.1", src: str = "10.1.1.1", op: int = 1, **fields: Any) -> bytes:
    question = ARP(op=op, hwsrc=mac(1), psrc=src, hwdst="00:00:00:00:00:00", pdst=dst, **fields)
    return bytes(Ether(dst=BROADCAST, src=mac(1)) / question / Raw(bytes(18)))


def solicitation(*, target: str = "fd01::9", src: str = "fd01::1", hlim: int = 255, option: bool = True) -> bytes:
    packet = Ether(dst="33:33:ff:00:00:09", src=mac(1)) / IPv6(src=src, dst="ff02::1:ff00:9", hlim=hlim)
    packet /= ICMPv6ND_NS(tgt=target)
    return bytes(packet / ICMPv6NDOptSrcLLAddr(lladdr=mac(1)) if option else packet)


def test_arp_is_answered(rig: MakeRig) -> None:
    made = make(rig)
    sent = made.send(arp(), P1)
    answer = ARP(op=2, hwsrc=mac(9), psrc="10.1.2.1", hwdst=mac(1), pdst="10.1.1.1")
    wanted = bytes(Ether(dst=mac(1), src=mac(9)) / answer / Raw(bytes(18)))
    assert sent == Result("FORWARD_REPLY", REDIRECT, wanted, "vxlan", 60)


def test_a_solicitation_is_answered(rig: MakeRig) -> None:
    sent = make(rig).send(solicitation(), P1)
    answer = IPv6(src="fd01::9", dst="fd01::1", hlim=255) / ICMPv6ND_NA(tgt="fd01::9", R=0, S=1, O=1)
    wanted = bytes(Ether(dst=mac(1), src=mac(9)) / answer / ICMPv6NDOptDstLLAddr(lladdr=mac(9)))
    assert sent == Result("FORWARD_REPLY", REDIRECT, wanted, "vxlan", len(wanted))


@pytest.mark.parametrize(
    "frame",
    [
        arp(dst="10.1.2.2"), arp(op=2), arp(src="10.1.2.1"), arp(src="0.0.0.0"), arp(hwtype=6),
        solicitation(target="fd01::8"), solicitation(hlim=64), solicitation(src="::"), solicitation(option=False),
        bytes(Ether(dst=BROADCAST, src=mac(1)) / Dot1Q(vlan=5) / Ether(arp())[ARP]),
    ],
    ids=["unknown", "answer", "announcement", "probe", "not-ethernet", "unknown6", "routed", "dad", "bare", "tagged"],
)  # fmt: skip
def test_everything_else_goes_to_everybody(rig: MakeRig, hook: str, frame: bytes) -> None:
    assert make(rig).send(frame, P1).verdict == asked(hook)


def test_another_segment_knows_nothing_of_it(rig: MakeRig, hook: str) -> None:
    assert make(rig).send(arp(), P3).verdict == asked(hook)


def test_who_asks_is_learned(rig: MakeRig) -> None:
    made = make(rig)
    made.send(arp(), P1)
    assert made.fdb()[bytes.fromhex(mac(1).replace(":", "")), 0].slot == P1
    assert BASE + P1 in {port.ifindex for _, port in made.maps["vxlan_ports"]}
