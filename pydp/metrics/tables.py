# SPDX-License-Identifier: Apache-2.0
"""Samples of what stands in maps: how full they are, FDB, tunnels, conntrack, services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydp.datapath.reader import Fill
from pydp.datapath.state import State
from pydp.metrics.found import Conntracks, FdbTable, Sample, Tunnels
from pydp.metrics.serving import MOST, Services
from pydp.tunnels import Tunnel

# Events of the conntrack table that go by another name here.
_EVENTS = {"full": "insert_failures", "exhausted": "port_exhausted", "late": "races"}
# Events that are operations on the table they are counted in, by the name of its map.
_OPERATIONS = {
    "fdb": {"learned": "insert", "moved": "update", "aged": "expire", "evicted": "evict", "full": "fail"},
    "nat_flows": {"created": "insert", "moved": "update", "expired": "expire", "evicted": "evict", "full": "fail"},
}


def map_samples(_: State, fills: Sequence[Fill]) -> Iterator[Sample]:
    for one in fills:
        yield "pydp_map_entries", (one.instance, one.map), one.entries
        yield "pydp_map_max_entries", (one.instance, one.map), one.max_entries


def _operations(instance: str, name: str, events: Mapping[str, int]) -> Iterator[Sample]:
    for event, operation in _OPERATIONS[name].items():
        if event in events:
            yield "pydp_map_operations_total", (instance, name, operation), events[event]


def fdb_samples(_: State, tables: Sequence[FdbTable]) -> Iterator[Sample]:
    for one in tables:
        kinds = {"learned": one.census.learned, "permanent": one.census.permanent, "local": one.census.local}
        for kind, number in kinds.items():
            yield "pydp_fdb_entries", (one.instance, kind), number
        yield "pydp_fdb_max_entries", (one.instance,), one.max_entries
        for event, number in one.events.items():
            yield f"pydp_fdb_{event}_total", (one.instance,), number
        yield from _operations(one.instance, "fdb", one.events)
        yield "pydp_map_entries", (one.instance, "fdb"), sum(kinds.values())
        yield "pydp_map_max_entries", (one.instance, "fdb"), one.places


def tunnel_samples(_: State, instances: Sequence[Tunnels]) -> Iterator[Sample]:
    for one in instances:
        for each in one.tunnels if len(one.tunnels) <= MOST else _together(one.tunnels):
            labels = (one.instance, one.mode, "" if each.vni is None else str(each.vni), each.remote)
            for direction, packets, size in (
                ("send", each.sent_packets, each.sent_bytes),
                ("receive", each.received_packets, each.received_bytes),
            ):
                yield "pydp_tunnel_packets_total", (*labels, direction), packets
                yield "pydp_tunnel_bytes_total", (*labels, direction), size
        yield from _fate_samples(one)
        yield "pydp_tunnel_vteps", (one.instance,), len(one.tunnels)
        if one.max_guests:
            yield "pydp_tunnel_guests", (one.instance,), one.guests
            yield "pydp_tunnel_max_guests", (one.instance,), one.max_guests


def _fate_samples(found: Tunnels) -> Iterator[Sample]:
    """Of tunnels that nobody named, none."""
    ends = {
        one.index: ("" if one.vni is None else str(one.vni), one.remote if len(found.tunnels) <= MOST else "")
        for one in found.tunnels
    }
    sums = Counter[tuple[str, ...]]()
    for one in found.fates:
        if one.index in ends:
            sums[*ends[one.index], one.kind, one.reason] += one.packets
    for labels, packets in sums.items():
        yield "pydp_tunnel_verdicts_total", (found.instance, found.mode, *labels), packets


def _together(tunnels: Sequence[Tunnel]) -> Iterator[Tunnel]:
    """One for each VNI."""
    for vni in dict.fromkeys(one.vni for one in tunnels):
        mine = [one for one in tunnels if one.vni == vni]
        yield replace(
            mine[0],
            remote="",
            sent_packets=sum(one.sent_packets for one in mine),
            sent_bytes=sum(one.sent_bytes for one in mine),
            received_packets=sum(one.received_packets for one in mine),
            received_bytes=sum(one.received_bytes for one in mine),
        )


def conntrack_samples(_: State, found: Conntracks) -> Iterator[Sample]:
    for one in found.tables:
        labels = ("ebpf", one.instance)
        yield "pydp_conntrack_entries", (*labels, "new"), one.census.new
        yield "pydp_conntrack_entries", (*labels, "assured"), one.census.assured
        yield "pydp_conntrack_max_entries", labels, one.max_entries
        for event, number in one.events.items():
            yield f"pydp_conntrack_{_EVENTS.get(event, event)}_total", labels, number
        yield from _operations(one.instance, "nat_flows", one.events)
        yield "pydp_map_entries", (one.instance, "nat_flows"), one.census.entries
        yield "pydp_map_max_entries", (one.instance, "nat_flows"), one.max_entries
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
