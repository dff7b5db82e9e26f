# SPDX-License-Identifier: Apache-2.0
"""Shell scripts by shellcheck, the Vagrantfile by Ruby and by Vagrant itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "pydp", "scripts", "tests", "vagrant")
BUILT = ROOT / "vagrant" / "build"


def is_script(path: Path) -> bool:
    if not path.is_file() or path.is_symlink() or path.is_relative_to(BUILT):
        return False
    with path.open("rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and b"sh" in first.split(b"/")[-1]


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: apt-get install {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if is_script(path)]
    assert {"run", "setup", "init.sh", "build-box"} <= {path.name for path in scripts}
    run("shellcheck", *scripts)


def test_the_vagrantfile_is_ruby() -> None:
    run("ruby", "-c", "Vagrantfile", cwd=ROOT / "vagrant")


def test_vagrant_takes_the_vagrantfile() -> None:
    """With the provider's settings, for which it needs the plugin."""
    run("vagrant", "validate", cwd=ROOT / "vagrant")
