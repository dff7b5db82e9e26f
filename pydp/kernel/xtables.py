# SPDX-License-Identifier: Apache-2.0
"""Tables of iptables-legacy and its kin: which of their hooks do anything. Only what is loaded is asked, for asking
loads the rest.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GET_INFO, _GET_ENTRIES, _EBT_GET_INFO = 64, 65, 128
_SOL_IPV6 = 41
_ACCEPT = -2  # a policy is stored as -(NF_ACCEPT) - 1
_HOOKS = 5
# struct ipt_getinfo: name, valid_hooks, hook_entry[], underflow[], num_entries, size
_INFO = struct.Struct("=32sI5I5III")
# The file with the names of tables, the level of socket options, and where target_offset and counters lie in an entry
# (struct ipt_entry and ip6t_entry).
_FAMILIES: Mapping[int, tuple[str, int, int, int]] = {
    socket.AF_INET: ("ip_tables_names", socket.SOL_IP, 88, 96),
    socket.AF_INET6: ("ip6_tables_names", _SOL_IPV6, 140, 152),
}
_CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_ERROR = "ERROR"  # the target of the entry before each chain that a user made, and of the last entry
_EBT_REPLACE_SIZE, _EBT_NENTRIES = 120, 36


@dataclass(frozen=True, slots=True)
class LegacyTable:
    """A table of ``tool`` ("iptables", "ip6tables", "arptables", "ebtables") and the numbers of its hooks with rules
    or a drop policy.
    """

    tool: str
    name: str
    hooks: frozenset[int]


def read_legacy_tables() -> tuple[LegacyTable, ...]:
    """The tables that exist in the current namespace and do something. Raises OSError (EPERM without CAP_NET_ADMIN)."""
    tables = []
    for tool, family in (("iptables", socket.AF_INET), ("ip6tables", socket.AF_INET6)):
        file, level, target_at, _ = _FAMILIES[family]
        tables += [LegacyTable(tool, name, _busy_hooks(family, level, name, target_at)) for name in _names(file)]
    # arptables-legacy knows one table, and it exists in a namespace only after somebody used it there.
    tables += [LegacyTable("arptables", name, frozenset(range(3))) for name in _names("arp_tables_names")]
    for name in ("filter", "nat", "broute"):
        if Path(f"/sys/module/ebtable_{name}").exists() and _ebtables_rules(name):
            tables.append(LegacyTable("ebtables", name, frozenset(range(6))))
    return tuple(table for table in tables if table.hooks)


def _names(file: str) -> list[str]:
    try:
        # /proc/net is the namespace of the process's first thread, which need not be the caller's.
        return Path("/proc/thread-self/net", file).read_text().split()
    except FileNotFoundError:
        return []


def _busy_hooks(family: int, level: int, table: str, target_at: int) -> frozenset[int]:
    """Hooks whose chain has rules before its policy, or a policy other than ACCEPT.

    A chain spans from hook_entry to underflow, which is the rule that holds its policy; ``target_at`` is where
    target_offset lies in an entry (struct ipt_entry or ip6t_entry).
    """
    info, entries = _table(family, level, table)
    valid, entry, underflow = info[1], info[2 : 2 + _HOOKS], info[7 : 7 + _HOOKS]
    busy = set()
    for hook in (hook for hook in range(_HOOKS) if valid >> hook & 1):
        target = underflow[hook] + struct.unpack_from("=H", entries, underflow[hook] + target_at)[0]
        policy = struct.unpack_from("=i", entries, target + 32)[0]
        if entry[hook] != underflow[hook] or policy != _ACCEPT:
            busy.add(hook)
    return frozenset(busy)


def _table(family: int, level: int, table: str) -> tuple[tuple[Any, ...], bytes]:
    """struct ipt_getinfo of a table, and its entries."""
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        info = _INFO.unpack(_getsockopt(sock, level, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))
        # struct ipt_get_entries: name, size, four bytes of padding, the entries
        ask = struct.pack("=32sI4x", table.encode(), info[13])
        return info, _getsockopt(sock, level, _GET_ENTRIES, ask + bytes(info[13]))[len(ask) :]


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule and what it counted; ``target`` is "" for a verdict or a jump."""

    chain: str
    target: str
    packets: int
    bytes: int


def loaded_tables(family: int) -> list[str]:
    """Names of the tables of iptables-legacy or ip6tables-legacy that are loaded in the current namespace."""
    return _names(_FAMILIES[family][0])


def read_entries(family: int, table: str) -> list[Entry]:
    """The rules of a table that is loaded, without the policies of its chains. Raises OSError.

    A chain of the table's own begins at a hook_entry and ends with the underflow of its hook, which is its policy. One
    that a user made begins with an entry whose target is ERROR and holds the name, and ends with a RETURN.
    """
    _, level, target_at, counters_at = _FAMILIES[family]
    info, entries = _table(family, level, table)
    valid = [hook for hook in range(_HOOKS) if info[1] >> hook & 1]
    heads = {info[2 + hook]: _CHAINS[hook] for hook in valid}
    policies = {info[7 + hook] for hook in valid}
    found: list[Entry] = []
    at, chain, own = 0, "", True
    while at < len(entries):
        target, following = struct.unpack_from("=HH", entries, at + target_at)
        name = _zero_terminated(entries, at + target + 2, 29)
        if name == _ERROR:
            if not own:
                del found[-1]  # the RETURN of the chain before
            chain, own = _zero_terminated(entries, at + target + 32, 30), False
        else:
            chain = heads.get(at, chain)
            if at not in policies:
                packets, size = struct.unpack_from("=QQ", entries, at + counters_at)
                found.append(Entry(chain, name, packets, size))
        at += following
    return found


def _zero_terminated(data: bytes, at: int, size: int) -> str:
    return data[at : at + size].partition(b"\0")[0].decode(errors="replace")


def _ebtables_rules(table: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        reply = _getsockopt(sock, socket.SOL_IP, _EBT_GET_INFO, table.encode().ljust(_EBT_REPLACE_SIZE, b"\0"))
    return int(struct.unpack_from("=I", reply, _EBT_NENTRIES)[0])


def _getsockopt(sock: socket.socket, level: int, option: int, question: bytes) -> bytes:
    """getsockopt whose buffer also carries the question, which Python's own cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint(len(question))
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(size)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw
