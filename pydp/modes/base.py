# SPDX-License-Identifier: Apache-2.0
"""What a mode is: pure functions from options and a picture of the kernel to what its maps should hold.

Nothing here opens a socket or a file, or knows eBPF. Keys and values are plain integers, tuples and bytes in the order
of the C struct's members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydp.model import Bridge, FdbEntry, Link

Entries = Mapping[str, Mapping[Any, Any]]


class View(Protocol):
    """The picture of the kernel (pydp.kernel.View), as far as modes look at it."""

    @property
    def links(self) -> Mapping[int, Link]: ...
    @property
    def bridges(self) -> Mapping[int, Bridge]: ...
    def name(self, ifindex: int) -> str: ...
    def link(self, name: str) -> Link: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What an attach is about: the ports, and the kernel device that is adopted, if any (0 for none)."""

    ports: tuple[int, ...]
    adopted: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a mode may look at when it says what its maps should hold.

    ``slots``: slot of each port by ifindex. ``hook``: "xdp", "xdp-generic" or "tc". ``peers``: ports that are veths
    whose other end may be handed frames at once. ``fdb``: of the adopted bridge.
    """

    view: View
    target: Target
    slots: Mapping[int, int]
    hook: str
    peers: frozenset[int] = frozenset()
    fdb: Sequence[FdbEntry] = ()


@dataclass(frozen=True, slots=True)
class Control:
    """A program that is never attached: it takes requests from one map, counting in another, one per run."""

    program: str
    requests: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What the house must know of a mode's C file.

    ``order``: stages run in this order (filter 10, nat 20, tunnel 30, bridge 40). ``depth``: how deep packets are
    parsed (2 to 4, see packet.h). ``maps``: the maps that belong to the stage. ``learned``: those that the datapath
    writes, which survive a replace. ``tails``: prog array -> program to put at index 0, on hook tc.
    ``finishes``: it has a NAME_finish(). ``claims``: it decides about packets, so that two such modes
    would compete for a port's traffic.
    """

    order: int
    depth: int
    maps: frozenset[str]
    learned: frozenset[str] = frozenset()
    tails: Mapping[str, str] = field(default_factory=dict)
    control: Control | None = None
    finishes: bool = False
    claims: bool = True


class Mode(Protocol):
    """One way to treat packets. ``Options`` is a frozen dataclass whose fields are made with pydp.options.option()."""

    name: str
    traits: Traits
    Options: type[Any]

    def target(self, options: Any, names: Sequence[str], view: View) -> Target:
        """Which ports the interfaces named mean. Raises UsageError."""

    def hooks(self, options: Any, target: Target, hook: str) -> tuple[str, ...]:
        """The hooks its programs go to when the ports' frames are taken at HOOK."""

    def constants(self, options: Any, context: Context) -> Mapping[str, int]:
        """PYDP_* macros of its C file."""

    def sizes(self, options: Any, context: Context) -> Mapping[str, int]:
        """Number of entries of maps that are not as large as the C file says."""

    def entries(self, options: Any, context: Context) -> Entries:
        """What the maps that Python writes should hold: {map: {key: value}}."""

    def requests(self, options: Any, context: Context) -> Sequence[tuple[Any, ...]]:
        """What to ask of the control program once the maps are there."""
