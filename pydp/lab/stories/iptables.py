# SPDX-License-Identifier: Apache-2.0
"""Netfilter's hooks and what they are mostly used for, and its NAT by mode nat."""

from __future__ import annotations

import re

from pydp.lab.stories import checks
from pydp.lab.stories.model import Check, Experiment, Finding, Seen, Step, Story, Topology, node, port

TOPOLOGY = Topology(
    (
        node("client", port("eth0", "10.0.1.2/24"), default="10.0.1.1"),
        node(
            "fw", port("p0", "10.0.1.1/24"), port("p1", "10.0.2.1/24"), port("p2", "10.0.3.1/24"), column=1, router=True
        ),
        node("b1", port("eth0", "10.0.2.2/24"), column=2, default="10.0.2.1"),
        node("b2", port("eth0", "10.0.3.2/24"), column=2, default="10.0.3.1"),
    ),
    ("client:eth0 fw:p0", "fw:p1 b1:eth0", "fw:p2 b2:eth0"),
)

_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_COUNTERS = "ip netns exec fw iptables-save -c -t mangle"
_ZERO = "ip netns exec fw iptables -t mangle -Z"
_REQUESTS = 16
_MANY = f"ip netns exec client curl -sS -m 5 http://10.96.0.1/?[1-{_REQUESTS}]"


def _ping(node_name: str, address: str) -> str:
    return f"ip netns exec {node_name} ping -n -c 2 -i 0.1 -W 1 {address}"


def _hooks(*wanted: int) -> Check:
    """So many packets of ICMP at each of the hooks."""

    def check(seen: Seen) -> Finding:
        counted = re.findall(r"^\[(\d+):\d+\] -A (\w+) -p icmp", seen.last.out, re.MULTILINE)
        found = {hook: int(number) for number, hook in counted}
        text = ", ".join(f"{hook} {found.get(hook)}" for hook in _HOOKS)
        return Finding(found == dict(zip(_HOOKS, wanted, strict=True)), text)

    return check


def _shared(seen: Seen) -> Finding:
    """All requests were answered, by both backends, which see the client itself."""
    lines = seen.last.out.split("\n")[:-1]
    count = {name: lines.count(f"{name} sees 10.0.1.2") for name in ("b1", "b2")}
    text = ", ".join(f"{name} answered {number}" for name, number in count.items())
    return Finding(sum(count.values()) == _REQUESTS and all(count.values()), text)


_SERVERS = Step(
    "Servers",
    (
        "ip netns exec fw python3 -m pydp.lab.stories.answer fw 22 &",
        "ip netns exec fw python3 -m pydp.lab.stories.answer fw 8080 &",
        "ip netns exec b1 python3 -m pydp.lab.stories.answer b1 8080 &",
        "ip netns exec b2 python3 -m pydp.lab.stories.answer b2 8080 &",
        "ip -n client route",
    ),
    ready=("fw:tcp:22", "fw:tcp:8080", "b1:tcp:8080", "b2:tcp:8080"),
    why="Each says over HTTP who it is and whom it sees; the one at port 22 stands for ssh.",
)

_COUNTING = (
    Step(
        "The five hooks: what is forwarded",
        (
            *(f"ip netns exec fw iptables -t mangle -A {hook} -p icmp" for hook in _HOOKS),
            _ping("client", "10.0.2.2"),
            _COUNTERS,
        ),
        expected="two requests and two replies go through PREROUTING, FORWARD and POSTROUTING",
        check=checks.both(checks.answered(-2), _hooks(4, 0, 4, 0, 4)),
    ),
    Step(
        "What is for the host",
        (_ZERO, _ping("client", "10.0.1.1"), _COUNTERS),
        expected="requests go through PREROUTING and INPUT, replies through OUTPUT and POSTROUTING",
        check=checks.both(checks.answered(-2), _hooks(2, 2, 0, 2, 2)),
    ),
    Step(
        "What the host sends itself",
        (_ZERO, _ping("fw", "10.0.3.2"), _COUNTERS),
        expected="the other way about: requests through OUTPUT and POSTROUTING, replies through PREROUTING and INPUT",
        check=checks.both(checks.answered(-2), _hooks(2, 2, 0, 2, 2)),
    ),
)

_FIREWALL = Step(
    "ssh from one prefix only",
    (
        "ip netns exec fw iptables -A INPUT -p tcp --dport 22 -s 10.0.1.0/24 -j ACCEPT",
        "ip netns exec fw iptables -A INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset",
        "ip netns exec client curl -sS -m 5 http://10.0.1.1:22/",
        "ip netns exec b1 curl -sS -m 5 http://10.0.2.1:22/",
    ),
    expected="the client is let in, b1 is refused",
    check=checks.both(checks.prints("fw sees 10.0.1.2", -2), checks.fails("refused|reset|connect")),
    may_fail=True,
)

_TO_SERVICE = "ip netns exec fw iptables -t nat -A PREROUTING -d 10.96.0.1 -p tcp --dport 80"
_REDIRECTED = "ip netns exec client curl -sS -m 5 http://10.0.1.1/"

_KERNEL_NAT = (
    Step(
        "Redirect port 80 to 8080",
        (
            "ip netns exec fw iptables -t nat -A PREROUTING -d 10.0.1.1 -p tcp --dport 80 -j REDIRECT --to-ports 8080",
            _REDIRECTED,
        ),
        expected="the server at port 8080 answers at port 80",
        check=checks.prints("fw sees 10.0.1.2"),
    ),
    Step(
        "One address, two backends",
        (
            f"{_TO_SERVICE} -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.2.2:8080",
            f"{_TO_SERVICE} -j DNAT --to-destination 10.0.3.2:8080",
            _MANY,
        ),
        expected=f"{_REQUESTS} connections to 10.96.0.1, which nobody has, are answered by both",
        check=_shared,
    ),
    Step(
        "Save and flush",
        (
            "ip netns exec fw iptables-save > rules.v4",
            "ip netns exec fw iptables -t nat -F",
            "ip netns exec client curl -sS -m 1 http://10.96.0.1/",
        ),
        expected="without rules nobody answers",
        check=checks.fails(),
        may_fail=True,
    ),
    Step(
        "Restore",
        ("ip netns exec fw iptables-restore < rules.v4", _MANY),
        expected="all is as it was",
        check=_shared,
    ),
)

_SERVICE = "tcp:10.96.0.1:80=10.0.2.2:8080,10.0.3.2:8080"
_PYDP_NAT = (
    Step(
        "Redirect port 80 to 8080",
        (f"pydp -n fw attach --mode nat --redirect tcp:80=8080 --service {_SERVICE} p0 p1 p2", _REDIRECTED),
        expected="the server at port 8080 answers at port 80",
        check=checks.prints("fw sees 10.0.1.2"),
        why="Redirect, DNAT and the choice of a backend are one instance of mode nat.",
    ),
    Step(
        "One address, two backends",
        (_MANY,),
        expected=f"{_REQUESTS} connections to 10.96.0.1, which nobody has, are answered by both",
        check=_shared,
    ),
    Step(
        "Its connections",
        ("pydp -n fw conntrack show --json",),
        expected="each connection to the service is in pydp's own table",
        check=checks.says(r'"10\.96\.0\.1"'),
    ),
    Step(
        "iptables goes on beside it",
        (
            "ip netns exec b1 curl -sS -m 5 http://10.0.2.1:22/",
            "ip netns exec client curl -sS -m 5 http://10.0.1.1:22/",
        ),
        expected="mode nat does no filtering: the rules for ssh hold as they did",
        check=checks.both(checks.fails("refused|reset|connect", -2), checks.prints("fw sees 10.0.1.2")),
        may_fail=True,
    ),
)

STORY = Story(
    "iptables",
    "iptables: five hooks, a firewall, and NAT to backends",
    "Rules that only count show which way packets take through a host. Then what iptables is mostly used for; the uses"
    " of its nat table also by mode nat.",
    TOPOLOGY,
    {
        "kernel": Experiment((_SERVERS, *_COUNTING, _FIREWALL, *_KERNEL_NAT), marks={"fw": ("iptables",)}),
        "ebpf": Experiment((_SERVERS, _FIREWALL, *_PYDP_NAT), marks={"fw": ("pydp --mode nat",)}),
    },
)
