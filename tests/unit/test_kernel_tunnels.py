# SPDX-License-Identifier: Apache-2.0
"""Messages about vxlan devices and IP tunnels to records, without a kernel: bytes as linux/if_link.h and if_tunnel.h
lay them out, through pyroute2's parser.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ebpf.netlink import attribute
from pydp.kernel import View
from pydp.kernel.fdb import decode_vxlan_fdb
from pydp.model import Tunnel, Vxlan, VxlanFdbEntry

NEWLINK, DELLINK = 16, 17
VX, OTHER = 20, 21


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, bytes([value]))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def be16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def ip4(kind: int, text: str) -> bytes:
    return attribute(kind, inet_pton(AF_INET, text))


def ip6(kind: int, text: str) -> bytes:
    return attribute(kind, inet_pton(AF_INET6, text))


def message(ifindex: int, body: bytes, kind: int = NEWLINK) -> ifinfmsg:
    payload = struct.pack("=BxHiII", 0, 1, ifindex, 1, 0) + body
    # As in a datagram with several: what comes before and after must not matter.
    before, after = bytes(12), b"\xff" * 8
    raw = struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload
    msg = ifinfmsg(before + raw + after, offset=len(before))
    msg.decode()
    return msg


def device(kind: str, options: bytes, *, ifindex: int = VX, extra: bytes = b"") -> ifinfmsg:
    info = attribute(1, kind.encode() + b"\0") + attribute(2, options)
    return message(ifindex, attribute(3, b"dev0\0") + u32(4, 1450) + extra + attribute(18, info))


def vxlan(options: bytes, **options_of_device: Any) -> Vxlan:
    return View.from_messages([device("vxlan", options, **options_of_device)]).vxlans[VX]


def tunnel(kind: str, options: bytes) -> Tunnel:
    return View.from_messages([device(kind, options)]).tunnels[VX]


# What the kernel sends when nothing is set, apart from the numbers: all options are there, most of them 0.
ZEROS = b"".join(u8(kind, 0) for kind in (5, 6, 7, 11, 12, 13, 14, 18, 19, 20, 21, 22, 25, 28, 29, 31))
ZEROS += u32(8, 0) + u32(9, 0) + be32(26, 0) + be16(15, 4789) + attribute(10, bytes(4)) + u32(32, 0)
PLAIN = Vxlan(
    VX, "dev0", port=4789, learning=False, ageing=0.0, udp_csum=False, localbypass=False, mtu=1450, up=True
)  # fmt: skip


def test_all_zeros() -> None:
    assert vxlan(u32(1, 0) + ZEROS) == PLAIN


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        (u32(1, 0xFFFFFF), "vni", 0xFFFFFF),
        (u32(3, 7), "lower", 7),
        (ip4(4, "192.0.2.1"), "local", "192.0.2.1"),
        (ip6(17, "2001:db8::1"), "local", "2001:db8::1"),
        (ip4(2, "192.0.2.2"), "remote", "192.0.2.2"),
        (ip6(16, "2001:db8::2"), "remote", "2001:db8::2"),
        (ip4(2, "239.1.1.1"), "group", "239.1.1.1"),
        (ip6(16, "ff05::5"), "group", "ff05::5"),
        (ip4(2, "0.0.0.0"), "remote", ""),
        (be16(15, 8472), "port", 8472),
        (attribute(10, struct.pack(">HH", 1000, 2000)), "port_range", (1000, 2000)),
        (u8(5, 64), "ttl", 64),
        (u8(28, 1), "ttl_inherit", True),
        (u8(6, 1), "tos", 1),
        (u8(6, 0xB8), "tos", 0xB8),
        (u8(29, 1), "df", "set"),
        (u8(29, 2), "df", "inherit"),
        (be32(26, 0x12345), "label", 0x12345),
        (u8(7, 1), "learning", True),
        (u32(8, 300), "ageing", 300.0),
        (u32(9, 99), "limit", 99),
        (u8(18, 1), "udp_csum", True),
        (u8(19, 1), "udp6_zero_tx", True),
        (u8(20, 1), "udp6_zero_rx", True),
        (u8(21, 1), "remcsum", True),
        (u8(22, 1), "remcsum", True),
        (u8(11, 1), "proxy", True),
        (u8(12, 1), "rsc", True),
        (u8(13, 1), "l2miss", True),
        (u8(14, 1), "l3miss", True),
        (u8(25, 1), "external", True),
        (attribute(23, b""), "gbp", True),
        (attribute(27, b""), "gpe", True),
        (u8(30, 1), "vnifilter", True),
        (u8(31, 1), "localbypass", True),
    ],
)
def test_each_vxlan_option(option: bytes, field: str, value: object) -> None:
    """It and no other field; of a repeated attribute the last holds."""
    assert vxlan(ZEROS + option) == replace(PLAIN, **{field: value})


def test_what_a_kernel_does_not_know_yet() -> None:
    """No IFLA_VXLAN_LOCALBYPASS before Linux 6.4: local VTEPs were always bypassed."""
    assert vxlan(u32(1, 5)).localbypass


def test_of_the_link() -> None:
    found = vxlan(ZEROS, extra=u32(10, 9) + attribute(1, b"\x02VXLAN") + attribute(20, b"a name\0"))
    assert (found.master, found.mac, found.mtu, found.up) == (9, b"\x02VXLAN", 1450, True)


def test_alias_of_a_link() -> None:
    view = View.from_messages([device("vxlan", ZEROS, extra=attribute(20, b"pydp one\0")), message(OTHER, b"")])
    assert (view.links[VX].alias, view.links[OTHER].alias) == ("pydp one", "")


def test_following() -> None:
    """A change, another device that leaves the record alone, and the end, also by an index that is used again."""
    view = View.from_messages([device("vxlan", ZEROS), device("ipip", b"", ifindex=OTHER)])
    changed = view.applied([device("vxlan", ZEROS + u8(5, 9))])
    assert (changed.vxlans[VX].ttl, view.vxlans[VX].ttl) == (9, 0)
    assert changed.tunnels[OTHER] is view.tunnels[OTHER]
    assert view.applied([message(VX, b"", DELLINK)]).vxlans == {}
    again = view.applied([device("gre", b""), device("vxlan", ZEROS, ifindex=OTHER)])
    assert (set(again.vxlans), set(again.tunnels)) == ({OTHER}, {VX})
    with pytest.raises(TypeError):
        view.vxlans[1] = view.vxlans[VX]  # type: ignore[index]


def test_other_kinds_are_neither() -> None:
    view = View.from_messages([device("veth", b""), device("geneve", b"", ifindex=OTHER)])
    assert (dict(view.vxlans), dict(view.tunnels)) == ({}, {})


@pytest.mark.parametrize("kind", ["ipip", "sit"])
def test_ipip_and_sit(kind: str) -> None:
    options = u32(1, 3) + ip4(2, "192.0.2.1") + ip4(3, "192.0.2.2") + u8(4, 64) + u8(5, 1) + u8(9, 4) + u8(10, 0)
    # For IPv4 IFLA_IPTUN_FLAGS has ISATAP and the like, of 16 bits, which is not what it has for IPv6.
    options += attribute(8, struct.pack("=H", 3)) + attribute(15, struct.pack("=H", 0))
    assert tunnel(kind, options) == Tunnel(
        VX, "dev0", kind, "192.0.2.1", "192.0.2.2",
        protocol=4, ttl=64, tos=1, pmtudisc=False, lower=3, mtu=1450, up=True,
    )  # fmt: skip


def test_ipip_of_metadata_and_in_udp() -> None:
    found = tunnel("ipip", ip4(2, "0.0.0.0") + u8(10, 1) + attribute(15, struct.pack("=H", 1)) + attribute(19, b""))
    assert found == Tunnel(VX, "dev0", "ipip", external=True, encap=True, mtu=1450, up=True)


IP6TNL = ip6(2, "2001:db8::1") + ip6(3, "2001:db8::2") + u8(4, 64) + u8(6, 4) + u8(9, 41)


@pytest.mark.parametrize(
    ("flags", "flowinfo", "tos", "limit"),
    [
        (0, 0x0B800000, 0xB8, 4),
        (0x1, 0, 0, None),  # no encapsulation limit
        (0x2, 0x0B800000, 1, 4),  # traffic class inherited
        (0x4, 0x00012345, 0, 4),  # flow label inherited
    ],
)
def test_ip6tnl(flags: int, flowinfo: int, tos: int, limit: int | None) -> None:
    assert tunnel("ip6tnl", IP6TNL + be32(7, flowinfo) + u32(8, flags)) == Tunnel(
        VX, "dev0", "ip6tnl", "2001:db8::1", "2001:db8::2",
        protocol=41, ttl=64, tos=tos, encap_limit=limit, mtu=1450, up=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["gre", "gretap"])
def test_gre(kind: str) -> None:
    options = u32(1, 3) + be16(2, 0x2000) + be16(3, 0x3000) + be32(4, 7) + be32(5, 0x01020304)
    options += ip4(6, "192.0.2.1") + ip4(7, "192.0.2.2") + u8(8, 64) + u8(9, 0x10) + u8(10, 1) + u8(19, 1)
    assert tunnel(kind, options) == Tunnel(
        VX, "dev0", kind, "192.0.2.1", "192.0.2.2", ttl=64, tos=0x10, ignore_df=True,
        key_in=7, key_out=0x01020304, sequence=True, lower=3, mtu=1450, up=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags_in", "flags_out", "expected"),
    [
        (0, 0, (None, None, False, False)),
        (0x2000, 0, (7, None, False, False)),
        (0, 0x2000, (None, 8, False, False)),
        (0x8000, 0, (None, None, True, False)),
        (0, 0x8000, (None, None, True, False)),
        (0x1000, 0, (None, None, False, True)),
    ],
)
def test_gre_flags(flags_in: int, flags_out: int, expected: tuple[object, ...]) -> None:
    """The kernel sends both keys always: the flags tell whether they count."""
    found = tunnel("gre", be16(2, flags_in) + be16(3, flags_out) + be32(4, 7) + be32(5, 8))
    assert (found.key_in, found.key_out, found.checksum, found.sequence) == expected


@pytest.mark.parametrize("kind", ["ip6gre", "ip6gretap"])
def test_gre_over_ipv6(kind: str) -> None:
    options = be16(2, 0x2000) + be16(3, 0) + be32(4, 7) + ip6(6, "2001:db8::1") + ip6(7, "2001:db8::2")
    options += u8(8, 64) + u8(11, 4) + be32(12, 0x0B800000) + u32(13, 0x1)
    assert tunnel(kind, options) == Tunnel(
        VX, "dev0", kind, "2001:db8::1", "2001:db8::2", ttl=64, tos=0xB8, key_in=7, mtu=1450, up=True,
    )  # fmt: skip


MAC = bytes.fromhex("020000000001")


def neighbour(body: bytes, *, ifindex: int = VX, state: int = 0x02, flags: int = 0x02) -> tuple[bytes, int, int]:
    head = struct.pack("=BBHiHBB", 7, 0, 0, ifindex, state, flags, 0)
    data = b"\xff" * 4 + head + body
    return data, 4, len(data)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ip4(1, "192.0.2.2"), {"dst": "192.0.2.2"}),
        (ip6(1, "2001:db8::2"), {"dst": "2001:db8::2"}),
        (u32(7, 200), {"vni": 200}),
        (be16(6, 8472), {"port": 8472}),
        (u32(8, 3), {"lower": 3}),
        (u32(11, 100), {"src_vni": 100}),
        (u32(13, 5), {"nhid": 5}),
        (attribute(3, struct.pack("=IIII", 0, 150, 250, 0)), {"used": 1.5, "updated": 2.5}),
    ],
)
def test_vxlan_fdb_attributes(body: bytes, expected: dict[str, Any]) -> None:
    assert decode_vxlan_fdb([neighbour(attribute(2, MAC) + body)], VX) == (VxlanFdbEntry(MAC, VX, **expected),)


@pytest.mark.parametrize(
    ("state", "flags", "expected"),
    [
        (0xC0, 0x02, {"permanent": True, "static": True}),
        (0x80, 0x02, {"permanent": True}),
        (0x40, 0x02, {"static": True}),
        (0x02, 0x12, {"extern_learn": True}),
        (0x04, 0x02, {}),
    ],
)
def test_vxlan_fdb_states(state: int, flags: int, expected: dict[str, bool]) -> None:
    found = decode_vxlan_fdb([neighbour(attribute(2, MAC), state=state, flags=flags)], VX)
    assert found == (VxlanFdbEntry(MAC, VX, **expected),)


def test_vxlan_fdb_leaves_out_what_is_not_the_device_s() -> None:
    mac = attribute(2, MAC)
    others = [
        neighbour(mac + u32(9, 2), flags=0x02),  # of the bridge
        neighbour(mac, flags=0x04),  # NTF_MASTER
        neighbour(mac, ifindex=OTHER),
        neighbour(ip4(1, "192.0.2.2")),
    ]
    assert decode_vxlan_fdb(others, VX) == ()


def test_several_vteps_of_an_address() -> None:
    messages = [neighbour(attribute(2, bytes(6)) + ip4(1, f"192.0.2.{i}")) for i in (1, 2, 3)]
    assert [one.dst for one in decode_vxlan_fdb(messages, VX)] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
