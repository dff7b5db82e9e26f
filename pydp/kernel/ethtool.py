# SPDX-License-Identifier: Apache-2.0
"""What `ethtool -i` and `ethtool -k` say of a device of the current namespace, by the ioctl that every kernel has."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946
_GDRVINFO, _GSTRINGS, _GSSET_INFO, _GFEATURES = 0x03, 0x1B, 0x37, 0x3A
_ETH_SS_FEATURES = 4
_CHECKSUMS = ("tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6")
_SEGMENTATIONS = tuple(f"tx-tcp{which}-segmentation" for which in ("", "6", "-ecn", "-mangleid"))


@dataclass(frozen=True, slots=True)
class Features:
    """Offloads by the kernel's names (`tx-checksum-ip-generic`, `rx-gro`): those ``active``, and those ``fixed`` as
    they are.
    """

    active: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()

    @property
    def tx_checksum(self) -> bool:
        """Frames may leave the stack with their TCP or UDP checksum still to be filled in (`ethtool -K DEV tx`)."""
        return not self.active.isdisjoint(_CHECKSUMS)

    @property
    def tx_sctp_checksum(self) -> bool:
        """The same for SCTP's CRC, which is a feature of its own."""
        return "tx-checksum-sctp" in self.active

    @property
    def tso(self) -> bool:
        """TCP frames may leave the stack larger than the MTU (`ethtool -K DEV tso`)."""
        return not self.active.isdisjoint(_SEGMENTATIONS)

    @property
    def gro(self) -> bool:
        """Receive merging; on a veth also what makes it poll with NAPI (`ethtool -K DEV gro`)."""
        return "rx-gro" in self.active

    @property
    def tx_vlan(self) -> bool:
        """VLAN tags may leave the stack as metadata (`ethtool -K DEV txvlan`)."""
        return "tx-vlan-hw-insert" in self.active

    @property
    def rx_vlan(self) -> bool:
        """VLAN tags arrive as metadata, so that XDP does not see them where the driver strips them (`ethtool -K DEV
        rxvlan`).
        """
        return "rx-vlan-hw-parse" in self.active


def read_driver(name: str) -> str:
    """Name of the driver ("veth", "virtio_net"), "" for a device without ethtool operations. Raises OSError."""
    reply = _ioctl(name, struct.pack("=I", _GDRVINFO), 196)
    return reply[4:36].split(b"\0", 1)[0].decode(errors="replace") if reply else ""


def read_features(name: str) -> Features:
    """Offloads of the device. Raises OSError (ENODEV when it is gone)."""
    reply = _ioctl(name, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0), 20)
    count = int(struct.unpack_from("=I", reply, 16)[0]) if reply else 0
    strings = _ioctl(name, struct.pack("=III", _GSTRINGS, _ETH_SS_FEATURES, count), 12 + 32 * count)
    blocks = (count + 31) // 32
    states = _ioctl(name, struct.pack("=II", _GFEATURES, blocks), 8 + 16 * blocks)
    if not count or not strings or not states:
        return Features()
    active, fixed = set(), set()
    for index in range(count):
        feature = strings[12 + 32 * index : 44 + 32 * index].split(b"\0", 1)[0].decode(errors="replace")
        available, _, running, never_changed = struct.unpack_from("=IIII", states, 8 + 16 * (index // 32))
        bit = 1 << index % 32
        if running & bit:
            active.add(feature)
        if never_changed & bit or not available & bit:
            fixed.add(feature)
    return Features(frozenset(active), frozenset(fixed))


def _ioctl(name: str, command: bytes, size: int) -> bytes:
    """One SIOCETHTOOL with a buffer of ``size`` bytes that begins with ``command``; b"" when the device does not know
    it.
    """
    buffer = ctypes.create_string_buffer(command, size)
    ifreq = struct.pack("16sP16x", name.encode(), ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return b""
            raise
    return buffer.raw
