# SPDX-License-Identifier: Apache-2.0
"""A checkout and an installed wheel find the same C sources; versions are bounded and pinned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pydp.sources import bpf_src

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["report"],
        *PROJECT["project"]["optional-dependencies"]["test"],
    ]
]


def run(*command: object, cwd: Path) -> str:
    """Standard output of *command*, which neither the network nor this process's Python settings can change."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path, *suffixes: str) -> dict[str, bytes]:
    """Relative path -> content of the files with these suffixes below *folder*."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree: setuptools leaves build/ behind, and would take stale files from it."""
    base = tmp_path_factory.mktemp("wheel")
    tree = base / "tree"
    tree.mkdir()
    for name in ("pydp", "ebpf", "bpf_src", "LICENSES"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", base, tree, cwd=base)
    (built,) = base.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a throwaway virtual environment with the wheel in it; what pydp depends on is borrowed from ours."""
    base = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", base, cwd=base)
    python = base / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=base)
    (site,) = base.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n", encoding="utf-8")
    return python.parent


def test_a_checkout_finds_its_own_sources() -> None:
    assert bpf_src() == ROOT / "bpf_src"
    assert (bpf_src() / "abi.h").is_file()


def test_an_editable_install_finds_the_checkout(tmp_path: Path) -> None:
    found = run(sys.executable, "-c", "from pydp.sources import bpf_src; print(bpf_src())", cwd=tmp_path)
    assert Path(found.strip()) == ROOT / "bpf_src"


def test_an_installed_wheel_finds_the_same_files(installed: Path, tmp_path: Path) -> None:
    found = Path(
        run(installed / "python", "-c", "from pydp.sources import bpf_src; print(bpf_src())", cwd=tmp_path).strip()
    )
    assert found.is_relative_to(installed.parent)
    assert "abi.h" in files(found, ".h")
    assert files(found, ".c", ".h") == files(ROOT / "bpf_src", ".c", ".h")


def test_an_installed_wheel_answers_for_help(installed: Path, tmp_path: Path) -> None:
    assert "attach" in run(installed / "pydp", "--help", cwd=tmp_path)


def test_the_wheel_holds_every_module_and_the_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("pydp", "ebpf"):
        assert {f"{package}/{name}" for name in files(ROOT / package, ".py")} <= names
        assert f"{package}/py.typed" in names
    monitoring = files(ROOT / "pydp" / "monitoring", ".yml", ".json")
    assert monitoring
    assert {f"pydp/monitoring/{name}" for name in monitoring} <= names
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "Apache-2.0.txt", "GPL-2.0-only.txt", "BSD-2-Clause.txt"}
    assert {name.partition("/")[0] for name in names} == {
        "pydp",
        "ebpf",
        f"pydp-{PROJECT['project']['version']}.dist-info",
    }


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_bounded_and_pinned(requirement: Requirement) -> None:
    assert any(bound.operator == "<" for bound in requirement.specifier)
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_bcc_is_not_a_requirement() -> None:
    """PyPI's bcc is an unrelated package."""
    assert not {"bcc", "bpfcc"} & {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
