# SPDX-License-Identifier: Apache-2.0
"""Ending in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM, and a terminal that goes away, end things as Ctrl-C does: what was built is taken down, which a
    second one does not cut short. A signal that was ignored stays so. For the main thread.
    """

    def interrupt(_number: int, _frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    found = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Have what would interrupt the block do so at its end. Outside the main thread nothing would."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[signal.Signals, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((signal.Signals(number), frame))

    found = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in came[:1]:
            before[number](number, frame)
