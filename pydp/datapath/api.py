# SPDX-License-Identifier: Apache-2.0
"""The verbs of the datapath: attach, detach, and access to an instance's maps."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebpf.errors import EbpfError
from ebpf.loader import Program
from ebpf.maps import Map
from ebpf.pins import Store, pin_errors
from pydp.datapath import companions, comparing, files, recovery
from pydp.datapath.change import Change
from pydp.datapath.contents import Filler, adopted, peers_of, slots_of, with_contents, with_fdb
from pydp.datapath.control import run_control
from pydp.datapath.hooks import Choice, choose, together
from pydp.datapath.settings import merged, settings_of, still_needed
from pydp.datapath.specs import dict_options, specs_of
from pydp.datapath.state import Attachment, Instance, State
from pydp.datapath.sweep import sweep
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.kernel import Device, View, bridge_netfilter_active, namespace_cookie, read_defaults, read_devices
from pydp.modes import MODES, mode_of
from pydp.modes.base import Context, Target
from pydp.options import parse_options

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Request:
    """An attach as asked for. ``name`` "" takes the adopted device's or the mode's name; ``compare`` is for an instance
    that is there as long as it is compared.
    """

    mode: str
    interfaces: tuple[str, ...]
    name: str = ""
    hook: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    counters: bool = True
    compare: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an attach comes to: the instance, facts of its ports, and what its mode looks at."""

    instance: Instance
    devices: Mapping[int, Device]
    context: Context


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
        alive = _without_dead(self.store, self.read())
        plan = self._plan(request, alive, View.read())
        before = alive.instances.get(plan.instance.name)
        room = filler.room(before) if filler else {}
        instance, _ = with_contents(plan.instance, plan.context, before, room)
        return instance, before

    def attach(self, request: Request, filler: Filler | None = None) -> Instance:
        """Attach, or replace the instance of the same name. Raises PydpError, EbpfError; then all is as before."""
        with self.store.locked():
            old = self._recovered()
            view = View.read()
            alive = _without_dead(self.store, old)
            plan = self._plan(request, alive, view)
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
            alive = _without_dead(self.store, old)
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
            alive = _without_dead(self.store, old)
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
        alive = _without_dead(self.store, old)
        new = comparing.settled(alive)
        return old if new is alive else self._change(old, alive, new)

    def _change(self, old: State, alive: State, new: State) -> State:
        """From OLD, of which ALIVE is left, to NEW, for which no instance is to be filled."""
        new = replace(new, settings=still_needed(old, new))
        with companions.kept(self.store):
            return Change(self.store, old, alive, new, _no_context).run()

    def _plan(self, request: Request, old: State, view: View) -> _Plan:
        mode = mode_of(request.mode)
        options = parse_options(mode.Options, request.options)
        if not request.interfaces:
            raise UsageError("no interface was named", hint=f"pydp attach --mode {request.mode} IFACE...")
        target = mode.target(options, request.interfaces, view)
        name = _instance_name(request, target, old, view)
        before = old.instances.get(name)
        _refuse_rivals(name, request.mode, target, old, view)
        _refuse_netfilter(options, target, view)
        devices = read_devices(view, target.ports)
        choices = _choices(request, name, old, target, devices)
        choice = together([(devices[ifindex].link.name, one) for ifindex, one in choices.items()])
        instance = Instance(
            name=name,
            mode=request.mode,
            options={key: getattr(options, key) for key in request.options},
            hook=choice.hook,
            asked=request.hook,
            why=choice.why,
            hooks={ifindex: mode.hooks(options, target, ifindex, one.hook) for ifindex, one in choices.items()},
            slots=slots_of(target.ports, before),
            names={ifindex: view.name(ifindex) for ifindex in target.ports},
            adopted=target.adopted,
            roles=target.roles,
            counters=request.counters,
            frags=choice.frags,
            seed=before.seed if before else secrets.randbits(64),
            revision=before.revision + 1 if before else 0,
            created=before.created if before else time.time(),
        )
        peers = peers_of(devices, name, old)
        ends = {ifindex: device.peer.link.mac for ifindex, device in devices.items() if device.peer}
        return _Plan(instance, devices, Context(view, target, instance.slots, choice.hook, peers, ends=ends))

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


def _instance_name(request: Request, target: Target, old: State, view: View) -> str:
    """The name asked for, or one that follows. A name that follows never changes an instance with other ports."""
    if request.name:
        if not _NAME.fullmatch(request.name):
            raise UsageError(f"--name {request.name}: letters, digits, - and _, 32 at most, and no - or _ first")
        name = request.name
    else:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", view.name(target.adopted)) if target.adopted else request.mode
        before = old.instances.get(name)
        ports = [ifindex for ifindex in before.slots if ifindex != before.companion] if before else []
        if before and (before.mode != request.mode or set(ports) != set(target.ports)) and not target.adopted:
            raise UsageError(
                f"there is an instance {name} already, on {', '.join(before.names[ifindex] for ifindex in ports)}",
                hint=f"--name OTHER makes another one, --name {name} changes this one",
            )
    before = old.instances.get(name)
    if before and before.mode != request.mode:
        raise UsageError(f"--name {name}: it is taken by an instance of mode {before.mode}")
    return name


def _refuse_rivals(name: str, mode: str, target: Target, old: State, view: View) -> None:
    """A port's packets have one master: two modes that decide about them, or one mode twice, are refused."""
    for other in old.instances.values():
        shared = set(other.slots) & set(target.ports)
        if other.name == name or not shared:
            continue
        if other.mode == mode or (MODES[mode].traits.claims and MODES[other.mode].traits.claims):
            port = view.name(min(shared))
            raise UsageError(
                f"{port} belongs to the instance {other.name} (mode {other.mode})", hint=f"pydp detach {other.name}"
            )


def _refuse_netfilter(options: Any, target: Target, view: View) -> None:
    if not target.adopted or getattr(options, "ignore_netfilter", False):
        return
    for ifindex in adopted(target, view)[0]:
        reason = bridge_netfilter_active(view, view.bridges[ifindex])
        if reason:
            raise PydpError(
                f"{view.name(ifindex)}: {reason}; frames forwarded in eBPF would pass these rules by",
                hint="--ignore-netfilter attaches all the same",
            )


def _choices(
    request: Request, name: str, old: State, target: Target, devices: Mapping[int, Device]
) -> dict[int, Choice]:
    """The hook of each port: mostly the same for all of them."""
    if MODES[request.mode].traits.separate:
        return {ifindex: _choice(request, name, old, [devices[ifindex]]) for ifindex in target.ports}
    return dict.fromkeys(target.ports, _choice(request, name, old, [devices[ifindex] for ifindex in target.ports]))


def _choice(request: Request, name: str, old: State, devices: Sequence[Device]) -> Choice:
    """The hook; with "auto" that of an instance that is on these ports already, so that both make one program."""
    if request.hook == "auto":
        ports = [device.link.ifindex for device in devices]
        for other in old.instances.values():
            shared = [ifindex for ifindex in ports if ifindex in other.slots]
            if other.name != name and shared:
                return Choice(other.hooks[shared[0]][0], f"that of {other.name} on the same port", other.frags)
    return choose(devices, request.hook)


def _without_dead(store: Store, state: State) -> State:
    """Leave out ports that are gone, and instances of which none is left: their links are dead, and a device that is
    made anew is another one. Raises EbpfError.
    """
    with pin_errors(store.base):
        dead = {one.ifindex for one in state.attachments.values() if not _alive(store, one)}
    if not dead:
        return state
    instances = {}
    for name, one in state.instances.items():
        slots = {ifindex: slot for ifindex, slot in one.slots.items() if ifindex not in dead}
        if slots:
            instances[name] = _on_ports(one, slots)
    attachments = {key: one for key, one in state.attachments.items() if one.ifindex not in dead}
    return replace(state, instances=instances, attachments=attachments)


def _on_ports(one: Instance, slots: Mapping[int, int]) -> Instance:
    """An instance on those of its ports that have a slot."""
    return replace(
        one,
        slots=slots,
        names={ifindex: one.names[ifindex] for ifindex in slots},
        hooks={ifindex: one.hooks[ifindex] for ifindex in slots},
        roles={ifindex: role for ifindex, role in one.roles.items() if ifindex in slots},
    )


def _alive(store: Store, one: Attachment) -> bool:
    try:
        with contextlib.closing(recovery.open_link(store.current, one)) as link:
            return bool(link.ifindex)
    except FileNotFoundError:  # somebody removed the pin by hand, and with it the link
        return False


def _no_context(instance: Instance) -> Context:
    raise PydpError(f"{instance.name} does not change")


def _no_instance(name: str, state: State) -> NothingAttached:
    there = ", ".join(state.instances) or "none"
    return NothingAttached(f"there is no instance {name}", hint=f"instances in this namespace: {there}")
