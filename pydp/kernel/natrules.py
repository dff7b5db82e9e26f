# SPDX-License-Identifier: Apache-2.0
"""What netfilter's rules counted, summed up: by chain, and those that translate addresses by what they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydp.kernel.rules import Rule, read_rules

MOST_CHAINS = 200  # that are told apart: kube-proxy makes some for each service


@dataclass(frozen=True, slots=True)
class NatRules:
    """Rules of a ``tool`` ("iptables", "ip6tables", "nftables" with iptables-nft) that do the same: dnat, snat,
    masquerade, redirect or netmap. A packet that one matches is the first of a connection.
    """

    tool: str
    action: str
    rules: int
    packets: int


@dataclass(frozen=True, slots=True)
class ChainRules:
    """The rules of a chain; ``table`` and ``chain`` are "" for all rules of a tool and family where there are more than
    `MOST_CHAINS` chains.
    """

    tool: str
    family: str
    table: str
    chain: str
    rules: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RuleCounters:
    """Of all rules of a namespace."""

    nat: tuple[NatRules, ...] = ()
    chains: tuple[ChainRules, ...] = ()


def read_rule_counters() -> RuleCounters:
    """Those of the current namespace. Raises NotAllowed without CAP_NET_ADMIN, OSError otherwise."""
    return summed(read_rules())


def read_nat_rules() -> list[NatRules]:
    """The same, of rules that translate addresses only."""
    return list(read_rule_counters().nat)


def summed(rules: Iterable[Rule], most: int = MOST_CHAINS) -> RuleCounters:
    """The sums over RULES."""
    nat: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    chains: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in rules:
        if one.action:
            _add(nat[one.tool, one.action], (1, one.packets))
        _add(chains[one.tool, one.family, one.table, one.chain], (1, one.packets, one.bytes))
    return RuleCounters(
        tuple(NatRules(*key, *both) for key, both in sorted(nat.items())),
        tuple(ChainRules(*key, *found) for key, found in sorted(_bounded(chains, most).items())),
    )


def _bounded(
    chains: Mapping[tuple[str, str, str, str], list[int]], most: int
) -> Mapping[tuple[str, str, str, str], list[int]]:
    if len(chains) <= most:
        return chains
    found: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for (tool, family, _, _), sums in chains.items():
        _add(found[tool, family, "", ""], sums)
    return found


def _add(sums: list[int], more: Iterable[int]) -> None:
    for at, number in enumerate(more):
        sums[at] += number
