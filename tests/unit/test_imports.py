# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: cli -> datapath -> modes -> model; ebpf stands alone. Read from the text, not by importing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("bcc", "pyroute2", "prometheus_client", "scapy")


@dataclass(frozen=True, slots=True)
class Import:
    module: str  # absolute dotted name; of `from a import b` both a and a.b are given, since b may be a module
    line: int
    late: bool  # inside a function, or for the type checker only: not executed when the file is imported


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    who: tuple[str, ...]
    never: tuple[str, ...]
    but: tuple[str, ...] = ()


RULES = (
    Rule("ebpf knows nothing of pydp", who=("ebpf",), never=("pydp",)),
    Rule("one place speaks to bcc", who=("ebpf", "pydp"), never=("bcc",), but=("ebpf.compiler",)),
    Rule(
        "modes are pure",
        who=("pydp.modes",),
        never=("bcc", "ctypes", "socket", "pyroute2", "pydp.datapath", "pydp.cli", "pydp.kernel"),
    ),
    Rule(
        "the datapath knows no services",
        who=("pydp.datapath", "pydp.modes", "pydp.kernel"),
        never=("pydp.services",),
    ),
    Rule(
        "the command line is nobody's library",
        who=("ebpf", "pydp"),
        never=("pydp.cli",),
        but=("pydp.cli", "pydp.__main__"),
    ),
)


def below(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The module that a `from` names, with its leading dots resolved from where it stands."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(tree: ast.AST, module: str, is_package: bool = False, late: bool = False) -> Iterator[Import]:
    """Every import below *tree*, the text of *module*, in order."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package)
            yield Import(base, node.lineno, late)
            yield from (Import(f"{base}.{alias.name}", node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            yield from imports(ast.Module(node.body, []), module, is_package, late=True)
            yield from imports(ast.Module(node.orelse, []), module, is_package, late)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, module, is_package, late or function)


def read(path: Path) -> list[Import]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), module_name(path), path.name == "__init__.py"))


def breaches(rule: Rule, module: str, found: list[Import]) -> list[Import]:
    if not below(module, *rule.who) or below(module, *rule.but):
        return []
    return [entry for entry in found if below(entry.module, *rule.never)]


SOURCES = {module_name(path): path for package in ("ebpf", "pydp") for path in sorted((ROOT / package).rglob("*.py"))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
def test_imports_point_one_way(rule: Rule) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{entry.line} imports {entry.module}"
        for module, path in SOURCES.items()
        for entry in breaches(rule, module, read(path))
    ]
    assert not wrong, "\n".join([rule.name, *wrong])


def test_the_command_line_starts_without_heavy_imports() -> None:
    """`pydp --help` answers in 0.15 s: nothing that main.py executes on import, directly or through us, loads these."""
    waiting, seen, wrong = ["pydp.cli.main"], set[str](), []
    assert "pydp.cli.main" in SOURCES
    while waiting:
        module = waiting.pop()
        if module in seen or module not in SOURCES:
            continue
        seen.add(module)
        parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        eager = [entry for entry in read(SOURCES[module]) if not entry.late]
        wrong += [f"{module}:{entry.line} imports {entry.module}" for entry in eager if below(entry.module, *HEAVY)]
        waiting += [*parents, *(entry.module for entry in eager)]
    assert not wrong, "\n".join(wrong)


SAMPLE = """
from __future__ import annotations
import bcc.table as table
from . import cli
from ..ebpf import maps
try:
    import socket
except ImportError:
    pass
if TYPE_CHECKING:
    import pyroute2
else:
    import ctypes
def late():
    from .kernel import View
"""


def test_the_reader_sees_every_kind_of_import() -> None:
    found = {(entry.module, entry.late) for entry in imports(ast.parse(SAMPLE), "pydp.modes.bridge")}
    assert found >= {
        ("bcc.table", False),
        ("pydp.modes", False),
        ("pydp.modes.cli", False),
        ("pydp.ebpf", False),
        ("pydp.ebpf.maps", False),
        ("socket", False),
        ("pyroute2", True),
        ("ctypes", False),
        ("pydp.modes.kernel.View", True),
    }


def test_dots_count_from_the_package_in_an_init_file() -> None:
    found = {entry.module for entry in imports(ast.parse("from .bridge import STAGE"), "pydp.modes", is_package=True)}
    assert found == {"pydp.modes.bridge", "pydp.modes.bridge.STAGE"}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ebpf.maps", "def f():\n    import pydp.model"),
        ("ebpf.maps", "import bcc"),
        ("pydp.modes.bridge", "from pydp import kernel"),
        ("pydp.modes.bridge", "import socket"),
        ("pydp.datapath.api", "from pydp.services.model import Service"),
        ("pydp.metrics.page", "from pydp.cli.main import main"),
    ],
)
def test_the_rules_catch_what_they_forbid(module: str, text: str) -> None:
    found = list(imports(ast.parse(text), module))
    assert any(breaches(rule, module, found) for rule in RULES)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ebpf.compiler", "import bcc"),
        ("pydp.cli.fdb", "from pydp.cli import output"),
        ("pydp.modes.bridge", "import pydp.model"),
    ],
)
def test_the_rules_allow_the_rest(module: str, text: str) -> None:
    found = list(imports(ast.parse(text), module))
    assert not any(breaches(rule, module, found) for rule in RULES)
