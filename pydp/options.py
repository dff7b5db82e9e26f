# SPDX-License-Identifier: Apache-2.0
"""Options declared once, as fields of a frozen dataclass: flags, TOML keys, checks and help all come from there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydp.errors import UsageError

Kind = Literal["flag", "int", "seconds", "choice", "text", "names", "texts", "tables"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``low`` and ``high`` bound numbers; ``choices`` are the words of a choice."""

    key: str
    kind: Kind
    help: str
    metavar: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")


def option(
    default: Any,
    kind: Kind,
    help: str,  # noqa: A002 - the word everybody knows from argparse
    *,
    metavar: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is an option. Lists ("names", "texts") are tuples of str and may be given repeatedly."""
    about = {"option": Option("", kind, help, metavar, low, high, choices)}
    return dataclasses.field(default=default, metadata=about)


def options_of(cls: type[Any]) -> Iterator[Option]:
    """The options that a dataclass declares."""
    for one in dataclasses.fields(cls):
        if "option" in one.metadata:
            yield dataclasses.replace(one.metadata["option"], key=one.name)


def parse_options(cls: type[Any], values: Mapping[str, Any], *, where: str = "") -> Any:
    """Make CLS from VALUES (text from the command line, or what TOML gives). Raises UsageError that names the key."""
    known = {one.key: one for one in options_of(cls)}
    for key in values:
        if key not in known:
            raise UsageError(f"{where}{key}: there is no such option", hint=f"options: {', '.join(known)}")
    return cls(**{key: _parse(known[key], value, where) for key, value in values.items() if value is not None})


def _parse(one: Option, value: Any, where: str) -> Any:
    name = f"{where}{one.key}" if where else one.flag
    if one.kind == "flag":
        if not isinstance(value, bool):
            raise UsageError(f"{name}: {value!r} is neither true nor false")
        return value
    if one.kind == "text":
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UsageError(f"{name}: {value!r} is not a text")
        return str(value)
    if one.kind == "tables":
        return tuple(value)
    if one.kind in ("int", "seconds"):
        return _number(one, value, name)
    if one.kind == "choice":
        if value not in one.choices:
            raise UsageError(f"{name}: {value!r} is not one of {', '.join(one.choices)}")
        return value
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name}: {value!r} is not a list of texts")
    return tuple(value)


def _number(one: Option, value: Any, name: str) -> int | float:
    whole = one.kind == "int"
    kind = "a whole number" if whole else "a number of seconds"
    if isinstance(value, bool):
        raise UsageError(f"{name}: {value!r} is not {kind}")
    try:
        number = int(value) if whole else float(value)
    except (TypeError, ValueError, OverflowError):  # the last of infinity, which TOML has
        raise UsageError(f"{name}: {value!r} is not {kind}") from None
    if number != (value if whole and isinstance(value, float) else number):  # 2.5 for a whole number, or nan
        raise UsageError(f"{name}: {value!r} is not {kind}")
    if not one.low <= number <= one.high:
        raise UsageError(f"{name}: {value} is not between {one.low:.15g} and {one.high:.15g}")
    return number
