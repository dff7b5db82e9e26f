# SPDX-License-Identifier: Apache-2.0
"""`-n NETNS`, as `ip -n`: enter a network namespace, and only that.

`ip netns exec` also remounts /sys, which hides bpffs; a mount namespace of our own is not needed since nothing here
reads /sys/class/net.
"""

from __future__ import annotations

import ctypes
import errno
import os

from pydp.errors import NotAllowed, PydpError, UsageError

_DIRECTORY = "/run/netns"
_CLONE_NEWNET = 0x40000000


def enter(name: str) -> None:
    """Move the process, which must have one thread only, into the namespace: a name, or a path when it has a slash.

    Raises UsageError when there is none, NotAllowed.
    """
    path = name if "/" in name else os.path.join(_DIRECTORY, name)  # noqa: PTH118 - pathlib is slow to import
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(name, error.errno) from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise _refusal(name, ctypes.get_errno())
    finally:
        os.close(descriptor)


def _refusal(name: str, code: int | None) -> PydpError:
    if code in (errno.EPERM, errno.EACCES):
        return NotAllowed(f"-n {name}: not permitted to enter it", hint="run as root, or with CAP_SYS_ADMIN")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(f"-n {name}: no such network namespace", hint="`ip netns` lists those that have a name")
    if code == errno.EINVAL:
        return UsageError(f"-n {name}: this is not a network namespace", hint="`ip netns` lists those that have a name")
    return UsageError(f"-n {name}: {os.strerror(code or 0)}")
