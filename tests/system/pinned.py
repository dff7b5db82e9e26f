# SPDX-License-Identifier: Apache-2.0
"""The pinned document as a version that is not this one might have left it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebpf.pins import read_blob, write_blob


@contextlib.contextmanager
def changed(path: Path) -> Iterator[dict[str, Any]]:
    """The document at PATH, to be changed."""
    found = json.loads(read_blob(path))
    yield found
    path.unlink()
    write_blob(path, json.dumps(found).encode())
