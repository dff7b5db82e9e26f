# SPDX-License-Identifier: Apache-2.0
"""Frames that set a measurement up arrive, also where a backlog is full for a moment."""

from __future__ import annotations

import errno
import os

import pytest

from pydp.bench import frames


class Full:
    """A packet socket whose other end drops so many frames."""

    def __init__(self, drops: int, error: int = errno.ENOBUFS) -> None:
        self.drops, self.error = drops, error
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> int:
        if self.drops:
            self.drops -= 1
            raise OSError(self.error, os.strerror(self.error))
        self.sent.append(frame)
        return len(frame)


def test_a_full_backlog_is_waited_for() -> None:
    sock = Full(3)
    frames.put(sock, b"frame")  # type: ignore[arg-type]
    assert (sock.drops, sock.sent) == (0, [b"frame"])


def test_one_that_stays_full_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_PATIENCE", 0.01)
    sock = Full(1_000_000)
    with pytest.raises(OSError, match="No buffer space"):
        frames.put(sock, b"frame")  # type: ignore[arg-type]
    assert sock.sent == []


def test_other_errors_are_told_at_once() -> None:
    sock = Full(1, errno.ENETDOWN)
    with pytest.raises(OSError, match="Network is down"):
        frames.put(sock, b"frame")  # type: ignore[arg-type]
    assert sock.drops == 0
