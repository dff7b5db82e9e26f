# SPDX-License-Identifier: Apache-2.0
"""Running a benchmark or the demo as a process, and looking for what it left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = Path("/run/netns")
PINS = Path("/sys/fs/bpf/pydp")


def traces(prefix: str, pid: int) -> list[str]:
    """Namespaces that the process of that id made."""
    return sorted(path.name for path in NAMESPACES.glob(f"{prefix}{pid:x}-*"))


def cookies(prefix: str, pid: int) -> set[str]:
    """Folders of pins there are now for the namespaces of a process, by asking each for its cookie."""
    found = set()
    for name in traces(prefix, pid):
        shown = subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-c", _COOKIE], capture_output=True, text=True, check=False
        )
        found.add(shown.stdout.strip())
    return {cookie for cookie in found if cookie and (PINS / cookie).exists()}


_COOKIE = "import socket; print(int.from_bytes(socket.socket().getsockopt(1, 71, 8), 'little'))"


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process of this checkout, killed in the end if it still runs."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def interrupt_when_built(child: subprocess.Popen[str], prefix: str, number: signal.Signals, pins: int) -> set[str]:
    """Wait until the process has attached pydp in PINS namespaces, send it NUMBER; gives their folders of pins."""
    deadline = time.monotonic() + 60
    while len(found := cookies(prefix, child.pid)) < pins:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, f"{len(found)} attached after a minute"
        time.sleep(0.2)
    child.send_signal(number)
    return found
