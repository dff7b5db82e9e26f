# SPDX-License-Identifier: Apache-2.0
"""What probes say of backends, as the database has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from pydp.services.database import Database
from pydp.services.model import Address, BackendHealth
from pydp.services.rows import address_of, unpack_backends

Key = tuple[str, Address | None, int]


def read_health(database: Database) -> dict[Key, BackendHealth]:
    """What probes say, by service, address and port."""
    rows = database.connection.execute(
        "select service, address, port, up, since, reason, checks, failures from health"
    ).fetchall()
    return {
        (service, address_of(packed), port): BackendHealth(service, address_of(packed), port, bool(up), *rest)
        for service, packed, port, up, *rest in rows
    }


def keep_health(connection: sqlite3.Connection, found: Iterable[BackendHealth]) -> list[int]:
    """Numbers of the services of which a backend went up or down. What is said of nobody is left out."""
    turned = set()
    for one in found:
        query = "select number, backends from service where name = ? and health is not null"
        there = connection.execute(query, (one.service,)).fetchone()
        end = one.address.packed if one.address else b"", one.port
        if there is None or not any((row.packed, row.port) == end for row in unpack_backends(there[1])):
            continue
        query = "select up from health where service = ? and address = ? and port = ?"
        was = connection.execute(query, (one.service, *end)).fetchone()
        connection.execute(
            "insert or replace into health values (?, ?, ?, ?, ?, ?, ?, ?)",
            (one.service, *end, int(one.up), one.since, one.reason, one.checks, one.failures),
        )
        if (not was or bool(was[0])) != one.up:
            turned.add(there[0])
    return sorted(turned)
