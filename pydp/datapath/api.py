# SPDX-License-Identifier: Apache-2.0
"""The verbs of the datapath: attach, detach, and access to an instance's maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebpf.errors import EbpfError
from ebpf.loader import Program
from ebpf.maps import Map
from ebpf.pins import Store, pin_errors
from pydp.datapath import companions, comparing, files, planning, recovery
from pydp.datapath.change import Change
from pydp.datapath.contents import Filler, with_contents, with_fdb
from pydp.datapath.control import run_control
from pydp.datapath.planning import Request
from pydp.datapath.settings import merged, settings_of, still_needed
from pydp.datapath.specs import dict_options, specs_of
from pydp.datapath.state import Instance, State
from pydp.datapath.sweep import sweep
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.kernel import View, namespace_cookie, read_defaults
from pydp.modes import MODES
from pydp.modes.base import Context


class Datapath:
    """What is attached in the network namespace of the calling process."""

    def __init__(self) -> None:
        self.store = Store(namespace_cookie())

    def read(self) -> State:
        """What is attached, without the lock unless a change was interrupted. Raises EbpfError."""
        if self.store.unfinished():
            with self.store.locked():
                return recovery.recover(self.store, self._ask_again)
        return State.from_document(self.store.read())

    def instance(self, name: str) -> Instance:
        """Raises NothingAttached."""
        state = self.read()
        if name not in state.instances:
            raise _no_instance(name, state)
        return state.instances[name]

    def of_mode(self, mode: str, name: str = "") -> Instance:
        """The instance of that mode and name, "" for the only one. Raises NothingAttached, UsageError."""
        state = self.read()
        if name and name not in state.instances:
            raise _no_instance(name, state)
        found = [one for one in state.instances.values() if one.mode == mode and name in ("", one.name)]
        if not found and name:
            there = ", ".join(one.name for one in state.instances.values() if one.mode == mode) or "none"
            raise UsageError(
                f"{name} is not an instance of mode {mode}",
                hint=f"instances of mode {mode}: {there}",
            )
        if not found:
            raise NothingAttached(f"no instance of mode {mode}", hint=f"pydp attach --mode {mode} ...")
        if len(found) > 1:
            raise UsageError("there are several instances", hint=", ".join(one.name for one in found))
        return found[0]

    # Attach and detach

    def plan(self, request: Request, filler: Filler | None = None) -> tuple[Instance, Instance | None]:
        """What an attach would make, and what it would replace. Raises PydpError, EbpfError. Changes nothing."""
        alive = recovery.without_dead(self.store, self.read())
        plan = planning.plan(request, alive, View.read())
        before = alive.instances.get(plan.instance.name)
        room = filler.room(before) if filler else {}
        instance, _ = with_contents(plan.instance, plan.context, before, room)
        return instance, before

    def attach(self, request: Request, filler: Filler | None = None) -> Instance:
        """Attach, or replace the instance of the same name. Raises PydpError, EbpfError; then all is as before."""
        with self.store.locked():
            old = self._recovered()
            view = View.read()
            alive = recovery.without_dead(self.store, old)
            plan = planning.plan(request, alive, view)
            with companions.kept(self.store):
                instance, context = companions.with_companion(plan.instance, plan.context)
                before = alive.instances.get(instance.name)
                room = filler.room(before) if filler else {}
                instance, context = with_contents(instance, context, before, room)
                if request.compare:
                    instance = comparing.begun(instance, made=True)
                new = replace(alive, instances={**alive.instances, instance.name: instance})
                new = replace(new, settings=merged(still_needed(old, new), settings_of(instance, plan.devices, old)))
                done = Change(self.store, old, alive, new, lambda _: context, filler).run()
        sweep(self.store)
        return done.instances[instance.name]

    def detach(self, names: Sequence[str] | None = None) -> list[str]:
        """Detach these instances, or all; gives their names. Raises NothingAttached, EbpfError."""
        with self.store.locked():
            old = recovery.recover(self.store, self._ask_again)
            for name in names or ():
                if name not in old.instances:
                    raise _no_instance(name, old)
            gone = list(old.instances) if names is None else list(names)
            if not gone:
                raise NothingAttached("nothing is attached in this namespace")
            alive = recovery.without_dead(self.store, old)
            new = replace(alive, instances={name: one for name, one in alive.instances.items() if name not in gone})
            if comparing.left_over(new.instances):
                new = comparing.settled(new)
            self._change(old, alive, new)
        sweep(self.store)
        return gone

    # Comparisons: by whoever holds `comparing.holding()`

    def begin_comparison(self, name: str) -> Instance:
        """Have the programs of an instance heed `comparing.TURNS`. Raises NothingAttached, EbpfError."""
        with self.store.locked():
            old = recovery.recover(self.store, self._ask_again)
            alive = recovery.without_dead(self.store, old)
            new = comparing.settled(alive)  # we compare, so what is compared already was left by another
            if name not in new.instances:
                raise _no_instance(name, new)
            new = replace(new, instances={**new.instances, name: comparing.begun(new.instances[name], made=False)})
            return self._change(old, alive, new).instances[name]

    def end_comparisons(self) -> None:
        """Have everything as it was before; fine if it is. Raises EbpfError."""
        with self.store.locked():
            self._settle(recovery.recover(self.store, self._ask_again))
        sweep(self.store)

    def _recovered(self) -> State:
        """What is attached, once what was interrupted is undone or finished, comparisons too. Within the lock."""
        state = recovery.recover(self.store, self._ask_again)
        return self._settle(state) if comparing.left_over(state.instances) else state

    def _settle(self, old: State) -> State:
        alive = recovery.without_dead(self.store, old)
        new = comparing.settled(alive)
        return old if new is alive else self._change(old, alive, new)

    def _change(self, old: State, alive: State, new: State) -> State:
        """From OLD, of which ALIVE is left, to NEW, for which no instance is to be filled."""
        new = replace(new, settings=still_needed(old, new))
        with companions.kept(self.store):
            return Change(self.store, old, alive, new, _no_context).run()

    def path(self, instance: Instance) -> Path:
        """Where a file that goes with this revision of an instance has its place: see `files`."""
        return files.path(self.store.base.name, instance)

    # Maps of an instance

    @contextlib.contextmanager
    def open_maps(self, instance: Instance, names: Sequence[str]) -> Iterator[dict[str, Map]]:
        """Open maps of an instance by name, with the record types of the C text. Raises EbpfError."""
        specs = specs_of(instance)
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(
                    Map.open(specs[name], str(self.store.current / "maps" / f"{instance.name}-{name}"))
                )
                for name in names
            }

    def control(self, instance: Instance, wanted: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Have the instance's datapath do what is WANTED; gives the requests with results (up to 16). Within the lock
        of the store. Raises EbpfError.
        """
        with self.controlling(instance) as (program, requests, cursor):
            return run_control(program, requests, cursor, wanted)

    @contextlib.contextmanager
    def controlling(self, instance: Instance) -> Iterator[tuple[Program, Map, Map]]:
        """The control program of an instance, open, with the maps of its requests and its cursor. Raises EbpfError."""
        control = MODES[instance.mode].traits.control
        if control is None:
            raise PydpError(f"mode {instance.mode} takes no requests")
        path = self.store.current / "programs" / f"{instance.name}-control"
        with pin_errors(path):
            program = Program.open(str(path))
        with program, self.open_maps(instance, [control.requests, control.cursor]) as maps:
            yield program, maps[control.requests], maps[control.cursor]

    def _ask_again(self, instance: Instance) -> None:
        """What a change asks of learned maps once it is committed, if it was killed before that was done."""
        view, mode = View.read(), MODES[instance.mode]
        slots = {ifindex: slot for ifindex, slot in instance.slots.items() if ifindex in view.links}
        context = replace(
            with_fdb(Context(view, instance.target, slots, instance.hook)),
            defaults=read_defaults(),
            companion=instance.companion,
            numbers=instance.numbers,
        )
        # Ports that vanished meanwhile must not keep the rest from being recovered: what is not asked is learned again.
        with contextlib.suppress(EbpfError, PydpError):
            self.control(instance, mode.requests(dict_options(instance), context))


def _no_context(instance: Instance) -> Context:
    raise PydpError(f"{instance.name} does not change")


def _no_instance(name: str, state: State) -> NothingAttached:
    there = ", ".join(state.instances) or "none"
    return NothingAttached(f"there is no instance {name}", hint=f"instances in this namespace: {there}")
