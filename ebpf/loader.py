# SPDX-License-Identifier: Apache-2.0
"""From bytecode to loaded programs.

Loading writes the descriptors of our maps into the bytecode. So map sizes are chosen here, and a pinned map is used
again just by handing it over. A `ld_imm64` of 0x7d9d5eed'0000NNNN in the bytecode is a *constant*: its value is written
in, too (see abi.h).
"""

from __future__ import annotations

import ctypes as ct
import errno
import functools
import os
import struct
from collections.abc import Mapping

from ebpf import libbpf, loops
from ebpf.compiler import LOG_SIZE, Bytecode, Compiled, verifier_log
from ebpf.errors import NotPermitted, NotSupported, VerifierError
from ebpf.handle import Handle
from ebpf.maps import Map
from ebpf.verifierlog import last_place, reason

LICENSE = "GPL"
HOOK_TYPES = {
    "xdp": libbpf.PROG_TYPE_XDP, "tc": libbpf.PROG_TYPE_SCHED_CLS, "connect4": libbpf.PROG_TYPE_CGROUP_SOCK_ADDR,
}  # fmt: skip
_ATTACH_TYPES = {"connect4": libbpf.ATTACH_CGROUP_CONNECT4}  # of hooks that a program is verified for


class Program(Handle):
    """A loaded program. Owns its file descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd)
        self.name = name

    @classmethod
    def open(cls, path: str) -> Program:
        """Reopen a pinned program. Raises OSError."""
        fd = libbpf.obj_get(path)
        return cls(fd, libbpf.prog_info(fd).name.decode())

    @property
    def info(self) -> libbpf.ProgInfo:
        return libbpf.prog_info(self.fd)

    @property
    def id(self) -> int:
        return int(self.info.id)

    @property
    def tag(self) -> str:
        return bytes(self.info.tag).hex()


@functools.lru_cache(maxsize=64)
def _straightened(given: Bytecode) -> Bytecode:
    """With loops that every verifier takes."""
    places = loops.fallthroughs_back(given.insns)
    if not places:
        return given
    insns, moved = loops.with_jumps(given.insns, places)
    maps = tuple((moved[at], name) for at, name in given.maps)
    return Bytecode(given.name, insns, maps, tuple((moved[at], number) for at, number in given.constants))


def load(
    compiled: Compiled,
    program: str,
    hook: str,
    maps: Mapping[str, Map],
    *,
    constants: Mapping[int, int] | None = None,
    frags: bool = False,
    name: str = "",
) -> Program:
    """Load one program for HOOK ("xdp", "tc", or "connect4", a cgroup's connect() with IPv4), with MAPS and CONSTANTS
    (number -> 64-bit value) written into it.

    FRAGS lets an XDP program see frames of several buffers (MTU above about 3.5 kB). Raises VerifierError,
    NotPermitted, NotSupported.
    """
    bytecode = _straightened(compiled.programs[program])
    code = bytearray(bytecode.insns)
    for at, map_name in bytecode.maps:
        struct.pack_into("<i", code, at * 8 + 4, maps[map_name].fd)
    for at, number in bytecode.constants:
        value = (constants or {})[number]
        struct.pack_into("<I", code, at * 8 + 4, value & 0xFFFFFFFF)
        struct.pack_into("<I", code, at * 8 + 12, value >> 32)
    flags = libbpf.F_XDP_HAS_FRAGS if frags else 0
    title, expected = name or program, _ATTACH_TYPES.get(hook, 0)
    try:
        fd = libbpf.prog_load(HOOK_TYPES[hook], title, bytes(code), license_=LICENSE, flags=flags, attach_type=expected)
        return Program(fd, title)
    except OSError as error:
        raise _load_error(compiled, program, hook, bytes(code), flags, error) from None


def _load_error(
    compiled: Compiled, program: str, hook: str, code: bytes, flags: int, error: OSError
) -> VerifierError | NotPermitted | NotSupported:
    if error.errno == errno.EPERM:
        return NotPermitted(f"loading {program}: not permitted", hint="run as root, or with CAP_BPF and CAP_NET_ADMIN")
    log = ct.create_string_buffer(LOG_SIZE)
    try:
        expected = _ATTACH_TYPES.get(hook, 0)
        fd = libbpf.prog_load(
            HOOK_TYPES[hook], program, code, license_=LICENSE, flags=flags, attach_type=expected, log=log
        )
        os.close(fd)
    except OSError as again:
        error = again
    text = log.value.decode(errors="replace")
    if error.errno == errno.E2BIG or not text:
        return NotSupported(f"loading {program} for {hook}: {error.strerror}", log=text)
    if reason(text).endswith("for !root"):  # arithmetic that the verifier allows to those only who may see addresses
        return NotPermitted(
            f"loading {program}: {reason(text)}", hint="run as root, or with CAP_PERFMON beside CAP_BPF", log=text
        )
    annotated = verifier_log(compiled, program, HOOK_TYPES[hook]) or text
    file, line = last_place(annotated)
    return VerifierError(f"{program}: {reason(text)}", file=file, line=line, log=annotated)
