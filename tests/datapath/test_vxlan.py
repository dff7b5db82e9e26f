# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan by test run: what leaves a port for a VTEP and what comes from one, whole frames as scapy has them.

Port 0 is the underlay, 1 and 2 are ports of VNI 100, 3 is one of VNI 7, 4 is the companion.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from ebpf.errors import EbpfError
from pydp.modes.fdb import OWNED, REMOTE, STATIC, add_request, fdb_key
from pydp.modes.vxlan_maps import PRESENT
from tests.datapath import recents
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import (
    ARP,
    BROADCAST,
    ICMP,
    IP,
    MULTICAST,
    TCP,
    UDP,
    VXLAN,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrFragment,
    Packet,
    Raw,
    eth,
    mac,
    tagged,
)
from tests.datapath.harness import BASE, DROP, PASS, REDIRECT, Result, Rig, empty, port_mac, ticks_now
from tests.kernels.needs import any_kernel

pytestmark = pytest.mark.usefixtures("requires_root")

UNDERLAY, P1, P2, P3, COMPANION = range(5)
LOCAL, VTEP, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
LOCAL6, VTEP6, OTHER6 = "2001:db8::1", "2001:db8::2", "2001:db8:0:1::2"
HERE, THERE = "02:00:00:00:01:00", "02:00:00:00:0b:01"  # MAC addresses of the underlay and of the next hop
OVERHEAD = {4: 50, 6: 70}
PORTS = range(32768, 60999)
V4: dict[str, Any] = {
    "vni": 100, "local": LOCAL, "remote": (VTEP, OTHER), "port": ("p1", "p2"),
    "more": ({"vni": 7, "remote": (OTHER, "192.0.2.4"), "port": ("p3",)},),
}  # fmt: skip
V6: dict[str, Any] = {
    "vni": 100, "local": LOCAL6, "remote": (VTEP6, OTHER6), "port": ("p1", "p2"), "udp_csum": False,
    "more": ({"vni": 7, "remote": (OTHER6,), "port": ("p3",), "udp_csum": False},),
}  # fmt: skip
FAMILIES = {4: V4, 6: V6}
RECENT_CHANGE = 1 << 40


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def make(rig: MakeRig, family: int = 4, **options: Any) -> Rig:
    """A rig with the station 1 known behind port 1, and station 9 behind the first VTEP."""
    made = rig(ports=4, modes=("vxlan",), options=FAMILIES[family])
    if options:
        made.refill("vxlan", {**FAMILIES[family], **options})
    forget(made)
    made.tell((P1, eth(BROADCAST, 1)), (UNDERLAY, outer(eth(1, 9), family)))
    return made


def forget(rig: Rig) -> None:
    """Have the next frame go the long way (lib/recent.h): what an attach makes anew, a rig has used before."""
    changes = rig.maps["recent_changes"]
    changes.set(0, changes.get(0) + RECENT_CHANGE)


def outer_header(family: int, **ip: Any) -> Packet:
    if family == 6:
        return IPv6(**{"src": VTEP6, "dst": LOCAL6, **ip})
    return IP(**{"src": VTEP, "dst": LOCAL, "id": 7, **ip})


def outer(
    inner: Any, family: int = 4, *, ether: Mapping[str, Any] | None = None, udp: Mapping[str, Any] | None = None,
    vxlan: Mapping[str, Any] | None = None, **ip: Any,
) -> bytes:  # fmt: skip
    """A packet from the first VTEP, its UDP checksum 0 unless told otherwise."""
    packet = Ether(**{"dst": HERE, "src": THERE, **(ether or {})}) / outer_header(family, **ip)
    packet /= UDP(**{"sport": 40000, "dport": 4789, "chksum": 0, **(udp or {})})
    packet /= VXLAN(**{"vni": 100, "flags": 0x08, **(vxlan or {})})
    return bytes(packet / Raw(bytes(inner)))


def resolve(rig: Rig, index: int = 0, *, ident: int = 0x1234, mtu: int = 1500) -> None:
    """The way to a VTEP as bpf_fib_lookup() tells it, which knows none without devices."""
    now = ticks_now()
    dest, source = (int.from_bytes(bytes.fromhex(one.replace(":", "")), "little") for one in (THERE, HERE))
    header = (dest | (source & 0xFFFF) << 48, source >> 16, 0)
    rig.maps["vxlan_hops"].set(index, (now, now, BASE, mtu, 1, 0, ident, (0, 0, 0), header))
    if "recents" in rig.maps:
        recents.set_id(rig.maps["recents"], ident)


def encap(rig: Rig, frame: bytes, port: int = P1, *, index: int = 0, ident: int = 0x1234, **options: Any) -> Result:
    """A frame for a VTEP whose way is known. That holds for 50 ms, which a busy machine may need between two calls. It
    goes twice, the second time the short way if there is one, which must not show.
    """
    first = None
    for _ in range(50):
        resolve(rig, index, ident=ident)
        result = rig.send(frame, port, **options)
        if result.verdict == "PUNT_NEIGHBOUR":
            continue
        if first:
            assert result == first
            return result
        first = result
    raise AssertionError("the way was forgotten each time")


def decap(rig: Rig, packet: bytes) -> Result:
    """A packet from the underlay, twice."""
    first = rig.send(packet)
    assert rig.send(packet) == first
    return first


def expected(inner: bytes, sent: bytes, family: int = 4, *, udp_sum: bool = False, **ip: Any) -> bytes:
    """INNER as it leaves for the first VTEP, with the source port that SENT has."""
    sport = int.from_bytes(sent[14 + OVERHEAD[family] - 30 :][:2], "big")
    ends = {4: {"src": LOCAL, "dst": VTEP, "id": 0x1234, "ttl": 64}, 6: {"src": LOCAL6, "dst": VTEP6, "hlim": 64}}
    udp = {"sport": sport} | ({"chksum": None} if udp_sum else {})
    return outer(inner, family, ether={"dst": THERE, "src": HERE}, udp=udp, **{**ends[family], **ip})


def udp4(size: int = 60, *, dst: int = 9, src: int = 1, sport: int = 1000, **ip: Any) -> bytes:
    """A frame of SIZE bytes with its checksums, from a station to another."""
    packet = Ether(dst=mac(dst), src=mac(src)) / IP(src="10.0.0.1", dst="10.0.0.2", **ip)
    return bytes(packet / UDP(sport=sport, dport=2000) / Raw(bytes(i & 255 for i in range(size - 42))))


def tcp6(size: int = 100, *, dst: int = 9, src: int = 1, **ip: Any) -> bytes:
    packet = Ether(dst=mac(dst), src=mac(src)) / IPv6(src="fd00::1", dst="fd00::2", **ip)
    return bytes(packet / TCP(sport=1000, dport=80, flags="A") / Raw(bytes(i & 255 for i in range(size - 74))))


INNER = {
    "udp": udp4(dst=1, src=9),
    "tcp6": tcp6(dst=1, src=9),
    "arp": bytes(Ether(dst=mac(1), src=mac(9)) / ARP(op=2)) + bytes(18),
    "tagged": eth(1, 9, tagged(5, prio=3)),
    "double": eth(1, 9, Dot1AD(vlan=7), tagged(5)),
    "tagged6": bytes(Ether(dst=mac(1), src=mac(9)) / Dot1Q(vlan=5) / IPv6(src="fd00::1", dst="fd00::2") / UDP()),
    "other": bytes.fromhex(mac(1).replace(":", "") + mac(9).replace(":", "") + "88b6") + bytes(range(50)),
    "full": udp4(1514, dst=1, src=9),
    "nested": bytes(
        Ether(dst=mac(1), src=mac(9)) / IP(src=VTEP, dst=LOCAL) / UDP(sport=4789, dport=4789, chksum=0)
        / VXLAN(vni=100, flags=8) / eth(1, 8)
    ),
    "broken": bytes.fromhex(mac(1).replace(":", "") + mac(9).replace(":", "") + "0800") + bytes(46),
}  # fmt: skip


# From the underlay


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_a_frame_comes_out_as_it_went_in(rig: MakeRig, family: int, inner: bytes) -> None:
    made = make(rig, family)
    packet = outer(inner, family)
    assert decap(made, packet) == Result("FORWARD_DECAP", REDIRECT, inner, "vxlan", len(packet))


@pytest.mark.parametrize("size", [14, 15, 33, 34, 53, 54])
def test_a_short_frame(rig: MakeRig, hook: str, family: int, size: int) -> None:
    """tc cannot shorten a packet so far that no header like the outer one would be left: the kernel does it."""
    made = make(rig, family)
    inner = INNER["other"][:size]
    result = made.send(outer(inner, family))
    if hook == "tc" and size < (54 if family == 6 else 34):
        assert (result.verdict, result.action, result.frame) == ("PUNT_PROTOCOL", PASS, outer(inner, family))
    else:
        assert (result.verdict, result.action, result.frame) == ("FORWARD_DECAP", REDIRECT, inner)


RULES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "port": ("PASS_UNCLAIMED", {"udp": {"dport": 4790}}),
    "reply": ("PASS_UNCLAIMED", {"udp": {"sport": 4789, "dport": 40000}}),
    "protocol": ("PASS_UNCLAIMED", {"proto": 6}),
    "address": ("PASS_UNCLAIMED", {"dst": "192.0.2.77"}),
    "broadcast": ("PASS_UNCLAIMED", {"dst": "255.255.255.255"}),
    "group": ("PASS_UNCLAIMED", {"dst": "239.1.1.1"}),
    "other host": ("PUNT_ADDRESS", {"ether": {"dst": THERE}}),
    "broadcast frame": ("PUNT_ADDRESS", {"ether": {"dst": BROADCAST}}),
    "vtep": ("PUNT_VTEP", {"src": "192.0.2.77"}),
    "own address": ("PUNT_VTEP", {"src": LOCAL}),
    "unknown vni": ("PUNT_VTEP", {"vxlan": {"vni": 8}}),
    "vni 0": ("PUNT_VTEP", {"vxlan": {"vni": 0}}),
    "vtep of another vni": ("PUNT_VTEP", {"vxlan": {"vni": 7}}),
    "vni of another vtep": ("PUNT_VTEP", {"src": "192.0.2.4"}),
    "highest vni": ("PUNT_VTEP", {"vxlan": {"vni": (1 << 24) - 1}}),
    "first fragment": ("PUNT_FRAGMENT", {"flags": "MF"}),
    "later fragment": ("PUNT_FRAGMENT", {"frag": 10}),
    "options": ("PUNT_HEADER", {"options": [IPOption_NOP()] * 4}),
    "header checksum": ("PUNT_HEADER", {"chksum": 0x1234}),
    "version": ("PUNT_HEADER", {"version": 5}),
    "header length": ("PUNT_HEADER", {"ihl": 4}),
    "total length, longer": ("PUNT_HEADER", {"len": 111}),
    "total length, shorter": ("PUNT_HEADER", {"len": 109}),
    "total length, none": ("PUNT_HEADER", {"len": 0}),
    "udp length, longer": ("PUNT_HEADER", {"udp": {"len": 91}}),
    "udp length, shorter": ("PUNT_HEADER", {"udp": {"len": 89}}),
    "udp length, none": ("PUNT_HEADER", {"udp": {"len": 0}}),
    "no vni flag": ("PUNT_HEADER", {"vxlan": {"flags": 0}}),
    "checksum": ("PUNT_CHECKSUM", {"udp": {"chksum": 0x1234}}),
}
RULES6: dict[str, tuple[str, Mapping[str, Any]]] = {
    "port": ("PASS_UNCLAIMED", {"udp": {"dport": 4790}}),
    "next header": ("PASS_UNCLAIMED", {"nh": 6}),
    "address": ("PASS_UNCLAIMED", {"dst": "2001:db8::77"}),
    "group": ("PASS_UNCLAIMED", {"dst": "ff02::1"}),
    "other host": ("PUNT_ADDRESS", {"ether": {"dst": THERE}}),
    "vtep": ("PUNT_VTEP", {"src": "2001:db8::77"}),
    "vtep, upper half": ("PUNT_VTEP", {"src": "2001:db8:0:1::"}),
    "unknown vni": ("PUNT_VTEP", {"vxlan": {"vni": 8}}),
    "vtep of another vni": ("PUNT_VTEP", {"vxlan": {"vni": 7}}),
    "version": ("PUNT_HEADER", {"version": 5}),
    "payload length, longer": ("PUNT_HEADER", {"plen": 91}),
    "payload length, shorter": ("PUNT_HEADER", {"plen": 89}),
    "udp length": ("PUNT_HEADER", {"udp": {"len": 91}}),
    "no vni flag": ("PUNT_HEADER", {"vxlan": {"flags": 0}}),
    "checksum": ("PUNT_CHECKSUM", {"udp": {"chksum": 0x1234}}),
}


def refused(made: Rig, packet: bytes, verdict: str) -> None:
    """A packet goes to the stack untouched, and nobody learns from it."""
    before = made.fdb()
    assert made.send(packet) == Result(verdict, PASS, packet, "vxlan", len(packet))
    assert made.fdb().keys() == before.keys()


@pytest.mark.parametrize(("verdict", "change"), RULES.values(), ids=RULES)
def test_what_is_not_taken_out(rig: MakeRig, verdict: str, change: Mapping[str, Any]) -> None:
    refused(make(rig), outer(eth(1, 5), **change), verdict)


@pytest.mark.parametrize(("verdict", "change"), RULES6.values(), ids=RULES6)
def test_what_is_not_taken_out_of_ipv6(rig: MakeRig, verdict: str, change: Mapping[str, Any]) -> None:
    refused(make(rig, 6), outer(eth(1, 5), 6, **change), verdict)


def test_fragments_of_ipv6(rig: MakeRig) -> None:
    packet = Ether(dst=HERE, src=THERE) / outer_header(6) / IPv6ExtHdrFragment(m=1) / UDP(dport=4789) / VXLAN(vni=100)
    refused(make(rig, 6), bytes(packet / eth(1, 5)), "PUNT_FRAGMENT")


def test_a_tagged_packet_of_the_underlay_is_none_of_it(rig: MakeRig) -> None:
    packet = outer(eth(1, 5))
    refused(make(rig), packet[:12] + b"\x81\x00\x00\x05" + packet[12:], "PASS_UNCLAIMED")


def test_padding_is_the_kernels_to_cut(rig: MakeRig, family: int) -> None:
    refused(make(rig, family), outer(eth(1, 5), family) + bytes(4), "PUNT_HEADER")


@pytest.mark.parametrize("bit", [bit for bit in range(32) if bit != 4] + list(range(56, 64)))
def test_every_reserved_bit(rig: MakeRig, bit: int) -> None:
    """The kernel's device drops what has one set (vxlan_rcv), except for extensions that it was made with."""
    packet = bytearray(outer(eth(1, 5)))
    packet[42 + bit // 8] ^= 0x80 >> bit % 8
    refused(make(rig), bytes(packet), "PUNT_HEADER")


def test_truncated_at_every_byte(rig: MakeRig, family: int) -> None:
    made = make(rig, family)
    packet = outer(udp4(dst=1, src=5), family)
    for length in range(14, len(packet)):
        cut = packet[:length]
        result = made.send_cut(packet, length)
        assert (result.action, result.frame) == (PASS, cut), length
        assert result.verdict in ("PASS_UNCLAIMED", "PUNT_TRUNCATED", "PUNT_HEADER"), length
    assert (bytes.fromhex(mac(5).replace(":", "")), 0) not in made.fdb()


def test_random_bytes_behind_the_header_do_no_harm(rig: MakeRig, family: int) -> None:
    """Whatever the inner frame is, it is forwarded as it stands, flooded, or refused: it is never changed."""
    made = make(rig, family)
    dice = random.Random(family)
    for _ in range(200):
        inner = bytes.fromhex(mac(1).replace(":", "")) + dice.randbytes(dice.randrange(48, 300))
        result = made.send(outer(inner, family))
        assert result.verdict in ("FORWARD_DECAP", "DROP_SOURCE"), inner.hex()
        if result.verdict == "FORWARD_DECAP":
            assert result.frame == inner


@pytest.mark.parametrize("inner", ["udp", "tcp6", "nested"])
def test_checksums_outside(rig: MakeRig, family: int, inner: str) -> None:
    """A right one is seen to be right from the headers, also where the inner packet is a tunnel's."""
    made = make(rig, family)
    packet = outer(INNER[inner], family, udp={"chksum": None})
    if inner == "nested":  # whose UDP has no checksum, so that nothing follows from its header
        refused(made, packet, "PUNT_CHECKSUM")
        return
    assert made.send(packet) == Result("FORWARD_DECAP", REDIRECT, INNER[inner], "vxlan", len(packet))
    at = 14 + OVERHEAD[family] - 30 + 6
    for wrong in (1, 0x0100, 0x8000):
        spoiled = (int.from_bytes(packet[at : at + 2], "big") ^ wrong).to_bytes(2, "big")
        refused(made, packet[:at] + spoiled + packet[at + 2 :], "PUNT_CHECKSUM")


@pytest.mark.parametrize("outside", range(4))
@pytest.mark.parametrize("inside", range(4))
def test_congestion_marks_on_the_way_in(rig: MakeRig, family: int, outside: int, inside: int) -> None:
    """RFC 6040 4.2: CE and ECT(1) outside change or drop the inner packet, which the kernel does; the others do not."""
    made = make(rig, family)
    inner = udp4(dst=1, src=9, tos=0x40 | inside)
    packet = outer(inner, family, **{"tc" if family == 6 else "tos": 0x80 | outside})
    if outside in (1, 3):
        refused(made, packet, "PUNT_ECN")
    else:
        assert made.send(packet) == Result("FORWARD_DECAP", REDIRECT, inner, "vxlan", len(packet))


@pytest.mark.parametrize(
    ("dst", "src", "verdict", "action"),
    [
        (mac(1), "01:00:5e:00:00:01", "DROP_SOURCE", DROP),
        (mac(1), BROADCAST, "DROP_SOURCE", DROP),
        (mac(1), "00:00:00:00:00:00", "DROP_SOURCE", DROP),
        (BROADCAST, mac(9), "PUNT_GROUP", PASS),
        (MULTICAST, mac(9), "PUNT_GROUP", PASS),
        (mac(77), mac(9), "PUNT_UNKNOWN", PASS),
        ("01:80:c2:00:00:00", mac(9), "PUNT_LINK_LOCAL", PASS),
        ("01:80:c2:00:00:0e", mac(9), "PUNT_LINK_LOCAL", PASS),
        ("02:00:00:00:01:01", mac(9), "PUNT_LOCAL", PASS),
        (mac(9), mac(8), "DROP_SAME_PORT", DROP),
    ],
)
def test_inner_addresses(rig: MakeRig, dst: str, src: str, verdict: str, action: str) -> None:
    """What is for several goes by the stack to the companion, which copies; nothing goes from VTEP to VTEP."""
    packet = outer(eth(dst, src))
    assert make(rig).send(packet) == Result(verdict, action, packet, "vxlan", len(packet))


def test_longer_than_the_port_takes(rig: MakeRig, hook: str) -> None:
    made = make(rig)
    assert made.send(outer(udp4(1518, dst=1, src=9))).verdict == "FORWARD_DECAP"
    assert made.send(outer(udp4(1519, dst=1, src=9))).verdict == "DROP_MTU"
    tagged_frame = eth(1, 9, tagged(5), size=1518)  # 1522 bytes with its tag
    assert made.send(outer(tagged_frame)).verdict == ("PUNT_LENGTH" if hook == "xdp" else "FORWARD_DECAP")


def test_frames_go_to_the_port_of_their_segment_only(rig: MakeRig) -> None:
    made = make(rig)
    made.tell((P3, eth(BROADCAST, 1)))
    made.send(outer(eth(1, 9)))
    made.send(outer(eth(1, 9), src=OTHER, vxlan={"vni": 7}))
    key = int.from_bytes(bytes.fromhex(mac(1).replace(":", "")), "little")
    assert {fdb_key(name, vid): one.slot for (name, vid), one in made.fdb().items() if fdb_key(name, 0) == key} == {
        key: P1,
        key | 1 << 48: P3,
    }
    assert [counted(made, index)[2] for index in range(4)] == [2, 0, 1, 0]


def test_an_entry_that_points_into_another_segment_leads_nowhere(rig: MakeRig, hook: str) -> None:
    """Numbers of VTEPs and ports may have changed since it was entered by hand: nothing crosses from VNI to VNI."""
    made = make(rig)
    to_port, to_vtep = (bytes.fromhex(mac(number).replace(":", "")) for number in (40, 41))
    made.control(add_request(to_port, 0, P3), add_request(to_vtep, 0, 2 | REMOTE))
    assert made.send(outer(eth(40, 9))).verdict == "PUNT_UNKNOWN"
    flooded = "PUNT_FLOOD" if hook == "xdp" else "FLOOD_PORTS"
    assert made.send(eth(40, 1), P1).verdict == flooded
    assert encap(made, eth(41, 1), index=2).verdict == flooded


def counted(made: Rig, index: int) -> list[int]:
    """Of a VTEP: packets and bytes sent, packets and bytes received."""
    cpus = made.maps["vxlan_counts"].get(index)
    return [sum(one[field] for one in cpus) for field in range(4)]


# Learning


def place(made: Rig, number: int, vid: int = 0) -> int | None:
    found = made.fdb().get((bytes.fromhex(mac(number).replace(":", "")), vid))
    return found.where & (REMOTE | 0xFFFF) if found else None


def test_addresses_are_learned_behind_vteps_and_move(rig: MakeRig, family: int) -> None:
    made = make(rig, family)
    other = {"src": OTHER6 if family == 6 else OTHER}
    assert place(made, 1) == P1
    assert place(made, 9) == REMOTE
    made.tell((UNDERLAY, outer(eth(1, 9), family, **other)))
    assert place(made, 9) == REMOTE | 1
    made.tell((P2, eth(BROADCAST, 9)))
    assert place(made, 9) == P2
    made.tell((UNDERLAY, outer(eth(BROADCAST, 1), family)))
    assert place(made, 1) == REMOTE
    assert made.events()["moved"] == 3
    made.tell((UNDERLAY, outer(eth(9, 1), family, **other, vxlan={"vni": 7})))
    assert (place(made, 1), place(made, 1, 1)) == (REMOTE, REMOTE | 2)


def test_a_moved_station_is_reached_where_it_is(rig: MakeRig) -> None:
    made = make(rig)
    made.tell((P2, eth(BROADCAST, 9)))
    assert made.send(eth(9, 1), P1).verdict == "FORWARD_PORT"
    made.tell((UNDERLAY, outer(eth(BROADCAST, 9))))
    assert encap(made, eth(9, 1)).verdict == "FORWARD_ENCAP"
    assert made.send(eth(1, 2), P1).verdict == "DROP_SAME_PORT"


def test_learning_can_be_switched_off(rig: MakeRig) -> None:
    made = make(rig, learning=False)
    assert place(made, 9) is None
    assert place(made, 1) == P1
    assert made.send(outer(eth(1, 9))).verdict == "FORWARD_DECAP"
    without = rig(ports=4, modes=("vxlan",), options={**V4, "ageing": 0.0})
    without.tell((P1, eth(BROADCAST, 1)), (UNDERLAY, outer(eth(1, 9))))
    assert without.fdb().keys() == {(port_mac(number), vid) for number, vid in ((1, 0), (2, 0), (3, 1))}


def test_static_entries_stay(rig: MakeRig) -> None:
    made = make(rig)
    address = bytes.fromhex(mac(40).replace(":", ""))
    made.control(add_request(address, 0, 1 | REMOTE))
    made.tell((P2, eth(BROADCAST, 40)), (UNDERLAY, outer(eth(1, 40))))
    found = made.fdb()[address, 0]
    assert found.where & (REMOTE | STATIC | OWNED | 0xFFFF) == REMOTE | STATIC | 1
    sent = encap(made, udp4(dst=40), index=1)
    assert sent.verdict == "FORWARD_ENCAP"
    assert IP(sent.frame[14:]).dst == OTHER


def test_a_vtep_cannot_take_this_hosts_address(rig: MakeRig) -> None:
    made = make(rig)
    before = made.fdb()[port_mac(1), 0]
    made.tell((UNDERLAY, outer(eth(1, "02:00:00:00:01:01"))))
    assert made.fdb()[port_mac(1), 0].where == before.where


def test_an_old_address_is_no_longer_known(rig: MakeRig, hook: str) -> None:
    made = make(rig)
    made.age(400, [(bytes.fromhex(mac(9).replace(":", "")), 0)])
    assert made.send(eth(9, 1), P1).verdict == ("PUNT_FLOOD" if hook == "xdp" else "FLOOD_PORTS")


# From a port


FRAMES = {
    "udp": udp4(), "fragments": udp4(200, flags="DF"), "tcp6": tcp6(), "full": udp4(1464),
    "icmp6": bytes(
        Ether(dst=mac(9), src=mac(1)) / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(data=b"x" * 60)
    ),
    "short": bytes(Ether(dst=mac(9), src=mac(1)) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP()),
}  # fmt: skip
NOT_IP = {
    "arp": bytes(Ether(dst=mac(9), src=mac(1)) / ARP(op=2)) + bytes(18),
    "other": bytes.fromhex(mac(9).replace(":", "") + mac(1).replace(":", "") + "88b6") + bytes(range(50)),
    "broken": bytes.fromhex(mac(9).replace(":", "") + mac(1).replace(":", "") + "0800") + bytes(10),
    "tagged": eth(9, 1, tagged(5)),
}


@pytest.mark.parametrize("inner", FRAMES.values(), ids=FRAMES)
def test_what_a_vtep_gets(rig: MakeRig, family: int, inner: bytes) -> None:
    if len(inner) - 14 + OVERHEAD[family] > 1500:
        inner = udp4(1444)
    sent = encap(make(rig, family), inner)
    assert sent == Result("FORWARD_ENCAP", REDIRECT, expected(inner, sent.frame, family), "vxlan", len(inner))


@pytest.mark.parametrize("name", NOT_IP)
def test_what_is_not_ip(rig: MakeRig, hook: str, family: int, name: str) -> None:
    """tc makes room in IP packets only; for the others the companion does it. (A test run on tc refuses a frame that is
    called IP and is too short for it.)
    """
    made, inner = make(rig, family), NOT_IP[name if hook == "xdp" else name.replace("broken", "other")]
    sent = encap(made, inner)
    if hook == "tc":
        assert sent == Result("PUNT_PROTOCOL", REDIRECT, inner, "vxlan", len(inner))
    else:
        assert sent == Result("FORWARD_ENCAP", REDIRECT, expected(inner, sent.frame, family), "vxlan", len(inner))


def test_what_is_cut_short_is_carried_as_it_is(rig: MakeRig, hook: str, family: int) -> None:
    made, whole = make(rig, family), udp4()
    for length in range(14, len(whole)):
        for _ in range(50):
            resolve(made)
            sent = made.send_cut(whole, length, P1)
            if sent.verdict != "PUNT_NEIGHBOUR":
                break
        if sent.verdict == "FORWARD_ENCAP":
            assert sent.frame == expected(whole[:length], sent.frame, family), length
        else:
            assert (sent.verdict, sent.frame) == ("PUNT_PROTOCOL", whole[:length]), length
            assert hook == "tc", length


def test_source_ports(rig: MakeRig, family: int) -> None:
    """The same for a flow whatever its packets, in the range, and spread over it."""

    def sport(made: Rig, frame: bytes) -> int:
        return int.from_bytes(encap(made, frame).frame[14 + OVERHEAD[family] - 30 :][:2], "big")

    made = make(rig, family)
    assert len({sport(made, udp4(size, ttl=ttl)) for size, ttl in ((60, 64), (900, 64), (60, 3))}) == 1
    found = [sport(made, udp4(sport=number)) for number in range(100)]
    assert all(port in PORTS for port in found)
    assert len(set(found)) > 90
    narrow = make(rig, family, srcport="5000-5016")
    assert {sport(narrow, udp4(sport=number)) for number in range(200)} == set(range(5000, 5016))


def test_ids_count_up(rig: MakeRig) -> None:
    made = make(rig)
    sent = encap(made, udp4(), ident=0xFFFF)
    assert IP(sent.frame[14:]).id == 0xFFFF
    assert next_ids(made) - {0xFFFF} == {0}  # other CPUs, if there are any, have sent nothing


def next_ids(rig: Rig) -> set[int]:
    """Of outer headers, on all CPUs."""
    return recents.ids(rig.maps["recents"])


def test_a_first_id_is_not_foreseen(rig: MakeRig) -> None:
    """CPUs count alone: had they one beginning, pieces of two packets would be put together as one."""
    made = make(rig)
    for _ in range(50):
        resolve(made)
        empty(made.maps["recents"])
        if made.send(udp4(), P1).verdict != "PUNT_NEIGHBOUR":
            break
    assert any(next_ids(made))


@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize(("policy", "base"), [("0", 0), ("0x47", 0x44), ("inherit", 0xA8), ("1", 0)])
def test_tos(rig: MakeRig, family: int, inner: int, policy: str, base: int) -> None:
    """The policy's, but congestion marks are the inner ones, CE hidden as ECT(0) (INET_ECN_encapsulate). A TOS of 1
    stands for itself here, though `ip link` takes it for "inherit"."""
    made = make(rig, family, tos=policy)
    frame = udp4(tos=0xA8 | inner)
    sent = encap(made, frame)
    name = "tc" if family == 6 else "tos"
    outside = base | (2 if inner == 3 else inner)
    assert sent.frame == expected(frame, sent.frame, family, **{name: outside})
    six = tcp6(tc=0xA8 | inner)
    sent = encap(made, six)
    assert sent.frame == expected(six, sent.frame, family, **{name: outside})


@pytest.mark.parametrize(("policy", "ttl"), [("auto", 64), ("9", 9), ("255", 255), ("inherit", 33)])
def test_ttl(rig: MakeRig, family: int, policy: str, ttl: int) -> None:
    made = make(rig, family, ttl=policy)
    name = "hlim" if family == 6 else "ttl"
    for frame in (udp4(ttl=33), tcp6(hlim=33)):
        sent = encap(made, frame)
        assert sent.frame == expected(frame, sent.frame, family, **{name: ttl})


@pytest.mark.parametrize(
    ("policy", "outside"), [("unset", (0, 0, 0)), ("set", (1, 1, 1)), ("inherit", (0, 1, 1))]
)  # fmt: skip
def test_df(rig: MakeRig, policy: str, outside: tuple[int, ...]) -> None:
    made = make(rig, df=policy)
    for frame, df in zip((udp4(), udp4(flags="DF"), tcp6()), outside, strict=True):
        sent = encap(made, frame)
        assert sent.frame == expected(frame, sent.frame, flags="DF" if df else 0)


@pytest.mark.parametrize("inner", [*FRAMES.values(), udp4(61), tcp6(101)])
def test_checksums_outside_on_request(rig: MakeRig, family: int, inner: bytes) -> None:
    made = make(rig, family, udp_csum=True)
    if len(inner) - 14 + OVERHEAD[family] > 1500:
        inner = udp4(1443)
    sent = encap(made, inner)
    assert sent.verdict == "FORWARD_ENCAP"
    assert sent.frame == expected(inner, sent.frame, family, udp_sum=True)


@pytest.mark.parametrize(
    "inner",
    [
        udp4(flags="MF"),
        udp4(frag=4),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(options=[IPOption_NOP()] * 4) / UDP() / (b"x" * 40)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP() / UDP(chksum=0) / (b"x" * 40)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(proto=132) / (b"x" * 40)),
        udp4() + bytes(2),
    ],
    ids=["first fragment", "later fragment", "options", "no checksum", "another protocol", "padding"],
)
def test_checksums_that_headers_do_not_tell_are_the_companions(rig: MakeRig, hook: str, inner: bytes) -> None:
    sent = encap(make(rig, udp_csum=True), inner)
    assert sent == Result("PUNT_CHECKSUM", REDIRECT if hook == "tc" else PASS, inner, "vxlan", len(inner))


def test_an_unknown_way_is_the_companions(rig: MakeRig, hook: str) -> None:
    made = make(rig)
    sent = made.send(udp4(), P1)
    assert sent == Result("PUNT_NEIGHBOUR", REDIRECT if hook == "tc" else PASS, udp4(), "vxlan", len(udp4()))


def test_the_kernel_is_shown_a_packet_now_and_then(rig: MakeRig, hook: str) -> None:
    """Or it would take the neighbour for idle. XDP hands up to tc, which keeps count."""
    made = make(rig)
    resolve(made)
    (one, *_) = made.maps["vxlan_hops"].get(0)
    made.maps["vxlan_hops"].set(0, one._replace(shown=(ticks_now() - 200) & 0xFFFFFFFF, checked=ticks_now()))
    assert made.send(udp4(), P1).verdict == "PUNT_NEIGHBOUR"
    shown = {ticks_now() - hop.shown < 100 for hop in made.maps["vxlan_hops"].get(0)}
    assert shown == ({False} if hook == "xdp" else {False, True} if len(made.maps["vxlan_hops"].get(0)) > 1 else {True})


def test_what_stays_within(rig: MakeRig) -> None:
    made = make(rig)
    made.tell((P2, eth(BROADCAST, 2)))
    frame = eth(2, 1)
    assert made.send(frame, P1) == Result("FORWARD_PORT", REDIRECT, frame, "vxlan", len(frame))
    assert made.send(eth("02:00:00:00:01:01", 1), P1).verdict == "PUNT_LOCAL"
    assert made.send(eth("01:80:c2:00:00:0e", 1), P1).verdict == "PUNT_LINK_LOCAL"
    assert made.send(eth(1, 1), P1).verdict == "DROP_SAME_PORT"
    assert made.send(eth(2, "00:00:00:00:00:00"), P1).verdict == "DROP_SOURCE"


def test_what_is_for_several(rig: MakeRig, hook: str) -> None:
    """XDP leaves it to tc; there broadcast also goes up to the host."""
    made = make(rig)
    for dst, up in ((BROADCAST, PASS), (MULTICAST, PASS), (mac(77), DROP)):
        frame = eth(dst, 1)
        expected_result = ("FLOOD_PORTS", up) if hook == "tc" else ("PUNT_FLOOD", PASS)
        result = made.send(frame, P1)
        assert (result.verdict, result.action, result.frame) == (*expected_result, frame)


def test_a_thousand_vteps_and_all_ports(rig_on: Any) -> None:
    """As many copies as there may be: the program loads, and makes one for each VTEP."""
    many = tuple(f"10.9.{i >> 8}.{i & 255}" for i in range(1024))
    ports = tuple(f"p{i}" for i in range(1, 255))
    made = rig_on("tc", ports=255, modes=("vxlan",), options={**V4, "remote": many, "port": ports, "more": ()})
    made.send(eth(BROADCAST, 1), P1)
    assert [counted(made, index)[0] for index in range(1024)] == [1] * 1024


def test_counts(rig: MakeRig) -> None:
    made = make(rig)
    before = counted(made, 0)
    encap(made, udp4(100))
    decap(made, outer(eth(1, 9, size=80)))
    made.send(outer(eth(1, 9), src="192.0.2.77"))
    after = counted(made, 0)
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 200, 2, 160]


def fates(made: Rig) -> Counter[tuple[int, str]]:
    """Packets of a VTEP that were not carried, by its index and the verdict; but for those that came too late."""
    names, found = made.compiled.abi.enum("verdict"), Counter[tuple[int, str]]()
    for key, cpus in made.maps["vxlan_fates"].items():
        found[key.index, names.name_of(key.verdict)] += sum(cpus)
    return Counter({key: number for key, number in found.items() if key[1] != "PUNT_NEIGHBOUR"})


def test_punts_and_drops_count_for_their_vtep(rig: MakeRig) -> None:
    made = make(rig)
    before = fates(made)
    encap(made, udp4(100))
    decap(made, outer(eth(1, 9, size=80)))
    assert fates(made) == before  # carried
    sources = {"192.0.2.2": 0, "192.0.2.3": 1}
    for source in sources:
        assert made.send(outer(eth(1, 9), src=source, udp={"chksum": 0x1234})).verdict == "PUNT_CHECKSUM"
        assert made.send(outer(eth(1, BROADCAST), src=source)).verdict == "DROP_SOURCE"
    made.send(outer(eth(1, 9), src="192.0.2.77"))  # nobody's
    made.send(eth(1, BROADCAST), P1)  # of no tunnel
    seen = fates(made) - before
    assert seen == {(index, verdict): 1 for index in sources.values() for verdict in ("PUNT_CHECKSUM", "DROP_SOURCE")}


# Too big


def icmp4(frame: bytes, mtu: int) -> bytes:
    """What the kernel answers: iptunnel_pmtud_build_icmp() in net/ipv4/ip_tunnel_core.c."""
    was = Ether(frame)
    quoted = frame[14 : 14 + 548]
    header = IP(src=was[IP].dst, dst=was[IP].src, ttl=was[IP].ttl, flags="DF", id=0)
    return bytes(Ether(dst=was.src, src=was.dst) / header / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted))


def icmp6(frame: bytes, mtu: int) -> bytes:
    was = Ether(frame)
    header = IPv6(src=was[IPv6].dst, dst=was[IPv6].src, hlim=was[IPv6].hlim, nh=58)
    body = bytes.fromhex("02000000") + mtu.to_bytes(4, "big") + frame[14 : 14 + 1232]
    packet = bytearray(bytes(Ether(dst=was.src, src=was.dst) / header / Raw(body)))
    pseudo = bytes(packet[22:54]) + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    total = sum(int.from_bytes((pseudo + body)[at : at + 2], "big") for at in range(0, len(pseudo + body), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[56:58] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(packet)


@pytest.mark.parametrize("size", [1, 2, 500])
def test_the_sender_is_told(rig: MakeRig, family: int, size: int) -> None:
    made, mtu = make(rig, family), 1500 - OVERHEAD[family]
    four, six = udp4(mtu + 14 + size, flags="DF", ttl=17), tcp6(mtu + 14 + size, hlim=17)
    for frame, answer in ((four, icmp4(four, mtu)), (six, icmp6(six, mtu))):
        result = made.send(frame, P1)
        assert result == Result("FORWARD_REPLY", REDIRECT, answer, "vxlan", len(frame))


def test_what_just_fits_is_sent(rig: MakeRig, family: int) -> None:
    made, mtu = make(rig, family), 1500 - OVERHEAD[family]
    for frame in (udp4(mtu + 14, flags="DF"), tcp6(mtu + 14)):
        assert encap(made, frame).verdict == "FORWARD_ENCAP"


def test_the_mtu_of_the_path_counts(rig: MakeRig) -> None:
    made = make(rig)
    frame = udp4(1400, flags="DF")
    for _ in range(50):
        resolve(made, mtu=1300)
        result = made.send(frame, P1)
        if result.verdict == "FORWARD_REPLY":
            break
    assert result.frame == icmp4(frame, 1250)


def test_a_tag_counts(rig: MakeRig, hook: str) -> None:
    """XDP must not send what exceeds the MTU outside by the inner tag."""
    made = make(rig)
    fits, exceeds = eth(9, 1, tagged(5), size=1460), eth(9, 1, tagged(5), size=1461)
    assert encap(made, fits).verdict == ("FORWARD_ENCAP" if hook == "xdp" else "PUNT_PROTOCOL")
    assert encap(made, exceeds).verdict == ("PUNT_TOO_BIG" if hook == "xdp" else "PUNT_PROTOCOL")


@pytest.mark.parametrize(
    "frame",
    [
        udp4(1600),
        udp4(1600, flags="DF+MF"),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(dst="224.0.0.5", flags="DF") / UDP() / (b"x" * 1500)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(src="0.0.0.0", flags="DF") / UDP() / (b"x" * 1500)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(flags="DF") / ICMP(type=3, code=1) / (b"x" * 1500)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IP(flags="DF", options=[IPOption_NOP()] * 4) / UDP() / (b"x" * 1500)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IPv6(dst="ff02::1") / UDP() / (b"x" * 1500)),
        bytes(Ether(dst=mac(9), src=mac(1)) / IPv6(dst="fd00::1", nh=58) / (b"\2\0\0\0" + b"x" * 1500)),
    ],
    ids=["may be fragmented", "fragment", "to a group", "from nobody", "error", "options", "to a group6", "error6"],
)  # fmt: skip
def test_who_is_not_told(rig: MakeRig, hook: str, frame: bytes) -> None:
    """Then the kernel fragments outside, or drops: see iptunnel_pmtud_check_icmp()."""
    result = make(rig).send(frame, P1)
    assert result == Result("PUNT_TOO_BIG", REDIRECT if hook == "tc" else PASS, frame, "vxlan", len(frame))


@pytest.mark.parametrize("kind", [0, 8])
def test_echo_is_told(rig: MakeRig, kind: int) -> None:
    frame = bytes(
        Ether(dst=mac(9), src=mac(1)) / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / ICMP(type=kind) / (b"x" * 1500)
    )
    assert make(rig).send(frame, P1).frame == icmp4(frame, 1450)


# GSO frames, which only tc has


def test_frames_that_are_cut_up_later(rig_on: Any) -> None:
    made = make(lambda **options: rig_on("tc", **options))
    frame = bytes(
        Ether(dst=mac(9), src=mac(1)) / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / TCP(flags="A") / (b"x" * 3000)
    )
    for size, verdict in ((1410, "FORWARD_ENCAP"), (1411, "FORWARD_REPLY")):
        for _ in range(50):
            resolve(made)
            try:
                sent = made.send(frame, P1, skb={"gso_size": size, "gso_segs": 3})
            except EbpfError as error:  # a test run has no gso_type
                pytest.skip(str(error))
            if sent.verdict != "PUNT_NEIGHBOUR":
                break
        assert sent.verdict in (verdict, "PUNT_PROTOCOL")
        assert (sent.verdict == "FORWARD_REPLY") == (verdict == "FORWARD_REPLY")


# The companion


def described(rig_on: Any, family: int = 4, **options: Any) -> Rig:
    return make(lambda **given: rig_on("tc", **given), family, **options)


def test_what_the_companion_took_out(rig_on: Any, family: int) -> None:
    made = described(rig_on, family)
    remote = VTEP6 if family == 6 else VTEP
    for inner in (eth(1, 8), INNER["arp"]):
        result = made.send_described(inner, COMPANION, 100, remote)
        assert result == Result("FORWARD_DECAP", REDIRECT, inner, "vxlan", len(inner))
    assert place(made, 8) == REMOTE
    group = made.send_described(eth(BROADCAST, 8), COMPANION, 100, remote)
    assert (group.verdict, group.action) == ("FLOOD_PORTS", DROP)
    assert made.send_described(eth(9, 8), COMPANION, 100, remote).verdict == "DROP_SAME_PORT"
    assert made.send_described(eth(1, BROADCAST), COMPANION, 100, remote).verdict == "DROP_SOURCE"


@pytest.mark.parametrize(("vni", "last"), [(100, "77"), (8, "2"), (7, "2"), (0, "2")])
def test_what_the_companion_does_not_let_in(rig_on: Any, family: int, vni: int, last: str) -> None:
    """The kernel's device takes packets of every VNI from everybody: whose VTEPs are known is seen to here."""
    made = described(rig_on, family)
    remote = ("2001:db8::" if family == 6 else "192.0.2.") + last
    before = made.fdb()
    result = made.send_described(eth(1, 5), COMPANION, vni, remote)
    assert (result.verdict, result.action) == ("DROP_VTEP", DROP)
    assert made.fdb().keys() == before.keys()


def test_without_metadata_nothing_is_let_in(rig_on: Any) -> None:
    assert described(rig_on).send(eth(1, 5), COMPANION).verdict == "DROP_VTEP"


# What the maps hold


def test_records_are_those_of_c(rig: MakeRig) -> None:
    made = make(rig)
    ports = dict(made.maps["vxlan_ports"])
    assert [ports[slot].flags & PRESENT for slot in range(5)] == [0, 1, 1, 1, 0]
    assert ports[UNDERLAY].mac == int.from_bytes(port_mac(0), "little")
    segments = dict(made.maps["vxlan_segments"])
    assert [segments[number].vni for number in (0, 1)] == [100, 7]
    assert list(segments[0].members) == [0b110, 0, 0, 0]
    assert (segments[1].first, segments[1].count) == (2, 2)


@any_kernel
def test_many_vteps_are_all_known(rig_on: Any, family: int) -> None:
    """Every key that Python places is where the C text looks for it; those next to it are not."""
    text = "2001:db8::{:x}" if family == 6 else "10.8.{}.{}"

    def name(number: int) -> str:
        return text.format(number) if family == 6 else text.format(number >> 8, number & 255)

    made = rig_on(
        "xdp", ports=4, modes=("vxlan",),
        options={**FAMILIES[family], "remote": tuple(name(2 * number + 16) for number in range(300)), "more": ()},
    )  # fmt: skip
    for number in range(300):
        assert made.send(outer(eth(77, 8), family, src=name(2 * number + 16))).verdict == "PUNT_UNKNOWN"
        assert made.send(outer(eth(77, 8), family, src=name(2 * number + 17))).verdict == "PUNT_VTEP"
