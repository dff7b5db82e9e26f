# SPDX-License-Identifier: Apache-2.0
"""Device offloads by the ethtool ioctl of linux/ethtool.h: `ethtool -K` would be a process per call."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Mapping
from fcntl import ioctl

from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace

_SIOCETHTOOL = 0x8946
_ETHTOOL_GFLAGS = 0x25
_ETHTOOL_SFLAGS = 0x26
# `ethtool -K` name: (get, set) command
_COMMANDS = {
    "rx": (0x14, 0x15),
    "tx": (0x16, 0x17),
    "sg": (0x18, 0x19),
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
}
# `ethtool -K` name: bit of the flags word
_FLAGS = {"txvlan": 1 << 7, "rxvlan": 1 << 8}
NAMES = frozenset(_COMMANDS) | frozenset(_FLAGS)


def set_offloads(ns: Namespace, dev: str, wanted: Mapping[str, bool]) -> None:
    """Switch offloads by their `ethtool -K` names: rx, tx, sg, tso, gso, gro, txvlan, rxvlan.

    Raises LabError for another name or where the driver does not take the value, OSError when the device is gone.
    """
    if unknown := wanted.keys() - NAMES:
        raise LabError(f"unknown offload {', '.join(sorted(unknown))}; known are {', '.join(sorted(NAMES))}")
    if wanted:
        ns.call(_apply, dev, wanted)


def get_offload(ns: Namespace, dev: str, name: str) -> bool:
    """Whether the offload of that `ethtool -K` name is on."""
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return _read(sock, dev, name)


def _apply(dev: str, wanted: Mapping[str, bool]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, on in wanted.items():
            if name in _COMMANDS:
                _ethtool(sock, dev, _COMMANDS[name][1], int(on))
            else:
                flags = _ethtool(sock, dev, _ETHTOOL_GFLAGS, 0)
                flags = flags | _FLAGS[name] if on else flags & ~_FLAGS[name]
                _ethtool(sock, dev, _ETHTOOL_SFLAGS, flags)
            if _read(sock, dev, name) != on:
                raise LabError(f"{dev}: the driver keeps {name} {'off' if on else 'on'}")


def _read(sock: socket.socket, dev: str, name: str) -> bool:
    if name in _COMMANDS:
        return bool(_ethtool(sock, dev, _COMMANDS[name][0], 0))
    return bool(_ethtool(sock, dev, _ETHTOOL_GFLAGS, 0) & _FLAGS[name])


def _ethtool(sock: socket.socket, dev: str, command: int, value: int) -> int:
    """One struct ethtool_value {u32 cmd, data}, handed over by the pointer in struct ifreq."""
    words = array.array("I", (command, value))
    ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", dev.encode(), words.buffer_info()[0]))
    return words[1]
