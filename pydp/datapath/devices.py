# SPDX-License-Identifier: Apache-2.0
"""Settings of devices that an attach needs changed, and whether the devices are still there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from ebpf import libbpf

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_PROMISC = 0x100
_DEVMAP = 14


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


def pin_ports(path: Path, ports: Iterable[int]) -> None:
    """Pin a device map with these interfaces in it. Raises OSError.

    The kernel takes an interface out when it is deleted or leaves its namespace (dev_map_notification), so the map
    tells a process in another namespace, which cannot see the interfaces, whether any of them is left.
    """
    wanted = list(ports)
    fd = libbpf.map_create(_DEVMAP, "pydp_ports", 4, 4, max(len(wanted), 1))
    try:
        for number, ifindex in enumerate(wanted):
            try:
                libbpf.map_update(fd, struct.pack("=I", number), struct.pack("=I", ifindex))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENODEV):  # gone: whoever attaches to it will say so
                    raise
        libbpf.obj_pin(fd, str(path))
    finally:
        os.close(fd)


def any_port_left(path: Path) -> bool:
    """Whether an interface of a map that `pin_ports` pinned is still there. Raises OSError."""
    fd = libbpf.obj_get(str(path))
    try:
        room = ctypes.create_string_buffer(4)
        for number in range(libbpf.map_info(fd).max_entries):
            with contextlib.suppress(FileNotFoundError):
                libbpf.map_lookup(fd, struct.pack("=I", number), room)
                return True
        return False
    finally:
        os.close(fd)
