# SPDX-License-Identifier: Apache-2.0
"""Making, entering and removing named network namespaces, in the way of `ip netns` but without a process for each step.

A namespace is a property of the thread, so everything here happens in a short-lived thread of its own: the caller's
thread never leaves its namespace, whatever is raised at whatever moment, and a child process started from such a
thread is born inside.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

DIRECTORY = Path("/run/netns")

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 0x100000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def in_thread(work: Callable[[], _T]) -> _T:
    """Run ``work`` in a thread of its own and return or raise what it does.

    An interrupt at a bad moment may leave it running, so what has to be undone needs a lock as well.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def inside(path: str, work: Callable[[], _T]) -> _T:
    """Run ``work`` in a thread inside the network namespace at ``path``; raises OSError when it is gone.

    Only the network namespace changes: unlike under `ip netns exec`, /sys is not mounted anew and bpffs stays in sight.
    """

    def entered() -> _T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(fd, _CLONE_NEWNET), path)
        finally:
            os.close(fd)
        return work()

    return in_thread(entered)


def unshare(path: str) -> None:
    """Move the calling thread to a new network namespace, kept by the file ``path`` until `remove`."""
    _share_directory()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    _check(_libc.unshare(_CLONE_NEWNET), path)
    _mount("/proc/thread-self/ns/net", path, _MS_BIND)


def remove(path: str) -> None:
    """Let go of the namespace at ``path``, if it is there. The kernel takes down its devices soon after."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) < 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    Path(path).unlink(missing_ok=True)


def mount_bpffs(path: str) -> None:
    """Mount a bpf file system at ``path``."""
    _check(_libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, None), path)


def unmount(path: str) -> None:
    """Unmount what is mounted at ``path``."""
    _check(_libc.umount2(os.fsencode(path), 0), path)


def _share_directory() -> None:
    """Make /run/netns a shared mount, as `ip netns` does, so that a name removed here is gone everywhere."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    name = str(DIRECTORY)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _libc.mount(b"", os.fsencode(name), b"none", _MS_SHARED | _MS_REC, None) < 0:
            _mount(name, name, _MS_BIND | _MS_REC)
            _mount("", name, _MS_SHARED | _MS_REC)
    finally:
        os.close(fd)


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), b"none", flags, None), target)


def _check(result: int, path: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
