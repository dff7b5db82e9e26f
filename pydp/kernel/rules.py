# SPDX-License-Identifier: Apache-2.0
"""Every rule of netfilter in a namespace with what it counted: of nftables, iptables-nft and the legacy tools."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf.netlink import NETLINK_NETFILTER, attributes, dump, nested, text
from pydp.errors import NotAllowed
from pydp.kernel.xtables import loaded_tables, read_entries

_NFT_MSG_GETRULE = 10 << 8 | 7  # subsystem nftables
_NFGENMSG = struct.Struct("=BBH")
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS, _NAT_TYPE, _TARGET_NAME = 1, 2, 1, 1
_SNAT = 0
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
# What rules translate, by target of iptables and by expression of nftables.
_TARGETS = {"DNAT": "dnat", "SNAT": "snat", "MASQUERADE": "masquerade", "REDIRECT": "redirect", "NETMAP": "netmap"}
_EXPRESSIONS = {"masq": "masquerade", "redir": "redirect"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of ``tool`` ("iptables", "ip6tables", "nftables"). ``action``: how it translates addresses, "" if it does
    not; nftables counts ``packets`` and ``bytes`` where a rule has a counter.
    """

    tool: str
    family: str
    table: str
    chain: str
    action: str
    packets: int
    bytes: int


def read_rules() -> list[Rule]:
    """Those of the current namespace. Raises NotAllowed without CAP_NET_ADMIN, OSError otherwise."""
    try:
        return [*_nftables(), *_legacy()]
    except PermissionError as error:
        raise NotAllowed("reading the netfilter rules needs CAP_NET_ADMIN", hint="run as root") from error


def _nftables() -> Iterator[Rule]:
    try:
        rules = dump(NETLINK_NETFILTER, _NFT_MSG_GETRULE, _NFGENMSG.pack(0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):  # a kernel without nftables
            return
        raise
    for datagram, start, end in rules:
        about = attributes(datagram, start + _NFGENMSG.size, end)
        family = _FAMILIES.get(datagram[start], str(datagram[start]))
        table, chain = text(about[_RULE_TABLE]), text(about[_RULE_CHAIN])
        yield Rule("nftables", family, table, chain, *_expressed(about.get(_RULE_EXPRESSIONS, b"")))


def _expressed(expressions: bytes) -> tuple[str, int, int]:
    """(what a rule translates, packets, bytes)."""
    action, packets, size = "", 0, 0
    for expression in _elements(expressions):
        name, data = text(expression[_EXPRESSION_NAME]), expression.get(_EXPRESSION_DATA, b"")
        if name == "counter":
            counted = nested(data)
            packets = int.from_bytes(counted[_COUNTER_PACKETS], "big")
            size = int.from_bytes(counted[_COUNTER_BYTES], "big")
        elif name == "nat":
            action = "snat" if int.from_bytes(nested(data)[_NAT_TYPE], "big") == _SNAT else "dnat"
        elif name == "target":
            action = _TARGETS.get(text(nested(data)[_TARGET_NAME]), action)
        else:
            action = _EXPRESSIONS.get(name, action)
    return action, packets, size


def _elements(listed: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each element of a list, which is one attribute repeated."""
    at = 0
    while at + 4 <= len(listed):
        length = max(4, struct.unpack_from("=H", listed, at)[0])
        yield nested(listed[at + 4 : at + length])
        at += (length + 3) & ~3


def _legacy() -> Iterator[Rule]:
    for tool, family, kind in (("iptables", "ip", socket.AF_INET), ("ip6tables", "ip6", socket.AF_INET6)):
        for table in loaded_tables(kind):
            for one in read_entries(kind, table):
                yield Rule(tool, family, table, one.chain, _TARGETS.get(one.target, ""), one.packets, one.bytes)
