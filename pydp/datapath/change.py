# SPDX-License-Identifier: Apache-2.0
"""From one state to another, in one step.

Everything that can fail is done before anything is switched: compile, create maps, fill them, load. Then the next tree
of pins is built, new links are made and existing ones get their new program, and the trees are exchanged: that is the
commit. A change that fails or is killed before it is undone, one that is killed after it is finished, by whoever comes
next.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from ebpf import attach
from ebpf.errors import EbpfError
from ebpf.pins import STATE, Store, pin_errors, write_blob
from pydp.datapath import files
from pydp.datapath.build import Builder
from pydp.datapath.contents import Filler
from pydp.datapath.devices import pin_ports, set_promisc
from pydp.datapath.recovery import changed_instances, finish, open_link, roll_back
from pydp.datapath.stages import planned
from pydp.datapath.state import PORTS, Attachment, Instance, State
from pydp.modes.base import Context

FOLDERS = ("maps", "programs", "links", "counters")


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
        self._stack = contextlib.ExitStack()
        self._built = Builder(store.current, old, planned(old, new), context, filler, self._stack)

    @property
    def new(self) -> State:
        return self._built.new

    def run(self) -> State:
        """Raises EbpfError; then everything is as before."""
        with self._stack, pin_errors(self.store.base):
            try:
                self._built.make()
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
                    self._built.ask(instance)
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
        same = {name: one for name, one in self.new.instances.items() if self._built.same(name)}
        maps = {f"{name}-{map_name}" for name, one in same.items() for map_name in one.maps}
        controls = {f"{name}-control" for name in same}
        ports = self.old.attachments.keys() & self.new.attachments.keys()
        built = {one.key for one in self._built.rebuilt()}
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
        for one in self._built.rebuilt():
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
