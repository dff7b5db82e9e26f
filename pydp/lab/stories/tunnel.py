# SPDX-License-Identifier: Apache-2.0
"""A tunnel in user space: IP packets from a tun device travel in UDP packets to a peer, which does the same.

    python3 -m pydp.lab.stories.tunnel DEVICE LOCAL REMOTE PORT

The device lives as long as the program. It is what the kernel's tunnels and mode ipip are compared with.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from fcntl import ioctl

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LARGEST = 1 << 16
_AT_A_TIME = 64  # packets of one side before the other one is looked at


def open_tun(name: str) -> int:
    """Make a tun device; gives the file that its packets are read from and written to one by one. Raises OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def main(device: str, local: str, remote: str, port: int) -> None:
    """Carry packets until killed. Raises OSError."""
    tun = open_tun(device)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        sock.bind((local, port))
        sock.connect((remote, port))
        selector.register(tun, selectors.EVENT_READ, lambda: sock.send(os.read(tun, _LARGEST)))
        selector.register(sock, selectors.EVENT_READ, lambda: os.write(tun, sock.recv(_LARGEST)))
        while True:
            for key, _ in selector.select():
                _carry(key.data)


def _carry(one: Callable[[], int]) -> None:
    """Some packets of one direction. What cannot be sent, or is no IP packet, is lost, as on any wire."""
    for _ in range(_AT_A_TIME):
        try:
            one()
        except BlockingIOError:
            return
        except OSError:
            continue


if __name__ == "__main__":
    _, _device, _local, _remote, _port = sys.argv
    main(_device, _local, _remote, int(_port))
