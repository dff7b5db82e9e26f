# SPDX-License-Identifier: Apache-2.0
"""A netlink socket and an attribute decoder, as small as they can be.

pyroute2 reads links, where its parser and its names save work. Three things it cannot do, so they are read here: FDB
dumps (its parser takes about 90 us an entry: 9 s for 100,000), TCA_BPF_ID of tc filters (unknown to it), and asking
nftables for chains of all families without decoding every expression.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_ECHO, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x8, 0x300, 0x10
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
# netlink_dump() of the kernel fills at most 32 KiB at a time, so one receive never truncates.
_BUFFER = 64 * 1024


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute as it goes on the wire, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """The attributes in data[start:end] by type; of a repeated one the last."""
    found = {}
    unpack = _ATTRIBUTE.unpack_from
    while start + 4 <= end:
        length, kind = unpack(data, start)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def nested(value: bytes) -> dict[int, bytes]:
    """The attributes inside a nested one."""
    return attributes(value, 0, len(value))


def text(value: bytes) -> str:
    """A zero-terminated string attribute."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def request(protocol: int, kind: int, body: bytes, flags: int = _NLM_F_REQUEST) -> Iterator[tuple[bytes, int, int]]:
    """Send one message, yield (datagram, start, end) of the payload of every message of the answer.

    Raises OSError with the kernel's errno.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.bind((0, 0))
        if protocol == NETLINK_ROUTE:
            # Without strict checks the kernel takes filters of a dump for decoration and sends everything.
            sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            datagram = sock.recv(_BUFFER)
            offset = 0
            while offset + _HEADER.size <= len(datagram):
                length, answer, answer_flags, _, _ = _HEADER.unpack_from(datagram, offset)
                if answer_flags & _NLM_F_DUMP_INTR:
                    raise InterruptedError(errno.EINTR, "the kernel's state changed during the dump")
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = int(struct.unpack_from("=i", datagram, offset + 16)[0]) if length >= 20 else 0
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield datagram, offset + 16, offset + length
                offset += (length + 3) & ~3


def dump(protocol: int, kind: int, body: bytes) -> list[tuple[bytes, int, int]]:
    """All messages of a dump as (datagram, start, end); taken again when the kernel says that it changed meanwhile.

    Raises OSError with the kernel's errno, InterruptedError when it changed eight times in a row.
    """
    for _ in range(7):
        try:
            return list(request(protocol, kind, body, _NLM_F_REQUEST | _NLM_F_DUMP))
        except InterruptedError:
            continue
    return list(request(protocol, kind, body, _NLM_F_REQUEST | _NLM_F_DUMP))


def ask(protocol: int, kind: int, body: bytes) -> tuple[bytes, int, int]:
    """The one message that answers a request. Raises OSError with the kernel's errno (ENOENT: no answer)."""
    # ECHO: tc answers a question about one qdisc as a notification, which otherwise only subscribers get.
    answers = list(request(protocol, kind, body, _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_ECHO))
    if not answers:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return answers[0]
