# SPDX-License-Identifier: Apache-2.0
"""What an attach comes to: an instance with its name, ports and hooks, or why it cannot be. Nothing is changed here."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydp.datapath.contents import adopted, peers_of, slots_of
from pydp.datapath.hooks import Choice, choose, together
from pydp.datapath.state import Instance, State
from pydp.errors import PydpError, UsageError
from pydp.kernel import Device, View, bridge_netfilter_active, read_devices
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
class Plan:
    """What an attach comes to: the instance, facts of its ports, and what its mode looks at."""

    instance: Instance
    devices: Mapping[int, Device]
    context: Context


def plan(request: Request, old: State, view: View) -> Plan:
    """What REQUEST comes to where OLD is attached. Raises PydpError, EbpfError."""
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
    return Plan(instance, devices, Context(view, target, instance.slots, choice.hook, peers, ends=ends))


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
