# SPDX-License-Identifier: Apache-2.0
"""Documents of a YAML or JSON file, read key by key, so that whatever is wrong is told with its place:

    services.yaml:41: document 3 (Service default/web): spec.ports[0].port: 70000 is not between 1 and 65535

Plain scalars are what Kubernetes takes them for: YAML 1.1 without dates and numbers to the base 60.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from pydp.errors import UsageError

Path = tuple[str | int, ...]  # keys and indices from the document's root

_DEEPEST = 64  # levels; manifests have ten
_PLAIN, _QUOTED = "", "!"
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file; ``number`` counts from 1, empty ones too. The text is kept to look lines up in it."""

    file: str
    text: str
    number: int
    value: Any

    def wrong(self, path: Path, what: str, title: str = "") -> UsageError:
        """The error about what is at PATH."""
        line = _line(self, path)
        where = f"{self.file}{f':{line}' if line else ''}: document {self.number}{f' ({title})' if title else ''}"
        return UsageError(f"{where}: {f'{path_text(path)}: ' if path else ''}{what}")


def read(text: str, file: str) -> list[Document]:
    """The documents of a text that is YAML or, if it begins with a brace, JSON: ten times as quick. FILE is for errors.

    Raises UsageError when it is neither, has a key twice, or things that Kubernetes does not take.
    """
    return (text[:1] == "{" and _json(text, file)) or _yaml(text, file)


@contextlib.contextmanager
def much_made() -> Iterator[None]:
    """While a large file is read all that is made is kept: looking for garbage would take a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def path_text(path: Path) -> str:
    """("spec", "ports", 0, "port") -> "spec.ports[0].port"; keys that are no words stand in brackets, too."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w-]+", step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text


def shown(value: object) -> str:
    """A value in an error, as short as it has to be."""
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _json(text: str, file: str) -> list[Document] | None:
    """None for what is no plain JSON: as YAML, which JSON is, it is told better what is wrong, and where."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        return [Document(file, text, 1, json.loads(text, object_pairs_hook=table))]
    except (ValueError, RecursionError):
        return None


def _yaml(text: str, file: str) -> list[Document]:
    found: list[Document] = []
    try:
        for node in _nodes(text):
            found.append(Document(file, text, len(found) + 1, _Builder().build(node)))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        known = isinstance(error, _Refused)
        what = f"document {len(found) + 1}: {error.problem}" if known else f"not YAML: {error.problem or error.context}"
        raise UsageError(f"{file}{line}: {what}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    return found


class _Refused(yaml.MarkedYAMLError):
    """YAML, but not what is read here."""

    def __init__(self, what: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=what, problem_mark=mark)


class _Shallow:
    """What a composer asks about nodes: plain scalars are told from quoted ones, and depth is bounded, since libyaml's
    composer, which is in C, would overflow its stack.
    """

    depth = 0

    def resolve(self, kind: type[yaml.Node], _value: object, implicit: Any) -> str:
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _QUOTED

    def descend_resolver(self, _parent: yaml.Node | None, _index: object) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _Refused(f"nested more than {_DEEPEST} levels deep", getattr(_parent, "start_mark", None))

    def ascend_resolver(self) -> None:
        self.depth -= 1


# SafeLoader is what there is where PyYAML was built without libyaml: the same, ten times slower.
_COMPOSER: Any = type("_Composer", (_Shallow, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), {})


def _nodes(text: str) -> Iterator[yaml.Node]:
    composer = _COMPOSER(text)
    while composer.check_node():
        yield composer.get_node()


class _Builder:
    """Values from the nodes of one document. What an alias refers to is built once."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}

    def build(self, node: yaml.Node) -> Any:
        if type(node) is yaml.ScalarNode:
            return _scalar(node)
        if id(node) in self._built:
            return self._built[id(node)]
        if node.tag not in (_PLAIN, _QUOTED, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise _Refused(f"the tag {node.tag} is not known here", node.start_mark)
        if type(node) is yaml.SequenceNode:
            items: list[Any] = []
            self._built[id(node)] = items
            items.extend(self.build(one) for one in node.value)
            return items
        found: dict[str, Any] = {}
        self._built[id(node)] = found
        for key, value in node.value:
            name = key.value
            if type(key) is not yaml.ScalarNode or (name == "<<" and key.tag == _PLAIN):
                what = "merge keys are not supported" if name == "<<" else "a key is not a text"
                raise _Refused(what, key.start_mark)
            if name in found:
                raise _Refused(f"the key {shown(name)} is there twice", key.start_mark)
            found[name] = self.build(value)
        return found


def _scalar(node: yaml.ScalarNode) -> Any:
    tag = node.tag
    if tag == _PLAIN:
        return _plain(node.value)
    if tag in (_QUOTED, "tag:yaml.org,2002:str"):
        return node.value
    if tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"):
        return _plain(node.value)
    raise _Refused(f"the tag {tag} is not known here", node.start_mark)


@lru_cache(maxsize=4096)
def _plain(value: str) -> str | int | bool | None:
    if value in _WORDS:
        return _WORDS[value]
    return int(value) if _INTEGER.fullmatch(value) else value


def _line(document: Document, path: Path) -> int | None:
    """The line of a document where PATH begins, or as much of it as there is; None for JSON that is no YAML (tabs)."""
    try:
        node = next(node for number, node in enumerate(_nodes(document.text), 1) if number == document.number)
    except yaml.YAMLError:
        return None
    line = int(node.start_mark.line) + 1
    for step in path:
        below = _below(node, step)
        if below is None:
            break
        at, node = below
        line = int(at.start_mark.line) + 1
    return line


def _below(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """Where a step from NODE is written, and where it leads to."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None
