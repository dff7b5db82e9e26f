# SPDX-License-Identifier: Apache-2.0
"""What stays when a run is killed, or interrupted while it takes things down: found by its names, and removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ebpf.errors import EbpfError
from ebpf.pins import BPFFS
from pydp.errors import NothingAttached
from pydp.lab import netns, syscalls
from pydp.lab.stories import processes

PREFIX = "pydp-lab-"  # of namespaces and folders; the id of the process that made them comes next


def make_folder() -> Path:
    """A folder of this process. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid():x}-"))


def clear(*, mine: bool = False) -> None:
    """Remove what processes have left that are dead; with ``mine`` what this one has made instead. Raises LabError."""
    folders = list(_folders(mine))
    for folder in folders:
        processes.end(folder)
    for name in netns.leftovers(PREFIX, mine=mine):
        remove_namespace(name)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def remove_namespace(name: str, cookie: str = "") -> None:
    """Remove a namespace with what is attached in it, unless it is another one than that of the cookie."""
    path = str(syscalls.DIRECTORY / name)
    with contextlib.suppress(OSError):
        if cookie in ("", _cookie(path)):
            detach(path)
            syscalls.remove(path)


def detach(path: str) -> None:
    """Take off what is attached in a namespace, also what a killed command left half done."""
    with contextlib.suppress(NothingAttached, EbpfError, OSError):
        if has_pins(_cookie(path)):
            syscalls.inside(path, _detach_here)


def has_pins(cookie: str) -> bool:
    """Whether anything is pinned for the namespace of that cookie."""
    return (Path(BPFFS) / "pydp" / cookie).exists()


def _folders(mine: bool) -> Iterator[Path]:
    pattern = re.compile(re.escape(PREFIX) + r"([0-9a-f]+)-\w+")
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if match := pattern.fullmatch(path.name):
            owner = int(match[1], 16)
            if owner == os.getpid() if mine else not Path(f"/proc/{owner}").exists():
                yield path


def _cookie(path: str) -> str:
    from pydp.kernel import namespace_cookie

    return syscalls.inside(path, namespace_cookie)


def _detach_here() -> None:
    from pydp.datapath import Datapath

    Datapath().detach()
