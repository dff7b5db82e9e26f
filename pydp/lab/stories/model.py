# SPDX-License-Identifier: Apache-2.0
"""What a story is made of: a topology, and for each way of doing it the steps of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WAYS = {"kernel": "by the kernel", "ebpf": "by eBPF"}


@dataclass(frozen=True, slots=True)
class Port:
    """A device of a node: one end of a wire. ``mac`` is given by the topology unless it is here."""

    name: str
    addresses: tuple[str, ...] = ()
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Node:
    """A network namespace. ``column`` is its place in the drawing; ``router`` forwards; ``default`` is its gateway."""

    name: str
    ports: tuple[Port, ...] = ()
    column: int = 0
    router: bool = False
    default: str = ""


def node(name: str, *ports: Port, **options: object) -> Node:
    """A node, as it reads best in a list."""
    return Node(name, ports, **options)  # type: ignore[arg-type]


def port(name: str, *addresses: str, mtu: int = 1500) -> Port:
    """A device, as it reads best in a list."""
    return Port(name, addresses, mtu)


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes, and wires between their ports: "red:veth0 blue:veth0". ``later`` are only drawn: a device that a step is
    to make, and the one it is made on.
    """

    nodes: tuple[Node, ...]
    wires: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def ends(self, *, later: bool = False) -> tuple[tuple[tuple[Node, Port], tuple[Node, Port]], ...]:
        """The two ends of each wire."""
        pairs = (wire.split() for wire in (*self.wires, *(self.later if later else ())))
        return tuple((self.find(one), self.find(other)) for one, other in pairs)

    def find(self, place: str) -> tuple[Node, Port]:
        """What "red:veth0" stands for. Raises KeyError when there is none such."""
        where, _, what = place.partition(":")
        for each in self.nodes:
            for device in each.ports:
                if (each.name, device.name) == (where, what):
                    return each, device
        raise KeyError(place)

    def mac(self, place: str) -> str:
        """The address of a port: its number in the topology, from a locally administered range."""
        places = [f"{each.name}:{device.name}" for each in self.nodes for device in each.ports]
        return f"02:00:00:00:00:{places.index(place) + 1:02x}"


@dataclass(frozen=True, slots=True)
class Output:
    """A command that was run, with its exit status and what it wrote."""

    command: str
    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a step brought: outputs in the order of its commands, captures by "node:device", and how busy the
    machine's CPUs were meanwhile, in seconds of one CPU.
    """

    outputs: tuple[Output, ...] = ()
    captures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cpu: float = 0

    @property
    def last(self) -> Output:
        """Of the last command."""
        return self.outputs[-1]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen, in words, and whether that is what was expected."""

    ok: bool
    text: str


Check = Callable[[Seen], Finding]


@dataclass(frozen=True, slots=True)
class Step:
    """Commands, what is expected of them, and the check that finds out.

    A command is what a person would type: `ip -n red addr` or `ip netns exec red ping 10.0.0.1`, with the names of the
    topology. One with "&" behind it goes on until the story ends; ``ready`` tells its TCP or UDP port to wait for, as
    "node:tcp:80". Commands must succeed unless ``may_fail``. ``capture`` names devices to listen at meanwhile, each
    with a filter of tcpdump's behind it if there is a blank. A step without ``check`` prepares; one that ``undoes`` is
    left out when a story is to stay. ``why`` is said before it.
    """

    title: str
    commands: tuple[str, ...]
    expected: str = ""
    check: Check | None = None
    capture: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    may_fail: bool = False
    why: str = ""
    undoes: bool = False


@dataclass(frozen=True, slots=True)
class Experiment:
    """One way through a story. ``marks`` are lines for the drawing, by node; ``needs`` a kind of network device without
    which it cannot be done, such as ipip; ``topology`` is there if it differs from the story's.
    """

    steps: tuple[Step, ...]
    topology: Topology | None = None
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """A primitive of Linux's networking, tried out. ``ways`` are those of WAYS that there are, ``without`` says why one
    is missing.
    """

    name: str
    title: str
    about: str
    topology: Topology
    ways: Mapping[str, Experiment]
    without: Mapping[str, str] = field(default_factory=dict)

    def topology_of(self, via: str) -> Topology:
        """What is built for one way."""
        experiment = self.ways.get(via)
        return (experiment and experiment.topology) or self.topology

    def marks_of(self, via: str) -> Mapping[str, tuple[str, ...]]:
        """What the drawing of one way says beside the topology."""
        return self.ways[via].marks if via in self.ways else {}
