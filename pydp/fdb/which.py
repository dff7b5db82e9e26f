# SPDX-License-Identifier: Apache-2.0
"""Which instance's FDB is meant."""

from __future__ import annotations

import socket

from pydp.datapath.api import Datapath
from pydp.datapath.state import Instance
from pydp.errors import NothingAttached, UsageError
from pydp.modes import MODES


def instance_of(datapath: Datapath, name: str = "", device: str = "") -> Instance:
    """The instance of that name, or the only one that has an FDB, or of several the only one that has this port. Raises
    NothingAttached, UsageError.
    """
    state = datapath.read()
    if name:
        found = datapath.instance(name)
        if not _has_fdb(found):
            raise UsageError(f"{name} is of mode {found.mode}: it has no FDB")
        return found
    there = [one for one in state.instances.values() if _has_fdb(one)]
    if not there:
        raise NothingAttached(
            "nothing that has an FDB is attached in this namespace", hint="pydp attach --mode bridge IFACE..."
        )
    if len(there) > 1 and device:
        names = ", ".join(one.name for one in there)
        there = [one for one in there if _is_port(device, one)]
        if not there:
            raise UsageError(f"{device} is a port of none that has an FDB", hint=f"these have: {names}")
    if len(there) > 1:
        raise UsageError("which FDB?", hint=f"--name one of {', '.join(one.name for one in there)}")
    return there[0]


def _is_port(device: str, instance: Instance) -> bool:
    try:
        return socket.if_nametoindex(device) in instance.slots
    except OSError:
        return False


def _has_fdb(instance: Instance) -> bool:
    return "fdb" in MODES[instance.mode].traits.maps
