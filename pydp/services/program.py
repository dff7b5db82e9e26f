# SPDX-License-Identifier: Apache-2.0
"""From the database to the datapath's maps, so that a packet in between finds a service as it was or as it is to be.

A change is committed first, with the list of services that it is about; then maps are written; then the list is
cleared, and what the services no longer have is given up. Whoever is killed in between leaves the list, and whoever
comes next writes the same once more. The order of writing:

1. records of backends that get connections, then slots in runs that no frontend points to yet;
2. frontends, each replaced at once; those that are gone are deleted;
3. records of backends that get no connections any more, and of those that are gone.
"""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ebpf.errors import LayoutMismatch
from ebpf.maps import Map
from ebpf.records import Record
from pydp.services.bulk import Bulk
from pydp.services.database import Database
from pydp.services.model import BackendHealth, Ending, Service
from pydp.services.numbers import Numbers, Slots, free_runs, give_back
from pydp.services.probed import keep_health
from pydp.services.records import (
    ELSEWHERE,
    FRONTEND,
    INDEX,
    LAYOUTS,
    NameRow,
    affinity_ticks,
    hints,
    record,
    record_of_quiet,
    row_of,
)
from pydp.services.rows import pack_backends, unpack_backends
from pydp.services.stored import ALL, Change, Limits, Outcome, Stored, load, numbers_of

MAPS = tuple(LAYOUTS)  # those that are written
COUNTED = "nat_failures"  # its size tells how many services are counted
_COUNTED = 65536  # NAT_SERVICES
_FEW = 64  # ports that are counted one by one
# In this order: there may be a hundred thousand that went before.
_RECORDS_LEAVING = "select number, record from leaving_backend cross join gone using (number)"
_LEAVING = ("leaving_run", "leaving_name", "leaving_backend", "leaving_service")


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A hundred thousand services are millions of objects, which Python's collector would look through again and again
    for cycles that they do not have: it takes as long as all else.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Programmer:
    """Writes services into a database and its maps. One at a time: within the lock of the store."""

    def __init__(self, database: Database, maps: Mapping[str, Map]) -> None:
        """MAPS has those of `MAPS` and may have `COUNTED`, for its size alone. Raises LayoutMismatch."""
        for name in MAPS:
            codec = maps[name].spec.value
            there = [[one.name, one.offset, one.size] for one in codec.fields] if isinstance(codec, Record) else None
            if there is not None and there != LAYOUTS[name]:
                raise LayoutMismatch(f"map {name}: its records have another layout here and there")
        self.database = database
        self._maps = maps
        counted = maps[COUNTED].spec.max_entries if COUNTED in maps else _COUNTED
        backends, frontends = (maps[name].spec.max_entries for name in ("nat_backends", "nat_frontends"))
        self._limits = Limits(services=counted, backends=backends, frontends=frontends)

    @_without_collector()
    def apply(
        self,
        wanted: Mapping[str, Service | None],
        *,
        every: bool = False,
        ending: Ending | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Have services be as WANTED by name, None for not at all; with EVERY there are to be no others. ENDING is what
        becomes of the connections of backends that go, if that is not what they themselves say. Raises UsageError,
        EbpfError, PydpError; an error of the maps leaves the change noted, for whoever comes next.
        """
        if not dry_run:
            self.finish()
        with self.database.transaction() as connection:
            numbers = numbers_of(connection, None if every else wanted)
            if every:
                wanted = {**dict.fromkeys(numbers), **wanted}
            before = {one.row.name: one for one in load(connection, numbers.values()).values()}
            change = Change(self.database, self._limits, ending)
            change.want(wanted, before)
            outcome = change.write()
            self._note()
            if dry_run or not (outcome.touched or outcome.bulk or outcome.deleted):
                connection.execute("rollback")
                return outcome
        self._write(outcome.touched, outcome.bulk)
        return outcome

    @_without_collector()
    def set_health(self, found: Iterable[BackendHealth]) -> Outcome:
        """Keep what probes say of backends that are there; those that are down get no connections. Raises as
        `apply`.
        """
        self.finish()
        with self.database.transaction() as connection:
            turned = keep_health(connection, found)
            if not turned:
                return Outcome()
            change = Change(self.database, self._limits)
            change.again(load(connection, turned).values())
            outcome = change.write()
            self._note()
        self._write(outcome.touched)
        outcome.changed = [one.row.name for one in outcome.touched]
        return outcome

    @_without_collector()
    def finish(self) -> None:
        """Finish what somebody left unfinished. Raises EbpfError, PydpError."""
        if self.database.fact("unfinished"):
            connection = self.database.connection
            numbers = [number for (number,) in connection.execute("select service from pending")]
            self._write(list(load(connection, None if ALL in numbers else numbers).values()))

    @_without_collector()
    def reprogram(self) -> None:
        """Have maps that are new, or of which nothing is known, hold all services. Runs of slots are given out anew,
        and so are numbers of backends that the map has no place for. Raises EbpfError, PydpError.
        """
        with self.database.transaction() as connection:
            self._give_up()
            self._renumber(self._limits.backends)
            connection.execute("update service set runs = x''")
            slots = Slots(connection)
            slots.reset(self._maps["nat_slots"].spec.max_entries)
            change = Change(self.database, self._limits)
            change.again(load(connection).values())
            touched = change.write().touched
            self._note()
        self._sweep(touched)
        self._write(touched)

    def _renumber(self, limit: int) -> None:
        """Give backends numbers below LIMIT. Raises MapFull."""
        connection = self.database.connection
        connection.execute("delete from spare where kind = 'backend' and number >= ?", (limit,))
        connection.execute("delete from gone where number >= ?", (limit,))
        self.database.set_fact("next_backend", min(self.database.fact("next_backend"), limit))
        numbers, generation = Numbers(self.database, "backend", limit, strict=True), self.database.fact("generation")
        for number, packed in connection.execute("select number, backends from service").fetchall():
            rows = unpack_backends(packed)
            if all(row.number < limit for row in rows):
                continue
            for place, row in enumerate(rows):
                if row.number >= limit:
                    generation += 1
                    rows[place] = row._replace(number=numbers.take(), generation=generation)
            connection.execute("update service set backends = ? where number = ?", (pack_backends(rows), number))
        connection.executemany("delete from gone where number = ?", [(number,) for number in numbers.reused])
        numbers.put_back()
        self.database.set_fact("generation", generation)

    def _note(self) -> None:
        self.database.set_fact("unfinished", 1)

    # Maps

    def _write(self, touched: Sequence[Stored], bulk: Bulk | None = None) -> None:
        """BULK: further services, all of them new."""
        connection = self.database.connection
        leaving = connection.execute("select key, wild from leaving_name").fetchall()
        chosen, rest = _records(touched)
        rest.update(connection.execute(_RECORDS_LEAVING))
        ports = {name.wild for one in touched for name in one.names} | {wild for _, wild in leaving}
        if bulk:
            ports.update(name.wild for names in bulk.names for name in names)
            self._maps["nat_backends"].update_raw(*bulk.backend_records())
            self._maps["nat_slots"].update_raw(*bulk.slot_records())
        ports.discard(None)
        self._update("nat_backends", chosen)
        self._write_slots(touched)
        self._write_wild(ports, leaving=True)
        self._write_frontends(touched)
        if bulk:
            self._update_frontends(*bulk.frontend_records())
        self._maps["nat_frontends"].delete_raw(b"".join(key for key, _ in leaving))
        self._write_wild(ports, leaving=False)
        self._update("nat_backends", rest)
        with self.database.transaction():
            self._give_up()

    def _update(self, name: str, records: Mapping[int, bytes]) -> None:
        self._maps[name].update_raw(array("I", records).tobytes(), b"".join(records.values()))

    def _write_slots(self, touched: Iterable[Stored]) -> None:
        places, numbers = array("I"), array("I")
        for one in touched:
            for kind, (first, _) in one.runs.items():
                slots = one.slots(kind)
                places.extend(range(first, first + len(slots)))
                numbers.extend(slots)
        self._maps["nat_slots"].update_raw(places.tobytes(), numbers.tobytes())

    def _write_frontends(self, touched: Iterable[Stored]) -> None:
        keys, values = [], []
        for one in touched:
            for name in one.names:
                keys.append(name.key)
                values.append(frontend_record(one, name))
        self._update_frontends(b"".join(keys), b"".join(values))

    def _update_frontends(self, names: bytes, values: bytes) -> None:
        self._maps["nat_frontends"].update_raw(names, values)
        self._maps["nat_hints"].update_raw(*hints(names, values, self._maps["nat_hints"].spec.max_entries))

    def _write_wild(self, ports: Iterable[int | None], *, leaving: bool) -> None:
        """How many names each of these ports has; LEAVING: with those that are to be deleted."""
        counts = wild_counts(self.database.connection, list(ports))
        if leaving:
            for (port,) in self.database.connection.execute("select wild from leaving_name where wild is not null"):
                counts[port] += 1
        self._update("nat_wild", {port: INDEX.pack(count) for port, count in counts.items()})

    def _give_up(self) -> None:
        """The maps are in line: what nobody has any more is free."""
        connection = self.database.connection
        free_runs(connection, connection.execute("select first, size from leaving_run").fetchall())
        for kind in ("backend", "service"):
            give_back(connection, kind)
        for table in (*_LEAVING, "pending"):
            connection.execute(f"delete from {table}")
        self.database.set_fact("unfinished", 0)

    def _sweep(self, stored: Sequence[Stored]) -> None:
        """Take out what maps hold that are not new: frontends and ports that are none, records of other backends."""
        frontends, backends, wild = (self._maps[name] for name in ("nat_frontends", "nat_backends", "nat_wild"))
        wanted = {name.key for one in stored for name in one.names}
        keys, _ = frontends.raw()
        size = frontends.spec.key.size
        frontends.delete_raw(
            b"".join(key for at in range(0, len(keys), size) if (key := keys[at : at + size]) not in wanted)
        )
        connection = self.database.connection
        kept = dict(connection.execute("select number, record from gone").fetchall())
        known = kept.keys() | {row.number for one in stored for row in one.backends}
        values, step = backends.raw()[1], backends.spec.value.size
        if values.strip(b"\0"):
            nothing = bytes(step)
            for number in range(len(values) // step):
                if number not in known and values[number * step : (number + 1) * step] != nothing:
                    kept[number] = nothing
        self._update("nat_backends", kept)
        counts = wild_counts(connection, None)
        standing = array("I", wild.raw()[1])
        due = array("I", bytes(len(standing) * standing.itemsize))
        for port, count in counts.items():
            due[port] = count
        if standing != due:
            self._update(
                "nat_wild", {port: INDEX.pack(count) for port, count in enumerate(due) if standing[port] != count}
            )


def frontend_record(one: Stored, name: NameRow) -> bytes:
    """struct nat_frontend. What only other nodes could answer is dropped, not refused, as by kube-proxy: who spreads
    clients over the nodes finds out by health checks.
    """
    first, _ = one.runs.get(name.kind, (0, 0))
    slots, ticks = one.slots(name.kind), affinity_ticks(one.row.affinity)
    flags = name.flags | (ELSEWHERE if one.is_elsewhere(name.kind) else 0)
    return FRONTEND.pack(one.row.number, first, len(slots), flags, ticks, row_of(slots))


def _records(stored: Iterable[Stored]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """struct nat_backend by number, of those that get connections and of the others."""
    chosen: dict[int, bytes] = {}
    rest: dict[int, bytes] = {}
    ticks, now = time.monotonic_ns() >> 24, time.time()
    for one in stored:
        in_slots = {number for kind in one.runs for number in one.slots(kind)}
        for row in one.backends:
            if row.number in in_slots:
                chosen[row.number] = record(row, one.row.number)
            else:
                rest[row.number] = record_of_quiet(row, one.row.number, ticks, now)
    return chosen, rest


def wild_counts(connection: sqlite3.Connection, ports: Sequence[int | None] | None) -> dict[int, int]:
    """How many frontends for every address of this host each of these PORTS has, or all that have any."""
    if ports is not None and len(ports) <= _FEW:
        query = "select count(*) from name where wild = ?"
        return {port: connection.execute(query, (port,)).fetchone()[0] for port in ports if port is not None}
    counts = dict.fromkeys((port for port in ports or () if port is not None), 0)
    query = "select wild, count(*) from name where wild is not null group by wild"
    found = dict(connection.execute(query).fetchall())
    return {**counts, **{port: count for port, count in found.items() if ports is None or port in counts}}
