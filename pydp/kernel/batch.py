# SPDX-License-Identifier: Apache-2.0
"""Changes by netlink: many in one system call, each with an answer of its own."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ebpf.netlink import NETLINK_ROUTE, attributes, text
from pydp.errors import NotAllowed, PydpError

REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400

_HEADER = struct.Struct("=IHHII")
_NLMSG_ERROR = 2
_REQUEST, _ACK = 0x1, 0x4
_CAPPED, _ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_MSGERR_ATTR_MSG = 1
_AT_ONCE = 64  # their answers fit in the receive buffer as it is by default
_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A message of RTM_* ``kind``, with the flags it needs besides those of every request."""

    kind: int
    body: bytes
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The kernel's errno, 0 for done, and what else it said about it."""

    code: int
    said: str = ""

    @property
    def reason(self) -> str:
        """Why it failed, for people."""
        return f"{os.strerror(self.code)} ({self.said})" if self.said else os.strerror(self.code)

    def error(self, what: str, hint: str = "") -> PydpError:
        """The error to raise: WHAT, and why."""
        kind = NotAllowed if self.code in (errno.EPERM, errno.EACCES) else PydpError
        return kind(f"{what}: {self.reason}", hint=hint or ("run it as root" if kind is NotAllowed else ""))


class Requests:
    """A netlink socket of the calling thread's namespace for changes; a context manager. Raises OSError."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        try:
            self._sock.bind((0, 0))
            self._sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, commands: Sequence[Command]) -> Iterator[tuple[int, Answer]]:
        """Carry out COMMANDS in order, yield (index, answer) of each. One that fails does not stop the next ones.

        The kernel works off up to 64 within one system call: killing the process does not come between them. They go
        out when the first of their answers is asked for.
        """
        for start in range(0, len(commands), _AT_ONCE):
            part = commands[start : start + _AT_ONCE]
            self._sock.send(b"".join(_encoded(number, one) for number, one in enumerate(part)))
            waiting = set(range(len(part)))
            while waiting:
                for number, answer in _answers(self._sock.recv(_BUFFER)):
                    if number in waiting:
                        waiting.remove(number)
                        yield start + number, answer

    def one(self, command: Command) -> Answer:
        """Carry out one command."""
        ((_, answer),) = self.send([command])
        return answer


def _encoded(number: int, one: Command) -> bytes:
    header = _HEADER.pack(_HEADER.size + len(one.body), one.kind, one.flags | _REQUEST | _ACK, number, 0)
    return header + one.body + bytes(-len(one.body) % 4)


def _answers(datagram: bytes) -> Iterator[tuple[int, Answer]]:
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, number, _ = _HEADER.unpack_from(datagram, offset)
        if kind == _NLMSG_ERROR:
            code, asked = struct.unpack_from("=iI", datagram, offset + _HEADER.size)
            found = {}
            if flags & _ACK_TLVS:
                # What was asked comes back in front of the attributes, the header alone when capped.
                start = offset + _HEADER.size + 4 + (_HEADER.size if flags & _CAPPED else (asked + 3) & ~3)
                found = attributes(datagram, start, offset + length)
            yield number, Answer(-code, text(found.get(_MSGERR_ATTR_MSG, b"")))
        offset += (length + 3) & ~3
