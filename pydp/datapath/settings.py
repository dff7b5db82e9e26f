# SPDX-License-Identifier: Apache-2.0
"""What an attach changes on devices, and what of it is still needed when others have gone."""

from __future__ import annotations

from collections.abc import Mapping

from ebpf.hooks import has_qdisc, kind_of
from pydp.datapath.devices import is_promisc
from pydp.datapath.state import Instance, State
from pydp.kernel import Device
from pydp.modes import MODES
from pydp.modes.base import Role


def settings_of(instance: Instance, devices: Mapping[int, Device], old: State) -> dict[int, Mapping[str, int]]:
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
    role = instance.roles.get(ifindex, Role.PORT)
    return not instance.adopted and role in MODES[instance.mode].traits.promiscuous


def merged(*settings: Mapping[int, Mapping[str, int]]) -> dict[int, Mapping[str, int]]:
    found: dict[int, Mapping[str, int]] = {}
    for each in settings:
        for ifindex, one in each.items():
            found[ifindex] = {**found.get(ifindex, {}), **one}
    return found


def still_needed(old: State, remains: State) -> dict[int, Mapping[str, int]]:
    """The changed settings that what REMAINS still needs: see `settings_of`."""
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
