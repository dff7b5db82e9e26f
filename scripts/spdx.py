#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Check that every source file names its licence: SPDX line first, or second after a `#!` line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

TAG = "SPDX-License-Identifier:"
PYTHON = f"# {TAG} Apache-2.0"
C = f"// {TAG} GPL-2.0-only OR BSD-2-Clause"
WANTED = {".py": PYTHON, ".c": C, ".h": C, ".toml": PYTHON, ".sh": PYTHON}
BUILT = {"build", "dist"}


def wanted(path: Path, first: str) -> str | None:
    """The line that *path*, whose first line is *first*, must carry; None when it is not source."""
    return PYTHON if first.startswith("#!") else WANTED.get(path.suffix)


def complaint(path: Path) -> str | None:
    """What is wrong with *path*, or None."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [file.readline().rstrip("\n") for _ in range(2)]
    line = wanted(path, lines[0])
    found = lines[1] if lines[0].startswith("#!") else lines[0]
    return None if line is None or found == line else f"{path}: expected the line: {line}"


def sources(root: Path) -> Iterator[Path]:
    """Regular files below *root*: nothing hidden except .ci, nothing built, no symbolic link followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            f for f in folders if f == ".ci" or not (f.startswith(".") or f in BUILT or f.endswith(".egg-info"))
        )
        yield from (path for name in sorted(files) if (path := Path(folder, name)).is_file() and not path.is_symlink())


def main(root: Path) -> int:
    """Print one line for each file at fault below *root*; 1 when there is any."""
    wrong = [text for path in sources(root) if (text := complaint(path))]
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
