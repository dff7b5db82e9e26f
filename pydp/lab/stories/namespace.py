# SPDX-License-Identifier: Apache-2.0
"""What a network namespace keeps apart, and what not."""

from __future__ import annotations

import re
from typing import Any

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story, Topology, node, port

TOPOLOGY = Topology(
    (
        node("red", port("eth0", "10.0.0.1/24")),
        node("blue", port("eth0", "10.0.0.2/24"), column=1),
    ),
    ("red:eth0 blue:eth0",),
)


def _devices(found: Any) -> tuple[bool, str]:
    names = sorted(one["ifname"] for one in found)
    return names == ["eth0", "lo"], f"devices: {' '.join(names)}"


def _nothing(seen: Seen) -> Finding:
    lines = seen.last.out.split("\n")[:-1]
    return Finding(not lines, f"in blue: {lines[0] if lines else 'none'}")


def _namespaces(seen: Seen) -> Finding:
    red, blue = (dict(re.findall(r"(\w+):\[(\d+)\]", output.out)) for output in seen.outputs)
    own = sorted(kind for kind in red if red[kind] != blue[kind])
    shared = sorted(kind for kind in red if red[kind] == blue[kind])
    return Finding(own == ["net"] and len(shared) == 4, f"differs: {' '.join(own)}; the same: {' '.join(shared)}")


_ISOLATED = (
    Step(
        "Devices",
        ("ip -n red -json link",),
        expected="red has its own end of the cable and a loopback device of its own, and none of the host's",
        check=checks.document(_devices),
    ),
    Step(
        "Addresses",
        (
            "ip -n red addr add 192.0.2.1/32 dev lo",
            "ip -n blue addr add 192.0.2.1/32 dev lo",
            "ip netns exec red ping -n -c 1 -W 1 192.0.2.1",
            "ip netns exec blue ping -n -c 1 -W 1 192.0.2.1",
        ),
        expected="both have the same address, and each answers itself: nothing of it passes the cable",
        check=checks.both(checks.answered(-2), checks.answered(-1), checks.uncaptured("red:eth0", r"192\.0\.2\.1")),
        capture=("red:eth0",),
    ),
    Step(
        "Routes",
        ("ip -n red route add 198.51.100.0/24 via 10.0.0.2", "ip -n blue route show 198.51.100.0/24"),
        expected="a route that red has is none of blue's",
        check=_nothing,
    ),
    Step(
        "Firewall rules",
        (
            "ip netns exec red iptables -A INPUT -p icmp -d 192.0.2.1 -j DROP",
            "ip netns exec red ping -n -c 1 -W 0.5 192.0.2.1",
            "ip netns exec blue ping -n -c 1 -W 1 192.0.2.1",
        ),
        expected="red drops what its rule says, blue has no such rule",
        check=checks.both(checks.unanswered(-2), checks.answered(-1)),
        may_fail=True,
    ),
    Step(
        "Sockets",
        (
            "ip netns exec red python3 -m pydp.lab.stories.answer red 8080 &",
            "ip netns exec blue python3 -m pydp.lab.stories.answer blue 8080 &",
            "ip netns exec red curl -sS http://10.0.0.1:8080/",
            "ip netns exec red curl -sS http://10.0.0.2:8080/",
        ),
        expected="both listen on port 8080, and the address decides who answers",
        check=checks.both(checks.prints("red sees 10.0.0.1", -2), checks.prints("blue sees 10.0.0.1", -1)),
        ready=("red:tcp:8080", "blue:tcp:8080"),
    ),
    Step(
        "Settings below net",
        (
            "ip netns exec red sysctl -qw net.ipv4.ip_forward=1",
            "ip netns exec blue sysctl -n net.ipv4.ip_forward",
        ),
        expected="red is a router now, blue is not",
        check=checks.prints("0"),
    ),
)

_KINDS = "readlink " + " ".join(f"/proc/self/ns/{kind}" for kind in ("net", "pid", "user", "uts", "ipc"))
_SHARED = (
    Step(
        "Files",
        ("ip netns exec red echo written in red > note", "ip netns exec blue cat note"),
        expected="blue reads what red wrote: a network namespace has no files of its own",
        check=checks.prints("written in red"),
    ),
    Step(
        "Processes, users, names of the host",
        (
            f"ip netns exec red {_KINDS}",
            f"ip netns exec blue {_KINDS}",
        ),
        expected="of five kinds of namespaces only the one of the network differs",
        check=_namespaces,
    ),
)


def _one_program(seen: Seen) -> Finding:
    """The program that red's status names is there for bpftool in blue, too."""
    found = re.search(r"^\s+eth0\s+tc\s+(\d+)\s+running", seen.outputs[0].out, re.MULTILINE)
    listed = re.findall(r"^(\d+): sched_cls .*pydp_tc", seen.outputs[1].out, re.MULTILINE)
    number = found[1] if found else "?"
    return Finding(number in listed, f"program {number} of red, seen from blue: {'yes' if number in listed else 'no'}")


_EBPF = (
    Step(
        "Attach to red's device",
        ("pydp -n red attach --mode count eth0", "pydp -n blue status"),
        expected="what is attached belongs to a namespace, as its device does: in blue nothing is attached",
        check=checks.fails("nothing is attached"),
        may_fail=True,
    ),
    Step(
        "The same name and the same number of a device, elsewhere",
        (
            "pydp -n blue attach --mode count eth0",
            "ip netns exec red ping -n -c 3 -i 0.1 -W 1 10.0.0.2",
            "pydp -n blue detach --all",
            "pydp -n red status --json",
        ),
        expected="detaching in blue leaves red's as it is",
        check=checks.document(
            lambda found: (
                [port["state"] for port in found["instances"][0]["ports"]] == ["running"],
                f"in red: {found['instances'][0]['name']}, {found['instances'][0]['ports'][0]['state']}",
            )
        ),
    ),
    Step(
        "Programs and maps have numbers that hold everywhere",
        ("pydp -n red status", "ip netns exec blue bpftool prog show"),
        expected="eBPF programs are not kept apart: blue sees the one at red's device",
        check=_one_program,
    ),
)

STORY = Story(
    "namespace",
    "network namespaces: what is isolated, and what is not",
    "Each has devices, addresses, routes, rules, sockets and settings of its own. Files, processes and eBPF programs"
    " are everybody's.",
    TOPOLOGY,
    {"kernel": Experiment((*_ISOLATED, *_SHARED)), "ebpf": Experiment(_EBPF)},
)
