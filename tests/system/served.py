# SPDX-License-Identifier: Apache-2.0
"""Services in a network namespace: attach with them, and are the maps what the database says?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydp.datapath import Datapath, Instance, Request, files
from pydp.services.attach import prepared
from pydp.services.database import Database
from pydp.services.program import MAPS, Programmer
from pydp.services.records import BACKEND, FRONTEND, INDEX
from pydp.services.stored import load
from pydp.services.text import parse_service

Answers = Mapping[str, list[str]]


def attach(*names: str, hook: str = "tc", **options: Any) -> Instance:
    """Attach mode nat as the verb does it."""
    datapath = Datapath()
    request, filler = prepared(datapath, Request("nat", names, name="nat", hook=hook, options=options))
    return datapath.attach(request, filler)


def add(text: str) -> None:
    """Add a service to what is attached."""
    datapath = Datapath()
    with datapath.store.locked():
        instance = datapath.instance("nat")
        database = Database.open(datapath.path(instance), write=True)
        with database, datapath.open_maps(instance, [*MAPS, "nat_failures"]) as maps:
            service = parse_service(text)
            Programmer(database, maps).apply({service.name: service})


def answers(name: str = "nat") -> Answers:
    """Who answers for which service, as the maps have it; fails where these are not what the database says."""
    datapath = Datapath()
    instance = datapath.instance(name)
    with Database.open(datapath.path(instance)) as database, datapath.open_maps(instance, MAPS) as maps:
        assert not database.fact("unfinished")
        raw = {key: (one.raw(), one.spec) for key, one in maps.items()}
        stored = load(database.connection).values()

        def entries(of: str) -> dict[bytes, bytes]:
            (keys, values), spec = raw[of]
            key, value = spec.key.size, spec.value.size
            return {
                keys[at * key : (at + 1) * key]: values[at * value : (at + 1) * value] for at in range(len(keys) // key)
            }

        frontends, slots, backends = entries("nat_frontends"), entries("nat_slots"), entries("nat_backends")
        assert frontends.keys() == {row.key for one in stored for row in one.names}
        found: dict[str, list[str]] = {}
        for one in stored:
            records = {row.number: row for row in one.backends}
            for row in one.names:
                number, first, count, *_ = FRONTEND.unpack(frontends[row.key])
                places = [INDEX.unpack(slots[INDEX.pack(place)])[0] for place in range(first, first + count)]
                assert number == one.row.number
                assert places == one.slots(row.kind)
                for place in places:
                    address, port, _, _, generation, _, _ = BACKEND.unpack(backends[INDEX.pack(place)])
                    there = records[place]
                    assert (address, int.from_bytes(port, "big")) == (there.address, there.port)
                    assert generation == there.generation
            found[one.row.name] = [str(each) for each in one.service.backends]
        wild = {INDEX.unpack(key)[0]: INDEX.unpack(value)[0] for key, value in entries("nat_wild").items()}
        ports = [row.wild for one in stored for row in one.names if row.wild is not None]
        assert {port: count for port, count in wild.items() if count} == {port: ports.count(port) for port in ports}
        return found


def numbers(name: str = "nat") -> dict[str, int]:
    """Numbers of backends by ADDR:PORT."""
    datapath = Datapath()
    with Database.open(datapath.path(datapath.instance(name))) as database:
        stored = load(database.connection).values()
        return {
            str(one): row.number
            for each in stored
            for one, row in zip(each.service.backends, each.backends, strict=True)
        }


def databases() -> set[str]:
    """The files of this namespace, journals left out."""
    folder = files.AREA / Datapath().store.base.name
    with contextlib.suppress(FileNotFoundError):
        return {one.name for one in folder.iterdir() if not one.name.endswith("-journal")}
    return set()


def place() -> Path:
    """The folder of this namespace's files."""
    return files.AREA / Datapath().store.base.name
