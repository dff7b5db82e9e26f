# SPDX-License-Identifier: Apache-2.0
"""Results as JSON: read back, and described as a JSON schema. Both follow from the types in results.py."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydp.bench.results import VERSION, Results
from pydp.errors import UsageError

_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}


class Unreadable(UsageError):
    """A file that does not hold results, or those of another version."""


def load(path: Path) -> Results:
    """What a run wrote with --json. Raises Unreadable naming file and key, OSError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("version") != VERSION:
            found = document.get("version", "none") if isinstance(document, dict) else "none"
            raise Unreadable(f"{path}: version {found}, not {VERSION}", hint="measure again with this version of pydp")
        return typing.cast("Results", _read(Results, {**document}, "", ignore={"version"}))
    except ValueError as error:  # of JSON, of UTF-8, or of _read()
        raise Unreadable(f"{path}: {error}", hint="`pydp bench --json FILE` writes such files") from error


def save(results: Results, path: Path) -> None:
    """Write them. Raises OSError."""
    path.write_text(dumps(results) + "\n", encoding="utf-8")


def dumps(results: Results) -> str:
    """As JSON."""
    return json.dumps(results.document(), indent=1, allow_nan=False)


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what `dumps` gives."""
    found = _describe(Results)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "results of pydp bench",
        **found,
        "properties": {"version": {"const": VERSION}, **found["properties"]},
        "required": ["version", *found["required"]],
    }


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, value: Any, where: str, ignore: set[str] | None = None) -> Any:
    """VALUE as KIND. Raises ValueError naming the key that is at fault."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(inner[0], value, where)
    if origin in (tuple, list):
        items = _checked(value, list, where)
        return origin(_read(inner[0], one, f"{where}[{number}]") for number, one in enumerate(items))
    if origin is Mapping:
        return {key: _read(inner[1], one, f"{where}.{key}") for key, one in _checked(value, dict, where).items()}
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, _checked(value, dict, where), where, ignore or set())
    if issubclass(kind, enum.Enum):
        return kind(value)
    return kind(_checked(value, (int, float) if kind is float else kind, where))


def _read_record(kind: Any, value: Mapping[str, Any], where: str, ignore: set[str]) -> Any:
    hints = _hints(kind)
    for key in value.keys() ^ hints.keys():
        if key not in ignore:
            raise ValueError(f"{where}.{key}".lstrip(".") + (": no such key" if key in hints else ": an unknown key"))
    return kind(**{key: _read(hint, value[key], f"{where}.{key}") for key, hint in hints.items()})


def _checked(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where.lstrip('.')}: {value!r:.40} is of another type than it should be")
    return value


def _describe(kind: Any) -> dict[str, Any]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_describe(inner[0]), {"type": "null"}]}
    if origin in (tuple, list):
        return {"type": "array", "items": _describe(inner[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _describe(inner[1])}
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast("type", kind))
        return {
            "type": "object",
            "properties": {key: _describe(hint) for key, hint in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    if issubclass(kind, enum.Enum):
        return {"enum": _values(list(kind))}
    return {"type": _SCALARS[kind]}


def _values(members: Sequence[enum.Enum]) -> list[Any]:
    return [member.value for member in members]
