# SPDX-License-Identifier: Apache-2.0
"""The services of an attached instance: change them and show them.

A change takes the lock of the store, finishes what somebody left unfinished, and returns when the maps are in line.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ebpf import libbpf
from ebpf.maps import Map, MapSpec
from ebpf.pins import STATE
from ebpf.records import Scalar
from pydp.datapath import Datapath, Instance, Reader, State
from pydp.datapath.specs import compare_layouts
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.services.database import Database
from pydp.services.model import (
    Backend,
    BackendHealth,
    BackendState,
    Ending,
    Service,
    check,
    check_all,
    end_text,
)
from pydp.services.program import COUNTED, MAPS, Programmer
from pydp.services.records import LAYOUTS
from pydp.services.show import ServiceShown, find, show
from pydp.services.stored import Outcome, load, numbers_of
from pydp.services.text import parse_backend

_TRIES = 5
_SOME = 5  # names in a hint


class Services:
    """The services of an instance of mode nat, "" for the only one. All raise UsageError, PydpError and EbpfError; with
    ``dry_run`` nothing is changed.
    """

    def __init__(self, datapath: Datapath, name: str = "") -> None:
        self._datapath = datapath
        self._name = name

    # Services

    def add(self, services: Sequence[Service], *, dry_run: bool = False) -> Outcome:
        """Add services. None of them may be there."""
        check_all(services)
        with self._changing() as programmer:
            there = numbers_of(programmer.database.connection, [one.name for one in services])
            if there:
                raise UsageError(f"service {next(iter(there))} is there already", hint="pydp service set changes it")
            return programmer.apply({one.name: one for one in services}, dry_run=dry_run)

    def delete(self, names: Sequence[str], *, dry_run: bool = False) -> Outcome:
        """Delete services, named by their name or a frontend."""
        with self._changing() as programmer:
            found = [find(programmer.database, name).row.name for name in names]
            return programmer.apply(dict.fromkeys(found), dry_run=dry_run)

    def edit(self, name: str, change: Callable[[Service], Service], *, dry_run: bool = False) -> Outcome:
        """Have a service, which is named by its name or a frontend, be what CHANGE makes of it. Its name stays."""
        return self._edit(name, change, dry_run=dry_run)

    def replace_all(self, services: Sequence[Service], *, dry_run: bool = False) -> Outcome:
        """Have these services and no others. What stays as it is keeps its numbers, and with them its connections; a
        packet finds each service as it was or as it is to be.
        """
        check_all(services)
        with self._changing() as programmer:
            return programmer.apply({one.name: one for one in services}, every=True, dry_run=dry_run)

    # Backends

    def add_backends(self, name: str, backends: Sequence[Backend], *, dry_run: bool = False) -> Outcome:
        """Add backends to a service, or change what is told of those that are there: their weight."""
        new = {one.end: one for one in backends}
        if len(new) < len(backends):
            raise UsageError("a backend is named twice")

        def added(service: Service) -> Service:
            kept = [one for one in service.backends if one.end not in new]
            return replace(service, backends=(*kept, *backends))

        return self._edit(name, added, dry_run=dry_run)

    def delete_backend(
        self, name: str | None, backend: str, *, when_over: Ending | None = None, dry_run: bool = False
    ) -> Outcome:
        """Delete a backend (ADDR:PORT) from a service, or (None) from all. WHEN_OVER is what becomes of its
        connections; None: as it was told when it was added.
        """
        end = _end(backend)

        def left(service: Service) -> Service:
            return replace(service, backends=tuple(one for one in service.backends if one.end != end))

        return self._edit(name, left, end=end, ending=when_over, dry_run=dry_run)

    def drain(
        self,
        name: str | None,
        backend: str,
        *,
        deadline: float | None = None,
        then: Ending = "reset",
        dry_run: bool = False,
    ) -> Outcome:
        """Have a backend (ADDR:PORT) of a service, or (None) of all, get no new connections. Those that it has end as
        they please, or after DEADLINE seconds as THEN says.
        """
        end, until = _end(backend), None if deadline is None else time.time() + deadline

        def drained(service: Service) -> Service:
            quiet = [
                replace(one, state=BackendState.DRAINING, serving=False, deadline=until, on_end=then)
                if one.end == end
                else one
                for one in service.backends
            ]
            return replace(service, backends=tuple(quiet))

        return self._edit(name, drained, end=end, dry_run=dry_run)

    def set_health(self, found: Iterable[BackendHealth]) -> Outcome:
        """Keep what probes say; what is said of nobody is left out."""
        with self._changing() as programmer:
            return programmer.set_health(found)

    def finish(self) -> None:
        """Finish what somebody left unfinished, and nothing else."""
        with self._changing() as programmer:
            programmer.finish()

    # Showing

    def show(self, name: str | None = None) -> list[ServiceShown]:
        """A service, by its name or a frontend, or all in the order of their numbers, with what was counted."""
        with self._reading() as (reader, instance, database):
            if database.fact("unfinished"):
                self.finish()
            return show(reader, instance, database, name)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[Reader, Instance, Database]]:
        """An attach in between puts another database in the place of this one: what was opened is that of before."""
        with contextlib.ExitStack() as stack:
            for left in reversed(range(_TRIES)):
                reader = stack.enter_context(Reader.open(self._datapath))
                instance = reader.state.instances[self._datapath.of_mode("nat", self._name).name]
                try:
                    database = stack.enter_context(Database.open(self._datapath.path(instance)))
                except NothingAttached:
                    if not left:
                        raise
                    continue
                yield reader, instance, database
                return

    # Changing

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Programmer]:
        """Within the lock of the store."""
        store = self._datapath.store
        for _ in range(_TRIES):
            name = self._datapath.of_mode("nat", self._name).name  # recovers from a change that was interrupted
            with store.locked():
                if store.unfinished():
                    continue
                instance = State.from_document(store.read()).instances.get(name)
                if instance is None:
                    continue
                with contextlib.ExitStack() as stack:
                    database = stack.enter_context(Database.open(self._datapath.path(instance), write=True))
                    yield Programmer(database, self._maps(stack, instance))
                    return
        raise PydpError(f"{store.current / STATE} changes all the time", hint="try again")

    def _maps(self, stack: contextlib.ExitStack, instance: Instance) -> dict[str, Map]:
        """The maps by size alone: what is written is packed here, and no C text has to be looked at."""
        found = {}
        for name in (*MAPS, COUNTED):
            told = instance.maps[name]
            if name in LAYOUTS:
                compare_layouts(f"{instance.name}-{name}", told, {"layout": LAYOUTS[name]})
            path = self._datapath.store.current / "maps" / f"{instance.name}-{name}"
            found[name] = stack.enter_context(_open(name, told["kind"], str(path)))
        return found

    def _edit(
        self,
        name: str | None,
        change: Callable[[Service], Service],
        *,
        end: tuple[Any, int] | None = None,
        ending: Ending | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Change a service, or (None) all that have the backend END, which one that is named must have, too."""
        with self._changing() as programmer:
            database = programmer.database
            if name is None:
                services = [one.service for one in load(database.connection).values()]
                services = [one for one in services if any(back.end == end for back in one.backends)]
            else:
                services = [find(database, name).service]
            for one in services:
                if end is not None and not any(back.end == end for back in one.backends):
                    raise UsageError(f"{end_text(*end)} is no backend of {one.name}", hint=_some(one.backends))
            if not services and end is not None:
                raise UsageError(f"{end_text(*end)} is a backend of no service")
            changed = {one.name: change(one) for one in services}
            for one in changed.values():
                check(one)
            return programmer.apply(changed, ending=ending, dry_run=dry_run)


def _end(text: str) -> tuple[Any, int]:
    return parse_backend(text).end


def _some(backends: Sequence[Backend]) -> str:
    texts = [end_text(*one.end) for one in backends[:_SOME]] + (["..."] if len(backends) > _SOME else [])
    return f"backends: {', '.join(texts) or 'none'}"


def _open(name: str, kind: str, path: str) -> Map:
    descriptor = libbpf.obj_get(path)
    info = libbpf.map_info(descriptor)
    key, value = Scalar(name, int(info.key_size)), Scalar(name, int(info.value_size))
    return Map(MapSpec(name, kind, key, value, int(info.max_entries)), descriptor)
