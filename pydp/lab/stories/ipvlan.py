# SPDX-License-Identifier: Apache-2.0
"""Several IP addresses behind one MAC address: ipvlan's types by the kernel's devices and by mode ipvlan."""

from __future__ import annotations

import re
from dataclasses import replace

from pydp.lab.stories import checks
from pydp.lab.stories.model import Check, Experiment, Finding, Seen, Step, Story, Topology, node, port

_HOST = node("host", port("eth0", "10.0.0.3/24"), port("p1"), port("p2"), column=1, router=True)
_FAR = node("far", port("eth0", "10.0.0.9/24"), column=2)
_CONTAINERS = (node("c1", port("eth0", "10.0.0.1/24")), node("c2", port("eth0", "10.0.0.2/24")))
_VETHS = Topology((_HOST, _FAR, *_CONTAINERS), ("c1:eth0 host:p1", "c2:eth0 host:p2", "host:eth0 far:eth0"))
# The kernel's containers have no veth: their devices are made on the host's.
_BARE = Topology(
    (replace(_HOST, ports=_HOST.ports[:1]), _FAR, *_CONTAINERS),
    ("host:eth0 far:eth0",),
    later=("c1:eth0 host:eth0", "c2:eth0 host:eth0"),
)
_ROUTED = {"c1": ("later 10.0.1.1/24",), "c2": ("later 10.0.2.1/24",)}


def _ping(name: str, address: str) -> str:
    return f"ip netns exec {name} ping -n -c 2 -i 0.1 -W 0.5 {address}"


def _neighbours(seen: Seen) -> Finding:
    """Both containers are known to far under the MAC address of the host."""
    found = dict(re.findall(r"^(\S+) dev eth0 lladdr (\S+)", seen.last.out, re.MULTILINE))
    shown = {address: found.get(address, "nowhere") for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3")}
    text = ", ".join(f"{address} at {mac}" for address, mac in shown.items())
    return Finding(set(shown.values()) == {_VETHS.mac("host:eth0")}, text)


def _counted(least: int, most: int) -> Check:
    """So many packets at the rule for c1."""

    def check(seen: Seen) -> Finding:
        found = re.search(r"^\[(\d+):\d+\] -A PREROUTING .*-d 10\.0\.1\.1/32 .*-j DROP", seen.last.out, re.MULTILINE)
        number = int(found[1]) if found else -1
        return Finding(least <= number <= most, f"packets that met the rule: {number if found else 'no rule'}")

    return check


_L2 = (
    Step(
        "l2: one MAC address",
        (_ping("c1", "10.0.0.9"), _ping("c2", "10.0.0.9"), _ping("host", "10.0.0.9"), "ip -n far neigh show"),
        expected="far answers all three, and knows them under the same MAC address, the host's",
        check=checks.both(checks.answered(0), checks.answered(1), checks.answered(2), _neighbours),
        may_fail=True,
    ),
    Step(
        "l2: c1 and c2",
        ("ip -n c1 neigh flush all", _ping("c1", "10.0.0.2")),
        expected="it works inside host: only the question for the address, which is for everybody, is seen outside",
        check=checks.both(
            checks.answered(),
            checks.captured("far:eth0", r"who-has 10\.0\.0\.2 tell 10\.0\.0\.1"),
            checks.uncaptured("far:eth0", "ICMP"),
        ),
        capture=("far:eth0",),
        may_fail=True,
    ),
    Step(
        "Host and containers",
        ("ip -n host neigh flush all", _ping("c1", "10.0.0.3"), _ping("host", "10.0.0.1"), _ping("host", "10.0.0.9")),
        expected="they do not reach each other, though they are on one device; the host's own traffic with far goes on",
        check=checks.both(checks.unanswered(-3), checks.unanswered(-2), checks.answered()),
        may_fail=True,
    ),
)
_WHY = "All children are of one type. Each gets a network of its own, and far is told that they are behind host."
_NETWORKS = (
    "ip -n c1 addr flush dev eth0",
    "ip -n c1 addr add 10.0.1.1/24 dev eth0",
    "ip -n c1 route add default dev eth0",
    "ip -n c2 addr flush dev eth0",
    "ip -n c2 addr add 10.0.2.1/24 dev eth0",
    "ip -n c2 route add default dev eth0",
    "ip -n far route add 10.0.1.0/24 via 10.0.0.3",
    "ip -n far route add 10.0.2.0/24 via 10.0.0.3",
)
_RULE = "-t mangle -A PREROUTING -s 10.0.0.9 -d 10.0.1.1 -j DROP"
_COUNTERS = "ip netns exec host iptables-save -c -t mangle"
_L3 = (
    Step(
        "l3: networks of their own",
        (_ping("c1", "10.0.0.9"), _ping("c1", "10.0.2.1"), _ping("far", "10.0.2.1")),
        expected="each reaches each; what c1 and c2 have to say to each other does not leave host",
        check=checks.both(
            checks.answered(-3),
            checks.answered(-2),
            checks.answered(),
            checks.uncaptured("far:eth0", r"10\.0\.1\.1 > 10\.0\.2\.1"),
        ),
        capture=("far:eth0 icmp",),
        may_fail=True,
    ),
    Step(
        "l3: how far away c1 is",
        (_ping("far", "10.0.1.1"),),
        expected="the answer has the TTL that it was sent with: the way into a container is no hop",
        check=checks.both(checks.answered(), checks.says("ttl=64")),
        may_fail=True,
    ),
    Step(
        "l3: asking for a neighbour",
        (
            "ip -n far route add 10.0.1.1 dev eth0",
            _ping("far", "10.0.1.1"),
            "ip -n far route del 10.0.1.1 dev eth0",
        ),
        expected="nobody answers the question: there is no ARP, the way in is a route by the host",
        check=checks.both(
            checks.unanswered(-2),
            checks.captured("far:eth0", r"who-has 10\.0\.1\.1"),
            checks.uncaptured("far:eth0", r"10\.0\.1\.1 is-at"),
        ),
        capture=("far:eth0 arp",),
        may_fail=True,
    ),
    Step(
        "l3: the host's firewall",
        (f"ip netns exec host iptables {_RULE}", _ping("far", "10.0.1.1"), _COUNTERS),
        expected="packets go past it: the rule says to drop them, and sees none",
        check=checks.both(checks.answered(-2), _counted(0, 0)),
        may_fail=True,
    ),
)
_L3S = (
    Step(
        "l3s: the host's firewall",
        (_ping("far", "10.0.1.1"), _ping("far", "10.0.2.1"), _COUNTERS),
        expected="the same rule holds: c1 is out of reach, and c2, for which there is none, is not",
        check=checks.both(checks.unanswered(-3), checks.answered(-2), _counted(2, 2)),
        may_fail=True,
    ),
    Step(
        "l3s: without the rule",
        (
            f"ip netns exec host iptables {_RULE.replace('-A', '-D')}",
            _ping("far", "10.0.1.1"),
            _ping("c1", "10.0.0.9"),
            _ping("c1", "10.0.2.1"),
        ),
        expected="each reaches each",
        check=checks.both(checks.answered(-3), checks.answered(-2), checks.answered()),
        may_fail=True,
    ),
)


def _device(number: int) -> tuple[str, ...]:
    return (
        f"ip -n host link add link eth0 name i{number} type ipvlan mode l2",
        f"ip -n host link set i{number} netns c{number} name eth0",
        f"ip -n c{number} addr add 10.0.0.{number}/24 dev eth0",
        f"ip -n c{number} link set eth0 up",
    )


def _pydp(kind: str, *addresses: str) -> str:
    children = " ".join(f"--child p{number}={address}" for number, address in enumerate(addresses, 1))
    return f"pydp -n host attach --mode ipvlan {children} --type {kind} eth0"


_KERNEL = (
    Step(
        "Type l2",
        (*_device(1), *_device(2)),
        why="A device in each container, on the host's own. What is received is told apart by IP address.",
    ),
    *_L2,
    Step("Type l3", ("ip -n c1 link set eth0 type ipvlan mode l3", *_NETWORKS), why=_WHY),
    *_L3,
    Step("Type l3s", ("ip -n c1 link set eth0 type ipvlan mode l3s",)),
    *_L3S,
)
_EBPF = (
    Step(
        "Type l2",
        (_pydp("l2", "10.0.0.1", "10.0.0.2"),),
        why="Containers keep their veths, whose MAC addresses stay inside host.",
    ),
    *_L2,
    Step("Type l3", (_pydp("l3", "10.0.1.1", "10.0.2.1"), *_NETWORKS), why=_WHY),
    *_L3,
    Step(
        "Type l3s",
        (_pydp("l3s", "10.0.1.1", "10.0.2.1"), "ip -n c1 neigh flush all", "ip -n c2 neigh flush all"),
        why="Packets go through the host's stack now, by a route to each container. For the containers the next hop is"
        " their own port, so that they ask for it anew.",
    ),
    *_L3S,
)

STORY = Story(
    "ipvlan",
    "ipvlan: several IP addresses behind one MAC address",
    "Containers share their host's device and its MAC address; a look-up of the IP address tells whose a packet is. l2"
    " is one network with everybody's broadcasts, l3 is routed, and l3s is routed with the host's firewall.",
    _VETHS,
    {
        "kernel": Experiment(
            _KERNEL,
            topology=_BARE,
            marks={name: (*lines, "eth0: ipvlan") for name, lines in _ROUTED.items()},
            needs="ipvlan",
        ),
        "ebpf": Experiment(_EBPF, marks={**_ROUTED, "host": ("pydp --mode ipvlan",)}),
    },
)
