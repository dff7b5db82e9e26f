# SPDX-License-Identifier: Apache-2.0
"""What rules of the nat tables counted, and the kernel's own conntrack, read after traffic that makes them count."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from pydp.kernel.conntrack import decode, read_conntrack
from pydp.kernel.natrules import ChainRules, NatRules, read_nat_rules, read_rule_counters, summed
from pydp.kernel.rules import Rule
from pydp.lab import Namespace

pytestmark = pytest.mark.usefixtures("requires_root")

NFT = """
table inet web {
  chain pre {
    type nat hook output priority -100
    udp dport 1001 counter redirect to :9
    udp dport 1002 counter dnat ip to 127.0.0.9
    udp dport 1003 dnat ip to 127.0.0.9
    udp dport 1004 counter accept
  }
  chain post {
    type nat hook postrouting priority 100
    udp sport 5 counter masquerade
    udp sport 6 counter snat ip to 127.0.0.7
  }
}
table ip filter {
  chain out {
    type filter hook output priority 0
    udp dport 9 counter accept
  }
}
"""


@pytest.fixture
def host(namespace: Callable[..., Namespace]) -> Namespace:
    made = namespace()
    made.run(["ip", "link", "set", "lo", "up"])
    return made


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")


def send(ns: Namespace, port: int, times: int = 1) -> None:
    """Datagrams of as many connections."""
    for _ in range(times):
        with ns.socket(kind=2) as sock:
            sock.sendto(b"x", ("127.0.0.1", port))


def test_nothing_is_there(host: Namespace) -> None:
    assert host.call(read_nat_rules) == []


def test_nftables(host: Namespace) -> None:
    need("nft")
    host.run(["nft", NFT])
    send(host, 1001, 3)
    send(host, 1002, 2)
    send(host, 1003)
    assert host.call(read_nat_rules) == [
        NatRules("nftables", "dnat", 2, 2),
        NatRules("nftables", "masquerade", 1, 0),
        NatRules("nftables", "redirect", 1, 3),
        NatRules("nftables", "snat", 1, 0),
    ]


@pytest.mark.parametrize(("command", "tool"), [("iptables-legacy", "iptables"), ("iptables-nft", "nftables")])
def test_iptables(host: Namespace, command: str, tool: str) -> None:
    need(command)

    def rule(*words: str) -> None:
        host.run([command, "-t", "nat", *words])

    rule("-N", "SVC")
    rule("-A", "OUTPUT", "-p", "udp", "--dport", "1001", "-j", "SVC")
    rule("-A", "SVC", "-p", "udp", "-j", "DNAT", "--to-destination", "127.0.0.9:7")
    rule("-A", "OUTPUT", "-p", "udp", "--dport", "1002", "-j", "REDIRECT", "--to-ports", "9")
    rule("-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE")
    rule("-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "SNAT", "--to-source", "127.0.0.1")
    send(host, 1001, 4)
    send(host, 1002)
    assert host.call(read_nat_rules) == [
        NatRules(tool, "dnat", 1, 4),
        NatRules(tool, "masquerade", 1, 0),
        NatRules(tool, "redirect", 1, 1),
        NatRules(tool, "snat", 1, 0),
    ]


def test_the_kernels_conntrack(host: Namespace) -> None:
    """Conntrack runs where a rule wants it."""
    need("nft")
    host.run(["nft", NFT])
    before = host.call(read_conntrack)
    assert before is not None
    assert (before.entries, before.evicted, before.failures) == (0, 0, 0)
    send(host, 1001, 5)
    found = host.call(read_conntrack)
    assert found is not None
    assert found.entries == 5
    assert found.max_entries > 0


def test_conntrack_sums_over_cpus_but_for_entries() -> None:
    lines = [
        "entries  clashres found new invalid insert_failed drop early_drop",
        "0000000a  00000000 00000001 00000000 00000002 00000003 00000004 00000010",
        "0000000a  00000000 00000001 00000000 00000001 00000001 00000001 00000001",
    ]
    found = decode(lines, 99)
    assert (found.entries, found.max_entries, found.evicted, found.failures, found.invalid) == (10, 99, 17, 9, 3)


def test_chains_of_nftables(host: Namespace) -> None:
    need("nft")
    host.run(["nft", NFT])
    send(host, 1001, 3)
    found = {(one.family, one.table, one.chain): one for one in host.call(read_rule_counters).chains}
    assert {key: (one.rules, one.packets) for key, one in found.items()} == {
        ("inet", "web", "pre"): (4, 3),
        ("inet", "web", "post"): (2, 0),
        ("ip", "filter", "out"): (1, 3),
    }
    assert found["ip", "filter", "out"].bytes == 3 * 29


@pytest.mark.parametrize("command", ["iptables-legacy", "ip6tables-legacy", "iptables-nft"])
def test_chains_of_iptables_count_what_iptables_save_says(host: Namespace, command: str) -> None:
    """All tables; chains that users made, of which one is empty; policies and the ends of chains are no rules."""
    need(command)
    family = "ip6" if "6" in command else "ip"
    for table, words in (
        ("filter", "-N LAST"),
        ("filter", "-N EMPTY"),
        ("filter", "-A OUTPUT -p udp --dport 1001 -j LAST"),
        ("filter", "-A OUTPUT -p udp --dport 1001 -j ACCEPT"),
        ("filter", "-A LAST -p udp -j RETURN"),
        ("filter", "-A LAST -j RETURN"),
        ("filter", "-P FORWARD DROP"),
        ("mangle", "-A POSTROUTING -j ACCEPT"),
    ):
        host.run([command, "-t", table, *words.split()])
    send(host, 1001, 4)
    expected: dict[tuple[str, str], list[int]] = {}
    table = ""
    for line in host.run([f"{command}-save", "-c"]).stdout.splitlines():
        if line[0] == "*":
            table = line[1:]
        elif line[0] == "[":
            counted, _, chain = line.split()[:3]
            packets, size = (int(word) for word in counted.strip("[]").split(":"))
            sums = expected.setdefault((table, chain), [0, 0, 0])
            for at, number in enumerate((1, packets, size)):
                sums[at] += number
    assert len(expected) == 3
    tool = "nftables" if "nft" in command else command.partition("-")[0]
    found = host.call(read_rule_counters).chains
    assert {(one.tool, one.family) for one in found} == {(tool, family)}
    assert {(one.table, one.chain): [one.rules, one.packets, one.bytes] for one in found} == expected
    if family == "ip":
        assert expected["filter", "LAST"][:2] == [2, 4]


def test_too_many_chains_count_together() -> None:
    rules = [Rule("nftables", "ip", "t", f"c{number}", "", 1, 10) for number in range(5)]
    rules.append(Rule("iptables", "ip", "filter", "INPUT", "", 7, 70))
    assert summed(rules, 5).chains == (
        ChainRules("iptables", "ip", "", "", 1, 7, 70),
        ChainRules("nftables", "ip", "", "", 5, 5, 50),
    )
    assert len(summed(rules, 6).chains) == 6
