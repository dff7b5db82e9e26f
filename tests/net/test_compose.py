# SPDX-License-Identifier: Apache-2.0
"""Two modes on one interface are one program. Attaching, replacing or detaching one of them under load disturbs
neither the traffic nor the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pydp.datapath import Datapath, Reader
from pydp.datapath.state import State
from pydp.errors import UsageError
from pydp.lab import Namespace, NumberedStream, Segment, Stations, ping
from tests.net.bridging import (
    BROADCAST,
    OFFLOADS,
    SegmentFactory,
    addresses,
    attach,
    attached,
    count,
    detach,
    frame,
    mac,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

HOOKS = ["tc", "xdp"]
UDP = 3  # COUNT_UDP
PPS = 3000


@pytest.fixture(params=HOOKS)
def hook(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def made(segment: SegmentFactory, hook: str) -> Segment:
    return segment(3, offloads=OFFLOADS[hook])


@pytest.fixture
def switch(made: Segment, hook: str) -> Iterator[Segment]:
    """Three containers, bridged by pydp."""
    with attached(made.sw, *made.ports, hook=hook):
        yield made


@pytest.fixture
def stream(switch: Segment) -> Iterator[NumberedStream]:
    """Numbered datagrams from the first container to the second, of which none may be lost, doubled or overtaken."""
    a, b, _ = switch.containers
    with NumberedStream(a.ns, b.ns, b.address4, pps=PPS) as flowing:
        flowing.wait_received(200)
        yield flowing
        flowing.wait_received(200)
    assert flowing.report.intact, flowing.report
    assert flowing.report.sent > 400


def state(ns: Namespace) -> State:
    return ns.call(lambda: Datapath().read())


def counted(ns: Namespace, kind: int = UDP, slot: int = 0) -> int:
    """Packets of a kind that mode count has seen on its port of that slot."""

    def read() -> int:
        datapath = Datapath()
        with datapath.open_maps(datapath.instance("count"), ["count_kinds"]) as maps:
            return int(maps["count_kinds"].sums().get(slot * 8 + kind, (0, 0))[0])

    return ns.call(read)


def running(ns: Namespace, hook: str) -> dict[str, int]:
    """Id of the one program on a hook of each port, as the pins have it."""

    def read() -> dict[str, int]:
        with Reader.open(Datapath()) as reader:
            found = [one for one in reader.programs() if one.hook == hook]
            assert all(one.running for one in found)
            assert len(found) == len({one.device for one in found})
            return {one.device: one.id for one in found}

    return ns.call(read)


def xdp_programs(ns: Namespace) -> dict[str, int]:
    """The kernel's own account of what runs on XDP."""
    links = json.loads(ns.run(["ip", "-d", "-j", "link"]).stdout)
    return {link["ifname"]: link["xdp"]["prog"]["id"] for link in links if "xdp" in link}


def test_two_modes_are_one_program(switch: Segment, hook: str) -> None:
    sw, (a, b, _) = switch.sw, switch.containers
    alone = running(sw, hook)
    attach(sw, "p0", mode="count", hook="auto")
    both = running(sw, hook)
    assert both.keys() == alone.keys()
    assert both["p0"] != alone["p0"]
    assert (both["p1"], both["p2"]) == (alone["p1"], alone["p2"])  # only the port concerned is touched
    if hook == "xdp":
        assert xdp_programs(sw) == both
    stages = {key: set(one.stages) for key, one in state(sw).attachments.items() if one.hook == hook}
    assert sorted(map(sorted, stages.values())) == [["bridge"], ["bridge"], ["bridge", "count"]]
    before = verdicts(sw, instance="bridge", hook=hook)
    with NumberedStream(a.ns, b.ns, b.address4, pps=PPS) as flowing:
        flowing.wait_received(100)
    sent = flowing.report.sent
    after = verdicts(sw, instance="bridge", hook=hook)
    assert counted(sw) == sent
    key = ("p0", "forward_port")
    # The stream's first datagram may wait for an ARP exchange, which is forwarded too.
    assert sent <= after[key] - before.get(key, 0) <= sent + 2
    assert set(detach(sw, "count")) == {"count"}
    assert running(sw, hook).keys() == alone.keys()
    assert ping(a.ns, b.address4).lost == 0


def test_count_comes_and_goes_under_load(switch: Segment, hook: str, stream: NumberedStream) -> None:
    for _ in range(3):
        attach(switch.sw, *switch.ports, mode="count", hook="auto")
        assert state(switch.sw).instances["count"].hook == hook
        stream.wait_received(100)
        assert counted(switch.sw) >= 99
        detach(switch.sw, "count")
        stream.wait_received(50)
    assert count(switch.sw, "forward_port", port="p0") > 400


def test_the_bridge_goes_and_count_stays_under_load(segment: SegmentFactory, hook: str) -> None:
    """Above a kernel bridge, which takes over what eBPF no longer forwards."""
    made = segment(2, kernel_bridge=True, offloads=OFFLOADS[hook])
    sw, (a, b) = made.sw, made.containers
    with attached(sw, "br0", hook=hook), NumberedStream(a.ns, b.ns, b.address4, pps=PPS) as flowing:
        attach(sw, "p0", mode="count", hook="auto")
        flowing.wait_received(200)
        program = running(sw, hook)["p0"]
        seen = counted(sw)
        detach(sw, "br0")
        flowing.wait_received(200)
        assert list(state(sw).instances) == ["count"]
        assert running(sw, hook).keys() == {"p0"}
        assert running(sw, hook)["p0"] != program
        assert counted(sw) >= seen + 150
    assert flowing.report.intact, flowing.report


def test_a_new_option_under_load(switch: Segment, hook: str, stream: NumberedStream) -> None:
    """The same instance with another ageing time: other programs, the same addresses and counters."""
    sw = switch.sw
    before, learned = count(sw, "forward_port", port="p0"), addresses(sw, state(sw).instances["bridge"])
    changed = attach(sw, *switch.ports, hook=hook, options={"ageing": 77})
    assert changed.revision == 1
    assert addresses(sw, changed) == learned
    assert learned.keys() >= {(mac(0), 0), (mac(1), 0)}
    stream.wait_received(100)
    assert count(sw, "forward_port", port="p0") >= before + 100


def test_twenty_swaps_in_a_row(switch: Segment, hook: str, stream: NumberedStream) -> None:
    for number in range(20):
        before = running(switch.sw, hook)
        attach(switch.sw, *switch.ports, hook=hook, options={"ageing": 77} if number % 2 else {})
        after = running(switch.sw, hook)
        assert all(after[port] != before[port] for port in switch.ports)
    assert state(switch.sw).instances["bridge"].revision == 20


def test_a_port_joins_and_leaves(switch: Segment, hook: str, stream: NumberedStream) -> None:
    """The others keep their slots, and what was learned behind them."""
    sw = switch.sw
    slots = state(sw).instances["bridge"].slots
    two = attach(sw, "p0", "p1", name="bridge", hook=hook)
    assert two.slots == {ifindex: slots[ifindex] for ifindex in list(slots)[:2]}
    with Stations(switch) as stations:
        alone = frame(BROADCAST, mac(2))
        assert not any(alone in arrived for arrived in stations.exchange(2, alone))  # the second gets the stream
        three = attach(sw, *switch.ports, name="bridge", hook=hook)
        assert {ifindex: three.slots[ifindex] for ifindex in two.slots} == two.slots
        flooded = frame(BROADCAST, mac(2))
        here, there, own = stations.exchange(2, flooded)
        assert (flooded in here, flooded in there, own) == (True, True, [])


def test_a_port_has_one_master(switch: Segment, hook: str) -> None:
    with pytest.raises(UsageError, match="p0 belongs to the instance bridge") as caught:
        attach(switch.sw, "p0", name="other", hook=hook)
    assert "pydp detach bridge" in caught.value.hint
    with pytest.raises(UsageError, match="there is an instance bridge already"):
        attach(switch.sw, "p0", "p1", hook=hook)
    assert list(state(switch.sw).instances) == ["bridge"]
