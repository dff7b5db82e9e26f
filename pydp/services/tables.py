# SPDX-License-Identifier: Apache-2.0
"""Mappings of a document, read key by key with the kind of value that is wanted. Every error names file, line, document
and key.
"""

from __future__ import annotations

from typing import Any

from pydp.errors import UsageError
from pydp.services.documents import Document, Path, shown


class Table:
    """A mapping in a document. A key whose value is null is as good as absent."""

    __slots__ = ("_value", "document", "path", "title")

    def __init__(self, document: Document, value: object, path: Path = (), title: str = "") -> None:
        self.document, self.path, self.title = document, path, title
        if not isinstance(value, dict):
            raise self.wrong((), f"{shown(value)} is not a mapping")
        self._value: dict[str, Any] = value

    def wrong(self, path: Path, what: str) -> UsageError:
        """The error about what is at PATH below this mapping."""
        return self.document.wrong(self.path + path, what, self.title)

    def named(self, title: str) -> Table:
        """The same, called so in errors."""
        return Table(self.document, self._value, self.path, title)

    def has(self, key: str) -> bool:
        return self._value.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self._value.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong((key,), f"{shown(value)} is not a text")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._value.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong((key,), f"{shown(value)} is neither true nor false")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Raises UsageError when it is absent without a DEFAULT."""
        value = self._value.get(key)
        if value is None:
            if default is None:
                raise self.wrong((key,), "is missing")
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong((key,), f"{shown(value)} is not a whole number")
        if not low <= value <= high:
            raise self.wrong((key,), f"{value} is not between {low} and {high}")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong((key,), f"{shown(value)} is not one of {', '.join(choices)}")
        return value

    def texts(self, key: str) -> list[str]:
        found = self._list(key)
        for index, value in enumerate(found):
            if not isinstance(value, str):
                raise self.wrong((key, index), f"{shown(value)} is not a text")
        return found

    def table(self, key: str) -> Table:
        """The mapping under KEY; an empty one when it is absent."""
        value = self._value.get(key)
        return Table(self.document, {} if value is None else value, (*self.path, key), self.title)

    def tables(self, key: str) -> list[Table]:
        return [
            Table(self.document, value, (*self.path, key, index), self.title)
            for index, value in enumerate(self._list(key))
        ]

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong((key,), f"{shown(value)} is not a list")
        return value
