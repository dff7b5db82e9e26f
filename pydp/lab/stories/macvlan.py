# SPDX-License-Identifier: Apache-2.0
"""Several MAC addresses on one device: the four types of macvlan, by the kernel's devices and by mode macvlan."""

from __future__ import annotations

import re
from dataclasses import replace

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Finding, Seen, Step, Story, Topology, node, port

_HOST = node("host", port("eth0", "10.0.0.3/24"), port("p1"), port("p2"), column=1)
_SWITCH = node("switch", port("s1"), port("s2"), column=2)
_FAR = node("far", port("eth0", "10.0.0.9/24"), column=3)
_CONTAINERS = (node("c1", port("eth0", "10.0.0.1/24")), node("c2", port("eth0", "10.0.0.2/24")))
_LAN = ("host:eth0 switch:s1", "switch:s2 far:eth0")
_VETHS = Topology((_HOST, _SWITCH, _FAR, *_CONTAINERS), ("c1:eth0 host:p1", "c2:eth0 host:p2", *_LAN))
# The kernel's containers have no veth: their devices are made on the host's.
_BARE = Topology(
    (replace(_HOST, ports=_HOST.ports[:1]), _SWITCH, _FAR, *_CONTAINERS),
    _LAN,
    later=("c1:eth0 host:eth0", "c2:eth0 host:eth0"),
)

_STRANGER = "02:00:00:00:00:77"
_TYPES = ("private", "vepa", "bridge")
_REQUEST = r"10\.0\.0\.1 > 10\.0\.0\.2: ICMP echo request"


def _ping(name: str, address: str) -> str:
    return f"ip netns exec {name} ping -n -c 2 -i 0.1 -W 0.5 {address}"


def _forget(*names: str) -> tuple[str, ...]:
    return tuple(f"ip -n {name} neigh flush all" for name in names)


_NEIGHBOUR = (*_forget("c1"), _ping("c1", "10.0.0.2"))


def _hairpin(state: str) -> str:
    return f"bridge -n switch link set dev s1 hairpin {state}"


_LAN_STEP = Step(
    "The switch that host is connected to",
    (
        "ip -n switch link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "ip -n switch link set s1 master br0",
        "ip -n switch link set s2 master br0",
        "ip -n switch link set br0 up",
        _hairpin("on"),
    ),
    why="With hairpin on it sends frames back by the port that they came in by, which other switches do not do.",
)


def _made(number: int, kind: str, mac: str = "") -> tuple[str, ...]:
    address = f" address {mac}" if mac else ""
    return (
        f"ip -n host link add link eth0 name m{number}{address} type macvlan mode {kind}",
        f"ip -n host link set m{number} netns c{number} name eth0",
        f"ip -n c{number} addr add 10.0.0.{number}/24 dev eth0",
        f"ip -n c{number} link set eth0 up",
    )


def _kernel(kind: str) -> tuple[str, ...]:
    """The devices, or another type for those that there are."""
    if kind == _TYPES[0]:
        return tuple(line for number in (1, 2) for line in _made(number, kind, _VETHS.mac(f"c{number}:eth0")))
    return tuple(f"ip -n c{number} link set eth0 type macvlan mode {kind}" for number in (1, 2))


def _pydp(kind: str) -> tuple[str, ...]:
    return (f"pydp -n host attach --mode macvlan --child p1 --child p2 --type {kind} eth0",)


def _macs(seen: Seen) -> Finding:
    """Addresses that the switch has learned at the one port that leads to host."""
    learned = set(re.findall(r"^(\S+) dev s1 ", seen.last.out, re.MULTILINE))
    wanted = [_VETHS.mac(f"{name}:eth0") for name in ("c1", "c2")]
    found = [mac for mac in wanted if mac in learned]
    return Finding(found == wanted, f"at s1: {' '.join(found) or 'none of the two'}")


_PRIVATE = (
    Step(
        "Each reaches the network under its own MAC address",
        (_ping("c1", "10.0.0.9"), _ping("c2", "10.0.0.9"), "bridge -n switch fdb show br br0 dynamic"),
        expected="far answers both, and the switch has learned both addresses at one port",
        check=checks.both(checks.answered(0), checks.answered(1), _macs),
        may_fail=True,
    ),
    Step(
        "private: c1 and c2",
        _NEIGHBOUR,
        expected="they do not reach each other, though the switch sends c1's question back",
        check=checks.both(
            checks.unanswered(),
            checks.captured("switch:s1", r"who-has 10\.0\.0\.2 tell 10\.0\.0\.1", 2),
            checks.uncaptured("c2:eth0", r"10\.0\.0\.1"),
        ),
        capture=("switch:s1 arp", "c2:eth0"),
        may_fail=True,
    ),
)
_VEPA = (
    Step(
        "vepa: c1 and c2 by way of the switch",
        _NEIGHBOUR,
        expected="it works, and each request passes the switch's port twice: out of host, and back into it",
        check=checks.both(checks.answered(), checks.captured("switch:s1", _REQUEST, 4)),
        capture=("switch:s1 icmp",),
        may_fail=True,
    ),
    Step(
        "vepa: a switch that does not send back",
        (_hairpin("off"), *_NEIGHBOUR),
        expected="c1's question leaves host, and c2 never hears of it",
        check=checks.both(
            checks.unanswered(),
            checks.captured("switch:s1", r"who-has 10\.0\.0\.2"),
            checks.uncaptured("c2:eth0", r"10\.0\.0\.1"),
        ),
        capture=("switch:s1 arp", "c2:eth0"),
        may_fail=True,
    ),
)
_BRIDGE = (
    Step(
        "bridge: c1 and c2 without the switch",
        _NEIGHBOUR,
        expected="it works inside host: only the question for the address, which is for everybody, is seen outside",
        check=checks.both(
            checks.answered(),
            checks.captured("switch:s1", r"who-has 10\.0\.0\.2"),
            checks.uncaptured("switch:s1", "ICMP"),
        ),
        capture=("switch:s1",),
        may_fail=True,
    ),
    Step(
        "Host and containers",
        (*_forget("c1", "host"), _ping("c1", "10.0.0.3"), _ping("host", "10.0.0.1"), _ping("host", "10.0.0.9")),
        expected="they do not reach each other, though they are on one device; the host's own traffic with far goes on",
        check=checks.both(checks.unanswered(-3), checks.unanswered(-2), checks.answered()),
        may_fail=True,
    ),
    Step(
        "A frame for an address that nobody has",
        (
            f"ip -n far neigh replace 10.0.0.77 lladdr {_STRANGER} dev eth0",
            _ping("far", "10.0.0.77"),
        ),
        expected="the switch sends it to host, where none of the children gets it",
        check=checks.both(
            checks.captured("switch:s1", r"> 10\.0\.0\.77: ICMP", 2), checks.uncaptured("c1:eth0", r"10\.0\.0\.77")
        ),
        capture=("switch:s1 icmp", "c1:eth0"),
        may_fail=True,
    ),
)
_PASSTHRU = (
    Step(
        "passthru: everything is c1's",
        (
            *_forget("host", "far"),
            _ping("c1", "10.0.0.9"),
            f"ip -n far neigh replace 10.0.0.77 lladdr {_STRANGER} dev eth0",
            _ping("far", "10.0.0.77"),
            _ping("host", "10.0.0.9"),
        ),
        expected="c1 reaches far, and gets frames for whatever address; the host hears no answer any more",
        check=checks.both(
            checks.answered(-4),
            checks.captured("c1:eth0", rf"> {_STRANGER}.* > 10\.0\.0\.77: ICMP echo request", 2),
            checks.unanswered(),
        ),
        capture=("c1:eth0",),
        may_fail=True,
    ),
)


def _another(command: str, said: str) -> Step:
    return Step(
        "passthru: a second child",
        (command,),
        expected="it is refused: there is nothing left for it",
        check=checks.fails(said),
        may_fail=True,
    )


_KERNEL = (
    _LAN_STEP,
    Step("Type private", _kernel("private"), why="A device in each container, on the host's own."),
    *_PRIVATE,
    Step("Type vepa", _kernel("vepa")),
    *_VEPA,
    Step("Type bridge", _kernel("bridge")),
    *_BRIDGE,
    Step(
        "Type passthru",
        ("ip -n c1 link del eth0", "ip -n c2 link del eth0", *_made(1, "passthru")),
        why="It has one child, and cannot be changed to or from. The child has its parent's address.",
    ),
    *_PASSTHRU,
    _another("ip -n host link add link eth0 name m2 type macvlan mode passthru", "Invalid argument"),
)
_REPLACE = "pydp -n host attach --mode macvlan --name macvlan"  # with other ports it has to be named
_EBPF = (
    _LAN_STEP,
    Step(
        "Type private",
        _pydp("private"),
        why="Containers keep their veths, as with a bridge. The address that counts is that of the container's end.",
    ),
    *_PRIVATE,
    Step("Type vepa", _pydp("vepa")),
    *_VEPA,
    Step("Type bridge", _pydp("bridge")),
    *_BRIDGE,
    Step(
        "Type passthru",
        (f"{_REPLACE} --child p1 --type passthru eth0",),
        why="It has one child.",
    ),
    *_PASSTHRU,
    _another(
        "pydp -n host attach --mode macvlan --name macvlan --child p1 --child p2 --type passthru eth0",
        "it has one child",
    ),
)

STORY = Story(
    "macvlan",
    "macvlan: several MAC addresses on one device",
    "Containers share their host's device without a bridge: each has a MAC address of its own, and a look-up tells"
    " whose a frame is. The type says whether, and which way, containers reach each other.",
    _VETHS,
    {
        "kernel": Experiment(
            _KERNEL,
            topology=_BARE,
            marks={"c1": ("eth0: macvlan",), "c2": ("eth0: macvlan",)},
            needs="macvlan",
        ),
        "ebpf": Experiment(_EBPF, marks={"host": ("pydp --mode macvlan",)}),
    },
)
