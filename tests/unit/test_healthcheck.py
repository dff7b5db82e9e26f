# SPDX-License-Identifier: Apache-2.0
"""Which backends are probed: read from a database that others change meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from pydp.errors import NothingAttached, PydpError
from pydp.services.database import Database
from pydp.services.healthcheck import Probed, targets
from pydp.services.model import Backend, Frontend, Health, Service
from pydp.services.stored import Change, Limits, load, numbers_of

LIMITS = Limits(services=16, backends=64, frontends=64)
PROBE = Health("tcp", interval=5)


def service(name: str, *hosts: str, health: Health | None = PROBE) -> Service:
    front = Frontend("tcp", ip_address("10.96.0.1"), 1000 + sum(map(ord, name)))
    return Service(name, (front,), tuple(Backend(ip_address(host), 80) for host in hosts), health=health)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (service("web", "10.0.0.2", "10.0.0.3"), ["10.0.0.2", "10.0.0.3"]),
        (service("web", "10.0.0.2", health=None), []),
        (service("web", "10.0.0.2", health=Health("none")), []),
        (Service("own", (Frontend("tcp", None, 80),), (Backend(None, 8080),), health=PROBE), ["127.0.0.1"]),
        (Service("own", (Frontend("tcp", None, 80, 4),), (Backend(None, 8080),), health=PROBE), ["127.0.0.1"]),
        (Service("own", (Frontend("tcp", None, 80, 6),), (Backend(None, 8080),), health=PROBE), ["::1"]),
        (Service("six", (Frontend("tcp", ip_address("fd00::1"), 80),), (Backend(ip_address("fd00::2"), 80),),
                 health=PROBE), ["fd00::2"]),
    ],
)  # fmt: skip
def test_targets(made: Service, expected: list[str]) -> None:
    found = list(targets(made))
    assert [one.host for one in found] == expected
    assert [(one.service, one.address, one.port) for one in found] == [
        (made.name, one.address, one.port) for one in made.backends[: len(expected)]
    ]


class World:
    """A datapath with an instance whose services are in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.revision, self.gone = folder, 1, False
        Database.create(self.file).close()

    @property
    def file(self) -> Path:
        return self.folder / f"nat-{self.revision}.db"

    def instance(self, name: str) -> str:
        if self.gone:
            raise NothingAttached(f"there is no instance {name}")
        return name

    def path(self, _: str) -> Path:
        return self.file

    def write(self, wanted: Mapping[str, Service | None]) -> None:
        with Database.open(self.file, write=True) as database, database.transaction() as connection:
            before = {one.row.name: one for one in load(connection, numbers_of(connection, wanted).values()).values()}
            change = Change(database, LIMITS)
            change._slots.reset(1024)
            change.want(wanted, before)
            change.write()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def probed(world: World) -> Iterator[Probed]:
    made = Probed(world, "nat")  # type: ignore[arg-type]
    yield made
    made.close()


def seen(probed: Probed) -> list[str] | None:
    picture = probed.look()
    return None if picture is None else sorted(map(str, picture.targets))


def test_changes_are_seen_and_nothing_else(world: World, probed: Probed) -> None:
    assert seen(probed) == []
    assert seen(probed) is None
    world.write({"web": service("web", "10.0.0.2"), "api": service("api", "10.0.0.3", health=None)})
    assert seen(probed) == ["web 10.0.0.2:80"]
    assert seen(probed) is None
    world.write({"web": service("web", "10.0.0.2", "10.0.0.4"), "api": service("api", "10.0.0.3")})
    assert seen(probed) == ["api 10.0.0.3:80", "web 10.0.0.2:80", "web 10.0.0.4:80"]
    world.write({"web": None})
    assert seen(probed) == ["api 10.0.0.3:80"]


def test_how_to_probe_is_read_whole(world: World, probed: Probed) -> None:
    health = Health("exec", 81, "/", "", ("/bin/true", "-x"), 1.5, 0.5, 4, 5)
    world.write({"web": service("web", "10.0.0.2", health=health)})
    picture = probed.look()
    assert picture
    assert picture.targets[0].health == health


def test_what_was_found_is_read(world: World, probed: Probed) -> None:
    world.write({"web": service("web", "10.0.0.2", "10.0.0.3")})
    with Database.open(world.file, write=True) as database:
        database.connection.execute(
            "insert into health values ('web', ?, 80, 0, 7.5, 'connection refused', 9, 3)",
            (ip_address("10.0.0.3").packed,),
        )
    picture = probed.look()
    assert picture
    (found,) = picture.known.values()
    assert picture.known == {("web", ip_address("10.0.0.3"), 80): found}
    assert (found.up, found.since, found.reason, found.checks, found.failures) == (
        False,
        7.5,
        "connection refused",
        9,
        3,
    )


def test_another_attach_is_another_file(world: World, probed: Probed) -> None:
    world.write({"web": service("web", "10.0.0.2")})
    assert seen(probed) == ["web 10.0.0.2:80"]
    world.file.unlink()
    world.revision = 2
    Database.create(world.file).close()
    assert seen(probed) == []
    world.gone = True
    with pytest.raises(PydpError, match="no instance nat"):
        probed.look()
    world.gone = False
    world.write({"web": service("web", "10.0.0.9")})
    assert seen(probed) == ["web 10.0.0.9:80"]


def test_another_file_of_the_same_name(world: World, probed: Probed) -> None:
    """Detached, and attached anew."""
    world.write({"web": service("web", "10.0.0.2")})
    assert seen(probed) == ["web 10.0.0.2:80"]
    Database.create(world.file).close()
    assert seen(probed) == []


def test_a_file_that_is_no_database(world: World, probed: Probed) -> None:
    world.file.write_bytes(b"x" * 4096)
    with pytest.raises(PydpError, match="not a database"):
        probed.look()
