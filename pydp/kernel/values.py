# SPDX-License-Identifier: Apache-2.0
"""Values of netlink attributes."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping
from typing import TypeVar

from ebpf.netlink import attribute

_K = TypeVar("_K", int, str)


def number(found: Mapping[_K, bytes], key: _K, default: int = 0) -> int:
    """An unsigned number of any size in the host's byte order; the default where there is none."""
    return int.from_bytes(found[key], sys.byteorder) if key in found else default


def big_endian(found: Mapping[_K, bytes], key: _K) -> int:
    """An unsigned number of any size in network byte order, 0 where there is none."""
    return int.from_bytes(found.get(key, b""), "big")


def address_text(value: bytes | None) -> str:
    """An IP address of 4 or 16 bytes as text; "" for none."""
    return socket.inet_ntop(address_family(value), value) if value else ""


def address_family(value: bytes) -> int:
    """Of a packed IP address."""
    return socket.AF_INET if len(value) == 4 else socket.AF_INET6


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes."""
    return attribute(kind, struct.pack("=I", value))
