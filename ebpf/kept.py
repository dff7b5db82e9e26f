# SPDX-License-Identifier: Apache-2.0
"""What was compiled, kept in files for processes to come, since clang takes some seconds for a large program.

A file's name says what went into it. Whatever is wrong with the files or their folder, they are just not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

from ebpf.cachedir import NotOurs, cache_folder, is_own, make_own

_FORMAT = 1
_MOST = 1024  # files; those not used for longest go first
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
OFF = "PYDP_NO_CACHE"  # in the environment: neither read nor write


def name_of(key: str, headers: str) -> str:
    """The name for what a text with this KEY compiles to, with these kernel headers and the bcc that is installed."""
    return hashlib.sha256(f"{_FORMAT} {key} {headers} {_stamp(Path(headers))} {_bcc()}".encode()).hexdigest()[:40]


def recall(name: str) -> dict[str, Any] | None:
    """What was kept under that name."""
    if os.environ.get(OFF):
        return None
    with contextlib.suppress(NotOurs, OSError, ValueError, zlib.error):
        folder = cache_folder("compiled")
        if is_own(folder):
            path = folder / name
            found = json.loads(zlib.decompress(path.read_bytes()))
            os.utime(path)
            return dict(found)
    return None


def keep(name: str, document: dict[str, Any]) -> None:
    """Keep DOCUMENT under that name; quietly not, where that cannot be done."""
    if os.environ.get(OFF):
        return
    with contextlib.suppress(NotOurs, OSError):
        folder = cache_folder("compiled")
        make_own(folder)
        with tempfile.NamedTemporaryFile(prefix=".new-", dir=folder, delete=False) as file:
            try:
                file.write(zlib.compress(json.dumps(document).encode(), 1))
                file.flush()
                Path(file.name).rename(folder / name)
            except BaseException:
                Path(file.name).unlink()
                raise
        _tidy(folder)


def _tidy(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[_MOST:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _stamp(path: Path) -> str:
    """What changes when a file or folder is replaced; no inode, which is another where a guest sees the same files."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    return ""


def _bcc() -> str:
    """Which libbcc there is: its clang is linked in."""
    return " ".join(
        f"{path.resolve()} {_stamp(path)}"
        for folder in _LIBRARIES
        for path in (*Path(folder).glob("libbcc.so.0"), *Path(folder).glob("*/libbcc.so.0"))
    )
