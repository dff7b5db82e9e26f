# SPDX-License-Identifier: Apache-2.0
"""A process at one end of a stream, run as a script so that it starts in 20 ms: it imports nothing of pydp.

    worker.py ROLE SOCKET_FD COUNTERS_FD [PPS [SIZE]]

It inherits a socket (opened in its namespace by the parent) and an array of 64-bit counters in shared memory, by
which the parent reads its progress and tells it to stop. It ends as well when its parent dies.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
import time

# Slots of the shared array
SENT, RECEIVED, DUPLICATED, REORDERED, OVERFLOWED, REFUSED, STOP, PARENT, SLOTS = range(9)

_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8
_BURST = 64  # datagrams: after a stall catch up slowly, or the per-CPU backlog (1000) overflows and looks like loss
_QUIET = 0.3  # s without a datagram, after the sender has stopped, that end the wait for late ones


def send(sock: socket.socket, counters: memoryview, pps: int, size: int) -> None:
    """Send numbered datagrams at ``pps``; a refusal by ICMP is counted and takes no number."""
    padding = bytes(size - 8)
    start, number, pace = time.monotonic(), 0, 0
    while not _stopped(counters):
        due = int((time.monotonic() - start) * pps) - pace
        for _ in range(min(due, _BURST)):
            pace += 1
            try:
                sock.send(struct.pack("!Q", number) + padding)
            except OSError:
                counters[REFUSED] += 1
                continue
            number += 1
            counters[SENT] = number
        if due > _BURST:
            pace = int((time.monotonic() - start) * pps)
        time.sleep(0.001)


def receive(sock: socket.socket, counters: memoryview) -> None:
    """Count datagrams and compare their numbers, until told to stop and all are in, or nothing comes any more."""
    seen, highest, quiet_since = bytearray(1 << 20), -1, time.monotonic()
    sock.settimeout(0.05)
    while True:
        try:
            number = struct.unpack_from("!Q", sock.recv(65536))[0]
        except TimeoutError:
            if _stopped(counters) and (counters[RECEIVED] >= counters[SENT] or time.monotonic() - quiet_since > _QUIET):
                break
            continue
        quiet_since = time.monotonic()
        if number >= len(seen):
            seen.extend(bytes(max(len(seen), number + 1 - len(seen))))
        if seen[number]:
            counters[DUPLICATED] += 1
            continue
        seen[number] = 1
        counters[RECEIVED] += 1
        if number < highest:
            counters[REORDERED] += 1
        highest = max(highest, number)
    memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    counters[OVERFLOWED] = struct.unpack("9I", memory)[_SK_MEMINFO_DROPS]


def accept(sock: socket.socket, counters: memoryview) -> None:
    """Answer one byte on every connection and close first: TIME_WAIT stays on this side, the client keeps its ports."""
    sock.settimeout(0.2)
    while not _stopped(counters):
        try:
            connection, _ = sock.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(5)
            try:
                connection.sendall(connection.recv(1))
            except OSError:
                counters[REFUSED] += 1
            else:
                counters[RECEIVED] += 1


def _stopped(counters: memoryview) -> bool:
    return bool(counters[STOP]) or os.getppid() != counters[PARENT]


def main(arguments: list[str]) -> None:
    """Run the role named by the first argument."""
    role, sock_fd, counters_fd, *numbers = arguments
    memory = mmap.mmap(int(counters_fd), 0)
    with socket.socket(fileno=int(sock_fd)) as sock, memoryview(memory) as raw, raw.cast("Q") as counters:
        if role == "send":
            send(sock, counters, int(numbers[0]), int(numbers[1]))
        elif role == "receive":
            receive(sock, counters)
        else:
            accept(sock, counters)


if __name__ == "__main__":
    main(sys.argv[1:])
