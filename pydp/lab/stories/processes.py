# SPDX-License-Identifier: Apache-2.0
"""Processes of a stage. Each has the stage's folder in its environment, as have its children, so that all are found and
ended, whoever started them and was interrupted meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from pydp.lab.errors import LabError

_MARK = "PYDP_LAB_STAGE"


def environment(folder: Path) -> dict[str, str]:
    """What processes of the stage with that folder are started with."""
    return {**os.environ, _MARK: str(folder)}


def marked(folder: Path) -> list[int]:
    """Ids of the processes of that stage which have not ended."""
    found = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ"))
    return [pid for pid in found if _is_marked(pid, folder)]


def end(folder: Path, timeout: float = 10) -> int:
    """Kill all of them, wait until they have ended, and give their number. Raises LabError when one does not end."""
    deadline = time.monotonic() + timeout
    number = 0
    while found := marked(folder):  # again, since one may have started another
        with contextlib.ExitStack() as stack:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    file = os.pidfd_open(pid)
                    stack.callback(os.close, file)
                    number += _kill(pid, file, folder, deadline)
        if time.monotonic() > deadline:
            raise LabError(f"processes {' '.join(map(str, found))} do not end")
    return number


def _kill(pid: int, file: int, folder: Path, deadline: float) -> bool:
    """Whether the process that FILE stands for was one of the stage: its id may be another's by now."""
    if not _is_marked(pid, folder):
        return False
    signal.pidfd_send_signal(file, signal.SIGKILL)
    select.select([file], [], [], max(deadline - time.monotonic(), 0))
    return True


def _is_marked(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):  # one that has ended has no environment
        return f"{_MARK}={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False
