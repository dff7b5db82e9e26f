# SPDX-License-Identifier: Apache-2.0
"""Tables of iptables-legacy and its kin: which of their hooks do anything. Only what is loaded is asked, for asking
loads the rest.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_GET_INFO, _GET_ENTRIES, _EBT_GET_INFO = 64, 65, 128
_SOL_IPV6 = 41
_ACCEPT = -2  # a policy is stored as -(NF_ACCEPT) - 1
_HOOKS = 5
# struct ipt_getinfo: name, valid_hooks, hook_entry[], underflow[], num_entries, size
_INFO = struct.Struct("=32sI5I5III")
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
    for tool, file, family, level, target_at in (
        ("iptables", "ip_tables_names", socket.AF_INET, socket.SOL_IP, 88),
        ("ip6tables", "ip6_tables_names", socket.AF_INET6, _SOL_IPV6, 140),
    ):
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
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        info = _INFO.unpack(_getsockopt(sock, level, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))
        valid, entry, underflow, size = info[1], info[2 : 2 + _HOOKS], info[7 : 7 + _HOOKS], info[13]
        # struct ipt_get_entries: name, size, four bytes of padding, the entries
        ask = struct.pack("=32sI4x", table.encode(), size)
        entries = _getsockopt(sock, level, _GET_ENTRIES, ask + bytes(size))[len(ask) :]
    busy = set()
    for hook in (hook for hook in range(_HOOKS) if valid >> hook & 1):
        target = underflow[hook] + struct.unpack_from("=H", entries, underflow[hook] + target_at)[0]
        policy = struct.unpack_from("=i", entries, target + 32)[0]
        if entry[hook] != underflow[hook] or policy != _ACCEPT:
            busy.add(hook)
    return frozenset(busy)


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
