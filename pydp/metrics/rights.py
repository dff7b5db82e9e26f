# SPDX-License-Identifier: Apache-2.0
"""Giving up rights for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import resource
import signal
from pathlib import Path

from pydp.errors import NotAllowed

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NOBODY = 65534
_DESCRIPTORS = 1 << 16  # 256 ports with two hooks have 1,500 pins, twice that while a set replaces another


def become_nobody() -> None:
    """Be the user nobody, with no group and no capability, and never again anything else. Raises NotAllowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        about = pwd.getpwnam("nobody")
        user, group = about.pw_uid, about.pw_gid
    except KeyError:
        user = group = _NOBODY
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)  # from 0 to another: the kernel clears the capabilities (capabilities(7))
    except OSError as error:
        raise NotAllowed(
            f"cannot become nobody: {error.strerror}", hint="run as root, outside a user namespace"
        ) from error
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotAllowed("cannot give up rights (PR_SET_NO_NEW_PRIVS)")
    if left := capabilities():
        raise NotAllowed(f"capabilities stay after becoming nobody: {left:#x}", hint="clear the securebits, then start")


def capabilities() -> int:
    """Bits of the capabilities that this process has or may take up."""
    status = Path("/proc/self/status").read_text()
    found = (re.search(rf"^{name}:\s*([0-9a-f]+)$", status, re.MULTILINE) for name in ("CapPrm", "CapEff", "CapAmb"))
    return sum(int(one[1], 16) for one in found if one)


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when PARENT does. After a change of user, which cancels it (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def allow_descriptors() -> None:
    """Raise the limit of open files, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _DESCRIPTORS:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, max(hard, _DESCRIPTORS)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor above stderr but these."""
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one that listed the folder
                os.close(descriptor)
