# SPDX-License-Identifier: Apache-2.0
"""Devices of the kernel that are made for an instance, do what eBPF cannot, and go with it.

They carry a mark, so that nobody has to remember them: a device with the mark that no instance has is what a killed
process left, or an instance that was detached, and is removed by whoever attaches or detaches next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from ebpf.errors import EbpfError
from ebpf.pins import Store
from pydp.datapath.specs import dict_options
from pydp.datapath.state import Instance, State
from pydp.errors import PydpError
from pydp.modes import MODES
from pydp.modes.base import Context, Role


@contextlib.contextmanager
def kept(store: Store) -> Iterator[None]:
    """Before the block and when it ends, however it ends, only devices of instances that the store has are left."""
    _sweep(store)
    try:
        yield
    finally:
        with contextlib.suppress(EbpfError, PydpError, OSError):  # done is done: whoever comes next sweeps
            _sweep(store)


def _sweep(store: Store) -> None:
    from pydp.kernel.made import remove_made

    instances = State.from_document(store.read()).instances.values()
    remove_made(keep={one.companion for one in instances})


def with_companion(instance: Instance, context: Context) -> tuple[Instance, Context]:
    """The instance with the device that its target asks for as one more port, made if it is not there yet.

    Raises PydpError when the kernel refuses.
    """
    companion = context.target.companion
    if companion is None:
        return instance, context
    from pydp.kernel.made import forward, make_vxlan

    alias = f"pydp {instance.name}"
    ifindex = make_vxlan(
        companion.name, port=companion.port, port_range=companion.port_range, alias=alias, up=companion.serving
    )
    forward(companion.name)
    instance, context = replace(instance, companion=ifindex), replace(context, companion=ifindex)
    if not companion.serving:
        return instance, context
    roles = {**context.target.roles, ifindex: Role.COMPANION}
    target = replace(context.target, ports=(*context.target.ports, ifindex), roles=roles)
    slots = {**instance.slots, ifindex: _free(instance, ifindex)}
    hooks = MODES[instance.mode].hooks(dict_options(instance), target, ifindex, instance.hook)
    instance = replace(
        instance,
        slots=slots,
        names={**instance.names, ifindex: companion.name},
        hooks={**instance.hooks, ifindex: hooks},
        roles=roles,
    )
    return instance, replace(context, target=target, slots=slots)


def _free(instance: Instance, ifindex: int) -> int:
    """A slot that no other port has."""
    taken = set(instance.slots.values()) - {instance.slots.get(ifindex)}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)
