# SPDX-License-Identifier: Apache-2.0
"""Numbers and runs of slots that are given out, and are given out again only when no packet can meet their old meaning.

Within a transaction: what is taken is written back by `Slots.put_back`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from ebpf.errors import MapFull
from pydp.services.database import Database

QUARANTINE = 1.0  # seconds; a packet is looked at for microseconds
_CHUNK = 64  # free runs that are looked at first


class Numbers:
    """Numbers of one kind, within a transaction: those never used below LIMIT come first, then those that have been
    free for longest, and where that is not the end (STRICT) those above the limit. ``reused`` are those that somebody
    had before.
    """

    def __init__(self, database: Database, kind: str, limit: int, *, strict: bool) -> None:
        self._database = database
        self._kind = kind
        self._limit = limit
        self._strict = strict
        self._next = database.fact(f"next_{kind}")
        self._spare: list[tuple[float, int]] = []
        self._chunk = _CHUNK
        self.reused: list[int] = []

    def take(self) -> int:
        """Waits for a number that has just become free if there is no other, where that is to be below the limit.
        Raises MapFull.
        """
        if self._next >= self._limit:
            if self._aged_spare(1):
                freed, number = self._spare.pop()
                self._wait(freed)
                self.reused.append(number)
                return number
            if self._strict:
                raise MapFull(
                    f"no room for one more {self._kind}: {self._limit} are taken",
                    hint=f"attach with more --max-{self._kind}s",
                )
        self._next += 1
        return self._next - 1

    def take_many(self, count: int) -> list[int]:
        """Raises MapFull."""
        first, fresh = self._next, min(count, max(self._limit - self._next, 0))
        self._next += fresh
        found = [*range(first, first + fresh)]
        while (missing := count - len(found)) and self._aged_spare(missing):
            some = self._spare[: -missing - 1 : -1]
            del self._spare[-missing:]
            self._wait(max(some)[0])
            self.reused += (numbers := [number for _, number in some])
            found += numbers
        return [*found, *(self.take() for _ in range(missing))]

    def put_back(self) -> None:
        """Write to the database what is left. Ends the use of this object."""
        self._database.connection.executemany(
            "insert into spare values (?, ?, ?)", [(self._kind, freed, number) for freed, number in self._spare]
        )
        self._database.set_fact(f"next_{self._kind}", self._next)

    def _aged_spare(self, wanted: int) -> bool:
        """Whether there are free numbers that may be taken, if not WANTED as many; after a while, where that is
        waited for.
        """
        if not (self._spare or self._load(wanted)):
            return False
        return self._strict or self._spare[-min(wanted, len(self._spare))][0] + QUARANTINE <= time.time()

    @staticmethod
    def _wait(freed: float) -> None:
        """Until what became free then has been so for long enough."""
        if (wait := min(freed + QUARANTINE - time.time(), QUARANTINE)) > 0:
            time.sleep(wait)

    def _load(self, wanted: int) -> bool:
        if not self._chunk:
            return False
        self._chunk = max(self._chunk, wanted)
        connection = self._database.connection
        rows = connection.execute(
            "select freed, number from spare where kind = ? order by freed limit ?", (self._kind, self._chunk)
        ).fetchall()
        self._chunk = 8 * self._chunk if len(rows) == self._chunk else 0  # 0: there are no more
        if rows:
            query = "delete from spare where kind = ? and (freed, number) <= (?, ?)"
            connection.execute(query, (self._kind, *rows[-1]))
        self._spare = rows[::-1]
        return bool(rows)


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of the runs that numbers make."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def give_back(connection: sqlite3.Connection, kind: str) -> None:
    """The numbers that are noted as leaving are free from now on."""
    query = f"insert or replace into spare select ?, ?, number from leaving_{kind} order by number"
    connection.execute(query, (kind, time.time()))


class Slots:
    """Free runs of slots. Sizes are powers of two and a run begins at a multiple of its size, so that halves that are
    both free make a whole again: that is looked for when there is no room otherwise.
    """

    def __init__(self, connection: sqlite3.Connection, now: float | None = None) -> None:
        self._connection = connection
        self._now = time.time() if now is None else now
        self._lists: dict[int, list[int]] = defaultdict(list)
        self._chunks: dict[int, int] = defaultdict(lambda: _CHUNK)
        self._largest = self._find_largest()

    def reset(self, total: int) -> None:
        """All TOTAL slots are free."""
        self._lists.clear()
        self._connection.execute("delete from room")
        self._connection.executemany("insert into room values (?, ?, 0)", list(_aligned(0, total)))
        self._chunks.clear()
        self._largest = self._find_largest()

    def take(self, count: int) -> tuple[int, int]:
        """(first, size) of a run of COUNT slots. Raises MapFull."""
        size = size_of(count)
        if self._lists[size]:
            return self._lists[size].pop(), size
        for attempt in (self._take, self._take_of_merged, self._take_of_young):
            first = attempt(size)
            if first is not None:
                return first, size
        raise MapFull(f"no room for {count} more slots", hint="attach with more --max-slots")

    def expect(self, counts: Iterable[int]) -> None:
        """Runs of these many slots will be taken: large runs are cut to size at once, as far as there are any."""
        for size, times in Counter(map(size_of, counts)).items():
            if times <= _CHUNK:
                continue
            if (first := self._take(whole := 1 << (times * size).bit_length() - 1)) is not None:
                self._lists[size] += reversed(range(first, first + whole, size))
            self._chunks[size] = max(times - len(self._lists[size]), self._chunks[size])

    def put_back(self) -> None:
        """Write what is left of what was taken from the database. Ends the use of this object."""
        rows = [(size, first) for size, firsts in self._lists.items() for first in firsts]
        self._connection.executemany("insert into room values (?, ?, 0)", rows)
        self._lists.clear()

    def _take(self, size: int) -> int | None:
        if self._lists[size] or self._load(size):
            return self._lists[size].pop()
        larger = 2 * size
        while not (self._lists[larger] or self._load(larger)):
            larger *= 2
            if larger > self._largest:
                return None
        first = self._lists[larger].pop()
        while larger > size:
            larger //= 2
            self._lists[larger].append(first + larger)
        return first

    def _find_largest(self) -> int:
        return int(self._connection.execute("select max(size) from room").fetchone()[0] or 0)

    def _load(self, size: int) -> bool:
        """Take more free runs of SIZE from the database."""
        chunk = self._chunks[size]
        if not chunk:
            return False
        aged = (size, self._now - QUARANTINE, self._now)
        query = "from room where size = ? and not (freed > ? and freed <= ?)"
        rows = self._connection.execute(f"select first {query} order by first limit ?", (*aged, chunk)).fetchall()
        self._chunks[size] = 8 * chunk if len(rows) == chunk else 0  # 0: there are no more
        if rows:
            self._connection.execute(f"delete {query} and first <= ?", (*aged, rows[-1][0]))
        self._lists[size] += [row[0] for row in reversed(rows)]
        return bool(rows)

    def _take_of_merged(self, size: int) -> int | None:
        """After halves were merged into wholes, as far as they have been free for long enough."""
        self.put_back()
        aged = self._connection.execute(
            "select size, first from room where not (freed > ? and freed <= ?)", (self._now - QUARANTINE, self._now)
        ).fetchall()
        free = merged(aged)
        self._connection.execute("delete from room where not (freed > ? and freed <= ?)",
                                 (self._now - QUARANTINE, self._now))  # fmt: skip
        self._connection.executemany("insert into room values (?, ?, 0)", free)
        self._largest = self._find_largest()
        self._chunks.clear()
        return self._take(size)

    def _take_of_young(self, size: int) -> int | None:
        """After those that have just become free have been so for long enough."""
        if not self._connection.execute("select 1 from room where freed > ?", (self._now - QUARANTINE,)).fetchone():
            return None
        time.sleep(QUARANTINE)
        self._now = time.time()
        return self._take_of_merged(size)


def free_runs(connection: sqlite3.Connection, runs: Iterable[tuple[int, int]]) -> None:
    """Give back (first, size)."""
    now = time.time()
    connection.executemany("insert or replace into room values (?, ?, ?)", [(size, first, now) for first, size in runs])


def size_of(count: int) -> int:
    """The size of the run that COUNT slots take."""
    return 1 << max(count - 1, 0).bit_length()


def _aligned(first: int, end: int) -> Iterator[tuple[int, int]]:
    """(size, first) of the runs that fill FIRST..END, each as large as can be."""
    while first < end:
        size = 1 << (end - first).bit_length() - 1
        if first:
            size = min(size, first & -first)
        yield size, first
        first += size


def merged(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(size, first) with halves of a whole made one, as often as there are any."""
    by_size: dict[int, set[int]] = defaultdict(set)
    for size, first in runs:
        by_size[size].add(first)
    found, size = [], 1
    while size <= max(by_size, default=0):
        firsts = by_size[size]
        wholes = {first for first in firsts if not first & size and first + size in firsts}
        by_size[2 * size] |= wholes
        found += [(size, first) for first in firsts if first & ~size not in wholes]
        if not wholes and not by_size[2 * size]:
            del by_size[2 * size]
        size *= 2
    return sorted(found)
