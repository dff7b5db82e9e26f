# SPDX-License-Identifier: Apache-2.0
"""The database of services: files, numbers that are given out, and services as rows."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.errors import MapFull
from pydp.errors import NotAllowed, NothingAttached, PydpError
from pydp.services import numbers
from pydp.services.attach import _needed, _standing
from pydp.services.database import Database
from pydp.services.model import (
    ENDINGS,
    SCHEDULERS,
    Backend,
    BackendState,
    Frontend,
    Health,
    Service,
    check_all,
    eligible,
)
from pydp.services.numbers import Numbers, Slots, free_runs, give_back, merged, size_of
from pydp.services.rows import LOCAL_ONLY, backend_of, unpack_backends
from pydp.services.rows import eligible as eligible_rows
from pydp.services.stored import Change, Limits, load

LIMITS = Limits(services=100, backends=1000, frontends=1000)


@pytest.fixture
def database() -> Iterator[Database]:
    with Database.in_memory() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the folder of a namespace is."""
    tmp_path.chmod(0o711)
    return tmp_path / "1"


# Files


def test_a_file_is_made_and_opened(folder: Path) -> None:
    path = folder / "nat-0.db"
    os.umask(before := os.umask(0o077))
    try:
        os.umask(0o077)
        with Database.create(path) as made, made.transaction():
            made.set_fact("x", 7)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    with Database.open(path) as one, pytest.raises(NotAllowed, match="opened for reading alone"), one.transaction():
        one.set_fact("x", 8)
    with Database.open(path, write=True) as one:
        assert one.fact("x") == 7
        assert one.fact("y") == 0


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    def change() -> None:
        with database.transaction():
            database.set_fact("x", 1)
            database.set_fact("y", 1 // 0)

    with pytest.raises(ZeroDivisionError):
        change()
    assert database.fact("x") == 0


def test_a_copy(folder: Path) -> None:
    with Database.create(folder / "a.db") as one, one.transaction():
        one.set_fact("x", 7)
    with Database.open(folder / "a.db") as one, one.copy_to(folder / "b.db") as other, other.transaction():
        other.set_fact("y", 8)
    with Database.open(folder / "b.db") as other:
        assert (other.fact("x"), other.fact("y")) == (7, 8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"not a database, but long enough " * 40, "not a database"), (b"", "of another version of pydp: 0, not 1")],
)
def test_what_is_no_database(folder: Path, content: bytes, complaint: str) -> None:
    folder.mkdir()
    path = folder / "x.db"
    path.write_bytes(content)
    with pytest.raises(PydpError, match=complaint) as caught:
        Database.open(path)
    assert "detach" in caught.value.hint


def test_another_version_and_a_table_that_is_missing(folder: Path) -> None:
    Database.create(folder / "x.db").close()
    for statement, complaint in (("drop table pending", "can be read"), ("pragma user_version = 2", "2, not 1")):
        with sqlite3.connect(folder / "x.db") as connection:
            connection.execute(statement)
        with pytest.raises(PydpError, match=complaint):
            Database.open(folder / "x.db")


def test_no_database(folder: Path) -> None:
    with pytest.raises(NothingAttached, match="no services are kept there"):
        Database.open(folder / "x.db")


def test_a_folder_of_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PydpError, match="open to others"):
        Database.create(folder / "x.db")


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o711)
    (folder / "x.db").symlink_to(tmp_path / "elsewhere")
    Database.create(folder / "x.db").close()
    assert not (tmp_path / "elsewhere").exists()
    assert not (folder / "x.db").is_symlink()


# Numbers


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(numbers, "time", made)
    return made


def take(database: Database, count: int, limit: int = 4, *, strict: bool = True) -> list[int]:
    with database.transaction():
        source = Numbers(database, "backend", limit, strict=strict)
        found = [source.take() for _ in range(count)]
        source.put_back()
    return found


def free(database: Database, *unused: int) -> None:
    with database.transaction() as connection:
        connection.executemany("insert into leaving_backend values (?)", [(number,) for number in unused])
        give_back(connection, "backend")
        connection.execute("delete from leaving_backend")


def test_numbers_that_were_free_for_longest_come_first(database: Database, clock: Clock) -> None:
    assert take(database, 3) == [0, 1, 2]
    free(database, 1)
    clock.sleep(5)
    free(database, 0)
    assert take(database, 1) == [3]  # never used
    clock.slept.clear()
    assert take(database, 1) == [1]
    assert clock.slept == []
    assert take(database, 1) == [0]
    assert clock.slept == [pytest.approx(1.0)]  # has just become free
    with pytest.raises(MapFull, match="no room for one more backend: 4 are taken"):
        take(database, 1)


def test_numbers_above_the_limit(database: Database, clock: Clock) -> None:
    assert take(database, 6, strict=False) == [0, 1, 2, 3, 4, 5]
    free(database, 2)
    assert take(database, 1, strict=False) == [6]
    clock.sleep(1)
    assert take(database, 2, strict=False) == [2, 7]


def test_what_was_not_taken_stays(database: Database, clock: Clock) -> None:
    take(database, 4)
    free(database, 0, 1, 2, 3)
    clock.sleep(1)
    assert take(database, 1) == [0]
    assert sorted(take(database, 3)) == [1, 2, 3]


# Slots


def test_slots_are_given_out_once(database: Database, clock: Clock) -> None:
    """A thousand turns of taking and giving back: no two runs meet, and all of it is there in the end."""
    dice, held, total = random.Random(5), dict[int, tuple[int, int]](), 4096
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(total)
        slots.put_back()
    for _ in range(1000):
        with database.transaction() as connection:
            if held and dice.random() < 0.5:
                first = dice.choice(list(held))
                free_runs(connection, [held.pop(first)])
                continue
            slots, count = Slots(connection), dice.randint(1, 300)
            try:
                first, size = slots.take(count)
            except MapFull:
                assert sum(size for _, size in held.values()) + size_of(count) > total / 4
                slots.put_back()
                continue
            slots.put_back()
            assert size >= count
            assert first % size == 0
            taken = [range(one, one + other) for one, other in held.values()]
            assert all(first >= run.stop or first + size <= run.start for run in taken)
            assert first + size <= total
            held[first] = first, size
    with database.transaction() as connection:
        free_runs(connection, held.values())
        assert Slots(connection).take(total) == (0, total)


@pytest.mark.parametrize("times", [64, 65, 200, 333])
def test_slots_that_are_expected(database: Database, times: int) -> None:
    """They are cut to size at once, and what is left of them is not lost."""
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(1024)
        slots.expect([3] * times)
        taken = [slots.take(3) for _ in range(min(times, 256))]
        assert len({first for first, _ in taken}) == min(times, 256)
        slots.put_back()
        free = connection.execute("select first, size from room").fetchall()
    places = [place for first, size in [*taken, *free] for place in range(first, first + size)]
    assert sorted(places) == list(range(1024))


def test_slots_wait(database: Database, clock: Clock) -> None:
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(8)
        run = slots.take(8)
        free_runs(connection, [run])
        assert slots.take(8) == run
        assert clock.slept == [1.0]
        with pytest.raises(MapFull, match="no room for 1 more slots"):
            slots.take(1)


@pytest.mark.parametrize("total", [1, 5, 6, 1000, 4096])
def test_all_slots_of_any_number_can_be_had(database: Database, total: int) -> None:
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(total)
        assert sorted(slots.take(1)[0] for _ in range(total)) == list(range(total))


@given(st.lists(st.integers(0, 63), unique=True))
def test_merging_keeps_what_there_is(firsts: list[int]) -> None:
    found = merged([(1, first) for first in firsts])
    covered = [place for size, first in found for place in range(first, first + size)]
    assert sorted(covered) == sorted(firsts)
    assert all(first % size == 0 for size, first in found)
    whole = {(size, first) for size, first in found}
    assert not any((size, first ^ size) in whole for size, first in whole)


# Rows

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


@st.composite
def services(draw: st.DrawFn) -> Service:
    """Any service, with frontends of both versions."""
    addresses = draw(st.lists(V4 | V6, unique=True, max_size=3))
    port = st.integers(1, 65535)
    fronts = [Frontend("udp", ip_address("10.0.0.1"), 1), Frontend("udp", ip_address("fd00::1"), 1)]
    fronts += [Frontend(draw(st.sampled_from(["tcp", "sctp"])), None, draw(port), draw(st.sampled_from([0, 4, 6])))]
    fronts += [
        Frontend("tcp", one, 99, masquerade=draw(st.booleans()), local_only=local, host_exempt=exempt)
        for one in addresses
        for local, exempt in [draw(st.sampled_from([(False, False), (True, False), (True, True)]))]
        if int(one)
    ]
    host = draw(st.booleans())
    ends = draw(
        st.lists(st.tuples(st.none() if host else (V4 | V6).filter(int), port), unique=True, max_size=5)
    )  # fmt: skip
    backends = [
        Backend(
            address, port, draw(st.integers(0, 3)), draw(st.sampled_from(BackendState)), draw(st.booleans()),
            draw(st.booleans()), draw(st.none() | st.floats(1, 1e10)), draw(st.sampled_from(ENDINGS)),
        )
        for address, port in ends
    ]  # fmt: skip
    return Service(
        "s", tuple(fronts), tuple(backends), draw(st.sampled_from(SCHEDULERS)), 251, draw(st.floats(0, 1e6)),
        masquerade=draw(st.booleans()), health=draw(st.sampled_from([None, Health("exec", command=("a", "b"))])),
        source="f",
    )  # fmt: skip


@given(services())
def test_services_are_read_back(service: Service) -> None:
    check_all([service])
    with Database.in_memory() as database:
        with database.transaction() as connection:
            Slots(connection).reset(1 << 12)
            change = Change(database, LIMITS)
            change.want({"s": service}, {})
            change.write()
        (stored,) = load(database.connection).values()
    assert stored.service == service
    assert len({row.number for row in stored.backends}) == len(stored.backends)
    assert all(row.generation for row in stored.backends)


@given(services())
def test_an_attach_makes_room_for_what_a_service_takes(service: Service) -> None:
    with Database.in_memory() as database:
        with database.transaction() as connection:
            Slots(connection).reset(1 << 12)
            change = Change(database, LIMITS)
            change.want({"s": service}, {})
            change.write()
        taken = _standing(database)
    assert all(needed >= there for needed, there in zip(_needed([service]), taken, strict=True))


@given(services(), st.sampled_from([4, 6]), st.booleans())
def test_rows_are_as_eligible_as_backends(service: Service, version: int, local_only: bool) -> None:
    """The rule is there twice: in words that can be read, and on rows."""
    with Database.in_memory() as database:
        with database.transaction() as connection:
            Slots(connection).reset(1 << 12)
            change = Change(database, LIMITS)
            change.want({"s": service}, {})
            change.write()
        (packed,) = database.connection.execute("select backends from service").fetchone()
    rows = eligible_rows(version | (LOCAL_ONLY if local_only else 0), unpack_backends(packed), frozenset())
    frontend = replace(service.frontends[0], local_only=local_only)
    assert [backend_of(row) for row in rows] == eligible(frontend, version, service.backends)


def test_who_is_eligible() -> None:
    front = Frontend("tcp", ip_address("10.96.0.1"), 80)
    ready, draining = (
        Backend(ip_address("10.0.0.1"), 1),
        Backend(ip_address("10.0.0.2"), 1, state=BackendState.DRAINING),
    )
    down, quiet = replace(ready, port=2, state=BackendState.DOWN), replace(draining, port=2, serving=False)
    idle, six = replace(ready, port=3, weight=0), Backend(ip_address("fd00::1"), 1)
    everybody = [down, quiet, draining, idle, six, ready]
    assert eligible(front, 4, everybody) == [ready]
    assert eligible(front, 6, everybody) == [six]
    assert eligible(front, 4, everybody[:-1]) == [draining]
    assert eligible(front, 4, [down, quiet, idle]) == []
    local = replace(front, local_only=True)
    assert eligible(local, 4, everybody) == []
    assert eligible(local, 4, [*everybody, replace(draining, port=9, local=True)])[0].port == 9


def test_the_clock_is_not_believed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became free in the future, before somebody set the clock, is not waited for."""
    with database.transaction() as connection:
        slots = Slots(connection)
        slots.reset(2)
        run = slots.take(2)
        slots.put_back()
        free_runs(connection, [run])
        begun = time.monotonic()
        assert Slots(connection, now=time.time() - 1e6).take(2) == run
        assert time.monotonic() - begun < 0.5
