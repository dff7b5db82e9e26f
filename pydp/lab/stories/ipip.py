# SPDX-License-Identifier: Apache-2.0
"""Networks behind two nodes, joined by packets in packets."""

from __future__ import annotations

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Step, Story, Topology, node, port

TOPOLOGY = Topology(
    (
        node("c1", port("eth0", "1.2.3.100/24"), default="1.2.3.1"),
        node("n1", port("p0", "1.2.3.1/24"), port("eth0", "192.168.123.111/24"), column=1, router=True),
        node("n2", port("p0", "1.2.4.1/24"), port("eth0", "192.168.123.114/24"), column=2, router=True),
        node("c2", port("eth0", "1.2.4.100/24"), column=3, default="1.2.4.1"),
    ),
    ("c1:eth0 n1:p0", "n1:eth0 n2:eth0", "n2:p0 c2:eth0"),
)

_PING = "ip netns exec c1 ping -n -c 3 -i 0.1 -W 1 1.2.4.100"
_OUTER = r"192\.168\.123\.111 > 192\.168\.123\.114: .*1\.2\.3\.100 > 1\.2\.4\.100: ICMP echo request"
_BACK = r"192\.168\.123\.114 > 192\.168\.123\.111: .*1\.2\.4\.100 > 1\.2\.3\.100: ICMP echo reply"

_BEFORE = Step(
    "Without a tunnel",
    (_PING,),
    expected="n1 knows no way to 1.2.4.0/24",
    check=checks.both(checks.unanswered(), checks.uncaptured("n2:eth0", "ICMP")),
    capture=("n2:eth0",),
    may_fail=True,
)
_KERNEL = Step(
    "A tunnel",
    (
        "ip -n n1 tunnel add tun0 mode ipip local 192.168.123.111 remote 192.168.123.114 dev eth0",
        "ip -n n1 link set tun0 up",
        "ip -n n1 route add 1.2.4.0/24 dev tun0",
        "ip -n n2 tunnel add tun0 mode ipip local 192.168.123.114 remote 192.168.123.111 dev eth0",
        "ip -n n2 link set tun0 up",
        "ip -n n2 route add 1.2.3.0/24 dev tun0",
    ),
)
PYDP_STEP = Step(
    "A tunnel",
    (
        "pydp -n n1 attach --mode ipip --local 192.168.123.111 --peer 192.168.123.114=1.2.4.0/24 --port p0 eth0",
        "pydp -n n2 attach --mode ipip --local 192.168.123.114 --peer 192.168.123.111=1.2.3.0/24 --port p0 eth0",
        "ip -n n1 route show 1.2.4.0/24",
    ),
    expected="a route to the network behind the peer, by the underlay's own device",
    check=checks.says("via 192.168.123.114 dev eth0"),
    why="There is no tunnel device. Programs put packets into packets and take them out again.",
)
_AFTER = (
    Step(
        "Ping from network to network",
        (_PING,),
        expected="on the wire there are two IP headers, one in the other",
        check=checks.both(
            checks.answered(), checks.captured("n2:eth0", _OUTER, 3), checks.captured("n2:eth0", _BACK, 3)
        ),
        capture=("n2:eth0 ip proto 4",),
        may_fail=True,
    ),
    Step(
        "How large a packet may be",
        ("ip netns exec c1 ping -n -c 1 -W 1 -M do -s 1452 1.2.4.100",
         "ip netns exec c1 ping -n -c 1 -W 1 -M do -s 1453 1.2.4.100"),
        expected="20 bytes less than without a tunnel: 1480 pass, of 1481 n1 says that it is too much",
        check=checks.both(checks.answered(-2), checks.says(r"mtu = 1480")),
        may_fail=True,
    ),
)  # fmt: skip
_COUNTED = Step(
    "What went through",
    ("pydp -n n1 tunnel show",),
    expected="packets each way, by peer",
    check=checks.says(r"192\.168\.123\.114\s+1\.2\.4\.0/24\s+[1-9]"),
)
_DEVICE = Step(
    "What went through",
    ("ip -n n1 -s link show tun0",),
    expected="packets each way, by device",
    check=checks.says(r"^[1-9]\d* +[1-9]\d* +0 "),
)

STORY = Story(
    "ipip",
    "ipip: an IP packet in an IP packet",
    "Two nodes have a network each. What is for the other one's travels in a packet from node to node.",
    TOPOLOGY,
    {
        "kernel": Experiment(
            (_BEFORE, _KERNEL, *_AFTER, _DEVICE), marks={"n1": ("tun0",), "n2": ("tun0",)}, needs="ipip"
        ),
        "ebpf": Experiment(
            (_BEFORE, PYDP_STEP, *_AFTER, _COUNTED), marks={"n1": ("pydp --mode ipip",), "n2": ("pydp --mode ipip",)}
        ),
    },
)
