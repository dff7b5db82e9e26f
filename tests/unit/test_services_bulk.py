# SPDX-License-Identifier: Apache-2.0
"""Services that are made by columns: the same rows and records as one by one, and the same numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydp.errors import UsageError
from pydp.services import program, stored
from pydp.services.bulk import interleaved
from pydp.services.database import Database
from pydp.services.model import ENDINGS, Backend, BackendState, Frontend, Health, Service
from pydp.services.numbers import Slots, runs_of
from pydp.services.records import INDEX, NAME
from pydp.services.stored import Change, Limits, Outcome, load
from pydp.services.text import parse_service

LIMITS = Limits(services=1000, backends=1000, frontends=1000)
TABLES = ("service", "name", "room", "spare", "fact", "gone")
PLAIN = parse_service("tcp:10.96.0.1:80=10.0.1.2:8080,10.0.1.3:8080")
V4, V6 = st.ip_addresses(v=4).filter(int), st.ip_addresses(v=6).filter(int)
PORTS = st.integers(1, 65535)


@st.composite
def plain_services(draw: st.DrawFn, number: int) -> Service:
    version, weight = draw(st.sampled_from((4, 6))), draw(st.integers(1, 65535))
    ends = draw(st.lists(st.tuples(V4 if version == 4 else V6, PORTS), unique=True, min_size=1, max_size=9))
    backends = tuple(
        Backend(
            *end, weight, local=draw(st.booleans()), serving=draw(st.booleans()), on_end=draw(st.sampled_from(ENDINGS)),
            deadline=draw(st.none() | st.floats(1, 1e10)),
        )
        for end in ends
    )  # fmt: skip
    address = ip_address(f"10.96.0.{number + 1}" if version == 4 else f"fd96::{number + 1}")
    fronts = [
        Frontend(draw(st.sampled_from(("tcp", "udp", "sctp"))), address, draw(PORTS), masquerade=draw(st.booleans()))
    ]
    if draw(st.booleans()):
        fronts.append(Frontend("tcp", None, 1000 + number, version))  # type: ignore[arg-type]
    return Service(
        f"s{number}", tuple(fronts), backends, affinity=draw(st.floats(0, 1e6)), masquerade=draw(st.booleans()),
        dsr=draw(st.booleans()), health=draw(st.sampled_from([None, Health("exec", command=("a", "b"))])), source="f",
    )  # fmt: skip


def applied(database: Database, services: Sequence[Service], few: int) -> Outcome:
    """What a change comes to where more services than FEW are many."""
    with pytest.MonkeyPatch.context() as patch, database.transaction():
        patch.setattr(stored, "_FEW", few)
        change = Change(database, LIMITS)
        change.want({one.name: one for one in services}, {})
        return change.write()


def made(*, next_backend: int = 0) -> Database:
    database = Database.in_memory()
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(1 << 14)
        slots.put_back()
        database.set_fact("generation", 70_000)
        database.set_fact("next_backend", next_backend)
    return database


def dump(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: sorted(connection.execute(f"select * from {table}").fetchall(), key=repr) for table in TABLES}


def entries(keys: bytes, values: bytes, key: int) -> dict[bytes, bytes]:
    """Of a map, by keys of KEY bytes."""
    count = len(keys) // key
    size = len(values) // count
    return {keys[at * key : (at + 1) * key]: values[at * size : (at + 1) * size] for at in range(count)}


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_and_records(data: st.DataObject) -> None:
    services = [data.draw(plain_services(number)) for number in range(data.draw(st.integers(1, 6)))]
    with made() as one, made() as other:
        single, bulk = applied(one, services, 500), applied(other, services, 0)
        assert (len(single.touched), len(single.bulk)) == (len(services), 0)
        assert (len(bulk.touched), len(bulk.bulk)) == (0, len(services))
        assert single.added == bulk.added
        assert _unplaced(dump(one.connection)) == _unplaced(dump(other.connection))
        after = list(load(other.connection).values())
    chosen, rest = program._records(after)
    assert rest == {}
    found = bulk.bulk
    assert entries(*found.backend_records(), 4) == {INDEX.pack(number): record for number, record in chosen.items()}
    slots = {
        INDEX.pack(first + at): INDEX.pack(number)
        for each in after
        for kind, (first, _) in each.runs.items()
        for at, number in enumerate(each.slots(kind))
    }
    assert entries(*found.slot_records(), 4) == slots
    frontends = {name.key: program.frontend_record(each, name) for each in after for name in each.names}
    assert entries(*found.frontend_records(), NAME.size) == frontends
    assert found.names == [each.names for each in after]


def _unplaced(dumped: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Which of the free runs a service gets is nobody's business, but it has one of the same size."""
    dumped["service"] = [(*row[:-1], row[-1][0], row[-1][5:]) for row in dumped["service"]]
    dumped["room"] = [sum(row[0] for row in dumped["room"])]
    return dumped


FIRST, SECOND = PLAIN.backends


@pytest.mark.parametrize(
    "service",
    [
        replace(PLAIN, backends=()),
        replace(PLAIN, scheduler="maglev", table_size=251),
        replace(PLAIN, backends=(FIRST, replace(SECOND, weight=2))),
        replace(PLAIN, backends=(replace(FIRST, weight=0), replace(SECOND, weight=0))),
        replace(PLAIN, backends=(FIRST, replace(SECOND, state=BackendState.DRAINING))),
        replace(PLAIN, backends=(FIRST, replace(SECOND, state=BackendState.DOWN))),
        replace(PLAIN, frontends=(*PLAIN.frontends, Frontend("tcp", ip_address("fd96::1"), 80))),
        replace(PLAIN, frontends=(replace(PLAIN.frontends[0], local_only=True),)),
        parse_service("tcp:any:80=10.0.1.2:80"),
        parse_service("tcp:80=8080"),
        parse_service("tcp:any4:80=8080"),
    ],
    ids=lambda one: str(one.frontends[0]) + " " + one.scheduler,
)
def test_what_is_not_plain_is_made_by_itself(service: Service) -> None:
    service = replace(service, name="odd")
    with made() as database:
        outcome = applied(database, [service, replace(PLAIN, frontends=(Frontend("udp", None, 9, 4),))], 0)
        assert [each.row.name for each in outcome.touched] == ["odd"]
        assert [each.name for each in outcome.bulk.services] == [PLAIN.name]
        assert outcome.added == ["odd", PLAIN.name]
        (found,) = (each.service for each in load(database.connection).values() if each.row.name == "odd")
    assert replace(found, source=service.source) == service


def test_numbers_that_others_had() -> None:
    """Where the map is nearly full: those that are left, then those that were free for longest."""
    with made(next_backend=997) as database:
        with database.transaction() as connection:
            rows = [("backend", float(freed), number) for freed, number in ((1, 5), (2, 6), (2, 8), (3, 7))]
            connection.executemany("insert into spare values (?, ?, ?)", rows)
            connection.executemany("insert into gone values (?, ?)", [(number, b"") for number in range(4, 10)])
        many = [replace(PLAIN, name=f"s{port}", frontends=(Frontend("tcp", None, port, 4),)) for port in (1, 2, 3)]
        applied(database, many, 0)
        found = [[row.number for row in each.backends] for each in load(database.connection).values()]
        assert found == [[997, 998], [999, 5], [6, 8]]
        assert database.connection.execute("select number from spare where kind = 'backend'").fetchall() == [(7,)]
        assert database.connection.execute("select number from gone").fetchall() == [(4,), (7,), (9,)]


def test_a_frontend_of_two() -> None:
    with made() as database, pytest.raises(UsageError, match="belongs to the services a and b"):
        applied(database, [replace(PLAIN, name="a"), replace(PLAIN, name="b")], 0)


@given(st.sets(st.integers(0, 40)))
def test_runs(numbers: set[int]) -> None:
    found = runs_of(numbers)
    assert [number for first, last in found for number in range(first, last + 1)] == sorted(numbers)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found))


def test_columns() -> None:
    assert interleaved(5, 2, (0, 1, b"ab"), (2, 3, b"012345")) == b"a\x00012b\x00345"
