# SPDX-License-Identifier: Apache-2.0
"""From C text to loaded programs: the only module that imports bcc.

bcc compiles, and gives bytecode in which every map reference is a file descriptor of a map that bcc made. We read from
those maps what they should be (a MapSpec), give each reference the name of its map, and drop bcc's maps. Loading then
writes the descriptors of *our* maps into the bytecode. So compiled code belongs to no instance: it is cached by its
text, map sizes are chosen at load time, and a pinned map is used again just by handing it over.

A `ld_imm64` of 0x7d9d5eed'0000NNNN in the bytecode is a *constant*: its value is written in at load (see abi.h).
"""

from __future__ import annotations

import base64
import ctypes as ct
import errno
import functools
import hashlib
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpf import kept, libbpf, loops
from ebpf.abi import Abi, Codec, codec, stripped
from ebpf.errors import CompileError, EbpfError, LayoutMismatch, NotPermitted, NotSupported, VerifierError
from ebpf.headers import kernel_headers, kernel_release
from ebpf.maps import Map, MapSpec
from ebpf.records import Record
from ebpf.source import Source
from ebpf.verifierlog import last_place, reason, with_our_lines

LICENSE = "GPL"
CONSTANT_MAGIC = 0x7D9D5EED
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_INSN = struct.Struct("<BBhi")
_HEADERS_AT = "BCC_KERNEL_SOURCE"
_LOG_SIZE = 16 << 20
_CFLAGS = ("-Wno-duplicate-decl-specifier", "-Wno-address-of-packed-member")


HOOK_TYPES = {
    "xdp": libbpf.PROG_TYPE_XDP, "tc": libbpf.PROG_TYPE_SCHED_CLS, "connect4": libbpf.PROG_TYPE_CGROUP_SOCK_ADDR,
}  # fmt: skip
_ATTACH_TYPES = {"connect4": libbpf.ATTACH_CGROUP_CONNECT4}  # of hooks that a program is verified for


@dataclass(frozen=True, slots=True)
class Bytecode:
    """One compiled function: instructions, and which instruction refers to which map or constant."""

    name: str
    insns: bytes
    maps: tuple[tuple[int, str], ...]
    constants: tuple[tuple[int, int], ...]

    @property
    def map_names(self) -> frozenset[str]:
        return frozenset(name for _, name in self.maps)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a source compiles to. Immutable; holds no kernel object."""

    source: Source
    abi: Abi
    programs: Mapping[str, Bytecode]
    maps: Mapping[str, MapSpec]


class Program:
    """A loaded program. Owns its file descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
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

    def pin(self, path: str) -> None:
        libbpf.obj_pin(self.fd, path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise NotSupported(
            "the Python package bcc is not there",
            hint="apt-get install python3-bpfcc; run with /usr/bin/python3 or a venv made with --system-site-packages",
        ) from error
    if not hasattr(bcc, "BPF"):
        raise NotSupported(
            f"{bcc.__file__} is another package of the same name (lattices), not the BPF Compiler Collection",
            hint="pip uninstall bcc; apt-get install python3-bpfcc",
        )
    _prototypes(bcc.lib)
    return bcc


def _prototypes(lib: Any) -> None:
    """Declare the functions of libbcc that its Python side does not use itself."""
    lib.bpf_table_name.restype = ct.c_char_p
    lib.bpf_table_name.argtypes = [ct.c_void_p, ct.c_size_t]
    for name in ("bpf_table_type", "bpf_table_flags", "bpf_table_max_entries"):
        getattr(lib, name).restype = ct.c_int
        getattr(lib, name).argtypes = [ct.c_void_p, ct.c_char_p]


@contextmanager
def _captured_stderr(into: list[str]) -> Iterator[None]:
    """clang inside bcc prints on file descriptor 2: take it from there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with os.fdopen(os.memfd_create("clang"), "w+b") as file:  # in memory: a full disk does not matter
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            into.append(file.read().decode(errors="replace"))


_cache: dict[str, Compiled] = {}


def compile_source(source: Source, cflags: tuple[str, ...] = ()) -> Compiled:
    """Compile SOURCE with bcc's clang, or give what an equal source gave before, in this process or in another one that
    left it in a file (ebpf.kept).

    Raises CompileError (file, line, message), HeadersMissing, NotSupported, NotPermitted.
    """
    key = _key(source.text, cflags)
    if key not in _cache:
        # Of the kernel only its headers get into the code: guests of other kernels use what their host has compiled.
        headers = kernel_headers()
        name = kept.name_of(_key(stripped(source.text), cflags), str(headers or kernel_release()))
        found = kept.recall(name)
        _cache[key] = _revived(source, found) if found else _compile(source, cflags)
        if not found:
            kept.keep(name, _document(_cache[key]))
    return _cache[key]


def _key(text: str, cflags: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join((text, *cflags)).encode()).hexdigest()


def _document(compiled: Compiled) -> dict[str, Any]:
    """What is to be kept, as JSON can hold it. Types stand in the text."""
    return {
        "programs": {
            one.name: [base64.b64encode(one.insns).decode(), one.maps, one.constants]
            for one in compiled.programs.values()
        },
        "maps": [
            [one.name, one.kind, _ctype(one.key), _ctype(one.value), one.max_entries, one.flags]
            for one in compiled.maps.values()
        ],
    }


def _ctype(one: Any) -> str:
    return f"struct {one.name}" if isinstance(one, Record) else str(one.name)


def _revived(source: Source, document: Mapping[str, Any]) -> Compiled:
    abi = Abi(source.text)
    programs = {
        name: Bytecode(name, base64.b64decode(insns), tuple(map(tuple, maps)), tuple(map(tuple, constants)))
        for name, (insns, maps, constants) in document["programs"].items()
    }
    specs = {
        name: MapSpec(name, kind, codec(abi, key), codec(abi, value), entries, flags)
        for name, kind, key, value, entries, flags in document["maps"]
    }
    return Compiled(source, abi, programs, specs)


@contextmanager
def _told_headers(headers: Path | None) -> Iterator[None]:
    """Tell bcc where the headers are, as it wants to be told, and nobody after it (a child may have other mounts)."""
    before = os.environ.get(_HEADERS_AT)
    if headers is not None:
        os.environ[_HEADERS_AT] = str(headers)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_HEADERS_AT, None)
        else:
            os.environ[_HEADERS_AT] = before


def _module(source: Source, cflags: tuple[str, ...], debug: int = 0) -> Any:
    bcc = _bcc()
    headers = kernel_headers()
    said: list[str] = []
    try:
        with _told_headers(headers), _captured_stderr(said):
            return bcc.BPF(text=source.text.encode(), cflags=[*_CFLAGS, *cflags], debug=debug)
    except Exception as error:  # noqa: BLE001 - bcc raises this very class when clang fails
        raise _compile_error("".join(said), error) from None


def _compile_error(log: str, error: Exception) -> EbpfError:
    found = re.search(r"^(.*?):(\d+):\d+: (?:fatal )?error: (.*)$", log, re.MULTILINE)
    if found:
        return CompileError(found[3], file=Path(found[1]).name if found[1].startswith("/") else found[1],
                            line=int(found[2]), log=log)  # fmt: skip
    if "Operation not permitted" in log or os.geteuid() != 0:
        return NotPermitted("compiling needs CAP_BPF: bcc creates maps while it compiles", hint="run as root", log=log)
    return CompileError(str(error) or "bcc could not compile the program", log=log)


def _compile(source: Source, cflags: tuple[str, ...]) -> Compiled:
    module = _module(source, cflags)
    bcc = _bcc()
    try:
        abi = Abi(source.text)
        specs: dict[str, MapSpec] = {}
        by_fd: dict[int, str] = {}
        handle = _handle(module)
        for number in range(bcc.lib.bpf_num_tables(handle)):
            name = bcc.lib.bpf_table_name(handle, number).decode()
            by_fd[bcc.lib.bpf_table_fd(handle, name.encode())] = name
            specs[name] = _spec(bcc, module, abi, name)
        programs = {}
        for number in range(bcc.lib.bpf_num_functions(module.module)):
            name = bcc.lib.bpf_function_name(module.module, number).decode()
            programs[name] = _bytecode(name, module.dump_func(name.encode()), by_fd)
        return Compiled(source, abi, programs, specs)
    finally:
        module.cleanup()


def _handle(module: Any) -> ct.c_void_p:
    """bcc's module as a pointer: bcc does not declare the arguments of all its functions, and a plain number would be
    cut to 32 bits, which is noticed only in threads, whose heap lies above 4 GiB.
    """
    return ct.c_void_p(module.module)


def _spec(bcc: Any, module: Any, abi: Abi, name: str) -> MapSpec:
    """The spec of a map that bcc made, its records taken from our text and compared with bcc's own layout."""
    raw = name.encode()
    lib, handle = bcc.lib, _handle(module)
    kind = libbpf.MAP_TYPES[lib.bpf_table_type(handle, raw)]
    table = module[raw]
    codecs = []
    for what, descriptor, ctypes_class in (
        ("key", lib.bpf_table_key_desc(handle, raw), table.Key),
        ("value", lib.bpf_table_leaf_desc(handle, raw), getattr(table, "sLeaf", table.Leaf)),  # sLeaf: of one CPU
    ):
        found = _codec(abi, descriptor.decode(), ctypes_class)
        differences = found.differences_ctypes(ctypes_class)
        if differences:
            raise LayoutMismatch(f"map {name}: our reading of its {what} is not clang's: " + "; ".join(differences))
        codecs.append(found)
    return MapSpec(
        name, kind, codecs[0], codecs[1], lib.bpf_table_max_entries(handle, raw), lib.bpf_table_flags(handle, raw)
    )


def _codec(abi: Abi, descriptor: str, ctypes_class: type) -> Codec:
    """bcc describes a type as JSON: a string for an integer, a list that begins with the struct's name for a struct."""
    found = re.match(r'\s*\[\s*"(\w+)"', descriptor)
    if found:
        return codec(abi, f"struct {found[1]}")
    return codec(abi, {1: "__u8", 2: "__u16", 4: "__u32", 8: "__u64"}[ct.sizeof(ctypes_class)])


def _bytecode(name: str, insns: bytes, by_fd: Mapping[int, str]) -> Bytecode:
    maps, constants = [], []
    at, count = 0, len(insns) // 8
    while at < count:
        code, registers, _, low = _INSN.unpack_from(insns, at * 8)
        if code == _LD_IMM64:
            high = _INSN.unpack_from(insns, at * 8 + 8)[3] & 0xFFFFFFFF
            if registers >> 4 == _PSEUDO_MAP_FD:
                maps.append((at, by_fd[low]))
            elif high == CONSTANT_MAGIC:
                constants.append((at, low & 0xFFFFFFFF))
            at += 1
        at += 1
    return Bytecode(name, insns, tuple(maps), tuple(constants))


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
    log = ct.create_string_buffer(_LOG_SIZE)
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
    annotated = _annotated_log(compiled, program, hook) or text
    file, line = last_place(annotated)
    return VerifierError(f"{program}: {reason(text)}", file=file, line=line, log=annotated)


def _annotated_log(compiled: Compiled, program: str, hook: str) -> str:
    """The verifier's log with source lines: bcc loads the program with its line table, which our bytecode lacks."""
    bcc = _bcc()
    module = _module(compiled.source, ())
    log = ct.create_string_buffer(_LOG_SIZE)
    raw = program.encode()
    lib, handle = bcc.lib, _handle(module)
    try:
        with _captured_stderr([]):
            fd = lib.bcc_func_load(
                handle, HOOK_TYPES[hook], raw, lib.bpf_function_start(handle, raw), lib.bpf_function_size(handle, raw),
                lib.bpf_module_license(handle), lib.bpf_module_kern_version(handle), 1, log, _LOG_SIZE, None, 0,
            )  # fmt: skip
        if fd >= 0:  # it is our constants that the verifier does not like: its log for bcc's program tells nothing
            os.close(fd)
            return ""
        return with_our_lines(log.value.decode(errors="replace"), compiled.source.text)
    finally:
        module.cleanup()
