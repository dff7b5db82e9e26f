# SPDX-License-Identifier: Apache-2.0
"""Settings of devices that an attach needs changed."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_PROMISC = 0x100


def is_promisc(ifindex: int) -> bool:
    """Whether an administrator has put the device into promiscuous mode. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return bool(_flags(sock, socket.if_indextoname(ifindex)) & _IFF_PROMISC)


def set_promisc(ifindex: int, *, on: bool) -> None:
    """Switch promiscuous mode, so that a NIC takes frames for other addresses. Nothing for a device that is gone.

    Raises OSError.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            name = socket.if_indextoname(ifindex)
            flags = _flags(sock, name)
            flags = flags | _IFF_PROMISC if on else flags & ~_IFF_PROMISC
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENXIO):
            raise


def _flags(sock: socket.socket, name: str) -> int:
    flags: int = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode())), 16)[0]
    return flags
