# SPDX-License-Identifier: Apache-2.0
"""How far a run has come, on a terminal: two bars and the time left. Drawn between measurements only, and by no thread
of its own, which would want the CPU while something is measured.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MINUTE = 60


class Estimate:
    """The time left of parts that were thought to take so many SECONDS each, corrected by what those done took."""

    def __init__(self, seconds: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._begun = clock()
        self._done = 0.0
        self._share = 0.0
        self._part = ""

    @property
    def whole(self) -> float:
        """All that was thought to be needed."""
        return sum(self._seconds.values())

    @property
    def done(self) -> float:
        """How much of it is behind us."""
        return self._done + self._share * self._seconds.get(self._part, 0)

    def begin(self, part: str) -> None:
        """The part before is done; this one begins."""
        self._done += self._seconds.get(self._part, 0)
        self._part, self._share = part, 0.0

    def reach(self, share: float) -> None:
        """So much of the current part is done."""
        self._share = min(share, 1)

    def left(self) -> float:
        """Seconds, as far as anybody can tell."""
        rest = self.whole - self.done
        return rest * (self._clock() - self._begun) / self.done if self.done else rest


def words(seconds: float) -> str:
    """A time left, for people: no more exact than it is known."""
    if seconds < _MINUTE:
        return f"{max(5, 5 * round(seconds / 5))} s left"
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min left" if minutes < _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE:02} min left"


class Watch:
    """Told what is going on. This one shows nothing."""

    def begin(self, part: str) -> None:
        """A scenario begins."""

    def reach(self, share: float, text: str) -> None:
        """So much of it is done, and this comes next."""


class TerminalWatch(Watch):
    """Shows it with the bars of rich."""

    def __init__(self, estimate: Estimate, progress: Any) -> None:
        self._estimate = estimate
        self._progress = progress
        self._all = progress.add_task("all", total=estimate.whole, text="")
        self._one = progress.add_task("", total=1.0, text="")

    def begin(self, part: str) -> None:
        self._estimate.begin(part)
        self._progress.update(self._one, description=part)
        self.reach(0, "building")

    def reach(self, share: float, text: str) -> None:
        self._estimate.reach(share)
        self._progress.update(self._all, completed=self._estimate.done, text=words(self._estimate.left()))
        self._progress.update(self._one, completed=share, text=text)
        self._progress.refresh()


@contextlib.contextmanager
def watching(seconds: Mapping[str, float]) -> Iterator[Watch]:
    """Of parts that may take so many seconds each; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Watch()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        yield TerminalWatch(Estimate(seconds), progress)
