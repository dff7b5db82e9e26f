# SPDX-License-Identifier: Apache-2.0
"""From C text to bytecode: the only module that imports bcc.

bcc compiles, and gives bytecode in which every map reference is a file descriptor of a map that bcc made. We read from
those maps what they should be (a MapSpec), give each reference the name of its map, and drop bcc's maps. So compiled
code belongs to no instance, and is cached by its text.
"""

from __future__ import annotations

import base64
import ctypes as ct
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

from ebpf import kept, libbpf
from ebpf.abi import Abi, Codec, codec, stripped
from ebpf.errors import CompileError, EbpfError, LayoutMismatch, NotPermitted, NotSupported
from ebpf.headers import kernel_headers, kernel_release
from ebpf.maps import MapSpec
from ebpf.records import Record
from ebpf.source import Source
from ebpf.verifierlog import tells_places, unmarked, with_our_lines

CONSTANT_MAGIC = 0x7D9D5EED  # of a constant that is written in when the program is loaded (bpf_src/abi.h)
LOG_SIZE = 16 << 20  # bytes for what the verifier says
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_INSN = struct.Struct("<BBhi")
_HEADERS_AT = "BCC_KERNEL_SOURCE"
_CFLAGS = ("-Wno-duplicate-decl-specifier", "-Wno-address-of-packed-member")
# bcc's macro of all tables, but static. For a map whose variable is in the module bcc compiles functions that print and
# scan its entries (BPFModule::annotate), and they take twice the time of all else. What is static and not referred to,
# as no map is once bcc has put in its descriptor, does not get there.
_TABLES = """\
#undef BPF_F_TABLE
#define BPF_F_TABLE(kind, key_type, leaf_type, name, entries, map_flags) \\
struct name##_table_t { \\
	key_type key; \\
	leaf_type leaf; \\
	leaf_type *(*lookup)(key_type *); \\
	leaf_type *(*lookup_or_try_init)(key_type *, leaf_type *); \\
	int (*update)(key_type *, leaf_type *); \\
	int (*insert)(key_type *, leaf_type *); \\
	int (*delete)(key_type *); \\
	void (*call)(void *, int); \\
	u32 max_entries; \\
	int flags; \\
}; \\
static struct name##_table_t name __attribute__((section("maps/" kind), unused)) = { \\
	.max_entries = (entries), .flags = (map_flags) \\
};
#line 1 "/virtual/main.c"
"""
_NO_LINES = "-g0"  # of what bcc compiles only the instructions are taken


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
        _cache[key] = revived(source, found) if found else _compile(source, cflags)
        if not found:
            kept.keep(name, document_of(_cache[key]))
    return _cache[key]


def _key(text: str, cflags: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join((text, *cflags)).encode()).hexdigest()


def document_of(compiled: Compiled) -> dict[str, Any]:
    """What was compiled, as JSON can hold it. Types stand in the text."""
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


def revived(source: Source, document: Mapping[str, Any]) -> Compiled:
    """What SOURCE was compiled to, of which this is the DOCUMENT."""
    abi = Abi(source.text)
    programs = {
        name: Bytecode(name, base64.b64decode(insns), tuple(map(tuple, maps)), tuple(map(tuple, constants)))
        for name, (insns, maps, constants) in document["programs"].items()
    }
    abi.read(
        ctype.removeprefix("struct ")
        for _, _, *ctypes, _, _ in document["maps"]
        for ctype in ctypes
        if ctype.startswith("struct ")
    )
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


def _module(text: str, cflags: tuple[str, ...]) -> Any:
    bcc = _bcc()
    headers = kernel_headers()
    said: list[str] = []
    try:
        with _told_headers(headers), _captured_stderr(said):
            return bcc.BPF(text=text.encode(), cflags=[*_CFLAGS, *cflags])
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
    module = _module(_TABLES + source.text, (*cflags, _NO_LINES))
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


def verifier_log(compiled: Compiled, program: str, kind: int) -> str:
    """What the verifier says of a program of this KIND (libbpf.PROG_TYPE_*), with source lines: bcc loads it with its
    line table, which our bytecode lacks. Empty when the verifier takes it so.
    """
    text, files = compiled.source.text, compiled.source.files
    log = _verifier_log(compiled.source, program, kind)
    if log and not tells_places(log):
        log = _verifier_log(Source(unmarked(text), files), program, kind)
    return with_our_lines(log, text)


def _verifier_log(source: Source, program: str, kind: int) -> str:
    bcc = _bcc()
    module = _module(source.text, ())
    log = ct.create_string_buffer(LOG_SIZE)
    raw = program.encode()
    lib, handle = bcc.lib, _handle(module)
    try:
        with _captured_stderr([]):
            fd = lib.bcc_func_load(
                handle, kind, raw, lib.bpf_function_start(handle, raw), lib.bpf_function_size(handle, raw),
                lib.bpf_module_license(handle), lib.bpf_module_kern_version(handle), 1, log, LOG_SIZE, None, 0,
            )  # fmt: skip
        if fd >= 0:  # it is our constants that the verifier does not like: its log for bcc's program tells nothing
            os.close(fd)
            return ""
        return log.value.decode(errors="replace")
    finally:
        module.cleanup()
