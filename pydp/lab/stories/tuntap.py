# SPDX-License-Identifier: Apache-2.0
"""A tunnel by a program at a tun device, and the same without leaving the kernel."""

from __future__ import annotations

import json

from pydp.lab.stories import checks
from pydp.lab.stories.ipip import PYDP_STEP
from pydp.lab.stories.ipip import TOPOLOGY as NETWORKS
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story

_PORT = 8285
_PING = "ip netns exec c1 ping -n -c 3 -i 0.1 -W 1 1.2.4.100"
_INNER = r"1\.2\.3\.100 > 1\.2\.4\.100: ICMP echo request"


def _end(name: str, local: str, remote: str) -> str:
    return f"ip netns exec {name} python3 -m pydp.lab.stories.tunnel tun0 {local} {remote} {_PORT} &"


_PROGRAMS = Step(
    "A tunnel",
    (_end("n1", "192.168.123.111", "192.168.123.114"), _end("n2", "192.168.123.114", "192.168.123.111")),
    ready=(f"n1:udp:{_PORT}", f"n2:udp:{_PORT}"),
    why="What the stack sends to tun0 is read by the program, which puts it into a UDP packet to the other node, as"
    " flannel's udp backend did. An IP header and a UDP header leave 1472 bytes of 1500.",
)
_ROUTES = Step(
    "Routes into it",
    (
        "ip -n n1 link set tun0 mtu 1472 up",
        "ip -n n1 route add 1.2.4.0/24 dev tun0",
        "ip -n n2 link set tun0 mtu 1472 up",
        "ip -n n2 route add 1.2.3.0/24 dev tun0",
    ),
)
_THROUGH = Step(
    "Ping from network to network",
    (_PING,),
    expected="at tun0 there are packets as they were sent, on the wire they are in UDP",
    check=checks.both(
        checks.answered(),
        checks.captured("n1:tun0", _INNER, 3),
        checks.captured("n2:eth0", rf"192\.168\.123\.111\.{_PORT} > 192\.168\.123\.114\.{_PORT}: UDP", 3),
    ),
    capture=("n1:tun0 icmp", f"n2:eth0 udp port {_PORT}"),
    may_fail=True,
)
_THROUGH_PYDP = Step(
    "Ping from network to network",
    (_PING,),
    expected="there is no tun device; on the wire packets are in IP packets",
    check=checks.both(
        checks.answered(), checks.captured("n2:eth0", rf"192\.168\.123\.111 > 192\.168\.123\.114: .*{_INNER}", 3)
    ),
    capture=("n2:eth0 ip proto 4",),
    may_fail=True,
)


def _throughput(seen: Seen) -> Finding:
    """What arrived, and what all CPUs did for it: TCP at both ends, the tunnel, and whatever else ran meanwhile."""
    received = json.loads(seen.last.out)["end"]["sum_received"]
    rate, number = received["bits_per_second"], received["bytes"]
    if number <= 0:
        return Finding(False, "nothing arrived")
    return Finding(True, f"{rate / 1e9:.2f} Gb/s, {seen.cpu / number * 1e9:.2f} s of CPU per gigabyte")


_STREAM = Step(
    "Throughput, and what it costs",
    ("ip netns exec c2 iperf3 -s &", "ip netns exec c1 iperf3 -J -c 1.2.4.100 -t 1"),
    expected="a TCP stream passes; its rate, and the time that the CPUs of the machine were busy (other work included)",
    check=_throughput,
    ready=("c2:tcp:5201",),
)

STORY = Story(
    "tuntap",
    "tun/tap: a tunnel in user space, and the same in the kernel",
    "A device whose other end is a file: what a program reads there was sent, what it writes has arrived. Each packet"
    " goes up to the program and down again. Mode ipip joins the same networks without leaving the kernel.",
    NETWORKS,
    {
        "kernel": Experiment(
            (_PROGRAMS, _ROUTES, _THROUGH, _STREAM),
            marks={"n1": ("tun0: a program, UDP",), "n2": ("tun0: a program, UDP",)},
        ),
        "ebpf": Experiment(
            (PYDP_STEP, _THROUGH_PYDP, _STREAM),
            marks={"n1": ("pydp --mode ipip",), "n2": ("pydp --mode ipip",)},
        ),
    },
)
