# SPDX-License-Identifier: Apache-2.0
"""What rules of netfilter's nat tables counted: a packet that one matches is the first of a connection."""

from __future__ import annotations

import errno
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf.netlink import NETLINK_NETFILTER, attribute, attributes, dump, nested, text
from pydp.errors import NotAllowed
from pydp.kernel.xtables import read_entries

_NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE = 10 << 8 | 4, 10 << 8 | 7  # subsystem nftables
_NFGENMSG = struct.Struct("=BBH")
_CHAIN_TABLE, _CHAIN_TYPE = 1, 7
_RULE_TABLE, _RULE_EXPRESSIONS = 1, 4
_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_COUNTER_PACKETS, _NAT_TYPE, _TARGET_NAME = 2, 1, 1
_SNAT = 0
# What rules do, by target of iptables and by expression of nftables.
_TARGETS = {"DNAT": "dnat", "SNAT": "snat", "MASQUERADE": "masquerade", "REDIRECT": "redirect", "NETMAP": "netmap"}
_EXPRESSIONS = {"masq": "masquerade", "redir": "redirect"}


@dataclass(frozen=True, slots=True)
class NatRules:
    """Rules of a ``tool`` ("iptables", "ip6tables", "nftables" with iptables-nft) that do the same: dnat, snat,
    masquerade, redirect or netmap. nftables counts for rules with a counter only.
    """

    tool: str
    action: str
    rules: int
    packets: int


def read_nat_rules() -> list[NatRules]:
    """Those of the current namespace. Raises NotAllowed without CAP_NET_ADMIN, OSError otherwise."""
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    try:
        for tool, action, packets in (*_nftables(), *_legacy()):
            both = found[tool, action]
            both[0] += 1
            both[1] += packets
    except PermissionError as error:
        raise NotAllowed("reading the netfilter rules needs CAP_NET_ADMIN", hint="run as root") from error
    return [NatRules(*key, *both) for key, both in sorted(found.items())]


def _nftables() -> Iterator[tuple[str, str, int]]:
    """(tool, action, packets) of each rule, in tables that have a chain of type nat."""
    try:
        chains = dump(NETLINK_NETFILTER, _NFT_MSG_GETCHAIN, _NFGENMSG.pack(0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):  # a kernel without nftables
            return
        raise
    tables = set()
    for datagram, start, end in chains:
        about = attributes(datagram, start + _NFGENMSG.size, end)
        if _CHAIN_TYPE in about and text(about[_CHAIN_TYPE]) == "nat":
            tables.add((datagram[start], about[_CHAIN_TABLE]))
    for family, table in sorted(tables):
        asked = _NFGENMSG.pack(family, 0, 0) + attribute(_RULE_TABLE, table)
        for datagram, start, end in dump(NETLINK_NETFILTER, _NFT_MSG_GETRULE, asked):
            about = attributes(datagram, start + _NFGENMSG.size, end)
            if about[_RULE_TABLE] == table and (rule := _rule(about.get(_RULE_EXPRESSIONS, b""))):
                yield "nftables", *rule


def _rule(expressions: bytes) -> tuple[str, int] | None:
    """What a rule does and what it counted; None for one that translates nothing."""
    action, packets = "", 0
    for expression in _elements(expressions):
        name, data = text(expression[_EXPRESSION_NAME]), nested(expression.get(_EXPRESSION_DATA, b""))
        if name == "counter":
            packets = int.from_bytes(data[_COUNTER_PACKETS], "big")
        elif name == "nat":
            action = "snat" if int.from_bytes(data[_NAT_TYPE], "big") == _SNAT else "dnat"
        elif name == "target":
            action = _TARGETS.get(text(data[_TARGET_NAME]), action)
        else:
            action = _EXPRESSIONS.get(name, action)
    return (action, packets) if action else None


def _elements(listed: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each element of a list, which is one attribute repeated."""
    at = 0
    while at + 4 <= len(listed):
        length = max(4, struct.unpack_from("=H", listed, at)[0])
        yield nested(listed[at + 4 : at + length])
        at += (length + 3) & ~3


def _legacy() -> Iterator[tuple[str, str, int]]:
    for tool, family in (("iptables", socket.AF_INET), ("ip6tables", socket.AF_INET6)):
        for target, packets in read_entries(family, "nat"):
            if target in _TARGETS:
                yield tool, _TARGETS[target], packets
