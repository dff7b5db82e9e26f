# SPDX-License-Identifier: Apache-2.0
"""Which CPU does what: left alone, the scheduler moves the work about, and the numbers with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def pair() -> tuple[int, int]:
    """Two CPUs of those this process may use; the same twice when there is one. The last first: CPU 0 tends to have
    the interrupts.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[-2 if len(allowed) > 1 else -1]


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread, and what it starts, on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
