# SPDX-License-Identifier: Apache-2.0
"""From what was read to samples. Pure functions: no global registry, no descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydp import conntrack
from pydp.datapath.reader import Fill, ProgramRun, Verdict, decider
from pydp.datapath.state import Instance, State
from pydp.fdb import Census
from pydp.kernel.conntrack import KernelConntrack
from pydp.kernel.linkstats import LinkStats, VxlanDevice
from pydp.kernel.natrules import NatRules
from pydp.metrics.serving import Services
from pydp.modes import MODES
from pydp.modes.base import Role
from pydp.tunnels import Tunnel

Sample = tuple[str, tuple[str, ...], float]
"""(metric, values of its labels in the order of its family, value)."""


@dataclass(frozen=True, slots=True)
class Links:
    """The kernel's side: counters of all devices, and which of them are bridges and vxlan devices, by ifindex."""

    stats: Mapping[int, LinkStats]
    bridges: Mapping[int, str]
    vxlans: Mapping[int, VxlanDevice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FdbTable:
    """The FDB of an instance. ``max_entries``: addresses it was made for; ``places`` there are; ``events`` by name."""

    instance: str
    census: Census
    max_entries: int
    places: int
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tunnels:
    """The tunnels of an instance, and how many VTEPs that nobody named it knows and may know."""

    instance: str
    mode: str
    tunnels: Sequence[Tunnel]
    guests: int = 0
    max_guests: int = 0


@dataclass(frozen=True, slots=True)
class Conntrack:
    """The conntrack table of an instance; ``events`` by name."""

    instance: str
    census: conntrack.Census
    max_entries: int
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Conntracks:
    """The tables of all instances, and the kernel's own if it has one."""

    tables: Sequence[Conntrack]
    kernel: KernelConntrack | None = None


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
    def rules(self) -> Sequence[NatRules]: ...


@dataclass(frozen=True, slots=True)
class Collector:
    """``read`` what it needs of the sources, then make ``samples`` of it."""

    name: str
    read: Callable[[Sources], Any]
    samples: Callable[[State, Any], Iterable[Sample]]


_EGRESS = "tc-egress"
# Events of the conntrack table that go by another name here.
_EVENTS = {"full": "insert_failures", "exhausted": "port_exhausted", "late": "races"}
# Verdicts that leave a packet to the stack with the work done.
_IN_PLACE = (("pass", "encap"), ("pass", "decap"), ("pass", "nat"))


@dataclass(slots=True)
class _Port:
    """What became of the frames that came in by one port, or left by it."""

    carried: int = 0
    carried_bytes: int = 0
    dropped: int = 0
    left: int = 0


def owners(state: State) -> Iterator[tuple[int, Instance]]:
    """Each port with the instance it counts for: one, though several may share it, so that sums over ports are
    right.
    """
    sharing: dict[int, list[str]] = {}
    for name, instance in state.instances.items():
        for ifindex in instance.slots:
            sharing.setdefault(ifindex, []).append(name)
    for ifindex, names in sharing.items():
        yield ifindex, state.instances[decider(state, names)]


def datapath_samples(state: State, verdicts: Sequence[Verdict]) -> Iterator[Sample]:
    """Verdicts, and the eBPF side of the paths."""
    for one in verdicts:
        labels = (one.instance, one.device, one.hook, one.kind, one.reason)
        yield "pydp_verdicts_total", labels, one.packets
        yield "pydp_verdict_bytes_total", labels, one.bytes
    ports = _by_port(state, verdicts)
    for ifindex, instance in owners(state):
        for direction in _directions(instance.hooks[ifindex]):
            port = ports.get((instance.name, ifindex, direction), _Port())
            labels = ("ebpf", instance.mode, instance.name, instance.names[ifindex], direction)
            yield "pydp_path_packets_total", labels, port.carried
            yield "pydp_path_bytes_total", labels, port.carried_bytes
            yield "pydp_path_drops_total", labels, port.dropped
    yield from _ratios(state, ports)


def _directions(hooks: Sequence[str]) -> tuple[str, ...]:
    """As the device sees it: what a program on the way out decides about is transmitted."""
    return ("receive", "transmit") if _EGRESS in hooks else ("receive",)


def _by_port(state: State, verdicts: Sequence[Verdict]) -> dict[tuple[str, int, str], _Port]:
    found: dict[tuple[str, int, str], _Port] = {}
    for one in verdicts:
        instance = state.instances[one.instance]
        direction = "transmit" if one.hook == _EGRESS else "receive"
        port = found.setdefault((one.instance, one.ifindex, direction), _Port())
        if one.kind == "drop":
            port.dropped += one.packets
        elif one.ifindex == instance.companion:
            continue  # the kernel's work: it was counted where it came in, as left to it
        elif one.kind in ("forward", "flood") or (one.kind, one.reason) in _IN_PLACE:
            port.carried += one.packets
            port.carried_bytes += one.bytes
        elif one.kind == "punt" and one.hook == _last(instance.hooks[one.ifindex], direction):
            port.left += one.packets  # what an earlier hook left, this one saw and counted again
    return found


def _last(hooks: Sequence[str], direction: str) -> str:
    """The hook of a port that sees a frame last."""
    return next(hook for hook in reversed(hooks) if (hook == _EGRESS) == (direction == "transmit"))


def _ratios(state: State, ports: Mapping[tuple[str, int, str], _Port]) -> Iterator[Sample]:
    for name, instance in state.instances.items():
        mine = [port for (owner, _, _), port in ports.items() if owner == name]
        carried, left = sum(port.carried for port in mine), sum(port.left for port in mine)
        if MODES[instance.mode].traits.claims and carried + left:
            yield "pydp_fastpath_ratio", (name,), carried / (carried + left)


def kernel_samples(state: State, links: Links) -> Iterator[Sample]:
    """The kernel's side of the paths: the same ports under the same labels, the bridges and the vxlan devices."""
    ports = {ifindex: (one.mode, one.name, one.names[ifindex]) for ifindex, one in owners(state)}
    others = {ifindex: labels for ifindex, labels in _devices(state, links).items() if ifindex not in ports}
    seen = set()
    for ifindex, labels in (ports | others).items():
        stats = links.stats.get(ifindex)
        # A port's label is the name it had: it may have been renamed since, and its bridge have taken that name. The
        # same series twice would cost the whole page.
        if stats is None or labels in seen:
            continue
        seen.add(labels)
        for direction, packets, size, drops in (
            ("receive", stats.rx_packets, stats.rx_bytes, stats.rx_dropped),
            ("transmit", stats.tx_packets, stats.tx_bytes, stats.tx_dropped),
        ):
            values = ("kernel", *labels, direction)
            yield "pydp_path_packets_total", values, packets
            yield "pydp_path_bytes_total", values, size
            yield "pydp_path_drops_total", values, drops


def _devices(state: State, links: Links) -> dict[int, tuple[str, str, str]]:
    """(mode, instance that adopted or made it, name) of the kernel's bridges and vxlan devices. An instance adopts the
    vxlan devices on its underlay, with the bridges they are ports of.
    """
    adopted = {ifindex: name for name, one in state.instances.items() for ifindex in (one.adopted, one.companion)}
    underlays = {
        ifindex: name
        for name, one in state.instances.items()
        for ifindex, role in one.roles.items()
        if one.adopted and role == Role.UNDERLAY
    }
    for ifindex, one in links.vxlans.items():
        if one.master and one.lower in underlays:
            adopted |= {ifindex: underlays[one.lower], one.master: underlays[one.lower]}
    found = {ifindex: ("bridge", adopted.get(ifindex, ""), name) for ifindex, name in links.bridges.items()}
    return found | {ifindex: ("vxlan", adopted.get(ifindex, ""), one.name) for ifindex, one in links.vxlans.items()}


class Programs:
    """Samples of programs. Remembers what programs that were replaced had counted, so that the sums never fall."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], ProgramRun] = {}
        self._before: dict[tuple[str, ...], tuple[int, float]] = {}

    def samples(self, state: State, programs: Sequence[ProgramRun]) -> Iterator[Sample]:
        for one in programs:
            labels = (one.instance, one.device, one.hook)
            runs, seconds = self._since_start(labels, one)
            yield "pydp_program_info", (*labels, one.name, str(one.id), one.tag), 1
            yield "pydp_program_runs_total", labels, runs
            yield "pydp_program_run_time_seconds_total", labels, seconds
            for instance in state.attachments[f"{one.ifindex}-{one.hook}"].stages:
                device = state.instances[instance].names[one.ifindex]
                yield "pydp_attached", (instance, device, one.hook), one.running

    def _since_start(self, labels: tuple[str, ...], one: ProgramRun) -> tuple[int, float]:
        last = self._last.get(labels, one)
        runs, seconds = self._before.get(labels, (0, 0.0))
        if last.id != one.id:
            runs, seconds = self._before[labels] = runs + last.runs, seconds + last.seconds
        self._last[labels] = one
        return runs + one.runs, seconds + one.seconds


def map_samples(_: State, fills: Sequence[Fill]) -> Iterator[Sample]:
    for one in fills:
        yield "pydp_map_entries", (one.instance, one.map), one.entries
        yield "pydp_map_max_entries", (one.instance, one.map), one.max_entries


def fdb_samples(_: State, tables: Sequence[FdbTable]) -> Iterator[Sample]:
    for one in tables:
        kinds = {"learned": one.census.learned, "permanent": one.census.permanent, "local": one.census.local}
        for kind, number in kinds.items():
            yield "pydp_fdb_entries", (one.instance, kind), number
        yield "pydp_fdb_max_entries", (one.instance,), one.max_entries
        for event, number in one.events.items():
            yield f"pydp_fdb_{event}_total", (one.instance,), number
        yield "pydp_map_entries", (one.instance, "fdb"), sum(kinds.values())
        yield "pydp_map_max_entries", (one.instance, "fdb"), one.places


def tunnel_samples(_: State, instances: Sequence[Tunnels]) -> Iterator[Sample]:
    for one in instances:
        for each in one.tunnels:
            labels = (one.instance, one.mode, "" if each.vni is None else str(each.vni), each.remote)
            for direction, packets, size in (
                ("send", each.sent_packets, each.sent_bytes),
                ("receive", each.received_packets, each.received_bytes),
            ):
                yield "pydp_tunnel_packets_total", (*labels, direction), packets
                yield "pydp_tunnel_bytes_total", (*labels, direction), size
        yield "pydp_tunnel_vteps", (one.instance,), len(one.tunnels)
        if one.max_guests:
            yield "pydp_tunnel_guests", (one.instance,), one.guests
            yield "pydp_tunnel_max_guests", (one.instance,), one.max_guests


def conntrack_samples(_: State, found: Conntracks) -> Iterator[Sample]:
    for one in found.tables:
        labels = ("ebpf", one.instance)
        yield "pydp_conntrack_entries", (*labels, "new"), one.census.new
        yield "pydp_conntrack_entries", (*labels, "assured"), one.census.assured
        yield "pydp_conntrack_max_entries", labels, one.max_entries
        for event, number in one.events.items():
            yield f"pydp_conntrack_{_EVENTS.get(event, event)}_total", labels, number
    if found.kernel:
        labels = ("kernel", "")
        yield "pydp_conntrack_entries", (*labels, "all"), found.kernel.entries
        yield "pydp_conntrack_max_entries", labels, found.kernel.max_entries
        yield "pydp_conntrack_evicted_total", labels, found.kernel.evicted
        yield "pydp_conntrack_insert_failures_total", labels, found.kernel.failures
        yield "pydp_conntrack_invalid_total", labels, found.kernel.invalid


def service_samples(_: State, instances: Sequence[Services]) -> Iterator[Sample]:
    for one in instances:
        yield "pydp_services", (one.instance,), one.services
        for state, number in one.backends.items():
            yield "pydp_service_backends", (one.instance, state), number
        for (service, reason), number in one.failures.items():
            yield "pydp_service_failures_total", (one.instance, service, reason), number
        for each in one.served:
            labels = (one.instance, each.service, each.backend)
            yield "pydp_service_connections_total", labels, each.count.flows
            yield "pydp_service_flows", labels, each.flows
            for direction, packets, size in (
                ("send", each.count.sent_packets, each.count.sent_bytes),
                ("receive", each.count.received_packets, each.count.received_bytes),
            ):
                yield "pydp_service_packets_total", (*labels, direction), packets
                yield "pydp_service_bytes_total", (*labels, direction), size
            if each.up is not None:
                yield "pydp_service_backend_up", labels, each.up


def rule_samples(_: State, rules: Sequence[NatRules]) -> Iterator[Sample]:
    for one in rules:
        yield "pydp_nat_rules", ("kernel", one.tool, one.action), one.rules
        yield "pydp_nat_rule_packets_total", ("kernel", one.tool, one.action), one.packets


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
    )
