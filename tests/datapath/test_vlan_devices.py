# SPDX-License-Identifier: Apache-2.0
"""VLAN filtering on tc between real devices, where the kernel keeps the outermost tag in skb metadata: what four
containers see of a frame that one of them sends. Not every kernel bridge filters VLANs, so scapy says what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pydp import fdb
from pydp.datapath import Datapath, Reader, Request
from pydp.lab import Segment, Stations
from tests.datapath.frames import BROADCAST, MULTICAST, Dot1AD, eth, tagged

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

# p0: access to VLAN 10. p1: trunk with 10 and 20. p2: untagged in 10 and 20, PVID 20. p3: trunk with 10, without 20.
VLANS = ("p0=10:pvid:untagged", "p1=10", "p1=20", "p2=10:untagged", "p2=20:pvid:untagged", "p3=10")


class Bench:
    """Four containers with pydp between them."""

    def __init__(self, segment: Segment, stations: Stations, options: dict[str, Any]) -> None:
        self.segment = segment
        self.stations = stations
        request = Request("bridge", segment.ports, hook="tc", options={"vlan_filtering": True, **options})
        self.instance = segment.sw.call(lambda: Datapath().attach(request))

    def verdicts(self) -> dict[str, int]:
        """Packets by verdict, of all ports."""

        def read() -> dict[str, int]:
            found: dict[str, int] = {}
            with Reader.open(Datapath()) as reader:
                for one in reader.verdicts():
                    name = f"{one.kind}_{one.reason}".upper()
                    found[name] = found.get(name, 0) + one.packets
            return found

        return self.segment.sw.call(read)

    def close(self) -> None:
        self.segment.sw.call(lambda: Datapath().detach())


@pytest.fixture(scope="module", params=["802.1q", "802.1ad"])
def bench(module_segment: Callable[..., Segment], request: pytest.FixtureRequest) -> Iterator[Bench]:
    segment = module_segment(4)
    with Stations(segment) as stations:
        made = Bench(segment, stations, {"vlan": VLANS, "vlan_protocol": request.param})
        yield made
        made.close()


@dataclass(frozen=True, slots=True)
class Case:
    """TAGS that a frame comes with at PORT, and the tags it has at each of the other ports (None: it is not seen)."""

    sentence: str
    port: int
    tags: Sequence[Any]
    seen: dict[int, Sequence[Any]]
    verdict: str
    to: int | str = BROADCAST  # a station, by the number of its port; 9 for nobody
    heard: dict[int, Sequence[Any]] = field(default_factory=dict)  # ports that stations were heard on, with their tags


def cases(tag: Callable[..., Any], other: Callable[..., Any]) -> list[Case]:
    """TAG makes a tag that counts, OTHER one of the other protocol."""
    ten, twenty = [tag(10)], [tag(20)]
    heard: dict[int, Sequence[Any]] = {0: [], 1: ten, 2: ten, 3: ten}
    flood, forward = "FLOOD_PORTS", "FORWARD_PORT"
    return [
        Case("flood from an access port: tagged and untagged copies", 0, [], {1: ten, 2: [], 3: ten}, flood),
        Case("flood from a trunk", 1, ten, {0: [], 2: [], 3: ten}, flood),
        Case("flood by PVID of the untagged", 2, [], {1: twenty}, flood),
        Case("flood in a VLAN of two ports", 1, twenty, {2: []}, flood),
        Case("flood of multicast", 0, [], {1: ten, 2: [], 3: ten}, flood, to=MULTICAST),
        Case("flood of the unknown", 0, [], {1: ten, 2: [], 3: ten}, flood, to=9),
        Case("flood of a priority tag: its priority stays", 0, [tag(0, 5)],
             {1: [tag(10, 5)], 2: [], 3: [tag(10, 5)]}, flood),
        Case("flood of two tags", 1, [tag(10, 3), tag(77)],
             {0: [tag(77)], 2: [tag(77)], 3: [tag(10, 3), tag(77)]}, flood),
        Case("flood of a tag of the other protocol: payload", 0, [other(20)],
             {1: [tag(10), other(20)], 2: [other(20)], 3: [tag(10), other(20)]}, flood),
        Case("flood of the other protocol under a tag", 1, [tag(10), other(7)],
             {0: [other(7)], 2: [other(7)], 3: [tag(10), other(7)]}, flood),
        Case("known: access to trunk", 0, [], {1: ten}, forward, to=1, heard=heard),
        Case("known: trunk to access", 1, ten, {0: []}, forward, to=0, heard=heard),
        Case("known: trunk to trunk", 1, [tag(10, 6)], {3: [tag(10, 6)]}, forward, to=3, heard=heard),
        Case("known: access to access", 0, [], {2: []}, forward, to=2, heard=heard),
        Case("known: priority tag to trunk", 0, [tag(0, 4)], {1: [tag(10, 4)]}, forward, to=1, heard=heard),
        Case("known: priority tag to access", 0, [tag(0, 4)], {2: []}, forward, to=2, heard=heard),
        Case("known: two tags to access", 1, [tag(10), tag(77, 2)], {0: [tag(77, 2)]}, forward, to=0, heard=heard),
        Case("known: two tags to trunk", 1, [tag(10), tag(77, 2)], {3: [tag(10), tag(77, 2)]}, forward, to=3,
             heard=heard),
        Case("known: the other protocol to trunk", 0, [other(20)], {1: [tag(10), other(20)]}, forward, to=1,
             heard=heard),
        Case("known: the other protocol to access", 0, [other(20)], {2: [other(20)]}, forward, to=2, heard=heard),
        Case("no member", 0, twenty, {}, "DROP_VLAN_INGRESS"),
        Case("no member, known station", 3, twenty, {}, "DROP_VLAN_INGRESS", to=1, heard=heard),
        Case("known in another VLAN only", 1, twenty, {2: []}, flood, to=0, heard=heard),
    ]  # fmt: skip


def q(vlan: int, prio: int = 0) -> Any:
    return tagged(vlan, prio=prio)


def ad(vlan: int, prio: int = 0) -> Any:
    return Dot1AD(vlan=vlan, prio=prio)


NAMES = [case.sentence for case in cases(q, ad)]


@pytest.mark.parametrize("name", NAMES)
def test_vlan(bench: Bench, name: str) -> None:
    kinds = (q, ad) if bench.instance.options["vlan_protocol"] == "802.1q" else (ad, q)
    case = next(one for one in cases(*kinds) if one.sentence == name)
    bench.segment.sw.call(lambda: fdb.flush(Datapath(), bench.instance))
    for port, tags in case.heard.items():
        bench.stations.exchange(port, eth(BROADCAST, port, *tags))
    before = bench.verdicts()
    sent = eth(case.to, case.port, *case.tags)
    seen = bench.stations.exchange(case.port, sent)
    expected = [[eth(case.to, case.port, *case.seen[port])] if port in case.seen else [] for port in range(4)]
    assert [[frame.hex(" ") for frame in frames] for frames in seen] == [
        [frame.hex(" ") for frame in frames] for frames in expected
    ]
    after = bench.verdicts()
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)} == {
        case.verdict: 1
    }
