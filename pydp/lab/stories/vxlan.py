# SPDX-License-Identifier: Apache-2.0
"""One Ethernet segment on two nodes: by the kernel, by mode vxlan, and by one of each."""

from __future__ import annotations

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Node, Step, Story, Topology, node, port

_MTU = 1450  # 50 bytes less than the underlay's: Ethernet, IP, UDP and VXLAN headers outside


def _container(number: int, column: int) -> Node:
    return node(f"c{number}", port("eth0", f"10.1.0.{number}/24", mtu=_MTU), column=column)


def _node(name: str, address: str, column: int) -> Node:
    return node(name, port("p1", mtu=_MTU), port("p2", mtu=_MTU), port("eth0", address), column=column)


TOPOLOGY = Topology(
    (
        *(_container(number, 0) for number in (1, 2)),
        _node("n1", "192.0.2.1/24", 1),
        _node("n2", "192.0.2.2/24", 2),
        *(_container(number, 3) for number in (3, 4)),
    ),
    ("c1:eth0 n1:p1", "c2:eth0 n1:p2", "n1:eth0 n2:eth0", "n2:p1 c3:eth0", "n2:p2 c4:eth0"),
)


def _ping(address: str) -> str:
    return f"ip netns exec c1 ping -n -c 3 -i 0.1 -W 1 {address}"


def _kernel_end(name: str, local: str, remote: str) -> tuple[str, ...]:
    return (
        f"ip -n {name} link add vx100 type vxlan id 100 local {local} remote {remote} dstport 4789 dev eth0",
        f"ip -n {name} link add br100 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"ip -n {name} link set p1 master br100",
        f"ip -n {name} link set p2 master br100",
        f"ip -n {name} link set vx100 master br100 up",
        f"ip -n {name} link set br100 up",
    )


def _pydp_end(name: str, local: str, remote: str) -> str:
    return f"pydp -n {name} attach --mode vxlan --vni 100 --local {local} --remote {remote} --port p1 --port p2 eth0"


_FIRST, _SECOND = ("n1", "192.0.2.1", "192.0.2.2"), ("n2", "192.0.2.2", "192.0.2.1")

_BEFORE = Step(
    "Without a tunnel",
    (_ping("10.1.0.3"),),
    expected="nobody answers: the containers are in no segment",
    check=checks.both(checks.unanswered(), checks.uncaptured("n2:eth0", "VXLAN")),
    capture=("n2:eth0",),
    may_fail=True,
)
_SERVER = Step("A server in c3", ("ip netns exec c3 python3 -m pydp.lab.stories.answer c3 80 &",), ready=("c3:tcp:80",))


def _joined(title: str) -> Step:
    return Step(
        title,
        ("ip -n c1 neigh flush all", _ping("10.1.0.3"), "ip netns exec c1 curl -sS -m 5 http://10.1.0.3/"),
        expected="ARP, ping and TCP pass; on the wire frames travel in UDP packets with the VNI 100",
        check=checks.both(
            checks.answered(1),
            checks.prints("c3 sees 10.1.0.1"),
            checks.captured("n2:eth0", r"192\.0\.2\.1\.\d+ > 192\.0\.2\.2\.4789: VXLAN.*vni 100"),
            checks.captured("n2:eth0", r"10\.1\.0\.1 > 10\.1\.0\.3: ICMP echo request", 3),
            checks.captured("n2:eth0", r"10\.1\.0\.3 > 10\.1\.0\.1: ICMP echo reply", 3),
        ),
        capture=("n2:eth0 udp port 4789",),
        may_fail=True,
    )


_SAME_NODE = Step(
    "On one node",
    (_ping("10.1.0.2"),),
    expected="what c1 and c2 have to say to each other does not leave n1, but for the question for the address",
    check=checks.both(
        checks.answered(),
        checks.captured("n2:eth0", r"who-has 10\.1\.0\.2 tell 10\.1\.0\.1"),
        checks.uncaptured("n2:eth0", "ICMP"),
    ),
    capture=("n2:eth0 udp port 4789",),
    may_fail=True,
)

_KERNEL = (
    _BEFORE,
    _SERVER,
    Step("The segment on both nodes", (*_kernel_end(*_FIRST), *_kernel_end(*_SECOND))),
    _joined("From node to node"),
    _SAME_NODE,
    Step(
        "What was learned",
        ("bridge -n n1 fdb show br br100",),
        expected="c3 is behind the VTEP 192.0.2.2",
        check=checks.says(f"{TOPOLOGY.mac('c3:eth0')} dev vx100 dst 192.0.2.2"),
    ),
)
_EBPF = (
    _BEFORE,
    _SERVER,
    Step("The segment on both nodes", (_pydp_end(*_FIRST), _pydp_end(*_SECOND))),
    _joined("From node to node"),
    _SAME_NODE,
    Step(
        "What was learned",
        ("pydp -n n1 fdb show",),
        expected="c3 is behind the VTEP 192.0.2.2",
        check=checks.says(f"{TOPOLOGY.mac('c3:eth0')} dev eth0 dst 192.0.2.2"),
    ),
    Step("The kernel's device on n2 instead", ("pydp -n n2 detach --all", *_kernel_end(*_SECOND))),
    _joined("One of each"),
)

STORY = Story(
    "vxlan",
    "vxlan: one segment on two nodes",
    "Frames travel between nodes in UDP packets, and containers on both are neighbours as if on one switch.",
    TOPOLOGY,
    {
        "kernel": Experiment(_KERNEL, marks={"n1": ("br100: p1 p2 vx100",), "n2": ("br100: p1 p2 vx100",)}),
        "ebpf": Experiment(_EBPF, marks={"n1": ("pydp --mode vxlan",), "n2": ("pydp, then vx100",)}),
    },
)
