# SPDX-License-Identifier: Apache-2.0
"""What the numbers in maps and flows mean: services and backends by theirs."""

from __future__ import annotations

from typing import NamedTuple

from pydp.services.database import Database
from pydp.services.model import Backend, BackendState, end_text
from pydp.services.rows import backend_of
from pydp.services.stored import load


class Named(NamedTuple):
    """A backend. ``generation`` tells it from others that had its number; ``state`` is what it is told to be, and
    ``up`` what probes say.
    """

    service: str
    backend: str
    generation: int
    state: BackendState
    up: bool


class Names(NamedTuple):
    """Services by number, and backends by theirs."""

    services: dict[int, str]
    backends: dict[int, Named]


def read_names(database: Database) -> Names:
    """All there are. Raises PydpError."""
    services, backends = dict[int, str](), dict[int, Named]()
    for number, one in load(database.connection).items():
        services[number] = one.row.name
        for row in one.backends:
            backend = backend_of(row)
            up = row.end not in one.down
            backends[row.number] = Named(one.row.name, _text(backend), row.generation, backend.state, up)
    return Names(services, backends)


def _text(backend: Backend) -> str:
    """Without its weight, which may change."""
    return end_text(backend.address, backend.port)
