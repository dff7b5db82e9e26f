# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in real namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydp.lab import Namespace


@pytest.fixture
def bridged(namespace: Callable[..., Namespace]) -> Namespace:
    """br0 with ports v0 to v2, whose other ends are w0 to w2."""
    ns = namespace()
    script = "ip link add br0 type bridge; ip link set br0 up;"
    for i in range(3):
        script += f"ip link add v{i} type veth peer name w{i}; ip link set v{i} master br0 up; ip link set w{i} up;"
    ns.run(["sh", "-ec", script])
    return ns


@pytest.fixture
def bpf(requires_root: None) -> Callable[[int, bytes], int]:
    """The bpf(2) system call, as (command, union bpf_attr); raises OSError."""
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]

    def call(command: int, attr: bytes) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(attr, 128)
        result = int(libc.syscall(number, command, buffer, len(buffer)))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    return call


@pytest.fixture
def program(bpf: Callable[[int, bytes], int]) -> Iterator[Callable[[int], tuple[int, int]]]:
    """Loads a program of a type (BPF_PROG_TYPE_*) that returns 2 (XDP_PASS, or TC_ACT_SHOT): (fd, id)."""
    code = ctypes.create_string_buffer(bytes.fromhex("b700000002000000" + "9500000000000000"), 16)  # r0 = 2; exit
    licence = ctypes.create_string_buffer(b"GPL")
    with contextlib.ExitStack() as stack:

        def load(kind: int) -> tuple[int, int]:
            fd = bpf(5, struct.pack("=IIQQ", kind, 2, ctypes.addressof(code), ctypes.addressof(licence)))
            stack.callback(os.close, fd)
            return fd, int(Path(f"/proc/self/fdinfo/{fd}").read_text().split("prog_id:")[1].split()[0])

        yield load
