# SPDX-License-Identifier: Apache-2.0
"""What is attached in one network namespace: the document that is pinned beside the programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebpf.errors import PinError
from pydp.model import Group, Route
from pydp.modes.base import Role, Target

VERSION = 1
PORTS = "ports"  # its neighbour, see devices.pin_ports


@dataclass(frozen=True, slots=True)
class Instance:
    """One attach. ``slots``: slot of each port by ifindex; ``names``: what they were called then.

    ``hook`` is where frames are taken ("xdp", "xdp-generic", "tc"), ``why`` the reason in words, ``hooks`` the hooks of
    each port that have a program of it, ``roles`` the ports that are more than that, ``companion`` the index of the
    device that was made for it, ``routes`` and ``groups`` what else was set for it, ``numbers`` those of its members
    (by kind) in maps. ``options`` are as given; ``constants`` and ``sizes`` what follows from them. ``maps`` tells of
    every map its kind, the C types of key and value, and the layout of the value ([[member, offset, size], ...]).
    ``revision`` grows with every change of the instance.
    """

    name: str
    mode: str
    options: Mapping[str, Any]
    hook: str
    asked: str
    why: str
    hooks: Mapping[int, tuple[str, ...]]
    slots: Mapping[int, int]
    names: Mapping[int, str]
    adopted: int = 0
    roles: Mapping[int, Role] = field(default_factory=dict)
    companion: int = 0
    routes: Sequence[Route] = ()
    groups: Sequence[Group] = ()
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    counters: bool = True
    frags: bool = False
    seed: int = 0
    constants: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    revision: int = 0
    created: float = 0.0

    @property
    def target(self) -> Target:
        return Target(tuple(self.slots), self.adopted, self.roles)

    @property
    def all_hooks(self) -> tuple[str, ...]:
        """The hooks that any port has a program on."""
        return tuple(dict.fromkeys(hook for hooks in self.hooks.values() for hook in hooks))


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on one hook of one port. ``stages``: the number each instance has in it; ``build`` names what it was
    made from, so that an attachment whose build stays is left alone. ``kind``: "xdp", "tcx" or "clsact".
    """

    ifindex: int
    hook: str
    stages: Mapping[str, int]
    build: str = ""
    kind: str = ""

    @property
    def key(self) -> str:
        """Its name among the pins."""
        return f"{self.ifindex}-{self.hook}"


@dataclass(frozen=True, slots=True)
class State:
    """All of a network namespace. ``settings``: what was changed on devices and what it was before, {ifindex:
    {"promisc": 0, "clsact": 0}}.
    """

    generation: int = 0
    instances: Mapping[str, Instance] = field(default_factory=dict)
    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    settings: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For JSON, which knows text keys only."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_document(cls, found: Mapping[str, Any] | None) -> State:
        """Raises PinError when another version of pydp wrote it in a way we do not know."""
        if found is None:
            return cls()
        if found.get("version") != VERSION:
            raise PinError(
                f"what is pinned is of another version of pydp: document {found.get('version')}, not {VERSION}",
                hint="detach with the version that attached",
            )
        try:
            return cls(
                generation=found["generation"],
                instances={name: _instance(one) for name, one in found["instances"].items()},
                attachments={key: Attachment(**one) for key, one in found["attachments"].items()},
                settings={int(ifindex): one for ifindex, one in found["settings"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PinError(
                f"the document of what is attached is damaged ({type(error).__name__}: {error})",
                hint="remove the folder of this namespace in /sys/fs/bpf/pydp by hand: its programs detach",
            ) from error

    @property
    def routes(self) -> frozenset[Route]:
        """The routes of all instances."""
        return frozenset(route for one in self.instances.values() for route in one.routes)

    @property
    def groups(self) -> frozenset[Group]:
        """The group memberships of all instances."""
        return frozenset(group for one in self.instances.values() for group in one.groups)

    def stages_of(self, ifindex: int, hook: str) -> dict[str, Instance]:
        """The instances that have a program on this hook of this port."""
        return {name: one for name, one in self.instances.items() if hook in one.hooks.get(ifindex, ())}


def _instance(found: Mapping[str, Any]) -> Instance:
    return Instance(
        **{
            **found,
            "hooks": {int(ifindex): tuple(hooks) for ifindex, hooks in found["hooks"].items()},
            "slots": {int(ifindex): slot for ifindex, slot in found["slots"].items()},
            "names": {int(ifindex): name for ifindex, name in found["names"].items()},
            "roles": {int(ifindex): Role(role) for ifindex, role in found["roles"].items()},
            "routes": tuple(Route(**one) for one in found["routes"]),
            "groups": tuple(Group(**one) for one in found["groups"]),
        }
    )
