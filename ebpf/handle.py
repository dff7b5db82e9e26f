# SPDX-License-Identifier: Apache-2.0
"""What maps, programs and links have in common."""

from __future__ import annotations

import os
from typing import Self

from ebpf import libbpf


class Handle:
    """An object of the kernel by a file descriptor of ours, which is given up by `close` or at the end of a block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pin(self, path: str) -> None:
        """Keep it in bpffs, also when the process ends. Raises OSError."""
        libbpf.obj_pin(self.fd, path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
