# SPDX-License-Identifier: Apache-2.0
"""What tests of the page share: sources that are plain values, and the page as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from pydp.datapath import Attachment, Fill, Instance, ProgramRun, State, Verdict
from pydp.kernel.natrules import RuleCounters
from pydp.kernel.softnet import Machine
from pydp.metrics.found import Conntracks, FdbTable, Links, Tunnels
from pydp.metrics.page import Page
from pydp.metrics.serving import Services

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def instance(name: str, mode: str, ports: Mapping[int, str], hooks: tuple[str, ...] = ("tc",), **more: int) -> Instance:
    slots = {ifindex: slot for slot, ifindex in enumerate(ports)}
    return Instance(name, mode, {}, hooks[0], "auto", "", dict.fromkeys(slots, hooks), slots, ports, **more)


def state(*instances: Instance) -> State:
    places = {(ifindex, hook) for one in instances for ifindex in one.slots for hook in one.hooks[ifindex]}
    attachments = {}
    for ifindex, hook in places:
        names = sorted(one.name for one in instances if hook in one.hooks.get(ifindex, ()))
        one = Attachment(ifindex, hook, {name: number for number, name in enumerate(names)})
        attachments[one.key] = one
    return State(1, {one.name: one for one in instances}, attachments)


def verdict(
    ifindex: int, kind: str, packets: int, *, reason: str = "port", hook: str = "tc", name: str = "lan"
) -> Verdict:
    return Verdict(name, ifindex, f"p{ifindex}", hook, kind, reason, "", packets, packets * 100)


def program(ifindex: int, number: int, runs: int, *, name: str = "lan", running: bool = True) -> ProgramRun:
    return ProgramRun(name, ifindex, f"p{ifindex}", "tc", "pydp_tc", number, "abcd", runs, runs / 1000, running)


@dataclass
class Fixed:
    """Sources that say what they were told to, or raise it."""

    state: State = field(default_factory=lambda: state(instance("lan", "bridge", {1: "p1", 2: "p2"})))
    seen: Sequence[Verdict] = ()
    kernel: Links | Exception = field(default_factory=lambda: Links({}, {}))
    loaded: Sequence[ProgramRun] = ()
    filled: Sequence[Fill] = ()
    fdbs: Sequence[FdbTable] | Exception = ()
    ends: Sequence[Tunnels] = ()
    flows: Conntracks = field(default_factory=lambda: Conntracks(()))
    served: Sequence[Services] = ()
    filters: RuleCounters = field(default_factory=RuleCounters)
    host: Machine = field(default_factory=Machine)

    def verdicts(self) -> Sequence[Verdict]:
        return self.seen

    def links(self) -> Links:
        if isinstance(self.kernel, Exception):
            raise self.kernel
        return self.kernel

    def programs(self) -> Sequence[ProgramRun]:
        return self.loaded

    def fills(self) -> Sequence[Fill]:
        return self.filled

    def tables(self) -> Sequence[FdbTable]:
        if isinstance(self.fdbs, Exception):
            raise self.fdbs
        return self.fdbs

    def tunnels(self) -> Sequence[Tunnels]:
        return self.ends

    def conntracks(self) -> Conntracks:
        return self.flows

    def services(self) -> Sequence[Services]:
        return self.served

    def rules(self) -> RuleCounters:
        return self.filters

    def machine(self) -> Machine:
        return self.host


def text(page: Page) -> str:
    return page.text().decode()


def values(page: Page) -> Values:
    """Every sample; a series that is there twice fails."""
    found: Values = {}
    for family in text_string_to_metric_families(text(page)):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"twice on the page: {sample}"
            found[key] = sample.value
    return found


def of(found: Values, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def path(
    found: Values, side: str, device: str, direction: str = "receive", what: str = "packets", **labels: str
) -> float | None:
    labels = {"mode": "bridge", "instance": "lan", **labels}
    return of(found, f"pydp_path_{what}_total", path=side, device=device, direction=direction, **labels)
