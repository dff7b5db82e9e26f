# SPDX-License-Identifier: Apache-2.0
"""C files into one text.

bcc rewrites map calls (``map.lookup()``) in the main file only, so quoted includes are put in place of their
``#include`` line. ``#line`` marks keep file and line of everything the compiler says. Angle includes stay: they are
the kernel's headers.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebpf.errors import SourceError

_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"(.*)')
_PRAGMA_ONCE = re.compile(r"\s*#\s*pragma\s+once\b")
_LINE_MARK = re.compile(r'#line (\d+) "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Source:
    """What bcc compiles: one ``text``, and the names of the ``files`` in it in the order they were opened."""

    text: str
    files: tuple[str, ...]


def flatten(
    main: str, *, name: str = "main.c", include_dirs: Sequence[Path], virtual: Mapping[str, str] | None = None
) -> Source:
    """Put every quoted include of ``main`` in its place, each file once, as if all had ``#pragma once``.

    An include is looked for in ``virtual`` (name -> text, for generated headers), then beside the including file, then
    in ``include_dirs``. Files are called by their name relative to the include directory they are in.
    Conditions are not evaluated: an include under ``#if`` is flattened there, and there only.
    Raises SourceError with the place of the include when the file is missing or cannot be read.
    """
    flattener = _Flattener(tuple(include_dirs), virtual or {})
    lines = list(flattener.expand(_File(name, None, name), main))
    return Source("\n".join(lines) + "\n", tuple(flattener.files))


def place(text: str, offset: int) -> tuple[str, int]:
    """File and line of the character at ``offset``, by the ``#line`` marks of ``text``; file "" without marks."""
    file, line = "", 0
    for physical in text[:offset].split("\n"):
        if mark := _LINE_MARK.match(physical):
            file, line = re.sub(r"\\(.)", r"\1", mark[2]), int(mark[1]) - 1
        else:
            line += 1
    return file, line


@dataclass(frozen=True, slots=True)
class _File:
    name: str  # as errors show it
    path: Path | None  # None: a text that is in no file
    identity: object  # equal for two ways to write the same file


@dataclass(slots=True)
class _Flattener:
    include_dirs: tuple[Path, ...]
    virtual: Mapping[str, str]
    files: list[str] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    def expand(self, file: _File, text: str) -> Iterator[str]:
        self.files.append(file.name)
        self.seen.add(file.identity)
        yield _mark(1, file.name)
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            if include := _INCLUDE.match(line):
                included = self.find(include[1], file, number)
                if included.identity not in self.seen:
                    yield from self.expand(included, self.read(included, file, number))
                    yield _mark(number, file.name)
                yield include[2].strip()  # a comment may start here and end on a later line
            else:
                yield "" if _PRAGMA_ONCE.match(line) else line

    def find(self, wanted: str, by: _File, number: int) -> _File:
        beside = os.path.normpath(Path(by.name).parent / wanted)
        for virtual in (beside, wanted):
            if virtual in self.virtual:
                return _File(virtual, None, virtual)
        folders = [by.path.parent] if by.path else []
        for folder in [*folders, *self.include_dirs]:
            path = folder / wanted
            if path.is_file():
                return _File(self.shown(path), path, path.resolve())
        looked = ", ".join(str(folder) for folder in [*folders, *self.include_dirs]) or "no directory"
        raise SourceError(f'"{wanted}" is not found (looked in {looked})', file=by.name, line=number)

    def shown(self, path: Path) -> str:
        for folder in self.include_dirs:
            relative = os.path.relpath(path, folder)
            if not relative.startswith(os.pardir):
                return relative
        return str(path)

    def read(self, included: _File, by: _File, number: int) -> str:
        if included.path is None:
            return self.virtual[included.name]
        try:
            return included.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f'"{included.name}" cannot be read: {error}'
            raise SourceError(message, file=by.name, line=number) from error


def _mark(line: int, name: str) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'#line {line} "{quoted}"'
