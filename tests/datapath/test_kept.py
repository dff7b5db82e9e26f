# SPDX-License-Identifier: Apache-2.0
"""What was compiled is kept in files: used again, and never trusted blindly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ebpf import compiler, kept, loader, testrun
from ebpf.maps import Map
from ebpf.source import Source, flatten

TEXT = """
struct pair { __u64 first; __u32 second; };
BPF_TABLE("array", __u32, struct pair, pairs, 4);
int work(struct xdp_md *ctx)
{
\t__u32 zero = 0;
\tstruct pair *pair = pairs.lookup(&zero);
\tif (pair)
\t\tpair->first += NUMBER;
\treturn XDP_PASS;
}
"""

pytestmark = pytest.mark.usefixtures("requires_root")


def source(number: int) -> Source:
    return flatten(f"#define NUMBER {number}\n#include <uapi/linux/bpf.h>\n{TEXT}", name="main.c", include_dirs=[])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a process that has compiled nothing yet."""
    monkeypatch.setattr(kept, "cache_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(compiler, "_cache", {})
    monkeypatch.delenv("PYDP_NO_CACHE", raising=False)
    return tmp_path / "compiled"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache", {})


def refuse(*_: object) -> None:
    raise AssertionError("compiled")


def sum_of(compiled: compiler.Compiled) -> int:
    """What one run adds: the program works, and the map is read by its layout."""
    with Map.create(compiled.maps["pairs"]) as pairs, loader.load(compiled, "work", "xdp", {"pairs": pairs}) as program:
        testrun.run(program, bytes(64))
        return int(pairs.get(0).first)


def test_used_again_by_another_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiler.compile_source(source(7))
    assert len(list(folder.iterdir())) == 1
    forget(monkeypatch)
    monkeypatch.setattr(compiler, "_compile", refuse)
    again = compiler.compile_source(source(7))
    assert again.programs == first.programs
    assert again.maps.keys() == first.maps.keys()
    assert sum_of(again) == 7


def test_comments_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.compile_source(source(7))
    monkeypatch.setattr(compiler, "_compile", refuse)
    said = replace(source(7), text="/* said */\n" + source(7).text.replace("\n", " // and said\n\n", 1))
    again = compiler.compile_source(said)
    assert again.source is said
    assert sum_of(again) == 7


def test_another_text_is_compiled(folder: Path) -> None:
    compiler.compile_source(source(7))
    assert sum_of(compiler.compile_source(source(8))) == 8
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_a_damaged_file_is_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    compiler.compile_source(source(7))
    (path,) = folder.iterdir()
    path.write_bytes(damage)
    forget(monkeypatch)
    assert sum_of(compiler.compile_source(source(7))) == 7
    assert path.read_bytes() != damage


def test_a_folder_that_others_write_to_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.compile_source(source(7))
    folder.chmod(0o777)
    (path,) = folder.iterdir()
    path.write_bytes(b"theirs")
    forget(monkeypatch)
    assert sum_of(compiler.compile_source(source(7))) == 7
    assert path.read_bytes() == b"theirs"


def test_it_can_be_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDP_NO_CACHE", "1")
    compiler.compile_source(source(7))
    assert not folder.exists()


def test_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST", 2)
    for number in range(4):
        kept.keep(f"name{number}", {"number": number})
    assert len(list(folder.iterdir())) == 2
    assert kept.recall("name3") == {"number": 3}
