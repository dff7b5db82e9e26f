# SPDX-License-Identifier: Apache-2.0
"""The puzzle of a bridge between two ends in one namespace, and the bridge as it is meant."""

from __future__ import annotations

from dataclasses import replace

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Step, Story, Topology, node, port

_BOX = node("box", port("veth0", "1.2.3.101/24"), port("veth1", "1.2.3.102/24"))
_SWITCH = node("switch", port("p1"), port("p2"), port("p3"), column=1)
_CONTAINERS = tuple(node(f"c{number}", port("eth0", f"1.2.3.{number}/24"), column=2) for number in (1, 2, 3))
_WIRES = tuple(f"switch:p{number} c{number}:eth0" for number in (1, 2, 3))
TOPOLOGY = Topology((_SWITCH, *_CONTAINERS, _BOX), (*_WIRES, "box:veth0 box:veth1"))
_WITHOUT_BOX = Topology(tuple(replace(each, column=each.column - 1) for each in (_SWITCH, *_CONTAINERS)), _WIRES)

_PING = "ip netns exec box ping -n -c 2 -i 0.1 -W 0.5 -I veth0 1.2.3.102"
_FORGET = "ip -n box neigh flush all"
_REQUEST, _REPLY = r"who-has 1\.2\.3\.102", r"Reply 1\.2\.3\.102 is-at"


def _set(**values: int) -> str:
    words = (f"net.ipv4.conf.{name}.{key}={value}" for key, value in values.items() for name in ("veth0", "veth1"))
    return f"ip netns exec box sysctl -qw {' '.join(words)}"


def _silent(title: str, setting: str, expected: str, why: str = "") -> Step:
    """A setting with which the request goes out and nobody answers it."""
    check = checks.both(
        checks.unanswered(), checks.captured("box:veth1", _REQUEST), checks.uncaptured("box:veth1", _REPLY)
    )
    return Step(title, (setting, _FORGET, _PING), expected, check, ("box:veth1 arp",), may_fail=True, why=why)


_PUZZLE = (
    Step(
        "veth0 is a port of br0; ping veth1 by it",
        (
            "ip -n box link add br0 type bridge",
            "ip -n box link set br0 up",
            "ip -n box link set veth0 master br0",
            _PING,
        ),
        expected="ping fails, though veth1 sees who asks for it",
        check=checks.both(
            checks.unanswered(), checks.captured("box:veth1", _REQUEST), checks.uncaptured("box:veth1", _REPLY)
        ),
        capture=("box:veth1 arp",),
        may_fail=True,
        why="Two things are wrong at once. The following steps take them apart: first without the bridge.",
    ),
    _silent(
        "Without the bridge",
        "ip -n box link set veth0 nomaster",
        "it fails all the same: the request comes from 1.2.3.101, an address of this host, and packets that claim to"
        " come from oneself are dropped (accept_local 0)",
    ),
    Step(
        "accept_local 1",
        (_set(accept_local=1), _FORGET, _PING),
        expected="ARP is answered, requests go over the cable and replies over lo: ping works",
        check=checks.both(
            checks.answered(),
            checks.captured("box:veth1", _REPLY),
            checks.captured("box:veth1", "echo request", 2),
            checks.uncaptured("box:veth1", "echo reply"),
            checks.captured("box:lo", "echo reply", 2),
        ),
        capture=("box:veth1", "box:lo"),
        may_fail=True,
    ),
    _silent(
        "accept_local 1, rp_filter 1",
        _set(rp_filter=1),
        "no answer: the way back to 1.2.3.101 is not by the device that it seems to come from",
    ),
    Step(
        "rp_filter 0, arp_ignore 1",
        (_set(rp_filter=0, arp_ignore=1), _FORGET, _PING),
        expected="it works: arp_ignore 1 answers for addresses of the device that is asked, which veth1's is",
        check=checks.both(checks.answered(), checks.captured("box:veth1", _REPLY)),
        capture=("box:veth1 arp",),
        may_fail=True,
    ),
    _silent("arp_ignore 8", _set(arp_ignore=8), "no answer: 8 is never to answer"),
    Step(
        "arp_ignore 0, and veth0 in the bridge again",
        (_set(arp_ignore=0), "ip -n box link set veth0 master br0", _FORGET, _PING, "ip -n box neigh show dev veth0"),
        expected="the answer comes to veth0, which hands it to br0, and the stack never hears of it at veth0",
        check=checks.both(
            checks.unanswered(-2),
            checks.captured("box:veth0", _REPLY),
            checks.captured("box:br0", _REPLY),
            checks.says("INCOMPLETE|FAILED"),
        ),
        capture=("box:veth0 arp", "box:br0 arp"),
        may_fail=True,
        why="What comes in by a port of a bridge belongs to the bridge. Addresses on a port are of no use.",
    ),
    Step(
        "The address on br0",
        (
            "ip -n box addr del 1.2.3.101/24 dev veth0",
            "ip -n box addr add 1.2.3.101/24 dev br0",
            "ip netns exec box sysctl -qw net.ipv4.conf.br0.accept_local=1",
            _FORGET,
            "ip netns exec box ping -n -c 2 -i 0.1 -W 0.5 -I br0 1.2.3.102",
        ),
        expected="it works: an address belongs on the bridge, not on its port",
        check=checks.both(checks.answered(), checks.captured("box:veth1", "echo request", 2)),
        capture=("box:veth1 icmp",),
        may_fail=True,
    ),
)

_KERNEL_BRIDGE = Step(
    "A bridge with three containers",
    (
        "ip -n switch link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "ip -n switch link set p1 master br0",
        "ip -n switch link set p2 master br0",
        "ip -n switch link set p3 master br0",
        "ip -n switch link set br0 up",
    ),
    why="Addresses are where stations are: in containers of their own, one at each port.",
)
_PYDP_BRIDGE = Step("A bridge with three containers", ("pydp -n switch attach --mode bridge p1 p2 p3",))

_WORKS = (
    Step(
        "Ping each other",
        (
            "ip netns exec c1 ping -n -c 2 -i 0.1 -W 1 1.2.3.2",
            "ip netns exec c2 ping -n -c 2 -i 0.1 -W 1 1.2.3.3",
            "ip netns exec c3 ping -n -c 2 -i 0.1 -W 1 1.2.3.1",
        ),
        expected="everybody reaches everybody",
        check=checks.both(checks.answered(0), checks.answered(1), checks.answered(2)),
        may_fail=True,
    ),
    Step(
        "Who sees what",
        ("ip -n c1 neigh flush all", "ip netns exec c1 ping -n -c 2 -i 0.1 -W 1 1.2.3.2"),
        expected="c3 sees the question for an address, which everybody gets, and nothing of what follows",
        check=checks.both(
            checks.answered(),
            checks.captured("c3:eth0", "who-has 1.2.3.2"),
            checks.uncaptured("c3:eth0", "ICMP"),
        ),
        capture=("c3:eth0",),
        may_fail=True,
    ),
)


def _table(command: str) -> Step:
    wanted = {TOPOLOGY.mac(f"c{number}:eth0"): f"p{number}" for number in (1, 2, 3)}
    return Step("What was learned", (command,), "each container's address at its port", checks.learned(wanted))


STORY = Story(
    "bridge",
    "bridge: why a ping fails on it, and three containers for which it works",
    "veth0 (1.2.3.101) is a port of br0, veth1 (1.2.3.102) its other end in the same namespace. ARP requests are seen,"
    " and ping fails. The reasons are found one by one; then comes what a bridge is for.",
    TOPOLOGY,
    {
        "kernel": Experiment(
            (*_PUZZLE, _KERNEL_BRIDGE, *_WORKS, _table("bridge -n switch -json fdb show br br0")),
            marks={"box": ("br0: veth0",), "switch": ("br0: p1 p2 p3",)},
        ),
        "ebpf": Experiment(
            (_PYDP_BRIDGE, *_WORKS, _table("pydp -n switch fdb show --json")),
            marks={"switch": ("pydp --mode bridge",)},
            topology=_WITHOUT_BOX,
        ),
    },
)
