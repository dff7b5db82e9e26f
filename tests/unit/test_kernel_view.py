# SPDX-License-Identifier: Apache-2.0
"""Messages to View, without a kernel: bytes as linux/if_link.h lays them out, through pyroute2's parser."""

from __future__ import annotations

import struct

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pydp.errors import NoSuchLink, UsageError
from pydp.kernel import View
from pydp.model import BridgePort, NfCall, Peer, PortState, Vlan, XdpMode, XdpState

NEWLINK, DELLINK = 16, 17
AF_UNSPEC, AF_BRIDGE = 0, 7
BR, P1, P2 = 10, 11, 12

# Which attribute of a port (IFLA_BRPORT_*) fills which field.
PORT_FLAGS = {
    4: "hairpin", 5: "guard", 6: "root_block", 8: "learning", 9: "flood", 10: "proxy_arp", 27: "mcast_flood",
    28: "mcast_to_unicast", 29: "vlan_tunnel", 30: "bcast_flood", 32: "neigh_suppress", 33: "isolated", 39: "locked",
    40: "mab",
}  # fmt: skip


def nla(kind: int, value: bytes | int) -> bytes:
    data = bytes([value]) if isinstance(value, int) else value
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def message(ifindex: int, body: bytes, *, family: int = AF_UNSPEC, kind: int = NEWLINK, flags: int = 1) -> ifinfmsg:
    payload = struct.pack("=BxHiII", family, 1, ifindex, flags, 0) + body
    msg = ifinfmsg(struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload)
    msg.decode()
    return msg


def bridge(options: bytes = b"", name: bytes = b"br0\0", ifindex: int = BR) -> ifinfmsg:
    return message(ifindex, nla(3, name) + nla(1, b"\x02BRIDG") + nla(18, nla(1, b"bridge\0") + nla(2, options)))


def port(ifindex: int, options: bytes = b"", *, master: int = BR, name: bytes = b"") -> ifinfmsg:
    info = nla(1, b"veth\0") + nla(4, b"bridge\0") + nla(5, options)
    return message(ifindex, nla(3, (name or b"p%d" % ifindex) + b"\0") + nla(10, u32(master)) + nla(18, info))


def alone(ifindex: int) -> ifinfmsg:
    return message(ifindex, nla(3, b"p%d\0" % ifindex) + nla(18, nla(1, b"veth\0")))


def vlans(ifindex: int, *entries: tuple[int, int], options: bytes = b"", kind: int = NEWLINK) -> ifinfmsg:
    """AF_BRIDGE message with (flags, vid) pairs; of a port when it has options."""
    body = nla(10, u32(BR)) + (nla(12 | 0x8000, options) if options else b"")
    body += nla(26, b"".join(nla(2, struct.pack("=HH", *entry)) for entry in entries))
    return message(ifindex, body, family=AF_BRIDGE, kind=kind)


STATE_FORWARDING = nla(1, 3)


def test_vlans_of_ports_and_bridge_with_ranges() -> None:
    view = View.from_messages(
        [
            bridge(nla(7, 1) + nla(8, b"\x88\xa8") + nla(39, struct.pack("=H", 7))),
            port(P1, STATE_FORWARDING),
            port(P2, STATE_FORWARDING),
            vlans(BR, (0x2 | 0x4, 1)),
            vlans(P1, (0x6, 1), (0x8, 10), (0x10, 13), (0xC, 20), (0x14, 21), (0, 30), options=STATE_FORWARDING),
            vlans(P2, (0x4, 5), options=STATE_FORWARDING),
        ]
    )  # fmt: skip
    br0 = view.bridge("br0")
    assert (br0.vlan_filtering, br0.vlan_protocol, br0.default_pvid) == (True, 0x88A8, 7)
    assert (br0.pvid, br0.vlans) == (1, (Vlan(1, untagged=True),))
    first, second = br0.ports
    assert first.pvid == 1
    assert [(vlan.vid, vlan.untagged) for vlan in first.vlans] == [
        (1, True), (10, False), (11, False), (12, False), (13, False), (20, True), (21, True), (30, False),
    ]  # fmt: skip
    assert (second.pvid, second.vlans) == (None, (Vlan(5, untagged=True),))


def test_all_4094_vlans_come_as_one_range() -> None:
    view = View.from_messages([bridge(), port(P1), vlans(P1, (0x8, 1), (0x10, 4094), options=STATE_FORWARDING)])
    assert [vlan.vid for vlan in view.bridge("br0").ports[0].vlans] == list(range(1, 4095))


def test_bridge_options() -> None:
    options = (
        nla(4, u32(12345)) + nla(5, u32(2)) + nla(9, struct.pack("=H", 0x4008)) + nla(23, 1) + nla(36, 1) + nla(38, 1)
    )
    br0 = View.from_messages([bridge(options)]).bridges[BR]
    assert br0.ageing == 123.45
    assert (br0.stp, br0.mcast_snooping, br0.group_fwd_mask) == (True, True, 0x4008)
    assert br0.nf_call == NfCall(iptables=True, ip6tables=False, arptables=True)
    assert (br0.mac, br0.vlan_filtering, br0.vlan_protocol) == (b"\x02BRIDG", False, 0x8100)


@pytest.mark.parametrize("attribute", PORT_FLAGS)
@pytest.mark.parametrize("family", [AF_UNSPEC, AF_BRIDGE])
def test_each_port_flag_from_either_family(attribute: int, family: int) -> None:
    """One flag set at a time, all others sent as 0."""
    options = nla(1, 2) + b"".join(nla(kind, int(kind == attribute)) for kind in PORT_FLAGS)
    messages = [bridge(), port(P1, options)] if family == AF_UNSPEC else [bridge(), vlans(P1, options=options)]
    flags = {name: kind == attribute for kind, name in PORT_FLAGS.items()}
    assert View.from_messages(messages).bridges[BR].ports == (BridgePort(P1, BR, PortState.LEARNING, **flags),)


def test_backup_port_and_group_mask() -> None:
    options = STATE_FORWARDING + nla(34, u32(P2)) + nla(31, struct.pack("=H", 8))
    (one,) = View.from_messages([bridge(), port(P1, options)]).bridges[BR].ports
    assert (one.backup_port, one.group_fwd_mask, one.state) == (P2, 8, PortState.FORWARDING)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({5: 70}, XdpState(70, XdpMode.NATIVE)),
        ({6: 71}, XdpState(71, XdpMode.GENERIC)),
        ({7: 72}, XdpState(72, XdpMode.OFFLOAD)),
        ({7: 72, 5: 70}, XdpState(70, XdpMode.NATIVE)),
        ({}, None),
    ],
)
def test_xdp_state(ids: dict[int, int], expected: XdpState | None) -> None:
    """With several programs IFLA_XDP_ATTACHED says "multi" and IFLA_XDP_PROG_ID is missing: the ids by mode decide."""
    xdp = nla(2, 4 if len(ids) > 1 else len(ids)) + b"".join(nla(kind, u32(value)) for kind, value in ids.items())
    view = View.from_messages([message(P1, nla(3, b"e\0") + nla(43, xdp))])
    assert view.links[P1].xdp == expected


def test_link_fields() -> None:
    body = nla(3, b"v1\0") + nla(1, b"\x02\0\0\0\0\x01") + nla(4, u32(1400)) + nla(5, u32(44)) + nla(37, u32(3))
    body += nla(33, 1) + nla(31, u32(4)) + nla(32, u32(2)) + nla(30, u32(1)) + nla(6, b"noqueue\0") + nla(51, u32(9000))
    link = View.from_messages([message(P1, body + nla(18, nla(1, b"veth\0")), flags=0x1)]).link("v1")
    assert (link.mac, link.mtu, link.max_mtu, link.up, link.carrier) == (b"\x02\0\0\0\0\x01", 1400, 9000, True, True)
    assert (link.num_tx_queues, link.num_rx_queues, link.promiscuity, link.qdisc) == (4, 2, 1, "noqueue")
    assert (link.kind, link.peer, link.loopback) == ("veth", Peer(44, 3), False)


def test_lower_device_of_another_kind_is_no_peer() -> None:
    view = View.from_messages([message(P1, nla(3, b"m\0") + nla(5, u32(2)) + nla(18, nla(1, b"macvlan\0")))])
    assert view.link("m").peer is None


def test_hardware_and_ip_addresses() -> None:
    """A device without IFLA_INFO_KIND has kind ""; the 4-byte address of a tunnel is no MAC."""
    view = View.from_messages([message(1, nla(3, b"lo\0") + nla(1, b"\x0a\0\0\x01"), flags=0x9)])
    assert (view.links[1].kind, view.links[1].mac, view.links[1].loopback) == ("", b"", True)


class TestApplied:
    """What follows a dump, in the messages the kernel sends for it."""

    def start(self) -> View:
        return View.from_messages(
            [
                bridge(),
                port(P1, STATE_FORWARDING),
                port(P2, STATE_FORWARDING),
                vlans(P1, (0x6, 1), options=STATE_FORWARDING),
                vlans(P2, (0x6, 2), options=STATE_FORWARDING),
            ],
            NfCall(iptables=True),
        )

    def test_nothing_changes_nothing(self) -> None:
        view = self.start()
        assert view.applied([]) == view

    def test_a_flag_changes_and_the_rest_stays_the_same_object(self) -> None:
        before = self.start()
        after = before.applied([port(P1, STATE_FORWARDING + nla(33, 1))])
        assert after.bridges[BR].ports[0].isolated
        assert after.bridges[BR].ports[0].pvid == 1  # known from AF_BRIDGE, kept
        assert after.bridges[BR].ports[1] is before.bridges[BR].ports[1]
        assert after.links[P2] is before.links[P2]
        assert after.nf_call == NfCall(iptables=True)
        assert not before.bridges[BR].ports[0].isolated

    def test_vlans_change(self) -> None:
        after = self.start().applied([vlans(P1, (0x6, 9), options=STATE_FORWARDING)])
        assert (after.bridges[BR].ports[0].pvid, after.bridges[BR].ports[0].vlans) == (9, (Vlan(9, untagged=True),))

    def test_bridge_option_keeps_vlans_and_ports(self) -> None:
        after = self.start().applied([vlans(BR, (0x6, 4)), bridge(nla(4, u32(1000)))])
        assert (after.bridges[BR].ageing, after.bridges[BR].pvid, len(after.bridges[BR].ports)) == (10.0, 4, 2)

    @pytest.mark.parametrize(
        "events",
        [
            [vlans(P1, kind=DELLINK, options=STATE_FORWARDING), alone(P1)],
            [alone(P1)],
            [vlans(P1, kind=DELLINK, options=STATE_FORWARDING)],
        ],
    )
    def test_a_port_leaves(self, events: list[ifinfmsg]) -> None:
        after = self.start().applied(events)
        assert [one.ifindex for one in after.bridges[BR].ports] == [P2]
        assert P1 in after.links
        assert after.port(P1) is None

    def test_a_port_moves_to_another_bridge(self) -> None:
        after = self.start().applied([bridge(name=b"br1\0", ifindex=20), port(P1, STATE_FORWARDING, master=20)])
        assert [one.ifindex for one in after.bridges[20].ports] == [P1]
        assert [one.ifindex for one in after.bridges[BR].ports] == [P2]

    def test_device_is_deleted(self) -> None:
        after = self.start().applied([message(P1, b"", kind=DELLINK), message(BR, b"", kind=DELLINK)])
        assert (set(after.links), dict(after.bridges)) == ({P2}, {})

    def test_rename(self) -> None:
        after = self.start().applied([port(P1, STATE_FORWARDING, name=b"new")])
        assert after.link("new").ifindex == P1
        with pytest.raises(NoSuchLink):
            after.link("p11")


class TestNames:
    view = View.from_messages([bridge(), port(P1), port(P2)])

    def test_unknown_name_offers_near_ones(self) -> None:
        with pytest.raises(NoSuchLink, match=r"^no interface p13$") as caught:
            self.view.link("p13")
        assert set(caught.value.near) == {"p11", "p12"}
        assert "p11" in caught.value.hint
        assert caught.value.status == 2

    def test_unknown_name_unlike_any(self) -> None:
        with pytest.raises(NoSuchLink) as caught:
            self.view.link("wlan0")
        assert caught.value.near == ()

    def test_not_a_bridge(self) -> None:
        with pytest.raises(UsageError, match="p11 is not a bridge"):
            self.view.bridge("p11")

    def test_name_of_a_device_that_is_gone(self) -> None:
        assert (self.view.name(P1), self.view.name(99)) == ("p11", "if99")

    def test_records_are_frozen(self) -> None:
        with pytest.raises(TypeError):
            self.view.links[1] = self.view.links[P1]  # type: ignore[index]
