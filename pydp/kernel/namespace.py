# SPDX-License-Identifier: Apache-2.0
"""Other network namespaces: which one a number of netlink's means, and a look inside."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ebpf.netlink import NETLINK_ROUTE, ask, attribute, attributes

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_RTGENMSG = bytes(4)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace: ``name`` for people ("c1" of `ip netns`, or "pid 123"), ``path`` to enter it by."""

    name: str
    path: str


def find_namespaces() -> dict[int, Namespace]:
    """The namespaces that have an id (IFLA_LINK_NETNSID) in the current one, as far as a mount or a process shows them.

    Mounted ones come first: their name is the one people gave. A process stands for a namespace that nobody named.
    """
    found: dict[int, Namespace] = {}
    seen: set[int] = set()
    for name, path in _candidates():
        try:
            inode = Path(path).stat().st_ino
            if inode in seen:
                continue
            seen.add(inode)
            nsid = _nsid(path)
        except OSError:  # gone meanwhile, or not for our eyes
            continue
        if nsid >= 0:
            found.setdefault(nsid, Namespace(name, path))
    return found


def namespace_cookie() -> str:
    """A name for the network namespace that is never used again while the machine runs (unlike its inode number)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return str(struct.unpack("=Q", raw)[0])


def inside(path: str, work: Callable[[], _T]) -> _T:
    """Run ``work`` in a thread that has entered the network namespace at ``path``; the caller's thread stays where it
    is.

    Raises OSError when it cannot be entered, and what ``work`` raises.
    """

    def run() -> _T:
        with Path(path).open("rb") as file:
            # os.setns came with Python 3.12
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), path)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _candidates() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[3].startswith("net:["):
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            yield Path(path).name, path
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            yield f"pid {process.name}", f"{process}/ns/net"


def _nsid(path: str) -> int:
    """The id of the namespace at ``path`` in the current one; -1 when it has none."""
    with Path(path).open("rb") as file:
        body = _RTGENMSG + attribute(_NETNSA_FD, struct.pack("=I", file.fileno()))
        datagram, start, end = ask(NETLINK_ROUTE, _RTM_GETNSID, body)
    nsid = attributes(datagram, start + len(_RTGENMSG), end).get(_NETNSA_NSID)
    return int(struct.unpack("=i", nsid)[0]) if nsid else -1
