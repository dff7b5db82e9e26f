# SPDX-License-Identifier: Apache-2.0
"""What is attached, as the verbs show it: with the names that ports have now."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydp.datapath import Datapath, Instance, Reader, comparing
from pydp.errors import NothingAttached
from pydp.modes.base import Role


@contextlib.contextmanager
def reading() -> Iterator[Reader]:
    """A Reader of all that is attached. Raises EbpfError."""
    with Reader.open(Datapath()) as reader:
        instances = {name: with_current_names(one) for name, one in reader.state.instances.items()}
        reader.state = replace(reader.state, instances=instances)
        yield reader


def with_current_names(instance: Instance) -> Instance:
    """Ports may have been renamed since they were attached; those that are gone keep the name they had."""
    return replace(instance, names={ifindex: name_now(ifindex, name) for ifindex, name in instance.names.items()})


def name_now(ifindex: int, before: str) -> str:
    """The name of an interface, or BEFORE when it is gone from this namespace."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return before


def is_here(ifindex: int) -> bool:
    """Whether an interface is (still) in this namespace."""
    return bool(name_now(ifindex, ""))


def chosen(reader: Reader, name: str) -> list[Instance]:
    """The instance of that name, or all. Raises NothingAttached."""
    instances = reader.state.instances
    if not name:
        if not instances:
            raise NothingAttached("nothing is attached in this namespace", hint="pydp attach --mode MODE IFACE...")
        return list(instances.values())
    if name not in instances:
        there = ", ".join(instances) or "none"
        raise NothingAttached(f"there is no instance {name}", hint=f"instances in this namespace: {there}")
    return [instances[name]]


def document(one: Instance) -> dict[str, Any]:
    """What an instance is, for JSON."""
    return {
        "name": one.name,
        "mode": one.mode,
        "hook": one.hook,
        "asked": one.asked,
        "why": one.why,
        "hooks": list(one.all_hooks),
        "adopted": name_now(one.adopted, f"if{one.adopted}") if one.adopted else None,
        "companion": name_now(one.companion, one.names.get(one.companion, "")) or None,
        "counters": one.counters,
        "comparison": _comparison(one),
        "options": dict(one.options),
        "created": one.created,
        "ports": [
            {
                "ifindex": ifindex,
                "device": name_now(ifindex, one.names[ifindex]),
                "slot": slot,
                "role": one.roles.get(ifindex, Role.PORT).name.lower(),
            }
            for ifindex, slot in one.slots.items()
        ],
    }


def _comparison(one: Instance) -> str | None:
    """Whether it is compared with the kernel's path: "under way", or "left over" by one that was killed."""
    if not comparing.is_compared(one):
        return None
    return "under way" if comparing.under_way() else "left over"


def own_ports(one: Instance) -> list[int]:
    """The ports that an instance was given: all but the device that was made for it."""
    return [ifindex for ifindex in one.slots if one.roles.get(ifindex) != Role.COMPANION]


def tunnel_documents(reader: Reader, one: Instance) -> list[dict[str, Any]]:
    """The VTEPs or peers of an instance with what went each way, for JSON."""
    from pydp.tunnels import has_segments, tunnels

    number = "vni" if has_segments(one) else "key"
    return [
        {
            number: each.vni,
            "remote": each.remote,
            "group": each.group,
            "sent": {"packets": each.sent_packets, "bytes": each.sent_bytes},
            "received": {"packets": each.received_packets, "bytes": each.received_bytes},
        }
        for each in tunnels(reader, one)
    ]
