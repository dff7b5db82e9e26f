# SPDX-License-Identifier: Apache-2.0
"""Folders of ours outside a run: whoever else could write there would choose what gets into the kernel."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotOurs(Exception):
    """A path that is not a folder which only we can write to. ``reason`` goes on from "it "."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: it {reason}")
        self.path = path
        self.reason = reason


def cache_folder(name: str) -> Path:
    """The path of a folder in /var/cache/pydp, or in the user's cache directory when not root; what it is in is made.

    Raises NotOurs, OSError.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    parent = (Path("/var/cache") if os.geteuid() == 0 else base) / "pydp"
    make_own(parent)
    return parent / name


def make_own(directory: Path) -> None:
    """Make a folder for us alone, unless it is there. Raises NotOurs, OSError."""
    if not is_own(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        is_own(directory)  # another process, friend or foe, may have been faster


def is_own(path: Path) -> bool:
    """Whether it is a folder that only we can write to; False if there is nothing. Raises NotOurs."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise NotOurs(path, "is not a directory")
    if status.st_uid != os.geteuid():
        raise NotOurs(path, f"belongs to user {status.st_uid}")
    if status.st_mode & 0o022:
        raise NotOurs(path, "can be written to by others")
    return True
