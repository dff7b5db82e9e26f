# SPDX-License-Identifier: Apache-2.0
"""What a change needs, made before anything is switched: compiled programs, maps that are new or go on, their contents,
and programs that are loaded with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebpf.compiler import Compiled, compile_source
from ebpf.errors import MapError
from ebpf.loader import Program, load
from ebpf.maps import Map
from pydp.datapath import comparing
from pydp.datapath.compose import again_names, kind_of, program_name
from pydp.datapath.contents import Filler
from pydp.datapath.control import run_control
from pydp.datapath.specs import VERDICTS, compare_layouts, describe, dict_options
from pydp.datapath.stages import again_pin, source_of, written_at
from pydp.datapath.state import Attachment, Instance, State
from pydp.modes import MODES
from pydp.modes.base import Context


class Builder:
    """Makes what the attachments of a new state need. By the name of its pin there is afterwards each of ``maps``,
    ``again`` (prog arrays of single attachments), ``counters``, ``controls``, and ``loaded``: the programs to be
    switched to. All of it is open, and closed with the stack.
    """

    def __init__(
        self,
        current: Path,
        old: State,
        new: State,
        context: Callable[[Instance], Context],
        filler: Filler | None,
        stack: ExitStack,
    ) -> None:
        """CURRENT: the tree with OLD's pins. FILLER is for the instance that is new or changed."""
        self.new = new  # `make` notes in it how maps are laid out
        self.maps: dict[str, Map] = {}
        self.again: dict[str, Map] = {}
        self.counters: dict[str, Map] = {}
        self.loaded: dict[str, Program] = {}
        self.controls: dict[str, Program] = {}
        self._current = current
        self._old = old
        self._context = context
        self._filler = filler
        self._stack = stack
        self._compiled: dict[str, Compiled] = {}

    def make(self) -> None:
        """Make all of it. Raises EbpfError; then what was made goes with the stack."""
        for one in self.rebuilt():
            self._compiled[one.key] = compile_source(source_of(self.new, one))
        for one in self.rebuilt():
            for name in one.stages:
                self._take_maps(name, self._compiled[one.key])
        for name in self.new.instances:
            if not self.same(name):
                self._equip(self.new.instances[name])
        for one in self.rebuilt():
            self.loaded[one.key] = self._load(one)

    def rebuilt(self) -> Iterator[Attachment]:
        """The attachments that get other programs, or their first."""
        for key, one in self.new.attachments.items():
            before = self._old.attachments.get(key)
            if before is None or before.build != one.build:
                yield one

    def same(self, name: str) -> bool:
        """Whether an instance keeps all its maps."""
        before = self._old.instances.get(name)
        return before is not None and before.revision == self.new.instances[name].revision

    def _take_maps(self, name: str, compiled: Compiled) -> None:
        """Create or reopen the maps of an instance that COMPILED refers to."""
        instance = self.new.instances[name]
        traits = MODES[instance.mode].traits
        used = {map_name for program in compiled.programs.values() for map_name in program.map_names}
        for map_name in sorted((used & comparing.maps_of(instance)) - {traits.again_map}):
            pin = f"{name}-{map_name}"
            if pin in self.maps:
                continue
            spec = compiled.maps[map_name]
            spec = spec.sized(instance.sizes.get(map_name, spec.max_entries))
            told = describe(spec)
            keep = self.same(name) or (map_name in traits.learned and self._fits(name, map_name, spec.max_entries))
            path = self._current / "maps" / pin
            if keep and path.exists():
                compare_layouts(pin, self._old.instances[name].maps.get(map_name), told)
                self.maps[pin] = self._stack.enter_context(Map.open(spec, str(path)))
            else:
                self.maps[pin] = self._stack.enter_context(Map.create(spec))
                if map_name in traits.counted and path.exists():
                    compare_layouts(pin, self._old.instances[name].maps.get(map_name), told)
                    with Map.open(spec, str(path)) as before:
                        self.maps[pin].take_over(before)
            self._record(name, map_name, told)

    def _fits(self, name: str, map_name: str, entries: int) -> bool:
        before = self._old.instances.get(name)
        return before is not None and before.sizes.get(map_name, entries) == entries

    def _record(self, name: str, map_name: str, told: Mapping[str, Any]) -> None:
        instance = self.new.instances[name]
        instances = {**self.new.instances, name: replace(instance, maps={**instance.maps, map_name: told})}
        self.new = replace(self.new, instances=instances)

    def _equip(self, instance: Instance) -> None:
        """Fill the maps of an instance that is new or changed, and load its control program and tails."""
        mode = MODES[instance.mode]
        compiled, one = self._any_build(instance, None)
        for map_name, entries in mode.entries(dict_options(instance), self._context(instance)).items():
            if (pin := f"{instance.name}-{map_name}") in self.maps:  # or no program looks at it
                self.maps[pin].update(entries)
        if self._filler:
            own = {name: self.maps[f"{instance.name}-{name}"] for name in instance.maps}
            self._filler.fill(instance, self._old.instances.get(instance.name), own)
        if mode.traits.control:
            self.controls[instance.name] = self._load_part(mode.traits.control.program, compiled, one)
            if instance.name not in self._old.instances:
                self.ask(instance)
        for map_name, program in mode.traits.tails.items():
            pin = f"{instance.name}-{map_name}"
            if "tc" in instance.all_hooks and pin in self.maps:
                tail_compiled, tail_one = self._any_build(instance, "tc")
                self.maps[pin].set(0, self._load_part(program, tail_compiled, tail_one).fd)

    def _any_build(self, instance: Instance, hook: str | None) -> tuple[Compiled, Attachment]:
        """Some compiled program with this instance in it: all have the same maps and helpers."""
        for one in self.rebuilt():
            if instance.name in one.stages and hook in (None, one.hook):
                return self._compiled[one.key], one
        raise MapError(f"{instance.name}: no program was built for it")

    def ask(self, instance: Instance) -> None:
        """Have an instance's datapath do what its mode asks of it when it was attached. Raises EbpfError."""
        mode = MODES[instance.mode]
        control = mode.traits.control
        if control:
            maps = self.maps
            run_control(
                self.controls[instance.name],
                maps[f"{instance.name}-{control.requests}"],
                maps[f"{instance.name}-{control.cursor}"],
                mode.requests(dict_options(instance), self._context(instance)),
            )

    def _load(self, one: Attachment) -> Program:
        compiled = self._compiled[one.key]
        path = self._current / "counters" / one.key
        spec = compiled.maps["counters"]
        self.counters[one.key] = self._stack.enter_context(
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
                self.again[again_pin(one, name)] = arrays[name]
        for name, programs in arrays.items():
            for number, function in enumerate(functions[name], start=1):
                programs.set(number, self._load_part(function, compiled, one).fd)
        return list(arrays.values())

    def _clear_new_stages(self, one: Attachment) -> None:
        """A stage gets the number of one that was detached from the port, but not its counters."""
        before = self._old.attachments.get(one.key)
        for name, number in one.stages.items():
            if before and name not in before.stages:
                nothing = {number * VERDICTS + verdict: (0, 0) for verdict in range(VERDICTS)}
                self.counters[one.key].update(nothing)

    def _load_part(self, program: str, compiled: Compiled, one: Attachment) -> Program:
        maps: dict[str, Map] = {}
        constants: dict[int, int] = {}
        for name, number in one.stages.items():
            instance = self.new.instances[name]
            owned = comparing.maps_of(instance)
            maps |= {m: self.maps[f"{name}-{m}"] for m in owned if f"{name}-{m}" in self.maps}
            if (pin := again_pin(one, name)) in self.again:
                maps[MODES[instance.mode].traits.again_map] = self.again[pin]
            constants |= written_at(instance, number, one)
        if one.key in self.counters:
            maps["counters"] = self.counters[one.key]
        frags = one.hook == "xdp" and any(self.new.instances[name].frags for name in one.stages)
        loaded = load(compiled, program, kind_of(one.hook), maps, constants=constants, frags=frags)
        return self._stack.enter_context(loaded)
