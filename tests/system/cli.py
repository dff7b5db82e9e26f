# SPDX-License-Identifier: Apache-2.0
"""The command line, run as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "pydp")


def pydp(*words: str, before: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `BEFORE... pydp WORDS...`; OPTIONS are those of subprocess.run."""
    return subprocess.run(
        [*before, *COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options
    )


def ok(*words: str, **options: Any) -> str:
    """What a command prints that must succeed, and say nothing on stderr."""
    done = pydp(*words, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def ok_json(*words: str, **options: Any) -> Any:
    """The document of a command that must succeed."""
    found = json.loads(ok(*words, **options))
    assert found["version"] == 1
    return found


def refused(*words: str, status: int, **options: Any) -> str:
    """What a command says on stderr that must fail with STATUS, in one or two lines and without a traceback."""
    done = pydp(*words, **options)
    assert done.returncode == status, done.stdout + done.stderr
    return complaint(done.stderr)


def complaint(stderr: str) -> str:
    """STDERR, which must be what the contract says about errors."""
    lines = stderr.splitlines()
    assert 1 <= len(lines) <= 2, stderr
    assert lines[0].startswith("pydp: "), stderr
    assert all(line.startswith("  ") for line in lines[1:]), stderr
    assert "Traceback" not in stderr
    assert "internal fault" not in stderr
    return stderr
