# SPDX-License-Identifier: Apache-2.0
"""From what was read to samples. Pure functions: no global registry, no descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydp.datapath.reader import Fill, ProgramRun, Verdict
from pydp.datapath.state import State
from pydp.kernel.natrules import RuleCounters
from pydp.kernel.softnet import Machine
from pydp.metrics.found import Conntracks, FdbTable, Links, Sample, Tunnels
from pydp.metrics.host import machine_samples, rule_samples
from pydp.metrics.paths import datapath_samples, kernel_samples
from pydp.metrics.programs import Programs
from pydp.metrics.serving import Services
from pydp.metrics.tables import conntrack_samples, fdb_samples, map_samples, service_samples, tunnel_samples


class Sources(Protocol):
    """What there is to read; each may raise what it likes."""

    @property
    def state(self) -> State: ...
    def verdicts(self) -> Sequence[Verdict]: ...
    def links(self) -> Links: ...
    def programs(self) -> Sequence[ProgramRun]: ...
    def fills(self) -> Sequence[Fill]: ...
    def tables(self) -> Sequence[FdbTable]: ...
    def tunnels(self) -> Sequence[Tunnels]: ...
    def conntracks(self) -> Conntracks: ...
    def services(self) -> Sequence[Services]: ...
    def rules(self) -> RuleCounters: ...
    def machine(self) -> Machine: ...


@dataclass(frozen=True, slots=True)
class Collector:
    """``read`` what it needs of the sources, then make ``samples`` of it."""

    name: str
    read: Callable[[Sources], Any]
    samples: Callable[[State, Any], Iterable[Sample]]


def collectors() -> tuple[Collector, ...]:
    """One of each, in the order they read: the two sides of the paths right after one another."""
    return (
        Collector("datapath", lambda sources: sources.verdicts(), datapath_samples),
        Collector("kernel", lambda sources: sources.links(), kernel_samples),
        Collector("programs", lambda sources: sources.programs(), Programs().samples),
        Collector("maps", lambda sources: sources.fills(), map_samples),
        Collector("fdb", lambda sources: sources.tables(), fdb_samples),
        Collector("tunnels", lambda sources: sources.tunnels(), tunnel_samples),
        Collector("conntrack", lambda sources: sources.conntracks(), conntrack_samples),
        Collector("services", lambda sources: sources.services(), service_samples),
        Collector("rules", lambda sources: sources.rules(), rule_samples),
        Collector("machine", lambda sources: sources.machine(), machine_samples),
    )
