# SPDX-License-Identifier: Apache-2.0
"""What `pydp attach` is told, by a TOML file and by flags, as one frozen record. Flags override.

    mode = "bridge"
    name = "lan"
    hook = "auto"
    interfaces = ["eth1", "eth2"]
    counters = true

    [bridge]                # a table named after a mode holds its options
    ageing = 60
    vlan_filtering = true

    [[service]]             # of mode nat: see pydp.services.files
    frontends = ["tcp:10.96.0.1:80"]

Every error is a UsageError that names the flag, or the file and the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydp.errors import UsageError
from pydp.modes import MODES, mode_of
from pydp.options import Option, options_of, parse_options

_SERVICES = "service"
HOOKS = ("auto", "xdp", "xdp-generic", "tc")


@dataclass(frozen=True, slots=True)
class AttachConfig:
    """One attach. ``options`` has those keys only that somebody gave, their values checked.

    ``name`` "": one follows from the mode or the bridge adopted. ``services`` are tables that nobody has looked into,
    of the file ``source``.
    """

    mode: str
    interfaces: tuple[str, ...]
    name: str = ""
    hook: str = "auto"
    counters: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    services: tuple[Mapping[str, Any], ...] = ()
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Given:
    """What one source gave: ``top`` by key of AttachConfig, ``tables`` the options by mode."""

    top: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def all_options() -> dict[str, Option]:
    """The options of all modes by key. Modes that share a key share its kind, so that it can be one flag."""
    return {one.key: one for mode in MODES.values() for one in options_of(mode.Options)}


def read_config(path: str) -> Given:
    """What a file gives, every value checked. Raises UsageError."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error
    where = f"{path}: "
    top: dict[str, Any] = {"source": path}
    tables = {}
    for key, value in found.items():
        if key in _TOP:
            top[key] = _TOP[key](where + key, value)
        elif key == _SERVICES:
            top["services"] = _services(f"{where}{key}", value)
        elif key in MODES:
            tables[key] = _table(key, value, f"{where}{key}")
        else:
            raise UsageError(
                f"{where}{key}: there is no such key", hint=f"keys: {', '.join([*_TOP, _SERVICES, *MODES])}"
            )
    return Given(top, tables)


def merge(flags: Mapping[str, Any], options: Mapping[str, Any], config: Given | None = None) -> AttachConfig:
    """FLAGS by key of AttachConfig and OPTIONS of the mode (both None or empty where not given) over CONFIG."""
    config = config or Given()
    chosen = {**config.top, **{key: value for key, value in flags.items() if value not in (None, "", ())}}
    if "mode" not in chosen:
        raise UsageError("--mode: which mode?", hint=f"modes: {', '.join(MODES)}")
    mode = mode_of(chosen["mode"])
    given = {key: value for key, value in options.items() if value is not None}
    _refuse_options_of_others(mode.name, given)
    return AttachConfig(
        **{"interfaces": (), **chosen, "options": {**config.tables.get(mode.name, {}), **_given(mode.name, given)}}
    )


def _table(mode: str, value: object, where: str) -> dict[str, Any]:
    """The options of a mode: a table, or where the mode can have several of the same kind, a list of tables."""
    if isinstance(value, dict):
        return _given(mode, value, where=f"{where}.")
    repeated = next((one for one in options_of(mode_of(mode).Options) if one.kind == "tables"), None)
    if repeated is None or not isinstance(value, list) or not all(isinstance(one, dict) for one in value) or not value:
        raise UsageError(f"{where}: {value!r} is not a table of options")
    first, *more = (_given(mode, one, where=f"{where}[{number}].") for number, one in enumerate(value))
    return {**first, repeated.key: tuple(more)} if more else first


def _given(mode: str, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """VALUES as the options of a mode have them, defaults left out."""
    parsed = parse_options(mode_of(mode).Options, values, where=where)
    return {key: getattr(parsed, key) for key in values}


def _refuse_options_of_others(mode: str, given: Mapping[str, Any]) -> None:
    own = {one.key: one for one in options_of(mode_of(mode).Options)}
    for key in given:
        if key not in own:
            hint = (
                f"its options: {', '.join(one.flag for one in own.values())}" if own else f"mode {mode} has no options"
            )
            raise UsageError(f"{all_options()[key].flag}: mode {mode} has no such option", hint=hint)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {value!r} is not a text")
    return value


def _hook(where: str, value: object) -> str:
    if value not in HOOKS:
        raise UsageError(f"{where}: {value!r} is not one of {', '.join(HOOKS)}")
    return str(value)


def _mode(where: str, value: object) -> str:
    if value not in list(MODES):
        raise UsageError(f"{where}: there is no mode {value!r}", hint=f"modes: {', '.join(MODES)}")
    return str(value)


def _bool(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}: {value!r} is neither true nor false")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise UsageError(f"{where}: {value!r} is not a list of names")
    return tuple(value)


def _services(where: str, value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UsageError(f"{where}: not a list of tables", hint="a table [[service]] for each")
    return tuple(value)


_TOP: Mapping[str, Callable[[str, object], Any]] = {
    "mode": _mode, "name": _text, "hook": _hook, "interfaces": _texts, "counters": _bool,
}  # fmt: skip
