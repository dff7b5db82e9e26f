# SPDX-License-Identifier: Apache-2.0
"""Whether netfilter has a say in what a bridge forwards: a fast path beside it would carry frames past those rules."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf.netlink import NETLINK_NETFILTER, attributes, dump, nested, text
from pydp.errors import NotAllowed
from pydp.kernel.view import View
from pydp.kernel.xtables import LegacyTable, read_legacy_tables
from pydp.model import Bridge, NfCall

_NFT_MSG_GETCHAIN = 10 << 8 | 4  # subsystem nftables
_NFGENMSG = bytes(4)  # family 0: chains of all families
_TABLE, _NAME, _HOOK, _POLICY, _USE = 1, 3, 4, 5, 6
_HOOK_NUM, _HOOK_DEV, _HOOK_DEVS = 1, 3, 4
_DROP = 0
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
# Hooks a forwarded frame passes: prerouting, forward, postrouting. ARP has forward alone, numbered otherwise.
_FORWARDED, _ARP_FORWARD = frozenset({0, 2, 4}), 2


@dataclass(frozen=True, slots=True)
class Chain:
    """An nftables base chain: ``hook`` by number, the devices it is bound to (netdev family), how many rules, whether
    it drops the rest.
    """

    family: str
    table: str
    name: str
    hook: int
    devices: tuple[str, ...]
    rules: int
    drops: bool


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What netfilter does in a namespace, of nftables (iptables-nft included) and of the legacy tools: empty chains
    are not in it.
    """

    chains: tuple[Chain, ...] = ()
    legacy: tuple[LegacyTable, ...] = ()


def read_ruleset() -> Ruleset:
    """The ruleset of the current namespace. Raises NotAllowed without CAP_NET_ADMIN, OSError otherwise."""
    try:
        return Ruleset(tuple(_read_chains()), read_legacy_tables())
    except PermissionError as error:
        raise NotAllowed("reading the netfilter rules needs CAP_NET_ADMIN", hint="run as root") from error


def bridge_netfilter_active(view: View, bridge: Bridge, ruleset: Ruleset | None = None) -> str | None:
    """Why netfilter would see (and could drop, change or count) frames that this bridge forwards; None when it would
    not.

    Rules count wherever they might match, so a reason does not mean that a given frame is affected. Pass the
    ``ruleset`` when asking for several bridges. Raises as `read_ruleset` does.
    """
    ruleset = ruleset or read_ruleset()
    names = {view.name(port.ifindex) for port in bridge.ports}
    calls = view.nf_call | bridge.nf_call
    for chain in ruleset.chains:
        if _concerns(chain, calls, names):
            what = f"{chain.rules} rule{'s' * (chain.rules != 1)}" if chain.rules else "policy drop"
            where = f"{chain.family} {chain.table} {chain.name}"
            return f"nftables chain {where} ({what}) applies to frames that {bridge.name} forwards"
    called = {
        "iptables": _FORWARDED if calls.iptables else frozenset(),
        "ip6tables": _FORWARDED if calls.ip6tables else frozenset(),
        "arptables": frozenset({_ARP_FORWARD}) if calls.arptables else frozenset(),
        "ebtables": _FORWARDED | {5},  # 5: brouting
    }
    for table in ruleset.legacy:
        if table.hooks & called[table.tool]:
            return f"{table.tool}-legacy table {table.name} applies to frames that {bridge.name} forwards"
    return None


def _concerns(chain: Chain, calls: NfCall, ports: set[str]) -> bool:
    if chain.devices:  # netdev, or inet's ingress: bound to devices, before or after the bridge sees the frame
        return not ports.isdisjoint(chain.devices)
    if chain.family == "bridge":
        return chain.hook in _FORWARDED
    if chain.family == "arp":
        return calls.arptables and chain.hook == _ARP_FORWARD
    asked = {"ip": calls.iptables, "ip6": calls.ip6tables, "inet": calls.iptables or calls.ip6tables}
    return asked.get(chain.family, False) and chain.hook in _FORWARDED


def _read_chains() -> Iterator[Chain]:
    """Base chains with a rule or a drop policy. "use" counts the rules of a chain and the jumps to it; nothing jumps
    to a base chain.
    """
    try:
        messages = dump(NETLINK_NETFILTER, _NFT_MSG_GETCHAIN, _NFGENMSG)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):  # a kernel without nftables
            return
        raise
    for datagram, start, end in messages:
        found = attributes(datagram, start + len(_NFGENMSG), end)
        if _HOOK not in found:
            continue
        hook = nested(found[_HOOK])
        rules = _be32(found.get(_USE))
        drops = _be32(found.get(_POLICY), 1) == _DROP
        if rules or drops:
            family = _FAMILIES.get(datagram[start], str(datagram[start]))
            table, name = text(found[_TABLE]), text(found[_NAME])
            yield Chain(family, table, name, _be32(hook.get(_HOOK_NUM)), _devices(hook), rules, drops)


def _devices(hook: dict[int, bytes]) -> tuple[str, ...]:
    """The devices of a chain: one in NFTA_HOOK_DEV, several as repeated attributes within NFTA_HOOK_DEVS."""
    several, names, at = hook.get(_HOOK_DEVS, b""), [], 0
    while at + 4 <= len(several):
        length = max(4, struct.unpack_from("=H", several, at)[0])
        names.append(text(several[at + 4 : at + length]))
        at += (length + 3) & ~3
    return tuple(names) or ((text(hook[_HOOK_DEV]),) if _HOOK_DEV in hook else ())


def _be32(value: bytes | None, default: int = 0) -> int:
    return int.from_bytes(value, "big") if value else default
