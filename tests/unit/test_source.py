# SPDX-License-Identifier: Apache-2.0
"""Flattening: what goes where, once, and under which file and line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ebpf.errors import SourceError
from ebpf.source import flatten, place


def tree(root: Path, **files: str) -> Path:
    """Write ``a__b=text`` as root/a/b.h."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".h")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def where(text: str, needle: str) -> tuple[str, int]:
    return place(text, text.index(needle))


def test_every_line_keeps_its_file_and_number(tmp_path: Path) -> None:
    tree(tmp_path, lib__packet='#pragma once\n#include "parse.h"\nint packet;\n', lib__parse="\n\nint parse;\n")
    main = '#include <linux/bpf.h>\n#include "lib/packet.h"\nint main_;\n'
    source = flatten(main, name="xdp.c", include_dirs=[tmp_path])
    assert source.files == ("xdp.c", "lib/packet.h", "lib/parse.h")
    assert where(source.text, "#include <linux/bpf.h>") == ("xdp.c", 1)
    assert where(source.text, "int parse") == ("lib/parse.h", 3)
    assert where(source.text, "int packet") == ("lib/packet.h", 3)
    assert where(source.text, "int main_") == ("xdp.c", 3)
    assert "pragma" not in source.text
    assert '#include "' not in source.text


def test_the_preprocessor_agrees_on_the_lines(tmp_path: Path) -> None:
    cpp = next((found for name in ("cpp", "cpp-12", "clang-cpp-14") if (found := shutil.which(name))), None)
    if cpp is None:
        pytest.skip("no C preprocessor is installed")
    tree(tmp_path, a='int a;\n#include "b.h"\n#error here\n', b="int b;\n")
    source = flatten('#include "a.h"\n', include_dirs=[tmp_path])
    done = subprocess.run([cpp, "-"], input=source.text, capture_output=True, text=True, check=False)
    assert "a.h:3" in done.stderr


def test_a_file_is_included_once_by_whatever_name(tmp_path: Path) -> None:
    tree(tmp_path, abi="int abi;\n", lib__one='#include "../abi.h"\nint one;\n')
    (tmp_path / "alias.h").symlink_to("abi.h")
    main = '#include "lib/one.h"\n#include "abi.h"\n#include "./abi.h"\n#include "alias.h"\n'
    source = flatten(main, include_dirs=[tmp_path])
    assert source.text.count("int abi;") == 1
    assert source.files == ("main.c", "lib/one.h", "abi.h")


def test_a_cycle_ends(tmp_path: Path) -> None:
    tree(tmp_path, a='#include "b.h"\nint a;\n', b='#include "a.h"\nint b;\n')
    source = flatten('#include "a.h"\n', include_dirs=[tmp_path])
    assert source.text.index("int b;") < source.text.index("int a;")


def test_the_including_folder_comes_before_the_include_dirs(tmp_path: Path) -> None:
    tree(tmp_path, x="int outer;\n", lib__x="int inner;\n", lib__a='#include "x.h"\n')
    assert "int inner;" in flatten('#include "lib/a.h"\n', include_dirs=[tmp_path]).text
    assert "int outer;" in flatten('#include "x.h"\n', include_dirs=[tmp_path]).text


def test_include_dirs_are_tried_in_order(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "1", x="int first;\n"), tree(tmp_path / "2", x="int second;\n", y="int y;\n")
    text = flatten('#include "x.h"\n#include "y.h"\n', include_dirs=[first, second]).text
    assert "int first;" in text
    assert "int second;" not in text
    assert "int y;" in text


@pytest.mark.parametrize("written", ["config.h", "../config.h"])
def test_a_virtual_file_wins_over_a_file(tmp_path: Path, written: str) -> None:
    tree(tmp_path, config="#define SIZE 1\n", lib__config="#define SIZE 2\n", lib__a=f'#include "{written}"\nint a;\n')
    virtual = {"config.h": '#include "extra.h"\n#define SIZE 3\n', "extra.h": "int extra;\n"}
    source = flatten('#include "lib/a.h"\n#include "config.h"\n', include_dirs=[tmp_path], virtual=virtual)
    assert source.files == ("main.c", "lib/a.h", "config.h", "extra.h")
    assert [line for line in source.text.split("\n") if line.startswith("#define")] == ["#define SIZE 3"]
    assert where(source.text, "#define SIZE 3") == ("config.h", 2)


def test_what_follows_an_include_on_its_line_stays(tmp_path: Path) -> None:
    tree(tmp_path, a="int a;")
    source = flatten('  # include "a.h" /* begins\n ends */ int b;', include_dirs=[tmp_path])
    assert "int a;\n" in source.text
    assert "/* begins\n ends */" in source.text
    assert where(source.text, "/* begins") == ("main.c", 1)
    assert where(source.text, "int b;") == ("main.c", 2)


def test_form_feeds_and_quotes_do_not_shift_lines() -> None:
    source = flatten("int a;\f\x1c\nint b;\n", name='odd"\\name.c', include_dirs=[])
    assert where(source.text, "int b;") == ('odd"\\name.c', 2)


def test_a_missing_file_names_the_place(tmp_path: Path) -> None:
    tree(tmp_path, lib__a='int a;\n\n#include "gone.h"\n')
    with pytest.raises(SourceError, match=r'^lib/a\.h:3: "gone\.h" is not found') as caught:
        flatten('#include "lib/a.h"\n', include_dirs=[tmp_path])
    assert (caught.value.file, caught.value.line) == ("lib/a.h", 3)


def test_an_unreadable_file_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "latin.h").write_bytes(b"// caf\xe9\n")
    with pytest.raises(SourceError, match=r'^main\.c:2: "latin\.h" cannot be read'):
        flatten('\n#include "latin.h"\n', include_dirs=[tmp_path])


def test_place_without_marks_counts_plain_lines() -> None:
    assert place("a\nb\nc", 4) == ("", 3)
