# SPDX-License-Identifier: Apache-2.0
"""What can be compared: an instance that is attached over something of the kernel's, or such a device, with an instance
that is there for as long as the comparison lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydp.datapath import Instance, Request, comparing
from pydp.errors import UsageError
from pydp.kernel import View
from pydp.modes import MODES

_ATTACH = "pydp compare takes an instance that adopts a kernel bridge or tunnel device, a bridge, or an underlay"


@dataclass(frozen=True, slots=True)
class Subject:
    """An instance by name; with ``request`` one that is to be attached for it."""

    name: str
    request: Request | None = None


def find(instances: Mapping[str, Instance], view: View, name: str, hook: str) -> Subject:
    """What NAME means: an instance, a port of one, or a device of the kernel that HOOK is asked for. Raises UsageError.

    INSTANCES that an earlier comparison left do not count.
    """
    there = {one.name: one for one in instances.values() if not comparing.is_made(one)}
    owner = there.get(name) or _owner(there, view, name)
    if owner is None:
        return Subject(name, _request(view, name, hook))
    if hook != "auto":
        raise UsageError(f"--hook {hook}: {owner.name} is attached on {owner.hook} already", hint="leave it out")
    _refuse(owner)
    return Subject(owner.name)


def _owner(instances: Mapping[str, Instance], view: View, name: str) -> Instance | None:
    """The instance that an interface is a port of, or that adopted it; of several one that can be compared."""
    try:
        ifindex = view.link(name).ifindex
    except UsageError as error:
        known = ", ".join(instances) or "none"
        raise UsageError(f"{name}: there is no such instance or interface", hint=f"instances: {known}") from error
    found = [one for one in instances.values() if ifindex in one.slots or ifindex == one.adopted]
    found = [one for one in found if one.adopted] or found
    if len(found) > 1:
        raise UsageError(
            f"{name} is a port of several instances", hint="name one: " + ", ".join(one.name for one in found)
        )
    return found[0] if found else None


def _refuse(instance: Instance) -> None:
    """Raise UsageError for what has no path of the kernel's, or none that anybody could see the end of."""
    what = f"{instance.name} (mode {instance.mode})"
    if not instance.adopted:
        alone = MODES[instance.mode].traits.alone
        raise UsageError(f"{what} has no path of the kernel's to be compared with: {alone}", hint=_ATTACH)
    if not instance.counters:
        raise UsageError(f"{what} was attached with --no-counters", hint="attach it again without that")


def _request(view: View, name: str, hook: str) -> Request:
    link = view.link(name)
    if link.ifindex in view.bridges:
        return Request("bridge", (name,), hook=hook, compare=True)
    if any(one.lower == link.ifindex for one in view.vxlans.values()):
        return Request("vxlan", (name,), hook=hook, compare=True)
    if link.master in view.bridges:
        raise UsageError(f"{name} is a port of {view.name(link.master)}", hint=f"pydp compare {view.name(link.master)}")
    raise UsageError(f"{name} is no bridge and carries no vxlan device: there is nothing to compare", hint=_ATTACH)
