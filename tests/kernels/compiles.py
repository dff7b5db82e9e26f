# SPDX-License-Identifier: Apache-2.0
"""Guests have their host compile: what clang does in two seconds takes an emulated CPU two minutes.

A guest leaves what it wants compiled in the folder of its results, as a file that it names by what is in it, and waits
for an answer beside it. As a program this is the host's side, for all guests that run, until it is stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebpf import kept
from ebpf.compiler import Compiled, compile_source, document_of, revived
from ebpf.errors import EbpfError
from ebpf.source import Source
from pydp.lab.vm.kernels import lab_cache

FOLDER = "asked"  # in that of the results
PATIENCE = 120.0  # s, after which a guest compiles by itself
_PAUSE = 0.2  # s
Compile = Callable[[Source, tuple[str, ...]], Compiled]


def asking(alone: Compile, folder: Path, patience: float = PATIENCE) -> Compile:
    """What compiles by asking in FOLDER, and ALONE where the host cannot, or is silent, or nothing is to be kept."""

    def compiled(source: Source, cflags: tuple[str, ...]) -> Compiled:
        if os.environ.get(kept.OFF):
            return alone(source, cflags)
        text = json.dumps([source.text, source.files, cflags])
        question = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.question"
        _write(question, text)
        answer, until = question.with_suffix(".answer"), time.monotonic() + patience
        while not answer.exists():
            if time.monotonic() > until:
                return alone(source, cflags)
            time.sleep(_PAUSE)
        document: dict[str, Any] | None = json.loads(answer.read_text())
        return revived(source, document) if document else alone(source, cflags)

    return compiled


def answer_all(running: Path) -> None:
    """Answer what guests ask in the folders of their runs below RUNNING; what cannot be compiled here, with nothing."""
    for question in running.glob(f"*/*/exchange/results/{FOLDER}/*.question"):
        answer = question.with_suffix(".answer")
        if answer.exists():
            continue
        with contextlib.suppress(FileNotFoundError):  # the guest has ended
            text, files, cflags = json.loads(question.read_text())
            document = None
            with contextlib.suppress(EbpfError):
                document = document_of(compile_source(Source(text, tuple(files)), tuple(cflags)))
            _write(answer, json.dumps(document))


def _write(path: Path, text: str) -> None:
    """Whoever finds it finds all of it."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text)
    new.rename(path)


def main() -> None:
    running = lab_cache() / "running"
    while True:
        answer_all(running)
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
