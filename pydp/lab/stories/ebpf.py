# SPDX-License-Identifier: Apache-2.0
"""What is there once pydp is attached: programs, maps, counters, and no process."""

from __future__ import annotations

import json
from typing import Any

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story, Topology, node, port

TOPOLOGY = Topology(
    (
        node("c1", port("eth0", "10.0.0.1/24")),
        node("switch", port("p1"), port("p2"), column=1),
        node("c2", port("eth0", "10.0.0.2/24"), column=2),
    ),
    ("c1:eth0 switch:p1", "switch:p2 c2:eth0"),
)

_PINGS = 20
_PING = f"ip netns exec c1 ping -n -q -c {_PINGS} -i 0.01 -W 1 10.0.0.2"


def _running(found: Any) -> tuple[bool, str]:
    """One program at each port, which both instances are stages of."""
    ports = {
        one["name"]: [(port["device"], program["id"]) for port in one["ports"] for program in port["programs"]]
        for one in found["instances"]
    }
    same = sorted(ports["bridge"]) == sorted(ports["count"])
    text = ", ".join(f"program {number} at {name}" for name, number in ports["bridge"])
    return same and len(ports["bridge"]) == 2, f"{text}; {'the same' if same else 'others'} for count"


def _listed(seen: Seen) -> Finding:
    """bpftool knows the programs that status names, with maps."""
    wanted = {
        program["id"]
        for one in json.loads(seen.outputs[0].out)["instances"]
        for port in one["ports"]
        for program in port["programs"]
    }
    found = {one["id"]: one for one in json.loads(seen.outputs[1].out) if one["id"] in wanted}
    text = "; ".join(
        f"{one['name']} ({one['type']}, {one['bytes_xlated']} bytes, {len(one.get('map_ids', ()))} maps)"
        for one in found.values()
    )
    return Finding(found.keys() == wanted and all(one.get("map_ids") for one in found.values()), text or "none")


def _nobody(seen: Seen) -> Finding:
    return Finding(not seen.last.out.strip(), f"processes in switch: {seen.last.out.strip() or 'none'}")


def _forwarded(found: Any) -> tuple[bool, str]:
    verdicts = [each for one in found["instances"] for each in one["verdicts"] if one["name"] == "bridge"]
    number = sum(each["packets"] for each in verdicts if each["kind"] == "forward")
    kinds = sorted({f"{each['kind']} {each['reason']}" for each in verdicts})
    return number >= 2 * _PINGS - 2, f"{number} packets forwarded; verdicts: {', '.join(kinds)}"


def _icmp(found: Any) -> tuple[bool, str]:
    kinds = [each for one in found["instances"] for each in one.get("kinds", ())]
    number = sum(each["packets"] for each in kinds if each["kind"] == "icmp")
    return number == 2 * _PINGS, f"{number} packets of ICMP"


def _link(found: Any) -> tuple[bool, str]:
    number = found[0]["stats64"]["rx"]["packets"]
    return number >= _PINGS, f"{number} packets came in by p1"


_TRAFFIC = Step("Traffic", (_PING,), "every request is answered", checks.answered(), may_fail=True)

_KERNEL = (
    Step(
        "A bridge",
        (
            "ip -n switch link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "ip -n switch link set p1 master br0",
            "ip -n switch link set p2 master br0",
            "ip -n switch link set br0 up",
        ),
    ),
    _TRAFFIC,
    Step(
        "What the kernel counts",
        ("ip -n switch -s -json link show p1",),
        expected="packets by device; what became of each it does not say",
        check=checks.document(_link),
    ),
)
_EBPF = (
    Step(
        "Two modes on the same ports",
        ("pydp -n switch attach --mode bridge p1 p2", "pydp -n switch attach --mode count p1 p2"),
        why="Each mode is a stage. All stages of a port are compiled into one program.",
    ),
    _TRAFFIC,
    Step(
        "Programs",
        ("pydp -n switch status --json",),
        expected="one at each port, in which both modes are stages",
        check=checks.document(_running),
    ),
    Step(
        "The same, as the kernel shows it",
        ("pydp -n switch status --json", "bpftool --json prog show"),
        expected="bpftool lists them under the same numbers, with their maps",
        check=_listed,
    ),
    Step(
        "Processes",
        ("ip netns pids switch",),
        expected="none: programs, maps and links are pinned, and pydp has long ended",
        check=_nobody,
    ),
    Step(
        "Counters of mode bridge",
        ("pydp -n switch stats bridge --json",),
        expected="what became of each packet, as it is decided in one place: forwarded, but for the first ones",
        check=checks.document(_forwarded),
    ),
    Step(
        "Counters of mode count",
        ("pydp -n switch stats count --json",),
        expected=f"{_PINGS} requests and as many replies",
        check=checks.document(_icmp),
    ),
    Step(
        "Detach",
        ("pydp -n switch detach --all", _PING, "pydp -n switch status"),
        expected="nobody forwards any more, and nothing is left of it",
        check=checks.both(checks.unanswered(-2), checks.fails("nothing is attached", -1)),
        may_fail=True,
        undoes=True,
    ),
)

STORY = Story(
    "ebpf",
    "ebpf: what is loaded where",
    "A bridge once more, to look inside: which programs run at which device, what they share, what they count.",
    TOPOLOGY,
    {
        "kernel": Experiment(_KERNEL, marks={"switch": ("br0: p1 p2",)}),
        "ebpf": Experiment(_EBPF, marks={"switch": ("pydp --mode bridge", "pydp --mode count")}),
    },
)
