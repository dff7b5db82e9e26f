# SPDX-License-Identifier: Apache-2.0
"""Two namespaces and a cable between them."""

from __future__ import annotations

from typing import Any

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Step, Story, Topology, node, port

TOPOLOGY = Topology(
    (
        node("red", port("veth0", "10.0.1.100/24")),
        node("blue", port("veth0", "10.0.2.100/24"), column=1),
    ),
    ("red:veth0 blue:veth0",),
)

_PING = "ip netns exec red ping -n -c 2 -i 0.1 -W 1 10.0.2.100"

_STEPS = (
    Step(
        "Ping into the other subnet",
        (_PING,),
        expected="no packet leaves: red has a route to 10.0.1.0/24 only",
        check=checks.both(checks.fails("[Uu]nreachable"), checks.uncaptured("blue:veth0", "who-has")),
        capture=("blue:veth0",),
        may_fail=True,
    ),
    Step(
        "A route on one side",
        ("ip -n red route add 10.0.2.0/24 dev veth0", _PING),
        expected="requests arrive, and blue cannot answer: it has no route back",
        check=checks.both(
            checks.unanswered(),
            checks.captured("blue:veth0", "ICMP echo request", 2),
            checks.uncaptured("blue:veth0", "ICMP echo reply"),
        ),
        capture=("blue:veth0 icmp",),
        may_fail=True,
    ),
    Step(
        "A route on the other side, too",
        ("ip -n blue route add 10.0.1.0/24 dev veth0", _PING),
        expected="every request is answered",
        check=checks.both(checks.answered(), checks.captured("blue:veth0", "ICMP echo reply", 2)),
        capture=("blue:veth0 icmp",),
        may_fail=True,
    ),
    Step(
        "Addresses of one subnet need no route",
        (
            "ip -n red addr add 10.0.3.1/24 dev veth0",
            "ip -n blue addr add 10.0.3.2/24 dev veth0",
            "ip netns exec red ping -n -c 2 -i 0.1 -W 1 10.0.3.2",
            "ip -n red route get 10.0.3.2",
        ),
        expected="it works at once: the address brought a route for its subnet with it",
        check=checks.both(checks.answered(-2), checks.says("10.0.3.2 dev veth0 src 10.0.3.1")),
        may_fail=True,
    ),
)


def _counted(found: Any) -> tuple[bool, str]:
    """Echo requests: two with one route, two with both, two in one subnet."""
    kinds = {one["kind"]: one["packets"] for one in found["instances"][0]["kinds"]}
    seen = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
    return kinds.get("icmp") == 6 and kinds.get("arp", 0) > 0, f"packets: {seen}"


_ATTACHED = Step(
    "Watch blue's end of the cable by eBPF",
    ("pydp -n blue attach --mode count veth0",),
    why="A veth pair is the cable itself and stays the kernel's. Mode count looks at every packet that comes out.",
)
_COUNTED = Step(
    "What the program saw",
    ("pydp -n blue stats --json",),
    expected="six echo requests and ARP, all looked at and left to the stack",
    check=checks.document(_counted),
)


STORY = Story(
    "veth",
    "veth: a cable between two namespaces",
    "What goes in at one end comes out at the other. Two ends in different subnets need routes, one on each side.",
    TOPOLOGY,
    {
        "kernel": Experiment(_STEPS),
        "ebpf": Experiment((_ATTACHED, *_STEPS, _COUNTED), marks={"blue": ("veth0: pydp --mode count",)}),
    },
)
