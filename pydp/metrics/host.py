# SPDX-License-Identifier: Apache-2.0
"""Samples of what the kernel counts for the whole namespace or machine: netfilter's rules, softnet, CPU time."""

from __future__ import annotations

from collections.abc import Iterator

from pydp.datapath.state import State
from pydp.kernel.natrules import RuleCounters
from pydp.kernel.softnet import Machine
from pydp.metrics.found import Sample


def rule_samples(_: State, rules: RuleCounters) -> Iterator[Sample]:
    for one in rules.nat:
        yield "pydp_nat_rules", ("kernel", one.tool, one.action), one.rules
        yield "pydp_nat_rule_packets_total", ("kernel", one.tool, one.action), one.packets
    for each in rules.chains:
        labels = ("kernel", each.tool, each.family, each.table, each.chain)
        yield "pydp_netfilter_rules", labels, each.rules
        yield "pydp_netfilter_rule_packets_total", labels, each.packets
        yield "pydp_netfilter_rule_bytes_total", labels, each.bytes


def machine_samples(_: State, machine: Machine) -> Iterator[Sample]:
    for one in machine.softnet:
        labels = ("kernel", one.cpu)
        yield "pydp_softnet_packets_total", labels, one.packets
        yield "pydp_softnet_dropped_total", labels, one.dropped
        yield "pydp_softnet_squeezed_total", labels, one.squeezed
    for state, seconds in machine.seconds.items():
        yield "pydp_cpu_seconds_total", ("kernel", state), seconds
    yield "pydp_program_stats_enabled", (), machine.program_stats
