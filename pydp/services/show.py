# SPDX-License-Identifier: Apache-2.0
"""Services as they are shown: what is wanted, what probes say, and what was counted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydp.datapath import Instance, Reader
from pydp.errors import UsageError
from pydp.services.counts import FAILURES, Count, backend_counts, service_failures
from pydp.services.database import Database
from pydp.services.model import Address, Backend, BackendHealth, BackendState, Frontend, Service
from pydp.services.probed import Key, read_health
from pydp.services.records import keys_of
from pydp.services.rows import address_of
from pydp.services.stored import Stored, load, numbers_of
from pydp.services.text import parse_frontend

_NEAR = 1000  # names that are looked through for one that is meant


@dataclass(frozen=True, slots=True)
class BackendShown:
    """A backend with what was counted for it. ``health`` is None where nobody probes; ``state`` takes it in."""

    backend: Backend
    state: BackendState
    health: BackendHealth | None
    count: Count


@dataclass(frozen=True, slots=True)
class ServiceShown:
    """A service; ``failures``: connections that came to nothing, by reason (`counts.FAILURES`)."""

    service: Service
    backends: Sequence[BackendShown]
    failures: dict[str, int]


def show(reader: Reader, instance: Instance, database: Database, name: str | None = None) -> list[ServiceShown]:
    """A service, by its name or a frontend, or all in the order of their numbers. Raises UsageError, EbpfError."""
    stored = [find(database, name)] if name else list(load(database.connection).values())
    generations = {row.number: row.generation for one in stored for row in one.backends}
    counts = backend_counts(reader, instance, generations)
    failures = service_failures(reader, instance, [one.row.number for one in stored])
    healths = read_health(database)
    return [_shown(one, counts, failures.get(one.row.number), healths) for one in stored]


def find(database: Database, text: str) -> Stored:
    """A service by its name, or by a frontend. Raises UsageError."""
    connection = database.connection
    row = connection.execute("select number from service where name = ?", (text,)).fetchone()
    row = row or _by_frontend(database, text)
    if row is None:
        near: list[str] = []
        if connection.execute("select count(*) from service").fetchone()[0] <= 1000:
            near = difflib.get_close_matches(text, list(numbers_of(connection)), n=3)
        raise UsageError(f"there is no service {text}", hint=f"did you mean {' or '.join(near)}?" if near else "")
    return load(connection, [row[0]])[row[0]]


def _by_frontend(database: Database, text: str) -> tuple[int] | None:
    try:
        frontend: Frontend = parse_frontend(text)
    except UsageError:
        return None
    query = "select service from name where key = ?"
    rows = [database.connection.execute(query, (key,)).fetchone() for key in keys_of(frontend)]
    return next(filter(None, rows), None)


def _shown(
    one: Stored,
    counts: Mapping[int, Count],
    failures: Sequence[int] | None,
    healths: Mapping[Key, BackendHealth],
) -> ServiceShown:
    summed: dict[tuple[Address | None, int], Count] = {}
    for row in one.backends:  # this host has one for each IP version
        end = address_of(row.packed), row.port
        summed[end] = Count(*map(sum, zip(summed.get(end, Count()), counts[row.number], strict=True)))
    service, backends = one.service, []
    for back in service.backends:
        health = healths.get((service.name, *back.end))
        down = health is not None and not health.up
        backends.append(BackendShown(back, BackendState.DOWN if down else back.state, health, summed[back.end]))
    return ServiceShown(service, backends, dict(zip(FAILURES, failures or (0,) * len(FAILURES), strict=True)))
