# SPDX-License-Identifier: Apache-2.0
"""The options of vxlan and IP tunnel devices in a message of pyroute2 -> one record. Pure.

The attributes are read from the message's bytes: pyroute2 takes those that are flags for set whenever they are there
(the kernel sends IFLA_VXLAN_TTL_INHERIT with 0 in it), and does not know the newer ones.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from ebpf.netlink import nested
from pydp.kernel.messages import Message
from pydp.kernel.values import address_text, big_endian, number
from pydp.model import Link, Tunnel, Vxlan

# IFLA_VXLAN_*
_ID, _GROUP, _LINK, _LOCAL, _TTL, _TOS, _LEARNING, _AGEING, _LIMIT, _PORT_RANGE = range(1, 11)
_PROXY, _RSC, _L2MISS, _L3MISS, _PORT, _GROUP6, _LOCAL6, _UDP_CSUM, _UDP6_ZERO_TX, _UDP6_ZERO_RX = range(11, 21)
_REMCSUM_TX, _REMCSUM_RX, _GBP, _, _EXTERNAL, _LABEL, _GPE, _TTL_INHERIT, _DF, _VNIFILTER, _LOCALBYPASS = range(21, 32)
_DF_NAMES = ("unset", "set", "inherit")

# What is used of IFLA_IPTUN_* and of IFLA_GRE_*, by field.
_IPTUN = {
    "lower": 1, "local": 2, "remote": 3, "ttl": 4, "tos": 5, "encap_limit": 6, "flowinfo": 7, "flags": 8, "protocol": 9,
    "pmtudisc": 10, "encap": 15, "external": 19,
}  # fmt: skip
_GRE = {
    "lower": 1, "flags_in": 2, "flags_out": 3, "key_in": 4, "key_out": 5, "local": 6, "remote": 7, "ttl": 8, "tos": 9,
    "pmtudisc": 10, "encap_limit": 11, "flowinfo": 12, "flags": 13, "encap": 14, "external": 18, "ignore_df": 19,
}  # fmt: skip
_FIELDS = {
    "ipip": _IPTUN, "sit": _IPTUN, "ip6tnl": _IPTUN,
    "gre": _GRE, "gretap": _GRE, "ip6gre": _GRE, "ip6gretap": _GRE,
}  # fmt: skip
_GRE_CSUM, _GRE_KEY, _GRE_SEQ = 0x8000, 0x2000, 0x1000
_IGN_ENCAP_LIMIT, _USE_ORIG_TCLASS = 0x1, 0x2  # IP6_TNL_F_*
_INHERIT = 1


def vxlan_of(msg: Message, link: Link) -> Vxlan | None:
    """The Vxlan that an AF_UNSPEC RTM_NEWLINK tells of; None when the device is none."""
    found = _options(msg) if link.kind == "vxlan" else None
    if found is None:
        return None

    def flag(kind: int, default: bool = False) -> bool:
        """A number, or an attribute without a value that is there or not."""
        return any(found[kind]) or not found[kind] if kind in found else default

    peer = _address(found.get(_GROUP) or found.get(_GROUP6))
    multicast = bool(peer) and ipaddress.ip_address(peer).is_multicast
    low, high = struct.unpack(">HH", found.get(_PORT_RANGE, bytes(4)))
    df = number(found, _DF)
    return Vxlan(
        ifindex=link.ifindex,
        name=link.name,
        vni=number(found, _ID),
        lower=number(found, _LINK),
        local=_address(found.get(_LOCAL) or found.get(_LOCAL6)),
        remote="" if multicast else peer,
        group=peer if multicast else "",
        port=big_endian(found, _PORT),
        port_range=(low, high),
        ttl=number(found, _TTL),
        ttl_inherit=flag(_TTL_INHERIT),
        tos=number(found, _TOS),
        df=_DF_NAMES[df] if df < len(_DF_NAMES) else str(df),
        label=big_endian(found, _LABEL),
        learning=flag(_LEARNING),
        ageing=float(number(found, _AGEING)),
        limit=number(found, _LIMIT),
        udp_csum=flag(_UDP_CSUM),
        udp6_zero_tx=flag(_UDP6_ZERO_TX),
        udp6_zero_rx=flag(_UDP6_ZERO_RX),
        remcsum=flag(_REMCSUM_TX) or flag(_REMCSUM_RX),
        proxy=flag(_PROXY),
        rsc=flag(_RSC),
        l2miss=flag(_L2MISS),
        l3miss=flag(_L3MISS),
        external=flag(_EXTERNAL),
        gbp=flag(_GBP),
        gpe=flag(_GPE),
        vnifilter=flag(_VNIFILTER),
        localbypass=flag(_LOCALBYPASS, default=True),  # before Linux 6.4 it could not be turned off
        master=link.master,
        mtu=link.mtu,
        up=link.up,
        mac=link.mac,
    )


def tunnel_of(msg: Message, link: Link) -> Tunnel | None:
    """The Tunnel that an AF_UNSPEC RTM_NEWLINK tells of; None when the device is none."""
    kinds = _FIELDS.get(link.kind)
    options = _options(msg) if kinds else None
    if kinds is None or options is None:
        return None
    found = {name: options[kind] for name, kind in kinds.items() if kind in options}

    over6 = link.kind.startswith("ip6")
    flags = number(found, "flags") if over6 else 0
    gre_in, gre_out = (big_endian(found, name) for name in ("flags_in", "flags_out"))
    return Tunnel(
        ifindex=link.ifindex,
        name=link.name,
        kind=link.kind,
        local=_address(found.get("local")),
        remote=_address(found.get("remote")),
        protocol=number(found, "protocol"),
        ttl=number(found, "ttl"),
        tos=_traffic_class(found, flags) if over6 else number(found, "tos"),
        pmtudisc=bool(number(found, "pmtudisc", 1)),
        ignore_df=bool(number(found, "ignore_df")),
        key_in=_key(found, "key_in", gre_in),
        key_out=_key(found, "key_out", gre_out),
        checksum=bool((gre_in | gre_out) & _GRE_CSUM),
        sequence=bool((gre_in | gre_out) & _GRE_SEQ),
        encap_limit=number(found, "encap_limit") if over6 and not flags & _IGN_ENCAP_LIMIT else None,
        external="external" in found,
        encap=bool(number(found, "encap")),
        lower=number(found, "lower"),
        mtu=link.mtu,
        up=link.up,
    )


def _options(msg: Message) -> dict[int, bytes] | None:
    """IFLA_INFO_DATA by attribute type; None when there is none."""
    info = msg.get_attr("IFLA_LINKINFO")
    data: Any = info.get_attr("IFLA_INFO_DATA") if info else None
    if data is None:
        return None
    # pyroute2 keeps the buffer of the whole datagram, with the place of the attribute in it.
    return nested(bytes(data.data[data.offset + 4 : data.offset + data.length]))


def _address(value: bytes | None) -> str:
    """An address of 4 or 16 bytes as text; "" for none, and for the one of all zeros, which means any."""
    if not value or not any(value):
        return ""
    return address_text(value)


def _key(found: dict[str, bytes], name: str, flags: int) -> int | None:
    return big_endian(found, name) if flags & _GRE_KEY else None


def _traffic_class(found: dict[str, bytes], flags: int) -> int:
    """Over IPv6 the traffic class is part of the flow information."""
    if flags & _USE_ORIG_TCLASS:
        return _INHERIT
    return big_endian(found, "flowinfo") >> 20 & 0xFF
