# SPDX-License-Identifier: Apache-2.0
"""The initramfs of a guest: busybox, the few modules that its root file system needs, and init.sh."""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydp.lab.vm.needs import BUSYBOX

HERE = Path(__file__).parent
_NEEDED = ("virtio_pci", "virtio_console", "overlay", "9p", "9pnet_virtio")
_FOLDERS = ("bin", "dev", "lower", "modules", "new", "proc", "sys", "upper")


def initramfs(modules: Path) -> bytes:
    """A cpio archive for the kernel whose folder of MODULES that is (with modules.dep)."""
    archive = [_entry(name, b"", stat.S_IFDIR | 0o755) for name in _FOLDERS]
    archive.append(_entry("bin/busybox", BUSYBOX.read_bytes(), stat.S_IFREG | 0o755))
    archive.append(_entry("init", (HERE / "init.sh").read_bytes(), stat.S_IFREG | 0o755))
    for number, path in enumerate(_in_order(modules)):
        name = path.name.split(".ko")[0]
        archive.append(_entry(f"modules/{number:02d}-{name}", _plain(path), stat.S_IFREG | 0o644))
    return b"".join([*archive, _entry("TRAILER!!!", b"", 0)])


def _in_order(modules: Path) -> Iterator[Path]:
    """The modules to load, each after those it depends on; what is built in is left out."""
    depends = _dependencies((modules / "modules.dep").read_text())
    names = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in depends}
    done: set[str] = set()
    for name in _NEEDED:
        path = names.get(name)
        for one in (*reversed(depends[path]), path) if path else ():
            if one not in done:
                done.add(one)
                yield modules / one


def _dependencies(text: str) -> Mapping[str, list[str]]:
    """modules.dep: a module, and all it depends on, the nearest first."""
    return {path: needs.split() for path, _, needs in (line.partition(":") for line in text.splitlines())}


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _entry(name: str, content: bytes, mode: int) -> bytes:
    """One file in cpio's format newc: thirteen numbers of eight hexadecimal digits, name and content padded to four."""
    links = 2 if stat.S_ISDIR(mode) else 1
    numbers = (0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
