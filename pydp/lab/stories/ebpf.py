# SPDX-License-Identifier: Apache-2.0
"""What is there once pydp is attached: programs, maps, counters, and no process."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story, Topology, node, port

_C1, _C2 = node("c1", port("eth0", "10.0.0.1/24")), node("c2", port("eth0", "10.0.0.2/24"), column=2)
_N1 = node("n1", port("p1"), port("p2"), port("eth0", "192.168.123.111/24"), column=1)
_N2 = node("n2", port("eth0", "192.168.123.114/24"), column=2)
_WIRES = ("c1:eth0 n1:p1", "n1:p2 c2:eth0")
TOPOLOGY = Topology((_C1, _N1, _C2, _N2), (*_WIRES, "n1:eth0 n2:eth0"))
_WITHOUT_N2 = Topology((_C1, replace(_N1, ports=_N1.ports[:2]), _C2), _WIRES)

_PINGS = 20
_PING = f"ip netns exec c1 ping -n -q -c {_PINGS} -i 0.01 -W 1 10.0.0.2"
_PING_TUNNEL = f"ip netns exec n1 ping -n -q -c {_PINGS} -i 0.01 -W 1 -I 1.2.3.1 1.2.4.1"
_STATUS, _PROGRAMS, _MAPS = "pydp -n n1 status --json", "bpftool --json prog show", "bpftool --json map show"
_WHERE = [("eth0", "tc"), ("eth0", "tc-egress"), ("p1", "tc"), ("p2", "tc")]


def _places(found: Any) -> dict[int, tuple[str, str, list[str]]]:
    """Device, hook and modes of each program that `pydp status` names."""
    places: dict[int, tuple[str, str, list[str]]] = {}
    for instance in found["instances"]:
        for device in instance["ports"]:
            for program in device["programs"]:
                place = places.setdefault(program["id"], (device["device"], program["hook"], []))
                place[2].append(instance["mode"])
    return places


def _running(found: Any) -> tuple[bool, str]:
    """One program at each port and hook, which has a stage of each mode there."""
    places = _places(found)
    text = ", ".join(f"{number} at {name} {hook}: {' '.join(modes)}" for number, (name, hook, modes) in places.items())
    wanted = [["ipip"], ["ipip"], ["bridge", "count"], ["bridge", "count"]]
    modes = [sorted(modes) for _, _, modes in sorted(places.values())]
    return sorted(place[:2] for place in places.values()) == _WHERE and modes == wanted, f"programs {text}"


def _listed(seen: Seen) -> Finding:
    """bpftool knows the programs that status names, with maps."""
    places = _places(json.loads(seen.outputs[0].out))
    found = [one for one in json.loads(seen.outputs[1].out) if one["id"] in places]
    text = "; ".join(
        f"{one['id']} {one['name']} ({one['type']}, {one['bytes_xlated']} bytes, {len(one.get('map_ids', ()))} maps)"
        for one in found
    )
    return Finding(len(found) == len(places) > 0 and all(one.get("map_ids") for one in found), text or "none")


def _shared(seen: Seen) -> Finding:
    """Which maps programs have: p1 and p2 one FDB, eth0 none, but the peers of the tunnel."""
    status, programs, maps = (json.loads(output.out) for output in seen.outputs)
    names = {one["id"]: one.get("name", "") for one in maps}
    used = {one["id"]: set(one.get("map_ids", ())) for one in programs}
    mine = {place[:2]: used[number] for number, place in _places(status).items()}
    common = mine["p1", "tc"] & mine["p2", "tc"]
    tunnel = {names[number] for number in mine["eth0", "tc"] & mine["eth0", "tc-egress"]}
    both = sorted(names[number] for number in common)
    ok = {"fdb", "bridge_ports"} <= set(both) and "ipip_peers" in tunnel and "fdb" not in tunnel
    return Finding(ok, f"p1 and p2 share {' '.join(both)}; both of eth0 have {' '.join(sorted(tunnel))}")


def _nobody(seen: Seen) -> Finding:
    return Finding(not seen.last.out.strip(), f"processes in n1: {seen.last.out.strip() or 'none'}")


def _forwarded(found: Any) -> tuple[bool, str]:
    verdicts = [each for one in found["instances"] for each in one["verdicts"] if one["name"] == "bridge"]
    number = sum(each["packets"] for each in verdicts if each["kind"] == "forward")
    kinds = sorted({f"{each['kind']} {each['reason']}" for each in verdicts})
    return number >= 2 * _PINGS - 2, f"{number} packets forwarded; verdicts: {', '.join(kinds)}"


def _icmp(found: Any) -> tuple[bool, str]:
    kinds = [each for one in found["instances"] for each in one.get("kinds", ())]
    number = sum(each["packets"] for each in kinds if each["kind"] == "icmp")
    return number == 2 * _PINGS, f"{number} packets of ICMP"


def _carried(found: Any) -> tuple[bool, str]:
    (peer,) = (each for one in found["instances"] for each in one.get("tunnels", ()))
    sent, received = peer["sent"]["packets"], peer["received"]["packets"]
    return sent == received == _PINGS, f"to {peer['remote']}: {sent} sent, {received} received"


def _link(found: Any) -> tuple[bool, str]:
    number = found[0]["stats64"]["rx"]["packets"]
    return number >= _PINGS, f"{number} packets came in by p1"


_KERNEL = (
    Step(
        "A bridge",
        (
            "ip -n n1 link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "ip -n n1 link set p1 master br0",
            "ip -n n1 link set p2 master br0",
            "ip -n n1 link set br0 up",
        ),
    ),
    Step("Traffic", (_PING,), "every request is answered", checks.answered(), may_fail=True),
    Step(
        "What is in the FDB",
        ("bridge -n n1 -json fdb show br br0",),
        expected="c1 at p1 and c2 at p2",
        check=checks.learned({_WITHOUT_N2.mac("c1:eth0"): "p1", _WITHOUT_N2.mac("c2:eth0"): "p2"}),
    ),
    Step(
        "What the kernel counts",
        ("ip -n n1 -s -json link show p1",),
        expected="packets by device; what became of each it does not say",
        check=checks.document(_link),
    ),
)


def _tunnel(name: str, local: str, remote: str, network: str) -> str:
    return f"pydp -n {name} attach --mode ipip --local {local} --peer {remote}={network} eth0"


_SETTING = (
    Step(
        "A bridge",
        ("pydp -n n1 attach --mode bridge p1 p2", "pydp -n n1 attach --mode count p1 p2"),
        why="Two modes on the same ports: each is a stage, and all stages of a port are compiled into one program.",
    ),
    Step(
        "A tunnel on another port",
        (
            "ip -n n1 addr add 1.2.3.1/32 dev lo",
            "ip -n n2 addr add 1.2.4.1/32 dev lo",
            _tunnel("n1", "192.168.123.111", "192.168.123.114", "1.2.4.1/32"),
            _tunnel("n2", "192.168.123.114", "192.168.123.111", "1.2.3.1/32"),
        ),
        why="Mode ipip has a program for each direction.",
    ),
    Step(
        "Traffic",
        (_PING, _PING_TUNNEL),
        expected="every request is answered",
        check=checks.both(checks.answered(-2), checks.answered()),
        may_fail=True,
    ),
)
_LOOKS = (
    Step(
        "Programs",
        (_STATUS,),
        expected="one at p1 and p2 each, in which both modes are stages, and two at eth0",
        check=checks.document(_running),
    ),
    Step(
        "The same, as the kernel shows it",
        (_STATUS, _PROGRAMS),
        expected="bpftool lists them under the same numbers, with their maps",
        check=_listed,
    ),
    Step(
        "Maps",
        (_STATUS, _PROGRAMS, _MAPS),
        expected="what p1 and p2 have in common is the bridge, what eth0's two have in common is the tunnel",
        check=_shared,
    ),
    Step(
        "What is in the FDB",
        ("pydp -n n1 fdb show --json",),
        expected="c1 at p1 and c2 at p2",
        check=checks.learned({TOPOLOGY.mac("c1:eth0"): "p1", TOPOLOGY.mac("c2:eth0"): "p2"}),
    ),
    Step(
        "Processes",
        ("ip netns pids n1",),
        expected="none: programs, maps and links are pinned, and pydp has long ended",
        check=_nobody,
    ),
)
_COUNTERS = (
    Step(
        "Counters of mode bridge",
        ("pydp -n n1 stats bridge --json",),
        expected="what became of each packet, as it is decided in one place: forwarded, but for the first ones",
        check=checks.document(_forwarded),
    ),
    Step(
        "Counters of mode count",
        ("pydp -n n1 stats count --json",),
        expected=f"{_PINGS} requests and as many replies",
        check=checks.document(_icmp),
    ),
    Step(
        "Counters of mode ipip",
        (_STATUS,),
        expected=f"{_PINGS} packets to the peer, and as many from it",
        check=checks.document(_carried),
    ),
)
_DETACH = Step(
    "Detach",
    ("pydp -n n1 detach --all", _PING, "pydp -n n1 status"),
    expected="nobody forwards any more, and nothing is left of it",
    check=checks.both(checks.unanswered(-2), checks.fails("nothing is attached", -1)),
    may_fail=True,
    undoes=True,
)

STORY = Story(
    "ebpf",
    "ebpf: what is loaded where",
    "A bridge and a tunnel of the stories above once more, to look inside: which programs run at which device, which"
    " maps they share and what is in them, what they count.",
    TOPOLOGY,
    {
        "kernel": Experiment(_KERNEL, topology=_WITHOUT_N2, marks={"n1": ("br0: p1 p2",)}),
        "ebpf": Experiment(
            (*_SETTING, *_LOOKS, *_COUNTERS, _DETACH),
            marks={"n1": ("pydp --mode bridge", "pydp --mode count", "pydp --mode ipip"), "n2": ("pydp --mode ipip",)},
        ),
    },
)
