# SPDX-License-Identifier: Apache-2.0
"""Guests of `make test-kernels` have their host compile (tests/kernels/compiles.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebpf.abi import Abi
from ebpf.compiler import Bytecode, Compiled
from ebpf.errors import CompileError
from ebpf.source import Source
from tests.kernels import compiles

SOURCE = Source("int one(void) { return 1; }\n", ("main.c",))
COMPILED = Compiled(SOURCE, Abi(SOURCE.text), {"one": Bytecode("one", bytes(16), ((0, "a map"),), ((1, 2),))}, {})


def no_compiler(source: Source, cflags: tuple[str, ...]) -> Compiled:
    raise AssertionError(f"{source} {cflags} was to be compiled by the host")


@contextmanager
def host(running: Path) -> Iterator[None]:
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.01):
            compiles.answer_all(running)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    folder = tmp_path / "1-a" / "6.1" / "exchange" / "results" / compiles.FOLDER
    folder.parent.mkdir(parents=True)
    return folder


def test_the_host_compiles(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Source, tuple[str, ...]]] = []

    def compile_source(*question: Source | tuple[str, ...]) -> Compiled:
        seen.append(question)  # type: ignore[arg-type]
        return COMPILED

    monkeypatch.setattr(compiles, "compile_source", compile_source)
    with host(tmp_path):
        for _ in range(2):
            found = compiles.asking(no_compiler, asked)(SOURCE, ("-D", "A=1"))
            assert (found.source, found.programs) == (SOURCE, COMPILED.programs)
    assert seen == [(SOURCE, ("-D", "A=1"))]


def test_a_guest_compiles_what_the_host_cannot(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Compiled:
        raise CompileError("no such type", file="main.c", line=1)

    monkeypatch.setattr(compiles, "compile_source", refuse)
    with host(tmp_path):
        assert compiles.asking(lambda *_: COMPILED, asked)(SOURCE, ()) is COMPILED


def test_a_guest_without_an_answer_compiles(asked: Path) -> None:
    assert compiles.asking(lambda *_: COMPILED, asked, patience=0.3)(SOURCE, ()) is COMPILED
