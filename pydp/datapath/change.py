# SPDX-License-Identifier: Apache-2.0
"""From one state to another, in one step.

Everything that can fail is done before anything is switched: compile, create maps, fill them, load. Then the next tree
of pins is built, new links are made and existing ones get their new program, and the trees are exchanged: that is the
commit. A change that fails or is killed before it is undone, one that is killed after it is finished, by whoever comes
next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebpf import attach, hooks, testrun
from ebpf.compiler import Compiled, compile_source
from ebpf.errors import EbpfError, MapError
from ebpf.loader import Program, load
from ebpf.maps import Map
from ebpf.pins import STATE, Store, pin_errors, write_blob
from pydp.datapath import comparing, files
from pydp.datapath.compose import Stage, again_names, compose, kind_of, program_name, written
from pydp.datapath.contents import Filler
from pydp.datapath.devices import pin_ports, set_promisc
from pydp.datapath.recovery import changed_instances, finish, open_link, roll_back
from pydp.datapath.specs import VERDICTS, compare_layouts, describe, dict_options
from pydp.datapath.state import PORTS, Attachment, Instance, State
from pydp.modes import MODES
from pydp.modes.base import Context, Role

FOLDERS = ("maps", "programs", "links", "counters")


@dataclass(slots=True)
class Built:
    """What a change made or opened, by the name of its pin. ``again``: prog arrays of single attachments; ``loaded``:
    programs to be switched to.
    """

    maps: dict[str, Map] = field(default_factory=dict)
    again: dict[str, Map] = field(default_factory=dict)
    counters: dict[str, Map] = field(default_factory=dict)
    loaded: dict[str, Program] = field(default_factory=dict)
    controls: dict[str, Program] = field(default_factory=dict)


class Change:
    """One change of a store. Use within the store's lock; `run` does all of it or nothing."""

    def __init__(
        self,
        store: Store,
        before: State,
        old: State,
        new: State,
        context: Callable[[Instance], Context],
        filler: Filler | None = None,
    ) -> None:
        """BEFORE is what the store says; OLD is BEFORE without what is gone by itself. FILLER is for the instance that
        is new or changed.
        """
        self.store = store
        self.before = before
        self.old = old
        self.context = context
        self.filler = filler
        self._stack = contextlib.ExitStack()
        self._built = Built()
        self._compiled: dict[str, Compiled] = {}
        self.new = self._planned(new)

    def run(self) -> State:
        """Raises EbpfError; then everything is as before."""
        with self._stack, pin_errors(self.store.base):
            try:
                self._prepare()
            except BaseException:
                files.tidy(self.store, self.old)
                raise
            committed = False
            try:
                self._build_tree()
                self._switch()
                self.store.commit()
                committed = True
                for instance in changed_instances(self.old, self.new):
                    self._ask(instance)
            except BaseException:
                if committed:
                    self.store.commit()  # exchanges the trees once more
                roll_back(self.store, self.old, self.new)
                raise
            self._finish()
        return self.new

    def _finish(self) -> None:
        """The change is made and stands; cleaning up after it gets a second chance here, and more with every command
        that follows.
        """
        try:
            finish(self.store, self.new, self.before)
        except (EbpfError, OSError):
            finish(self.store, self.new, self.before)

    # What there is to do

    def _planned(self, new: State) -> State:
        """NEW with its attachments worked out: which stages, under which numbers, built from what."""
        attachments = {}
        places = {
            (ifindex, hook) for one in new.instances.values() for ifindex in one.slots for hook in one.hooks[ifindex]
        }
        for ifindex, hook in sorted(places):
            before = self.old.attachments.get(f"{ifindex}-{hook}")
            stages = _numbered(sorted(new.stages_of(ifindex, hook)), before.stages if before else {})
            kind = before.kind if before else hooks.kind_of(hook)  # type: ignore[arg-type]
            one = Attachment(ifindex, hook, stages, kind=kind)
            attachments[one.key] = replace(one, build=self._build_id(new, one))
        return replace(new, generation=self.old.generation + 1, attachments=attachments)

    def _build_id(self, state: State, one: Attachment) -> str:
        facts = [
            (name, number, state.instances[name].revision, _written(state.instances[name], number, one))
            for name, number in sorted(one.stages.items())
        ]
        text = json.dumps(facts) + self._source(state, one).text
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _source(self, state: State, one: Attachment) -> Any:
        members = [(number, state.instances[name]) for name, number in one.stages.items()]
        return compose(
            one.hook,
            [Stage(number, instance.mode, instance.constants) for number, instance in members],
            counters=all(instance.counters for _, instance in members),
            frags=one.hook == "xdp" and any(instance.frags for _, instance in members),
        )

    def _rebuilt(self) -> Iterator[Attachment]:
        for key, one in self.new.attachments.items():
            before = self.old.attachments.get(key)
            if before is None or before.build != one.build:
                yield one

    def _same(self, name: str) -> bool:
        """Whether an instance keeps all its maps."""
        before = self.old.instances.get(name)
        return before is not None and before.revision == self.new.instances[name].revision

    # Before anything is switched

    def _prepare(self) -> None:
        for one in self._rebuilt():
            self._compiled[one.key] = compile_source(self._source(self.new, one))
        for one in self._rebuilt():
            for name in one.stages:
                self._take_maps(name, self._compiled[one.key])
        for name in self.new.instances:
            if not self._same(name):
                self._equip(self.new.instances[name])
        for one in self._rebuilt():
            self._built.loaded[one.key] = self._load(one)

    def _take_maps(self, name: str, compiled: Compiled) -> None:
        """Create or reopen the maps of an instance that COMPILED refers to."""
        instance = self.new.instances[name]
        traits = MODES[instance.mode].traits
        used = {map_name for program in compiled.programs.values() for map_name in program.map_names}
        for map_name in sorted((used & comparing.maps_of(instance)) - {traits.again_map}):
            pin = f"{name}-{map_name}"
            if pin in self._built.maps:
                continue
            spec = compiled.maps[map_name]
            spec = spec.sized(instance.sizes.get(map_name, spec.max_entries))
            told = describe(spec)
            keep = self._same(name) or (map_name in traits.learned and self._fits(name, map_name, spec.max_entries))
            path = self.store.current / "maps" / pin
            if keep and path.exists():
                compare_layouts(pin, self.old.instances[name].maps.get(map_name), told)
                self._built.maps[pin] = self._stack.enter_context(Map.open(spec, str(path)))
            else:
                self._built.maps[pin] = self._stack.enter_context(Map.create(spec))
                if map_name in traits.counted and path.exists():
                    compare_layouts(pin, self.old.instances[name].maps.get(map_name), told)
                    with Map.open(spec, str(path)) as before:
                        self._built.maps[pin].take_over(before)
            self._record(name, map_name, told)

    def _fits(self, name: str, map_name: str, entries: int) -> bool:
        before = self.old.instances.get(name)
        return before is not None and before.sizes.get(map_name, entries) == entries

    def _record(self, name: str, map_name: str, told: Mapping[str, Any]) -> None:
        instance = self.new.instances[name]
        instances = {**self.new.instances, name: replace(instance, maps={**instance.maps, map_name: told})}
        self.new = replace(self.new, instances=instances)

    def _equip(self, instance: Instance) -> None:
        """Fill the maps of an instance that is new or changed, and load its control program and tails."""
        mode = MODES[instance.mode]
        compiled, one = self._any_build(instance, None)
        for map_name, entries in mode.entries(dict_options(instance), self.context(instance)).items():
            if (pin := f"{instance.name}-{map_name}") in self._built.maps:  # or no program looks at it
                self._built.maps[pin].update(entries)
        if self.filler:
            own = {name: self._built.maps[f"{instance.name}-{name}"] for name in instance.maps}
            self.filler.fill(instance, self.old.instances.get(instance.name), own)
        if mode.traits.control:
            self._built.controls[instance.name] = self._load_part(mode.traits.control.program, compiled, one)
            if instance.name not in self.old.instances:
                self._ask(instance)
        for map_name, program in mode.traits.tails.items():
            pin = f"{instance.name}-{map_name}"
            if "tc" in instance.all_hooks and pin in self._built.maps:
                tail_compiled, tail_one = self._any_build(instance, "tc")
                self._built.maps[pin].set(0, self._load_part(program, tail_compiled, tail_one).fd)

    def _any_build(self, instance: Instance, hook: str | None) -> tuple[Compiled, Attachment]:
        """Some compiled program with this instance in it: all have the same maps and helpers."""
        for one in self._rebuilt():
            if instance.name in one.stages and hook in (None, one.hook):
                return self._compiled[one.key], one
        raise MapError(f"{instance.name}: no program was built for it")

    def _ask(self, instance: Instance) -> None:
        mode = MODES[instance.mode]
        control = mode.traits.control
        if control:
            maps = self._built.maps
            run_control(
                self._built.controls[instance.name],
                maps[f"{instance.name}-{control.requests}"],
                maps[f"{instance.name}-{control.cursor}"],
                mode.requests(dict_options(instance), self.context(instance)),
            )

    def _load(self, one: Attachment) -> Program:
        compiled = self._compiled[one.key]
        path = self.store.current / "counters" / one.key
        spec = compiled.maps["counters"]
        self._built.counters[one.key] = self._stack.enter_context(
            Map.open(spec, str(path)) if path.exists() else Map.create(spec)
        )
        self._clear_new_stages(one)
        again = self._load_again(one)
        loaded = self._load_part(program_name(one.hook), compiled, one)
        for programs in again:  # they hand packets back
            programs.set(0, loaded.fd)
        return loaded

    def _load_again(self, one: Attachment) -> list[Map]:
        """Load the programs that the one of an attachment hands packets to. Their array is the attachment's own and
        made anew with it, so that it changes in one step with the program that calls them. Gives the arrays, whose
        first place is for that program itself.
        """
        compiled = self._compiled[one.key]
        functions = {name: again_names(one.hook, self.new.instances[name].mode) for name in one.stages}
        arrays: dict[str, Map] = {}
        for name, some in functions.items():
            if some:
                spec = compiled.maps[MODES[self.new.instances[name].mode].traits.again_map]
                arrays[name] = self._stack.enter_context(Map.create(spec))
                self._built.again[again_pin(one, name)] = arrays[name]
        for name, programs in arrays.items():
            for number, function in enumerate(functions[name], start=1):
                programs.set(number, self._load_part(function, compiled, one).fd)
        return list(arrays.values())

    def _clear_new_stages(self, one: Attachment) -> None:
        """A stage gets the number of one that was detached from the port, but not its counters."""
        before = self.old.attachments.get(one.key)
        for name, number in one.stages.items():
            if before and name not in before.stages:
                nothing = {number * VERDICTS + verdict: (0, 0) for verdict in range(VERDICTS)}
                self._built.counters[one.key].update(nothing)

    def _load_part(self, program: str, compiled: Compiled, one: Attachment) -> Program:
        maps: dict[str, Map] = {}
        constants: dict[int, int] = {}
        for name, number in one.stages.items():
            instance = self.new.instances[name]
            owned = comparing.maps_of(instance)
            maps |= {m: self._built.maps[f"{name}-{m}"] for m in owned if f"{name}-{m}" in self._built.maps}
            if (pin := again_pin(one, name)) in self._built.again:
                maps[MODES[instance.mode].traits.again_map] = self._built.again[pin]
            constants |= _written(instance, number, one)
        if one.key in self._built.counters:
            maps["counters"] = self._built.counters[one.key]
        frags = one.hook == "xdp" and any(self.new.instances[name].frags for name in one.stages)
        loaded = load(compiled, program, kind_of(one.hook), maps, constants=constants, frags=frags)
        return self._stack.enter_context(loaded)

    # The next tree, and the switch

    def _build_tree(self) -> None:
        tree = self.store.prepare(FOLDERS)
        pin_ports(tree / PORTS, {one.ifindex for one in self.new.attachments.values()})
        write_blob(tree / STATE, json.dumps(self.new.document()).encode())
        made = self._built.maps | self._built.again
        for folder, pins in (("maps", made), ("counters", self._built.counters)):
            for pin, one in pins.items():
                one.pin(str(tree / folder / pin))
        for key, program in self._built.loaded.items():
            program.pin(str(tree / "programs" / key))
        for name, program in self._built.controls.items():
            program.pin(str(tree / "programs" / f"{name}-control"))
        self._keep_the_rest(tree)

    def _keep_the_rest(self, tree: Path) -> None:
        """Hard links for every pin of the current tree that stays as it is."""
        if not self.store.current.exists():
            return
        same = {name: one for name, one in self.new.instances.items() if self._same(name)}
        maps = {f"{name}-{map_name}" for name, one in same.items() for map_name in one.maps}
        controls = {f"{name}-control" for name in same}
        ports = self.old.attachments.keys() & self.new.attachments.keys()
        built = {one.key for one in self._rebuilt()}
        for folder in FOLDERS:
            for pin in (path.name for path in (self.store.current / folder).iterdir()):
                port, plus, _ = pin.partition("+")
                wanted = pin in (maps if folder == "maps" else controls if pin.endswith("-control") else ports)
                if plus:
                    wanted = port in ports and port not in built
                if wanted and not (tree / folder / pin).exists():
                    self.store.keep(f"{folder}/{pin}")

    def _switch(self) -> None:
        for ifindex, before in self.new.settings.items():
            if "promisc" in before:
                set_promisc(ifindex, on=True)
        for one in self._rebuilt():
            program = self._built.loaded[one.key]
            if one.key in self.old.attachments:
                with contextlib.closing(open_link(self.store.current, self.old.attachments[one.key])) as link:
                    link.update(program)
                continue
            name, tcx = self._port_name(one), one.kind == "tcx"
            link = attach.attach(program, one.ifindex, one.hook, name=name, tcx=tcx)  # type: ignore[arg-type]
            self._stack.callback(link.close)
            link.pin(str(self.store.next / "links" / one.key))
        self._reroute()

    def _reroute(self) -> None:
        """Routes come when the programs that they lead to are there; those that were there may have gone since, with
        a device that was down in between.
        """
        if self.new.routes or self.new.groups:
            from pydp.kernel import routes

            routes.add_routes(self.new.routes)
            for group in self.new.groups:
                routes.join(group)

    def _port_name(self, one: Attachment) -> str:
        return next(self.new.instances[name].names[one.ifindex] for name in one.stages)


def again_pin(one: Attachment, instance: str) -> str:
    """The pin of what the programs of an attachment hand an instance's packets to."""
    return f"{one.key}+{instance}"


def _numbered(names: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
    """A number for each stage: the one it had, else the lowest that is free. Counters go by it: it must not change."""
    numbers = {name: before[name] for name in names if name in before}
    for name in names:
        if name not in numbers:
            numbers[name] = next(n for n in range(len(names) + len(before) + 1) if n not in numbers.values())
    return numbers


def run_control(program: Program, requests: Map, cursor: Map, wanted: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Have the datapath do what is WANTED; gives the requests with their results. Raises EbpfError."""
    done: list[Any] = []
    room = requests.spec.max_entries
    for at in range(0, len(wanted), room):
        part = wanted[at : at + room]
        requests.update(dict(enumerate(part)))
        run_requests(program, cursor, len(part))
        done += [requests.get(number) for number in range(len(part))] if len(part) <= 16 else []
    return done


def run_requests(program: Program, cursor: Map, count: int) -> None:
    """Have the datapath do the first COUNT requests. Raises EbpfError."""
    cursor.set(0, (0, count))
    repeat = count
    while cursor.get(0).next < count:
        testrun.run(program, bytes(64), repeat=repeat)
        # A request that walks the table takes a run per bucket; runs past the end do nothing but take time.
        repeat = min(16 * max(repeat, 64), 1 << 16)


def _written(instance: Instance, number: int, one: Attachment) -> dict[int, int]:
    """What is written into the code of an instance's stage, at one port."""
    return written(
        Stage(number, instance.mode, instance.constants),
        slot=instance.slots[one.ifindex],
        seed=instance.seed,
        role=instance.roles.get(one.ifindex, Role.PORT),
    )
