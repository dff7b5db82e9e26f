# SPDX-License-Identifier: Apache-2.0
"""Ending in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM, and a terminal that goes away, end things as Ctrl-C does: what was built is taken down, which a
    second one does not cut short. A signal that was ignored stays so. For the main thread.
    """

    def interrupt(_number: int, _frame: object) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled_by(interrupt) as handled:
        yield


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Have what would interrupt the block do so at its end. Outside the main thread nothing would."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    try:
        with _handled_by(lambda number, _frame: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[list[signal.Signals]]:
    """Gives the signals that HANDLER gets meanwhile: those that are not ignored."""
    found = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: one for number, one in found.items() if one is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield list(before)
    finally:
        for number, one in before.items():
            signal.signal(number, one)
