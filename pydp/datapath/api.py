# SPDX-License-Identifier: Apache-2.0
"""The verbs of the datapath: attach, detach, and access to an instance's maps."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ebpf.attach import has_qdisc, holders, kind_of
from ebpf.errors import EbpfError
from ebpf.loader import Program
from ebpf.maps import Map
from ebpf.pins import Store, pin_errors
from pydp.datapath import change, companions, recovery
from pydp.datapath.devices import is_promisc
from pydp.datapath.hooks import Choice, choose, takes_peer
from pydp.datapath.specs import dict_options, specs_of
from pydp.datapath.state import Attachment, Instance, State
from pydp.datapath.sweep import sweep
from pydp.errors import NothingAttached, PydpError, UsageError
from pydp.kernel import (
    Device,
    View,
    bridge_netfilter_active,
    namespace_cookie,
    read_defaults,
    read_devices,
    read_fdb,
    read_vxlan_fdb,
)
from pydp.model import Route
from pydp.modes import MODES, mode_of
from pydp.modes import base as modes
from pydp.modes.base import Context, Role, Target
from pydp.options import parse_options

Name = TypeVar("Name", int, str)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Request:
    """An attach as asked for. ``name`` "" takes the adopted device's or the mode's name."""

    mode: str
    interfaces: tuple[str, ...]
    name: str = ""
    hook: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    counters: bool = True


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

    # Attach and detach

    def plan(self, request: Request) -> tuple[Instance, Instance | None]:
        """What an attach would make, and what it would replace. Raises PydpError, EbpfError. Changes nothing."""
        alive = _without_dead(self.store, self.read())
        plan = self._plan(request, alive, View.read())
        before = alive.instances.get(plan.instance.name)
        instance, _ = _with_contents(plan.instance, plan.context, before)
        return instance, before

    def attach(self, request: Request) -> Instance:
        """Attach, or replace the instance of the same name. Raises PydpError, EbpfError; then all is as before."""
        with self.store.locked():
            old = recovery.recover(self.store, self._ask_again)
            view = View.read()
            alive = _without_dead(self.store, old)
            plan = self._plan(request, alive, view)
            with companions.kept(self.store):
                instance, context = companions.with_companion(plan.instance, plan.context)
                instance, context = _with_contents(instance, context, alive.instances.get(instance.name))
                new = replace(alive, instances={**alive.instances, instance.name: instance})
                new = replace(new, settings=_merged(_still_needed(old, new), _settings(instance, plan.devices, old)))
                done = change.Change(self.store, old, alive, new, lambda _: context).run()
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
            new = replace(new, settings=_still_needed(old, new))
            with companions.kept(self.store):
                change.Change(self.store, old, alive, new, _no_context).run()
        sweep(self.store)
        return gone

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
        choice = _choice(request, name, old, target, devices)
        hook = choice.hook
        instance = Instance(
            name=name,
            mode=request.mode,
            options={key: getattr(options, key) for key in request.options},
            hook=hook,
            asked=request.hook,
            why=choice.why,
            hooks={ifindex: mode.hooks(options, target, ifindex, hook) for ifindex in target.ports},
            slots=_slots(target.ports, before),
            names={ifindex: view.name(ifindex) for ifindex in target.ports},
            adopted=target.adopted,
            roles=target.roles,
            counters=request.counters,
            frags=choice.frags,
            seed=before.seed if before else secrets.randbits(64),
            revision=before.revision + 1 if before else 0,
            created=before.created if before else time.time(),
        )
        return _Plan(instance, devices, Context(view, target, instance.slots, hook, _peers(devices)))

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
        control = MODES[instance.mode].traits.control
        if control is None:
            raise PydpError(f"mode {instance.mode} takes no requests")
        path = self.store.current / "programs" / f"{instance.name}-control"
        with pin_errors(path):
            program = Program.open(str(path))
        with program, self.open_maps(instance, [control.requests, control.cursor]) as maps:
            return change.run_control(program, maps[control.requests], maps[control.cursor], wanted)

    def _ask_again(self, instance: Instance) -> None:
        """What a change asks of learned maps once it is committed, if it was killed before that was done."""
        view, mode = View.read(), MODES[instance.mode]
        slots = {ifindex: slot for ifindex, slot in instance.slots.items() if ifindex in view.links}
        context = replace(
            _with_fdb(Context(view, instance.target, slots, instance.hook)),
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
    for ifindex in _adopted(target, view)[0]:
        reason = bridge_netfilter_active(view, view.bridges[ifindex])
        if reason:
            raise PydpError(
                f"{view.name(ifindex)}: {reason}; frames forwarded in eBPF would pass these rules by",
                hint="--ignore-netfilter attaches all the same",
            )


def _choice(request: Request, name: str, old: State, target: Target, devices: Mapping[int, Device]) -> Choice:
    """The hook; with "auto" that of an instance that is on these ports already, so that both make one program."""
    if request.hook == "auto":
        for other in old.instances.values():
            if other.name != name and set(other.slots) & set(target.ports):
                return Choice(other.hook, f"that of {other.name} on the same port", other.frags)
    return choose([devices[ifindex] for ifindex in target.ports], request.hook)


def _with_contents(instance: Instance, context: Context, before: Instance | None) -> tuple[Instance, Context]:
    """The instance with what its mode makes of all that is known now. Raises PydpError, OSError."""
    mode, options = MODES[instance.mode], dict_options(instance)
    context = replace(_with_fdb(context), defaults=read_defaults())
    had = before.numbers if before else {}
    numbers = {kind: _numbered(names, had.get(kind, {})) for kind, names in mode.members(options, context).items()}
    released = {kind: frozenset(had.get(kind, {}).values()) - set(numbers[kind].values()) for kind in numbers}
    context = replace(context, numbers=numbers, released=released)
    routes = mode.routes(options, context)
    if routes:
        from pydp.kernel.routes import resolved

        routes = resolved(routes)
    instance = replace(
        instance,
        constants=mode.constants(options, context),
        sizes=mode.sizes(options, context),
        routes=tuple(routes),
        groups=tuple(mode.groups(options, context)),
        numbers=numbers,
    )
    return instance, context


def _slots(ports: Sequence[int], before: Instance | None) -> dict[int, int]:
    """The slot of each port."""
    return _numbered(ports, before.slots if before else {})


def _numbered(names: Sequence[Name], before: Mapping[Name, int]) -> dict[Name, int]:
    """Who has a number keeps it, the others get the lowest that was not in use: what was learned points to them."""
    kept = {name: before[name] for name in names if name in before}
    taken = set(before.values())
    free = (number for number in itertools.count() if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in names}


def _peers(devices: Mapping[int, Device]) -> frozenset[int]:
    veths = [ifindex for ifindex, device in devices.items() if device.link.kind == "veth"]
    egress = {ifindex: holders(ifindex, "tc-egress", name=devices[ifindex].link.name) for ifindex in veths}
    return frozenset(ifindex for ifindex in veths if takes_peer(devices[ifindex], egress))


def _with_fdb(context: Context) -> Context:
    """With what the adopted devices of the kernel have learned. Raises OSError."""
    bridges, vxlans = _adopted(context.target, context.view)
    return replace(
        context,
        fdb=[entry for ifindex in bridges for entry in read_fdb(ifindex)],
        vxlan_fdb=[entry for ifindex in vxlans for entry in read_vxlan_fdb(ifindex)],
        foreign_routes=_routes_into_tunnels(context),
    )


def _routes_into_tunnels(context: Context) -> Sequence[Route]:
    """All routes of the kernel, if an IP tunnel device is adopted. Raises OSError."""
    if context.target.adopted not in context.view.tunnels:
        return ()
    from pydp.kernel.routes import read_routes

    return read_routes(0)


def _adopted(target: Target, view: modes.View) -> tuple[list[int], list[int]]:
    """The bridges and vxlan devices that are adopted: a bridge, or all vxlan devices on the underlay with theirs."""
    if target.adopted in view.bridges:
        return [target.adopted], []
    underlays = {ifindex for ifindex, role in target.roles.items() if role == Role.UNDERLAY}
    vxlans = [one for one in view.vxlans.values() if target.adopted in view.vxlans and one.lower in underlays]
    return sorted({one.master for one in vxlans} & set(view.bridges)), [one.ifindex for one in vxlans]


def _settings(instance: Instance, devices: Mapping[int, Device], old: State) -> dict[int, Mapping[str, int]]:
    """What is about to be changed on the ports, as it is now.

    promisc: without a kernel bridge nobody else makes a port take frames for others. clsact: before 6.6 our filters
    need that queueing discipline.
    """
    found: dict[int, Mapping[str, int]] = {}
    for ifindex in instance.slots:
        known = old.settings.get(ifindex, {})
        now = {}
        if _wants_promisc(instance, ifindex) and "promisc" not in known:
            virtual = devices[ifindex].link.kind in ("veth", "tun")
            now = {} if virtual or is_promisc(ifindex) else {"promisc": 0}
        clsact = any(kind_of(hook) == "clsact" for hook in instance.hooks[ifindex])  # type: ignore[arg-type]
        if clsact and "clsact" not in known and not has_qdisc(ifindex):
            now["clsact"] = 0
        if now:
            found[ifindex] = now
    return found


def _wants_promisc(instance: Instance, ifindex: int) -> bool:
    """Whether a port must take frames for others and has no kernel bridge that sees to it."""
    plain = instance.roles.get(ifindex, Role.PORT) == Role.PORT
    return plain and not instance.adopted and MODES[instance.mode].traits.promiscuous


def _merged(*settings: Mapping[int, Mapping[str, int]]) -> dict[int, Mapping[str, int]]:
    found: dict[int, Mapping[str, int]] = {}
    for each in settings:
        for ifindex, one in each.items():
            found[ifindex] = {**found.get(ifindex, {}), **one}
    return found


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


def _still_needed(old: State, remains: State) -> dict[int, Mapping[str, int]]:
    """The changed settings that what REMAINS still needs: see `_settings`."""
    instances = remains.instances.values()
    claimed = {ifindex for one in instances for ifindex in one.slots if _wants_promisc(one, ifindex)}
    filtered = {
        ifindex
        for one in instances
        for ifindex, hooks in one.hooks.items()
        if any(hook.startswith("tc") for hook in hooks)
    }
    needed = {"promisc": claimed, "clsact": filtered}
    found = {
        ifindex: {key: value for key, value in one.items() if ifindex in needed[key]}
        for ifindex, one in old.settings.items()
    }
    return {ifindex: one for ifindex, one in found.items() if one}


def _no_context(instance: Instance) -> Context:
    raise PydpError(f"{instance.name} does not change")


def _no_instance(name: str, state: State) -> NothingAttached:
    there = ", ".join(state.instances) or "none"
    return NothingAttached(f"there is no instance {name}", hint=f"instances in this namespace: {there}")
