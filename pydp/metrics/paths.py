# SPDX-License-Identifier: Apache-2.0
"""The two sides of the paths: what eBPF decided about frames, and what the kernel counted on the same devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydp.datapath.reader import Verdict, decider
from pydp.datapath.state import Instance, State
from pydp.metrics.found import Links, Sample
from pydp.modes.base import Role

MOST_OTHERS = 256  # bridges and vxlan devices of the kernel, those that no instance has to do with
_EGRESS = "tc-egress"


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
            yield "pydp_path_punts_total", labels, port.left
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
        elif one.carried:
            port.carried += one.packets
            port.carried_bytes += one.bytes
        elif one.kind == "punt" and one.hook == _last(instance.hooks[one.ifindex], direction):
            port.left += one.packets  # what an earlier hook left, this one saw and counted again
    return found


def _last(hooks: Sequence[str], direction: str) -> str:
    """The hook of a port that sees a frame last."""
    return next(hook for hook in reversed(hooks) if (hook == _EGRESS) == (direction == "transmit"))


def _ratios(state: State, ports: Mapping[tuple[str, int, str], _Port]) -> Iterator[Sample]:
    for name in state.instances:
        mine = [port for (owner, _, _), port in ports.items() if owner == name]
        carried, left = sum(port.carried for port in mine), sum(port.left for port in mine)
        if carried + left:
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
        for direction, packets, size, drops, errors in (
            ("receive", stats.rx_packets, stats.rx_bytes, stats.rx_dropped, stats.rx_errors),
            ("transmit", stats.tx_packets, stats.tx_bytes, stats.tx_dropped, stats.tx_errors),
        ):
            values = ("kernel", *labels, direction)
            yield "pydp_path_packets_total", values, packets
            yield "pydp_path_bytes_total", values, size
            yield "pydp_path_drops_total", values, drops
            yield "pydp_link_errors_total", values, errors
    yield from _bridges(links, others)


def _bridges(links: Links, labels: Mapping[int, tuple[str, str, str]]) -> Iterator[Sample]:
    for ifindex, one in links.bridges.items():
        if ifindex in labels and one.learned is not None:
            _, instance, name = labels[ifindex]
            yield "pydp_bridge_learned_entries", ("kernel", instance, name), one.learned
            yield "pydp_bridge_max_learned_entries", ("kernel", instance, name), one.max_learned or 0


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
    found = {ifindex: ("bridge", adopted.get(ifindex, ""), one.name) for ifindex, one in links.bridges.items()}
    found |= {ifindex: ("vxlan", adopted.get(ifindex, ""), one.name) for ifindex, one in links.vxlans.items()}
    strangers = sorted(ifindex for ifindex, (_, instance, _) in found.items() if not instance)
    return {ifindex: found[ifindex] for ifindex in found.keys() - set(strangers[MOST_OTHERS:])}
