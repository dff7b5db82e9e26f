# SPDX-License-Identifier: Apache-2.0
"""Services when an instance is attached: those that the attach names, and those that it has already.

An attach writes a database of its own and fills fresh maps from it before any program is switched, so that with the
commit of the change both count at once. Where the attach names services, the instance has just these then; their
numbers stay, and with them the flows and counters that go by them. Otherwise it keeps those that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ebpf.maps import Map
from pydp.datapath import Datapath, Instance, Request
from pydp.errors import UsageError
from pydp.kernel.defaults import possible_cpus
from pydp.modes.fdb import power_of_two
from pydp.modes.nat import NatOptions
from pydp.options import parse_options
from pydp.services.database import Database, path_of
from pydp.services.files import from_tables, read_services
from pydp.services.model import Service, check_all
from pydp.services.numbers import size_of
from pydp.services.program import Programmer
from pydp.services.rows import BACKEND_ROW_SIZE, unpack_runs
from pydp.services.schedule import random_slots
from pydp.services.text import parse_forward, parse_redirect, parse_service

_NAMING = ("service", "forward", "redirect", "services")  # options that name services


def prepared(
    datapath: Datapath,
    request: Request,
    tables: Sequence[Mapping[str, Any]] = (),
    where: str = "",
    note: Callable[[str], None] = lambda _text: None,
) -> tuple[Request, ServiceFiller | None]:
    """The request without what names services, and who sees to these; None for a mode that has none. TABLES are further
    services; WHERE stands before the key that an error names; NOTE is told what of a file was left out. Raises
    UsageError.
    """
    if request.mode != "nat":
        if tables:
            raise UsageError(f"{where}service: mode {request.mode} has no services")
        return request, None
    options = parse_options(NatOptions, request.options)
    if options.node and not options.services:
        raise UsageError(f"{where}node {options.node}: there are no manifests", hint="--services FILE --node NAME")
    rest = {key: value for key, value in request.options.items() if key not in (*_NAMING, "node")}
    wanted = None
    if tables or any(key in request.options for key in _NAMING):
        wanted = _named(options, note) + (from_tables(list(tables), where) if tables else [])
        check_all(wanted)
    return replace(request, options=rest), ServiceFiller(datapath, wanted)


def _named(options: NatOptions, note: Callable[[str], None]) -> list[Service]:
    found = [parse_service(text) for text in options.service]
    found += [parse_forward(text) for text in options.forward]
    found += [parse_redirect(text) for text in options.redirect]
    found = [replace(one, source="cli") for one in found]
    return found + (read_services(options.services, node=options.node, note=note) if options.services else [])


class ServiceFiller:
    """Fills the maps of services (pydp.datapath.contents.Filler)."""

    def __init__(self, datapath: Datapath, wanted: Sequence[Service] | None) -> None:
        """WANTED None: those that the instance has."""
        self.wanted = wanted
        self._datapath = datapath

    def room(self, before: Instance | None) -> Mapping[str, int]:
        """For twice as many as there are or will be: old and new ones stand side by side while they change."""
        wanted = _needed(self.wanted or ())
        there = (0,) * len(wanted)
        if before and path_of(self._datapath, before).exists():
            with Database.open(path_of(self._datapath, before)) as database:
                there = _standing(database)
        services, names, backends, slots = (
            power_of_two(2 * max(one, other)) for one, other in zip(there, wanted, strict=True)
        )
        return {
            "nat_failures": services,
            "nat_frontends": names,
            "nat_backends": backends,
            "nat_counts": backends * possible_cpus(),
            "nat_slots": slots,
        }

    def fill(self, instance: Instance, before: Instance | None, maps: Mapping[str, Map]) -> None:
        with self._database(instance, before) as database:
            programmer = Programmer(database, maps)
            programmer.reprogram()
            if self.wanted is not None:
                programmer.apply({one.name: one for one in self.wanted}, every=True)

    def _database(self, instance: Instance, before: Instance | None) -> Database:
        """A new one, with what the current one has."""
        path = path_of(self._datapath, instance)
        if before is None or not path_of(self._datapath, before).exists():
            return Database.create(path)
        with Database.open(path_of(self._datapath, before)) as current:
            return current.copy_to(path)


def _standing(database: Database) -> tuple[int, ...]:
    """Services, names in nat_frontends, backends and slots that a database has."""
    query = database.connection.execute
    (names,) = query("select count(*) from name").fetchone()
    rows = query("select length(backends), runs from service").fetchall()
    slots = sum(size for _, packed in rows for _, size in unpack_runs(packed).values())
    return len(rows), names, sum(length for length, _ in rows) // BACKEND_ROW_SIZE, slots


def _needed(services: Sequence[Service]) -> tuple[int, ...]:
    """The same of services that are wanted."""
    names = sum(len(one.versions) << one.host_exempt for service in services for one in service.frontends)
    backends = sum(2 if one.address is None else 1 for service in services for one in service.backends)
    return len(services), names, backends, sum(map(_slots, services))


def _slots(service: Service) -> int:
    """What the runs of a service take: one for each IP version, and for frontends that want local backends only."""
    kinds = {(version, one.local_only) for one in service.frontends for version in one.versions}
    kinds |= {(version, False) for one in service.frontends for version in one.versions if one.host_exempt}
    found = 0
    for version, _ in kinds:
        weights = [one.weight for one in service.backends if one.address is None or one.address.version == version]
        weights = [one for one in weights if one]
        if weights:
            count = service.table_size if service.scheduler == "maglev" else len(random_slots(weights))
            found += size_of(count)
    return found
