# SPDX-License-Identifier: Apache-2.0
"""One netlink message of pyroute2 -> one record. Pure: a dump and an event look the same here.

Two families tell about links, each in messages of type RTM_NEWLINK. AF_UNSPEC has the device with all its options,
those of a bridge and of a bridge port included. AF_BRIDGE has the options of a port again and alone knows the VLANs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

from pydp.model import Bridge, BridgePort, Link, NfCall, Peer, PortState, Vlan, XdpMode, XdpState

AF_UNSPEC, AF_BRIDGE = 0, 7
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_PAIRED = ("veth", "netkit", "vxcan")
_PVID, _UNTAGGED, _RANGE_BEGIN = 0x2, 0x4, 0x8
# The attribute that names the program in one mode, in the order in which we would rather see it.
_XDP_IDS = (
    ("IFLA_XDP_DRV_PROG_ID", XdpMode.NATIVE),
    ("IFLA_XDP_HW_PROG_ID", XdpMode.OFFLOAD),
    ("IFLA_XDP_SKB_PROG_ID", XdpMode.GENERIC),
)


class Message(Protocol):
    """What is used of pyroute2's nlmsg: fields of the header struct by name, attributes by get_attr."""

    def __getitem__(self, key: str) -> Any: ...

    def get_attr(self, attr: str, default: Any = None) -> Any: ...


def link_of(msg: Message) -> Link:
    """A Link from an AF_UNSPEC RTM_NEWLINK."""
    get = msg.get_attr
    info = get("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    lower, netnsid = get("IFLA_LINK"), get("IFLA_LINK_NETNSID")
    return Link(
        ifindex=msg["index"],
        name=get("IFLA_IFNAME", ""),
        kind=kind,
        mac=_mac(get("IFLA_ADDRESS")),
        mtu=get("IFLA_MTU", 0),
        max_mtu=get("IFLA_MAX_MTU", 0),
        up=bool(msg["flags"] & _IFF_UP),
        carrier=bool(get("IFLA_CARRIER", 0)),
        loopback=bool(msg["flags"] & _IFF_LOOPBACK),
        master=get("IFLA_MASTER", 0),
        xdp=_xdp(get("IFLA_XDP")),
        peer=Peer(lower, netnsid) if lower and kind in _PAIRED else None,
        num_tx_queues=get("IFLA_NUM_TX_QUEUES", 1),
        num_rx_queues=get("IFLA_NUM_RX_QUEUES", 1),
        promiscuity=get("IFLA_PROMISCUITY", 0),
        qdisc=get("IFLA_QDISC", ""),
        alias=get("IFLA_IFALIAS", ""),
    )


def bridge_of(msg: Message, link: Link, before: Bridge | None) -> Bridge | None:
    """The Bridge that an AF_UNSPEC RTM_NEWLINK tells of, with the VLANs of ``before``; None when the device is no
    bridge.
    """
    data = _info(msg, "IFLA_INFO_DATA") if link.kind == "bridge" else None
    if data is None:
        return None
    get = data.get_attr
    return Bridge(
        ifindex=link.ifindex,
        name=link.name,
        mac=link.mac,
        vlan_filtering=bool(get("IFLA_BR_VLAN_FILTERING", 0)),
        vlan_protocol=get("IFLA_BR_VLAN_PROTOCOL", 0x8100),
        default_pvid=get("IFLA_BR_VLAN_DEFAULT_PVID", 0),
        ageing=get("IFLA_BR_AGEING_TIME", 0) / os.sysconf("SC_CLK_TCK"),
        stp=bool(get("IFLA_BR_STP_STATE", 0)),
        mcast_snooping=bool(get("IFLA_BR_MCAST_SNOOPING", 0)),
        group_fwd_mask=get("IFLA_BR_GROUP_FWD_MASK", 0),
        nf_call=NfCall(
            bool(get("IFLA_BR_NF_CALL_IPTABLES", 0)),
            bool(get("IFLA_BR_NF_CALL_IP6TABLES", 0)),
            bool(get("IFLA_BR_NF_CALL_ARPTABLES", 0)),
        ),
        pvid=before.pvid if before else None,
        vlans=before.vlans if before else (),
    )


def port_of(msg: Message, pvid: int | None, vlans: tuple[Vlan, ...]) -> BridgePort | None:
    """The BridgePort that an RTM_NEWLINK of either family tells of; None when the device is no port of a bridge."""
    if msg["family"] == AF_BRIDGE:
        data = msg.get_attr("IFLA_PROTINFO")
    else:
        data = _info(msg, "IFLA_INFO_SLAVE_DATA") if _info(msg, "IFLA_INFO_SLAVE_KIND") == "bridge" else None
    bridge = msg.get_attr("IFLA_MASTER", 0)
    if data is None or not bridge:
        return None

    def flag(name: str) -> bool:
        return bool(data.get_attr(f"IFLA_BRPORT_{name}", 0))

    return BridgePort(
        ifindex=msg["index"],
        bridge=bridge,
        state=PortState(data.get_attr("IFLA_BRPORT_STATE", 0)),
        hairpin=flag("MODE"),
        isolated=flag("ISOLATED"),
        learning=flag("LEARNING"),
        flood=flag("UNICAST_FLOOD"),
        mcast_flood=flag("MCAST_FLOOD"),
        bcast_flood=flag("BCAST_FLOOD"),
        mcast_to_unicast=flag("MCAST_TO_UCAST"),
        locked=flag("LOCKED"),
        mab=flag("MAB"),
        neigh_suppress=flag("NEIGH_SUPPRESS"),
        proxy_arp=flag("PROXYARP"),
        vlan_tunnel=flag("VLAN_TUNNEL"),
        guard=flag("GUARD"),
        root_block=flag("PROTECT"),
        group_fwd_mask=data.get_attr("IFLA_BRPORT_GROUP_FWD_MASK", 0),
        backup_port=data.get_attr("IFLA_BRPORT_BACKUP_PORT", 0),
        pvid=pvid,
        vlans=vlans,
    )


def vlans_of(msg: Message) -> tuple[int | None, tuple[Vlan, ...]]:
    """(PVID, VLANs) of a port or bridge from an AF_BRIDGE RTM_NEWLINK, ranges (as the kernel compresses them) spread
    out.
    """
    spec = msg.get_attr("IFLA_AF_SPEC")
    pvid, vlans, first = None, [], 0
    for kind, info in spec["attrs"] if spec else ():
        if kind != "IFLA_BRIDGE_VLAN_INFO":
            continue
        vid, flags = info["vid"], info["flags"]
        if flags & _RANGE_BEGIN:
            first = vid
            continue
        if flags & _PVID:
            pvid = vid
        vlans += _span(range(first or vid, vid + 1), bool(flags & _UNTAGGED))
        first = 0
    return pvid, tuple(vlans)


def _span(vids: Iterable[int], untagged: bool) -> list[Vlan]:
    return [Vlan(vid, untagged) for vid in vids]


def _info(msg: Message, name: str) -> Any:
    info = msg.get_attr("IFLA_LINKINFO")
    return info.get_attr(name) if info else None


def _mac(address: str | None) -> bytes:
    """pyroute2's notation of IFLA_ADDRESS; only Ethernet addresses count (a tunnel has its IP address there)."""
    return bytes.fromhex(address.replace(":", "")) if address and len(address) == 17 else b""


def _xdp(nla: Any) -> XdpState | None:
    for name, mode in _XDP_IDS:
        if nla and (prog_id := nla.get_attr(name)):
            return XdpState(prog_id, mode)
    return None
