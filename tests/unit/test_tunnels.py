# SPDX-License-Identifier: Apache-2.0
"""Tunnels and the FDB of mode vxlan, read from maps that are plain bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from ebpf.errors import LayoutMismatch
from pydp import fdb, tunnels
from pydp.datapath import Instance
from pydp.errors import UsageError
from pydp.fdb import reading
from pydp.modes.base import Role
from pydp.modes.fdb import LOCAL, OWNED, REMOTE, STATIC, VALID, fdb_key
from pydp.modes.vxlan_maps import PRESENT, VTEP_GROUP, VTEP_PRESENT

LAYOUTS = {
    "fdb": [["key", 0, 32], ["where", 32, 16], ["seen", 48, 16]],
    "vxlan_counts": [
        ["sent_packets", 0, 8],
        ["sent_bytes", 8, 8],
        ["received_packets", 16, 8],
        ["received_bytes", 24, 8],
        ["owner", 32, 8],
    ],
    "ipip_peers": [["address", 0, 16], ["owner", 16, 8]],
    "vxlan_ports": [["ifindex", 0, 4], ["max_length", 4, 4], ["segment", 8, 4], ["flags", 12, 4], ["mac", 16, 8]],
    "vxlan_segments": [["vni", 0, 4], ["flags", 4, 4], ["members", 8, 32]],
    "vxlan_vteps": [["address", 0, 16], ["segment", 16, 4], ["flags", 20, 4]],
}
CPUS = 3
# Two VNIs: the first with two VTEPs, the second with one of them and a group.
VTEPS = [("192.0.2.2", 0, 0), ("192.0.2.3", 0, 0), ("239.1.1.1", 1, VTEP_GROUP), ("192.0.2.2", 1, 0)]


class Maps:
    """As much of a Reader as tunnels need."""

    def __init__(self, values: Mapping[str, Sequence[bytes]]) -> None:
        self.values = values

    def raw(self, instance: Instance, name: str) -> tuple[bytes, bytes]:
        keys = struct.pack(f"={len(self.values[name])}I", *range(len(self.values[name])))
        return keys, b"".join(self.values[name])


def vtep(address: str, segment: int, flags: int) -> bytes:
    return ip_address(address).packed.ljust(16, b"\0") + struct.pack("=II", segment, VTEP_PRESENT | flags)


def count(index: int, owners: Sequence[int] = (0,) * CPUS) -> bytes:
    """Each CPU has counted something else; over all CPUs: 30 i + 3, ten times that in bytes, and twice both."""
    return b"".join(
        struct.pack("=5Q", *((10 * index + cpu) * factor for factor in (1, 10, 2, 20)), owner)
        for cpu, owner in enumerate(owners)
    )


def bucket(*entries: tuple[int, int]) -> bytes:
    keys, where = zip(*[*entries, *[(0, 0)] * (4 - len(entries))], strict=True)
    return struct.pack("=4Q4I4I", *keys, *where, *[0] * 4)


def maps(vteps: Sequence[tuple[str, int, int]] = VTEPS, **more: Sequence[bytes]) -> Any:
    ports = [(7, 0, 0), (8, 0, PRESENT), (9, 1, PRESENT), (0, 0, 0), (0, 0, 0)]
    return Maps({
        "vxlan_segments": [struct.pack("=II32x", vni, 0) for vni in (100, 200)],
        "vxlan_ports": [struct.pack("=IIIIQ", ifindex, 1518, segment, flags, 0) for ifindex, segment, flags in ports],
        "vxlan_vteps": [vtep(*one) for one in vteps],
        "vxlan_counts": [count(index) for index in range(len(vteps))],
        **more,
    })  # fmt: skip


def instance(ipv6: int = 0, **layouts: list[list[object]]) -> Instance:
    slots = {7: 0, 8: 1, 9: 2, 3: 3}
    names = {7: "eth0", 8: "p0", 9: "p1", 3: "pydp-vx4789"}
    return Instance(
        "lan", "vxlan", {}, "tc", "auto", "", dict.fromkeys(slots, ("tc",)), slots, names,
        roles={7: Role.UNDERLAY, 3: Role.COMPANION}, companion=3,
        constants={
            "PYDP_FDB_AGEING": 1000, "PYDP_TUNNEL_IPV6": ipv6, "PYDP_VXLAN_VTEPS": 4, "PYDP_VXLAN_ANY_SOURCE": 0
        },
        numbers={"segment": {"100": 0, "200": 1}},
        maps={name: {"kind": "array", "layout": layout} for name, layout in {**LAYOUTS, **layouts}.items()},
    )  # fmt: skip


LAN = instance()


def test_a_tunnel_for_every_pair_of_vtep_and_vni_with_what_all_cpus_counted() -> None:
    found = tunnels.tunnels(maps(), LAN)
    assert [(one.index, one.remote, one.vni, one.segment, one.group) for one in found] == [
        (0, "192.0.2.2", 100, 0, False), (1, "192.0.2.3", 100, 0, False),
        (2, "239.1.1.1", 200, 1, True), (3, "192.0.2.2", 200, 1, False),
    ]  # fmt: skip
    assert [one.sent_packets for one in found] == [3, 33, 63, 93]
    assert [one.sent_bytes for one in found] == [30, 330, 630, 930]
    assert [one.received_packets for one in found] == [6, 66, 126, 186]
    assert [one.received_bytes for one in found] == [60, 660, 1260, 1860]


def test_vteps_that_nobody_named_come_behind_those_that_were() -> None:
    """What was counted for whoever had a place until the last attach is not theirs."""
    layout = [*LAYOUTS["vxlan_vteps"], ["owner", 24, 8]]
    known = [vtep(*one) + bytes(8) for one in VTEPS]
    there = [("192.0.2.7", 1, 77), ("192.0.2.8", 0, 78)]
    values = {
        "vxlan_vteps": known,
        "vxlan_guests": [*(vtep(one, at, 0) + struct.pack("=Q", owner) for one, at, owner in there), bytes(32)],
        "vxlan_counts": [*(count(index) for index in range(4)), count(4, (77, 12, 77)), count(5, (78,) * 3), count(6)],
    }
    lan = instance(vxlan_vteps=layout, vxlan_guests=layout)
    believing = replace(lan, constants={**lan.constants, "PYDP_VXLAN_ANY_SOURCE": 1})
    found = tunnels.guests(maps(**values), believing)
    assert [(one.index, one.remote, one.vni, one.segment) for one in found] == [
        (4, "192.0.2.7", 200, 1), (5, "192.0.2.8", 100, 0),
    ]  # fmt: skip
    assert [(one.sent_packets, one.received_bytes) for one in found] == [(82, 1640), (153, 3060)]
    assert tunnels.count_guests(maps(**values), believing) == 2
    assert tunnels.max_guests(believing) == 4096
    assert len(tunnels.tunnels(maps(**values), believing)) == 4
    assert (tunnels.guests(maps(), lan), tunnels.count_guests(maps(), lan), tunnels.max_guests(lan)) == ([], 0, 0)


def test_addresses_of_an_ipv6_underlay() -> None:
    (found,) = tunnels.tunnels(maps([("2001:db8::2", 0, 0)]), instance(ipv6=1))
    assert found.remote == "2001:db8::2"


def test_without_vteps_there_is_a_place_and_no_tunnel() -> None:
    found = tunnels.tunnels(maps(vxlan_vteps=[bytes(24)], vxlan_counts=[bytes(40 * CPUS)]), LAN)
    assert found == []


def test_peers_by_address_without_what_was_counted_for_others() -> None:
    """A place in the map may have been another peer's, as a CPU that has not seen the new one still has it."""
    peers = [("192.0.2.9", 77), ("0.0.0.0", 0), ("192.0.2.3", 78)]
    values = {
        "ipip_peers": [ip_address(one).packed.ljust(16, b"\0") + struct.pack("=Q", owner) for one, owner in peers],
        "ipip_counts": [count(0, (77, 12, 77)), count(1, (5, 5, 5)), count(2, (78, 78, 78))],
    }
    layouts = {"ipip_peers": LAYOUTS["ipip_peers"], "ipip_counts": LAYOUTS["vxlan_counts"]}
    for keyed, key in ((0, None), (1, 5)):
        made = replace(
            LAN, mode="ipip", maps={name: {"kind": "array", "layout": layout} for name, layout in layouts.items()},
            constants={"PYDP_TUNNEL_IPV6": 0, "PYDP_IPIP_KEYED": keyed, "PYDP_IPIP_KEY": 5 * keyed},
        )  # fmt: skip
        found = tunnels.tunnels(Maps(values), made)  # type: ignore[arg-type]
        assert [(one.index, one.remote, one.vni) for one in found] == [(2, "192.0.2.3", key), (0, "192.0.2.9", key)]
        assert [one.sent_packets for one in found] == [63, 2]
        assert [one.received_bytes for one in found] == [1260, 40]
        assert tunnels.has_tunnels(made)
        assert not tunnels.has_segments(made)


def test_a_mode_that_does_not_encapsulate_has_none() -> None:
    bridge = replace(LAN, mode="bridge", maps={"fdb": LAN.maps["fdb"]})
    assert not tunnels.has_tunnels(bridge)
    assert not tunnels.has_segments(bridge)
    assert tunnels.tunnels(maps(), bridge) == []


def test_members_stand_where_the_instance_says() -> None:
    moved = instance(vxlan_vteps=[["flags", 0, 4], ["segment", 4, 4], ["address", 8, 16]])
    swapped = [one[20:24] + one[16:20] + one[:16] for one in (vtep(*each) for each in VTEPS)]
    assert tunnels.tunnels(maps(vxlan_vteps=swapped), moved) == tunnels.tunnels(maps(), LAN)
    with pytest.raises(LayoutMismatch, match="vxlan_vteps has no member address"):
        tunnels.tunnels(maps(), instance(vxlan_vteps=[["flags", 0, 4], ["segment", 4, 4]]))


def test_segments_and_their_ports() -> None:
    found = tunnels.segments(maps(), LAN)
    assert (found.vnis, found.ports) == ({0: 100, 1: 200}, {8: 0, 9: 1})
    assert [found.number(vni) for vni in (100, 200)] == [0, 1]
    assert found.number_of(9, "p1") == found.number_of(9, "p1", 200) == 1
    with pytest.raises(UsageError, match="--vni 300: lan has no such VNI"):
        found.number(300)
    with pytest.raises(UsageError, match="--vni 100: p1 is a port of VNI 200"):
        found.number_of(9, "p1", 100)


def test_a_vtep_is_found_by_its_address_however_it_is_written() -> None:
    assert [one.index for one in tunnels.find(maps(), LAN, "192.0.2.2")] == [0, 3]
    assert tunnels.find_one(maps(), LAN, "192.0.2.2", 200).index == 3
    assert tunnels.find_one(maps(), LAN, "192.0.2.3").index == 1
    six = maps([("2001:db8::2", 0, 0)])
    assert tunnels.find_one(six, instance(ipv6=1), "2001:DB8:0::2").index == 0


@pytest.mark.parametrize(
    ("dst", "vni", "what", "hint"),
    [
        ("nonsense", None, "--dst nonsense: not an IP address", ""),
        ("192.0.2.9", None, "--dst 192.0.2.9: no VTEP of lan", "VTEPs: 192.0.2.2, 192.0.2.3, 239.1.1.1; a new one"),
        ("192.0.2.3", 200, "--dst 192.0.2.3: no VTEP of lan in VNI 200", "VTEPs: 239.1.1.1, 192.0.2.2; a new one"),
        ("192.0.2.2", 7, "--vni 7: lan has no such VNI", "VNIs: 100, 200"),
        ("192.0.2.2", None, "--dst 192.0.2.2: it is a VTEP of several VNIs", "--vni one of 100, 200"),
        ("239.1.1.1", None, "--dst 239.1.1.1: a multicast group", ""),
    ],
)
def test_a_vtep_that_cannot_be_meant(dst: str, vni: int | None, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        tunnels.find_one(maps(), LAN, dst, vni)
    assert what in str(caught.value)
    assert hint in caught.value.hint


def test_rows_of_an_fdb_by_vni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_now", lambda: 0)
    macs = [bytes([2, 0, 0, 0, 0, number]) for number in range(7)]
    table = [
        bucket((fdb_key(macs[0], 1), 2 | VALID), (fdb_key(macs[1], 0), 1 | VALID | REMOTE)),
        bucket((fdb_key(macs[2], 1), 3 | VALID | REMOTE | STATIC), (fdb_key(macs[3], 0), 1 | VALID | LOCAL | STATIC)),
        bucket((fdb_key(macs[4], 0), 9 | VALID | REMOTE), (fdb_key(macs[5], 5), 1 | VALID)),  # of an earlier attach
        bucket((fdb_key(macs[6], 0), 0 | VALID | LOCAL | STATIC | OWNED)),  # of the adopted bridge
    ]
    found = fdb.rows(maps(fdb=table), LAN)
    assert [(row.mac, row.vni, row.vid, row.device, row.dst, row.permanent, row.local) for row in found] == [
        (macs[1], 100, 0, "eth0", "192.0.2.3", False, False),
        (macs[3], 100, 0, "p0", "", True, True),
        (macs[6], 100, 0, "", "", True, True),
        (macs[0], 200, 0, "p1", "", False, False),
        (macs[2], 200, 0, "eth0", "192.0.2.2", True, False),
    ]


def test_the_place_of_an_address_that_is_to_be_added() -> None:
    assert fdb.find_place(maps(), LAN, "p1", "") == (2, 1, False)
    assert fdb.find_place(maps(), LAN, "", "192.0.2.2", 200) == (3, 1, True)
    for device, what in (("eth0", "underlay"), ("pydp-vx4789", "companion")):
        with pytest.raises(UsageError, match=what):
            fdb.find_place(maps(), LAN, device, "")
    with pytest.raises(UsageError, match="nosuch is not a port of lan") as caught:
        fdb.find_place(maps(), LAN, "nosuch", "")
    assert caught.value.hint == "ports: eth0, p0, p1"
