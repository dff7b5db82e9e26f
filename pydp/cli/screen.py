# SPDX-License-Identifier: Apache-2.0
"""A picture on a terminal, in place of the one before, as large as the window is and drawn anew when that changes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator

_PARTS = re.compile(r"\x1b\[\d*m|.")  # a colour, or a character


class Screen:
    """What is shown now; in a pipe pictures follow each other."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._text = ""

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Draw anew at once whenever the window changes. For the main thread."""
        if not self._terminal:
            yield
            return
        before = signal.signal(signal.SIGWINCH, lambda *_: self._draw())
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)

    def show(self, text: str) -> None:
        """Show TEXT; what has no room is left out."""
        self._text = text
        if self._terminal:
            self._draw()
        else:
            print(text, end="\n\n", flush=True)

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        lines = [cut(line, width) for line in self._text.splitlines()[: height - 1]]
        # Written at once, and past the buffer: a signal may come while that is being written to.
        picture = "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), picture.encode())


def cut(line: str, width: int) -> str:
    """As much of a line as fits, colours not counted; one that is cut ends without colour."""
    kept: list[str] = []
    room = width
    for part in _PARTS.findall(line):
        if len(part) == 1:
            if not room:
                return "".join(kept) + ("\x1b[0m" if len(kept) > width else "")
            room -= 1
        kept.append(part)
    return "".join(kept)
