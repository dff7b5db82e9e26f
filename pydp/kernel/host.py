# SPDX-License-Identifier: Apache-2.0
"""The machine as a whole: version of the kernel, what follows from it, and the bpf file system."""

from __future__ import annotations

import ctypes
import os
import re
import struct

_BPF_FS_MAGIC = 0xCAFE4A11


def parse_version(release: str) -> tuple[int, int, int]:
    """("6.1.0-13-amd64") -> (6, 1, 0); a part that is missing counts as 0. Raises ValueError when it is no version at
    all.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if not match:
        raise ValueError(f"not a kernel release: {release!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def kernel_version() -> tuple[int, int, int]:
    """Version of the running kernel."""
    return parse_version(os.uname().release)


def has_tcx(version: tuple[int, int, int] | None = None) -> bool:
    """Whether programs can be attached to tc by bpf links (tcx, Linux 6.6)."""
    return (version or kernel_version()) >= (6, 6, 0)


def is_bpffs(path: str = "/sys/fs/bpf") -> bool:
    """Whether a bpf file system is mounted at or above ``path``, as seen from this mount namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    # struct statfs begins with f_type, a long; it is 120 bytes on 64-bit machines.
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer):
        return False
    return bool(struct.unpack_from("@l", buffer)[0] & 0xFFFFFFFF == _BPF_FS_MAGIC)
