# SPDX-License-Identifier: Apache-2.0
"""Services as the database has them: read, and written as they are wanted with numbers for whatever is new.

What is written here is not in the datapath's maps yet: the services are noted in `pending`, and what they no longer
have in the tables `leaving_*`.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from pydp.errors import UsageError
from pydp.services.bulk import Bulk
from pydp.services.database import Database
from pydp.services.model import Ending, Service
from pydp.services.numbers import Numbers, Slots, runs_of
from pydp.services.records import NameRow, frontend_of_key, name_rows, record_of_gone
from pydp.services.rows import (
    LOCAL_ONLY,
    BackendRow,
    End,
    Runs,
    ServiceRow,
    backend_rows,
    eligible,
    ends_of,
    frontend_rows,
    pack_runs,
    service_of,
    service_row,
    unpack_backends,
    unpack_frontends,
    unpack_runs,
)
from pydp.services.schedule import maglev, random_slots

ALL = -1  # in `pending`: all services
_FEW = 500  # services that are read one by one
_INSERT = f"insert into service values ({', '.join('?' * len(ServiceRow._fields))})"


@dataclass(slots=True)
class Stored:
    """A service with all that was given out for it. ``runs``: (first slot, size) by kind; ``down``: backends that
    probes found to be.
    """

    row: ServiceRow
    backends: list[BackendRow]
    names: list[NameRow]
    runs: Runs = field(default_factory=dict)
    down: frozenset[End] = frozenset()
    _slots: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, row: ServiceRow) -> Stored:
        backends = unpack_backends(row.backends)
        return cls(row, backends, name_rows(row, unpack_frontends(row.frontends), backends), unpack_runs(row.runs))

    @property
    def service(self) -> Service:
        return service_of(self.row)

    def slots(self, kind: int) -> list[int]:
        """The numbers of backends that the slots of a kind hold."""
        if kind not in self._slots:
            chosen = eligible(kind, self.backends, self.down)
            numbers, weights = [one.number for one in chosen], [one.weight for one in chosen]
            if self.row.scheduler == "maglev":
                keys = [one.address + one.port.to_bytes(2, "big") for one in chosen]
                numbers = [numbers[place] for place in maglev(keys, weights, self.row.table_size)]
            elif len(set(weights)) > 1:
                numbers = [numbers[place] for place in random_slots(weights)]
            self._slots[kind] = numbers
        return self._slots[kind]

    def is_elsewhere(self, kind: int) -> bool:
        """Whether nobody has a slot of that kind, but would if backends need not be on this node."""
        return not self.slots(kind) and bool(eligible(kind & ~LOCAL_ONLY, self.backends, self.down))


def load(connection: sqlite3.Connection, numbers: Collection[int] | None = None) -> dict[int, Stored]:
    """The services of these NUMBERS, or all, by number."""
    if numbers is None or len(numbers) > _FEW:
        wanted = None if numbers is None else frozenset(numbers)
        rows = map(ServiceRow._make, connection.execute("select * from service order by number"))
        found = {row.number: Stored.of(row) for row in rows if wanted is None or row.number in wanted}
    else:
        query = "select * from service where number = ?"
        there = [connection.execute(query, (number,)).fetchone() for number in numbers]
        found = {row[0]: Stored.of(ServiceRow._make(row)) for row in there if row}
    _mark_down(connection, found)
    return found


def _mark_down(connection: sqlite3.Connection, found: Mapping[int, Stored]) -> None:
    downs: dict[str, set[End]] = defaultdict(set)
    for service, packed, port in connection.execute("select service, address, port from health where not up"):
        downs[service].update(ends_of(packed, port))
    if downs:
        for one in found.values():
            one.down = frozenset(downs.get(one.row.name, ()))


def numbers_of(connection: sqlite3.Connection, names: Iterable[str] | None = None) -> dict[str, int]:
    """Numbers of services by name; of all, or of those of these NAMES that there are."""
    wanted = None if names is None else list(names)
    if wanted is None or len(wanted) > _FEW:
        there = dict(connection.execute("select name, number from service").fetchall())
        return there if wanted is None else {name: there[name] for name in wanted if name in there}
    query = "select number from service where name = ?"
    rows = [(name, connection.execute(query, (name,)).fetchone()) for name in wanted]
    return {name: row[0] for name, row in rows if row}


@dataclass(frozen=True, slots=True)
class Limits:
    """Room in the maps: services that are counted, backends, frontends."""

    services: int
    backends: int
    frontends: int


@dataclass(slots=True)
class Outcome:
    """What a change came to, by name of service. ``touched``: those whose maps are to be brought in line; ``bulk``:
    further ones.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    touched: list[Stored] = field(default_factory=list)
    bulk: Bulk = field(default_factory=Bulk)


class Change:
    """One change of the database, within a transaction: note what is wanted, then `write`."""

    def __init__(self, database: Database, limits: Limits, ending: Ending | None = None) -> None:
        """ENDING: what becomes of the connections of backends that go, if that is not what they themselves say."""
        self._database = database
        self._ending = ending
        self._connection = database.connection
        self._limits = limits
        self._services = Numbers(database, "service", limits.services, strict=False)
        self._backends = Numbers(database, "backend", limits.backends, strict=True)
        self._slots = Slots(database.connection)
        self._generation = database.fact("generation")
        self._fresh = self._numbered()
        self._before: list[Stored] = []  # whose rows go
        self._new: list[Stored] = []  # whose rows come
        self._again: list[Stored] = []  # whose runs alone change
        self.outcome = Outcome()

    def want(self, wanted: Mapping[str, Service | None], before: Mapping[str, Stored]) -> None:
        """Have services be as they are WANTED, None for not at all; BEFORE are those of them that there are."""
        many = len(wanted) - len(before) > _FEW
        for name, service in wanted.items():
            old = before.get(name)
            if service is not None:
                if many and not old and self.outcome.bulk.take(service):
                    self.outcome.added.append(name)
                    continue
                new = self._stored(service, old)
                if old and new.row == old.row._replace(runs=b""):
                    continue
                self._new.append(new)
                (self.outcome.changed if old else self.outcome.added).append(name)
            elif old:
                self.outcome.deleted.append(name)
            if old:
                self._before.append(old)

    def again(self, services: Iterable[Stored]) -> None:
        """Have the slots of services be as follows from what is known now; all else stays."""
        self._again = list(services)

    def _stored(self, service: Service, old: Stored | None) -> Stored:
        number = old.row.number if old else self._services.take()
        backends = backend_rows(service, {row.end: row for row in old.backends} if old else {}, self._fresh)
        frontends = frontend_rows(service)
        row = service_row(number, service, frontends, backends)
        down = old.down if old and service.health else frozenset[End]()
        return Stored(row, backends, name_rows(row, frontends, backends), down=down)

    def _numbered(self) -> Iterator[tuple[int, int]]:
        """Numbers and generations for backends, as many as are wanted."""
        while True:
            self._generation += 1
            yield self._backends.take(), self._generation

    def write(self) -> Outcome:
        """Raises UsageError for a frontend that another service has, MapFull."""
        touched, many, bulk = [*self._new, *self._again], self._connection.executemany, self.outcome.bulk
        new_keys = self._check_names()
        left = [run for old in (*self._before, *self._again) for run in old.runs.values()]
        many("insert or ignore into leaving_run values (?, ?)", left)
        counts = [{name.kind: len(one.slots(name.kind)) for name in one.names} for one in touched]
        self._slots.expect([*(count for each in counts for count in each.values() if count), *bulk.counts])
        for one, each in zip(touched, counts, strict=True):
            one.runs = {kind: self._slots.take(count) for kind, count in each.items() if count}
        if bulk:
            self._number(bulk)
        self._remove_old(new_keys)
        rows = [(*one.row[:-1], pack_runs(one.runs)) for one in self._new]
        many(_INSERT, rows)
        runs = [(pack_runs(one.runs), one.row.number) for one in self._again]
        many("update service set runs = ? where number = ?", runs)
        names = [(name.key, one.row.number, name.wild) for one in self._new for name in one.names]
        many("insert into name values (?, ?, ?)", names)
        if bulk:
            many(_INSERT, bulk.service_rows())
            many("insert into name values (?, ?, ?)", bulk.name_rows())
        few = len(touched) <= _FEW and not bulk
        pending = [(one.row.number,) for one in touched] if few else [(ALL,)]
        many("insert or ignore into pending values (?)", pending)
        self._put_back()
        self.outcome.touched = touched
        return self.outcome

    def _number(self, bulk: Bulk) -> None:
        """Give out what these services need. Raises MapFull."""
        services, backends = self._services.take_many(len(bulk)), self._backends.take_many(sum(bulk.counts))
        first, self._generation = self._generation + 1, self._generation + len(backends)
        bulk.number(services, backends, first, [self._slots.take(count) for count in bulk.counts])

    def _check_names(self) -> set[bytes]:
        """The keys of all names. Raises UsageError for one that two services have, or if there are too many."""
        owners: dict[bytes, str] = {}
        new = [(one.row.name, one.names) for one in self._new]
        bulk = zip((one.name for one in self.outcome.bulk.services), self.outcome.bulk.names, strict=True)
        for service, names in chain(new, bulk):
            for name in names:
                other = owners.setdefault(name.key, service)
                if other != service:
                    raise _taken(name.key, other, service)
        changing = {old.row.number for old in self._before}
        connection = self._connection
        if len(owners) <= _FEW:
            query = "select key, service from name where key = ?"
            there = [row for key in owners if (row := connection.execute(query, (key,)).fetchone())]
        else:
            there = [row for row in connection.execute("select key, service from name") if row[0] in owners]
        for key, number in there:
            if number not in changing:
                (other,) = connection.execute("select name from service where number = ?", (number,)).fetchone()
                raise _taken(key, other, owners[key])
        (standing,) = connection.execute("select count(*) from name").fetchone()
        if standing + len(owners) - len(there) > self._limits.frontends:
            raise UsageError(
                f"no room for {len(owners)} frontends beside {standing}: there are {self._limits.frontends} places",
                hint="attach with more --max-services",
            )
        return set(owners)

    def _remove_old(self, new_keys: Collection[bytes]) -> None:
        """Take out what services had, and note what goes for good once the maps are in line."""
        many, before = self._connection.executemany, self._before
        if not before:
            return
        stays = {row.number for one in self._new for row in one.backends}
        gone = [(old, row) for old in before for row in old.backends if row.number not in stays]
        names = {one.row.number for one in self._new}
        deleted = [old for old in before if old.row.number not in names]
        numbers = [(old.row.number,) for old in before]
        many("delete from service where number = ?", numbers)
        many("delete from name where key = ?", [(name.key,) for old in before for name in old.names])
        records = [(row.number, record_of_gone(row, old.row.number, self._ending)) for old, row in gone]
        many("insert or replace into gone values (?, ?)", records)
        many("insert or ignore into leaving_backend values (?)", [(number,) for number, _ in records])
        many("insert or ignore into leaving_service values (?)", [(old.row.number,) for old in deleted])
        many(
            "insert or ignore into leaving_name values (?, ?)",
            [(name.key, name.wild) for old in before for name in old.names if name.key not in new_keys],
        )
        self._forget_health(deleted, gone)

    def _forget_health(self, deleted: Iterable[Stored], gone: Iterable[tuple[Stored, BackendRow]]) -> None:
        """What probes said of backends that are no more, and of services that are not probed any more."""
        many = self._connection.executemany
        if self._connection.execute("select 1 from health").fetchone():
            unprobed = [one.row.name for one in self._new if one.row.health is None] + [one.row.name for one in deleted]
            many("delete from health where service = ?", [(name,) for name in unprobed])
            many(
                "delete from health where service = ? and address = ? and port = ?",
                [(old.row.name, row.packed, row.port) for old, row in gone],
            )

    def _put_back(self) -> None:
        reused = runs_of(self._backends.reused)
        self._connection.executemany("delete from gone where number between ? and ?", reused)
        self._services.put_back()
        self._backends.put_back()
        self._slots.put_back()
        self._database.set_fact("generation", self._generation)


def _taken(key: bytes, one: str, other: str) -> UsageError:
    return UsageError(f"frontend {frontend_of_key(key)} belongs to the services {one} and {other}")
