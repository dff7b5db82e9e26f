# SPDX-License-Identifier: Apache-2.0
"""Services in files: TOML with a table [[service]] for each, or Kubernetes manifests.

    [[service]]
    name = "web"                                   # default: the frontend
    frontends = ["tcp:10.96.0.1:80", "tcp:any:30080"]
    backends = ["10.0.1.2:8080*3", "10.0.1.3:8080"]
    scheduler = "maglev"
    affinity = 10800                               # seconds
    health = { kind = "http", path = "/healthy", interval = 5 }

Every error is a UsageError that names the file, the service and the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydp.errors import UsageError
from pydp.options import option, parse_options
from pydp.services.model import (
    HEALTH_KINDS,
    MAX_AFFINITY,
    MAX_TABLE_SIZE,
    SCHEDULERS,
    TABLE_SIZE,
    Health,
    Service,
    check,
    check_all,
)
from pydp.services.text import check_name, parse_backend, parse_frontend, parse_health


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What is told of a service besides its frontends and backends, by flags or keys; None where nobody said."""

    scheduler: str | None = option(
        None, "choice", "how a backend is chosen: random, or maglev: on every machine alike", choices=SCHEDULERS
    )
    table_size: int | None = option(
        None, "int", f"places of a Maglev table, a prime (default {TABLE_SIZE})", metavar="P", low=2,
        high=MAX_TABLE_SIZE
    )  # fmt: skip
    affinity: float | None = option(
        None, "seconds", "a client stays with its backend for this long after its last connection (0: not at all)",
        metavar="SECONDS", low=0, high=MAX_AFFINITY
    )  # fmt: skip
    masquerade: bool | None = option(None, "flag", "backends see this host as the client")
    dsr: bool | None = option(None, "flag", "backends answer the client themselves: what is for them is sent in IPIP")

    def given(self) -> dict[str, Any]:
        """What somebody said, by the names of Service."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """What is told of health checks, by flags or keys; None where nobody said."""

    port: int | None = option(None, "int", "probe this port (default: the backend's own)", low=1, high=65535)
    host: str | None = option(None, "text", "Host header of HTTP probes (default: address and port)")
    interval: float | None = option(None, "seconds", "from one probe to the next (default 10)", low=0.1, high=86400)
    timeout: float | None = option(None, "seconds", "for an answer (default 2)", low=0.01, high=3600)
    rise: int | None = option(None, "int", "probes that go well until it is up (default 2)", low=1, high=1000)
    fall: int | None = option(None, "int", "probes that do not until it is down (default 3)", low=1, high=1000)

    def given(self) -> dict[str, Any]:
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


def read_services(
    path: str, where: str = "--services", *, node: str = "", note: Callable[[str], None] = lambda _text: None
) -> list[Service]:
    """The services of a file, by its suffix: .toml, or .yaml and .yml for Kubernetes manifests, as seen from NODE; NOTE
    is told what of these was left out. Raises UsageError.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".yaml", ".yml", ".json"):
        from pydp.services.manifests import read

        services = read(path, node=node, note=note)
    elif suffix == ".toml":
        if node:
            raise UsageError(f"--node {node}: {path} is no file of Kubernetes manifests, which alone have nodes")
        services = read_toml(path, where)
    else:
        raise UsageError(f"{where} {path}: neither TOML (.toml) nor Kubernetes manifests (.yaml)")
    check_all(services)
    return services


def read_toml(path: str, where: str = "--services") -> list[Service]:
    """Raises UsageError."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where} {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} {path}: not TOML: {error}") from error
    for key in found:
        if key != "service":
            raise UsageError(f"{path}: {key}: there is no such key", hint="services are tables [[service]]")
    return [replace(one, source=path) for one in from_tables(found.get("service", []), f"{path}: ")]


def from_tables(tables: object, where: str) -> list[Service]:
    """The tables [[service]] of a file. Raises UsageError."""
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise UsageError(f"{where}service: not a list of tables", hint="a table [[service]] for each")
    return [from_table(one, f"{where}service[{number}].") for number, one in enumerate(tables)]


def from_table(table: Mapping[str, Any], where: str) -> Service:
    """One service; WHERE stands before the key that an error names. Raises UsageError."""
    given = dict(table)
    if "frontend" in given and "frontends" in given:
        raise UsageError(f"{where}frontend: there is frontends, too")
    fronts = _texts([given.pop("frontend")] if "frontend" in given else given.pop("frontends", []), f"{where}frontends")
    backs = _texts(given.pop("backends", []), f"{where}backends")
    if not fronts:
        raise UsageError(f"{where}frontends: a service has one at least", hint='frontends = ["tcp:10.96.0.1:80"]')
    frontends = tuple(parse_frontend(one, f"{where}frontends:") for one in fronts)
    name = given.pop("name", str(frontends[0]))
    if not isinstance(name, str):
        raise UsageError(f"{where}name: {name!r} is not a text")
    health = given.pop("health", None)
    known = [*(one.name for one in fields(ServiceOptions)), "name", "frontends", "backends", "health"]
    for key in given:
        if key not in known:
            raise UsageError(f"{where}{key}: there is no such key", hint=f"keys: {', '.join(known)}")
    options: ServiceOptions = parse_options(ServiceOptions, given, where=where)
    service = Service(
        name=check_name(name, f"{where}name:"),
        frontends=frontends,
        backends=tuple(parse_backend(one, f"{where}backends:") for one in backs),
        health=None if health is None else health_from(health, f"{where}health"),
        **options.given(),
    )
    check(service)
    return service


def health_from(given: object, where: str) -> Health:
    """A table, or what `parse_health` reads. Raises UsageError."""
    if isinstance(given, str):
        return parse_health(given, f"{where}:")
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {given!r} is not a table", hint='health = { kind = "tcp" }')
    rest = dict(given)
    kind, path, command = rest.pop("kind", "tcp"), rest.pop("path", ""), rest.pop("command", [])
    if kind not in HEALTH_KINDS:
        raise UsageError(f"{where}.kind: {kind!r} is not one of {', '.join(HEALTH_KINDS)}")
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise UsageError(f"{where}.path: {path!r} does not begin with /")
    words = _texts(command, f"{where}.command")
    for key, has, wanted in (("path", path, ("http", "https")), ("command", words, ("exec",))):
        if has and kind not in wanted:
            raise UsageError(f"{where}.{key}: it is for {' and '.join(wanted)}, not for {kind}")
    if kind == "exec" and not words:
        raise UsageError(f"{where}.command: which command?", hint='command = ["/usr/bin/check"]')
    options: HealthOptions = parse_options(HealthOptions, rest, where=f"{where}.")
    return Health(kind, path=path or "/", command=tuple(words), **options.given())


def _texts(value: object, where: str) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{where}: {value!r} is not a list of texts")
    return value
