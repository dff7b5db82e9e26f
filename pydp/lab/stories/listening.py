# SPDX-License-Identifier: Apache-2.0
"""Captures of a step: frames by AF_PACKET, in both directions, decoded by tcpdump."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from typing import Self

from pydp.lab.capture import Capture
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace

_MOST = 10000  # frames
_ETHERNET, _LOOPBACK = 1, 772  # ARPHRD_ETHER, ARPHRD_LOOPBACK (linux/if_arp.h): frames have an Ethernet header
_LINK_ETHERNET, _LINK_RAW = 1, 101  # LINKTYPE_ETHERNET, LINKTYPE_RAW of libpcap's files


def command(place: str) -> str:
    """What a person would type to see the same."""
    where, _, rule = place.partition(" ")
    node, _, device = where.partition(":")
    return f"ip netns exec {node} tcpdump -tnel -i {device} {rule}".rstrip()


class Listener:
    """Frames that come or go by a device while a ``with`` block runs: "red:veth0", or "red:veth0 FILTER"."""

    def __init__(self, spaces: Mapping[str, Namespace], place: str) -> None:
        where, _, self._rule = place.partition(" ")
        node, _, device = where.partition(":")
        self._capture = Capture(spaces[node], device, outgoing=True)
        self._where = where

    def __enter__(self) -> Self:
        try:
            self._capture.__enter__()
        except OSError as error:
            raise LabError(f"cannot listen at {self._where}: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.__exit__()

    def lines(self) -> tuple[str, ...]:
        """What was heard until now. Raises LabError without tcpdump, or when it does not take the filter."""
        frames = self._capture.waiting()[:_MOST]
        link = _LINK_ETHERNET if self._capture.hardware in (_ETHERNET, _LOOPBACK) else _LINK_RAW
        # Magic, version 2.4, zone, accuracy, longest frame, link type.
        header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, link)
        records = (struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
        words = ["tcpdump", "-t", "-n", "-e", "-r", "-", *self._rule.split()]
        try:
            done = subprocess.run(
                words, input=header + b"".join(records), capture_output=True, check=False, start_new_session=True
            )
        except FileNotFoundError as error:
            raise LabError("tcpdump is not installed", hint="apt-get install tcpdump") from error
        if done.returncode:
            raise LabError(f"{' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
        return tuple(line for line in done.stdout.decode(errors="replace").splitlines() if line)
