# SPDX-License-Identifier: Apache-2.0
"""Mode ipip without devices: its three programs on one set of maps, and the packets of every kind of tunnel by scapy.

p0 is the underlay, p1 a port. "arriving" and "port" run on the hook of the rig, "leaving" on the way out of p0.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self

from scapy.layers.l2 import GRE

from ebpf import testrun
from ebpf.compiler import compile_source
from ebpf.loader import Program, load
from ebpf.maps import Map
from pydp.datapath.compose import Stage, compose, program_name, written
from pydp.kernel.defaults import possible_cpus
from pydp.model import Defaults, Link, Route, Tunnel
from pydp.modes import MODES
from pydp.modes.base import Context, Role
from pydp.modes.ipip import IpipOptions
from pydp.modes.peers import KINDS as TRAITS
from pydp.modes.table import address_words, table_hash
from tests.datapath.frames import IP, UDP, Ether, IPv6, Packet, Raw
from tests.datapath.harness import ACTIONS, BASE, Result, empty, links, ticks_now

MODE = MODES["ipip"]
HERE, THERE, PORT, STATION = ("02:00:00:00:01:00", "02:00:00:00:0b:01", "02:00:00:00:01:01", "02:00:00:00:0a:01")
PLACES = ("arriving", "port", "leaving")
ROLES = {"arriving": Role.UNDERLAY, "port": Role.PORT, "leaving": Role.UNDERLAY}
CACHED = 1024  # IPIP_CACHED
_WRITTEN = frozenset(  # by the datapath
    {"ipip_cache", "ipip_ways", "ipip_hops", "ipip_paths", "ipip_counts"}
)
IDENT = 0x1234

# Per kind: the options that make it.
V4_OUT, V6_OUT = ("192.0.2.1", "192.0.2.2", "192.0.2.3"), ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::2")
V4_IN, V6_IN = ("10.2.0.0/16", "10.3.0.0/16", "10.2.9.0/24"), ("fd02::/16", "fd03::/32", "fd02:9::/32")


def options_of(kind: str, outer: int, inner: int, **more: Any) -> dict[str, Any]:
    """Two peers; of the first one's network, a part is behind the second."""
    local, first, second = V6_OUT if outer == 6 else V4_OUT
    one, two, part = V6_IN if inner == 6 else V4_IN
    peers = (f"{first}={one}", f"{second}={two},{part}")
    return {"kind": kind, "local": local, "peer": peers, "port": ("p1",), "ttl": "inherit", **more}


KINDS: dict[str, dict[str, Any]] = {
    "ipip": options_of("ipip", 4, 4),
    "sit": options_of("sit", 4, 6),
    "ip6ip6": options_of("ip6ip6", 6, 6),
    "ip4ip6": options_of("ip4ip6", 6, 4),
    "gre": options_of("gre", 4, 4),
    "gre-key": options_of("gre", 4, 4, key=0x01020304),
    "gre-6in4": options_of("gre", 4, 6),
    "gre-4in6": options_of("gre", 6, 4, key=7),
}


@dataclass(frozen=True, slots=True)
class Net:
    """Addresses of one kind: ``far`` is behind ``peer``, ``farther`` behind ``other``, ``part`` too, though in the
    network of the first; ``near`` is behind this end.
    """

    name: str
    hook: str = "tc"

    @property
    def options(self) -> dict[str, Any]:
        return KINDS[self.name]

    @property
    def outer6(self) -> bool:
        return ":" in self.options["local"]

    @property
    def inner6(self) -> bool:
        return ":" in self.options["peer"][0].partition("=")[2]

    @property
    def ends(self) -> tuple[str, str, str]:
        """Local end, peer, other peer."""
        return V6_OUT if self.outer6 else V4_OUT

    @property
    def overhead(self) -> int:
        gre = 0 if self.options["kind"] != "gre" else 8 if "key" in self.options else 4
        return (40 if self.outer6 else 20) + gre

    @property
    def near(self) -> str:
        return "fd01::1" if self.inner6 else "10.1.0.1"

    @property
    def far(self) -> str:
        return "fd02::1" if self.inner6 else "10.2.0.1"

    @property
    def farther(self) -> str:
        return "fd03::1" if self.inner6 else "10.3.0.1"

    @property
    def part(self) -> str:
        return "fd02:9::1" if self.inner6 else "10.2.9.1"

    def inner(
        self, src: str = "", dst: str = "", *, size: int = 30, ttl: int = 64, tos: int = 0, **fields: Any
    ) -> Packet:
        """A UDP packet with SIZE bytes of payload, by default from the peer's network to this end's."""
        ends = {"src": src or self.far, "dst": dst or self.near}
        ip = IPv6(hlim=ttl, tc=tos, **ends, **fields) if self.inner6 else IP(ttl=ttl, tos=tos, id=9, **ends, **fields)
        return ip / UDP(sport=1000, dport=2000) / Raw(bytes(i & 0xFF for i in range(size)))

    def outgoing(self, **fields: Any) -> Packet:
        return self.inner(self.near, self.far, **fields)

    def wrap(self, payload: Any, src: str = "", dst: str = "", *, gre: Mapping[str, Any] | None = None,
             ttl: int = 64, tos: int = 0, **fields: Any) -> Packet:  # fmt: skip
        """PAYLOAD in its outer headers, by default from the first peer to this end."""
        local, peer, _ = self.ends
        number = TRAITS[self.options["kind"]][0]
        ends = {"src": src or peer, "dst": dst or local}
        if self.outer6:
            header = IPv6(**{"nh": number, "hlim": ttl, "tc": tos, **ends, **fields})
        else:
            cut = "DF" not in fields.get("flags", "DF")
            policy = {"id": IDENT if cut else 0, "flags": "DF"}
            header = IP(**{"proto": number, "ttl": ttl, "tos": tos, **policy, **ends, **fields})
        if self.options["kind"] == "gre":
            key = {"key_present": 1, "key": self.options["key"]} if "key" in self.options else {}
            header /= GRE(**{"proto": 0x86DD if self.inner6 else 0x0800, **key, **(gre or {})})
        return header / Raw(bytes(payload))

    def sent(self, payload: Any, **fields: Any) -> bytes:
        """The frame by which PAYLOAD leaves for the first peer."""
        local, peer, _ = self.ends
        packet = self.wrap(payload, **{"src": local, "dst": peer, **fields})
        return bytes(Ether(dst=THERE, src=HERE, type=0x86DD if self.outer6 else 0x0800) / packet)

    def received(self, payload: Any, *, dest: str = HERE, **fields: Any) -> bytes:
        """A frame from the first peer."""
        packet = self.wrap(payload, **fields)
        return bytes(Ether(dst=dest, src=THERE, type=0x86DD if self.outer6 else 0x0800) / packet)

    def frame(self, packet: Any, dest: str, source: str) -> bytes:
        """An inner packet outside of a tunnel."""
        return bytes(Ether(dst=dest, src=source, type=0x86DD if self.inner6 else 0x0800) / packet)


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there."""

    links: Mapping[int, Link]
    tunnels: Mapping[int, Tunnel] = field(default_factory=dict)
    bridges: Mapping[int, Any] = field(default_factory=dict)
    vxlans: Mapping[int, Any] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.links[ifindex].name

    def link(self, name: str) -> Link:
        return next(one for one in self.links.values() if one.name == name)


class IpipRig:
    """The programs at PLACES, with MORE constants, and the maps of an instance. Close it, or use it in a block."""

    def __init__(
        self, hook: str, options: Mapping[str, Any], *, mtu: int = 1500,
        tunnels: Sequence[Tunnel] = (), routes: Sequence[Route] = (), places: Sequence[str] = PLACES,
        more: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.hook = hook
        self._stack = contextlib.ExitStack()
        self._programs: dict[str, Program] = {}
        self.options = IpipOptions(**options)
        view = View(links(3, mtu), {one.ifindex: one for one in tunnels})
        target = MODE.target(self.options, ["p0"], view)
        slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
        defaults = Defaults(cpus=possible_cpus())
        self.context = Context(view, target, slots, hook, defaults=defaults, foreign_routes=routes)
        self._stage = Stage(0, "ipip", {**MODE.constants(self.options, self.context), **(more or {})})
        hooks = {place: "tc-egress" if place == "leaving" else hook for place in places}
        self._hooks = hooks
        self._compiled = {
            one: compile_source(compose(one, [self._stage], counters=True, frags=False)) for one in set(hooks.values())
        }
        self.maps: dict[str, Map] = {}
        sizes = MODE.sizes(self.options, self.context)
        for compiled in self._compiled.values():
            for name, spec in compiled.maps.items():
                if name not in self.maps:
                    made = Map.create(spec.sized(sizes.get(name, spec.max_entries)))
                    self.maps[name] = self._stack.enter_context(made)
        for name, entries in MODE.entries(self.options, self.context).items():
            if name in self.maps:  # or no program that is wanted looks at it
                self.maps[name].update(entries)
        self.abi = next(iter(self._compiled.values())).abi
        self._verdicts = self.abi.enum("verdict")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def forget(self) -> None:
        """As if just made."""
        for name in _WRITTEN & self.maps.keys():
            empty(self.maps[name])
        if "ipip_recents" in self.maps:
            empty(self.maps["ipip_recents"])

    def index(self, address: str) -> int:
        """A peer's place in the maps."""
        from pydp.modes.ipip import peer_indices

        return peer_indices(self.options, self.context)[ip_address(address)]

    def resolve(self, address: str, *, mtu: int = 1500, ifindex: int = BASE) -> None:
        """The way to a peer as bpf_fib_lookup() tells it, which knows none without devices. It holds for 50 ms."""
        self.maps["ipip_hops"].set(self.index(address), _hop(THERE, HERE, mtu, ifindex))

    def resolve_inner(self, address: str, *, mtu: int = 1500, ifindex: int = BASE + 1) -> None:
        """The same for the way to an inner address: by p1, unless told otherwise."""
        words = address_words(ip_address(address))
        self.maps["ipip_ways"].set(_inner_place(address), (words, _hop(STATION, PORT, mtu, ifindex)))

    def knows(self, address: str) -> bool:
        """Whether the way to an inner address has not been forgotten since."""
        return all(one.hop.ready for one in self.maps["ipip_ways"].get(_inner_place(address)))

    def knows_peer(self, address: str) -> bool:
        """The same for the way to a peer."""
        return all(one.ready for one in self.maps["ipip_hops"].get(self.index(address)))

    def fates(self) -> Counter[tuple[int, str]]:
        """Packets of a peer that were not carried, by its index and the verdict; but for those that came too late."""
        found = Counter[tuple[int, str]]()
        for key, cpus in self.maps["ipip_fates"].items():
            found[key.index, self._verdicts.name_of(key.verdict)] += sum(cpus)
        return Counter({key: number for key, number in found.items() if key[1] != "PUNT_NEIGHBOUR"})

    def send(self, place: str, frame: bytes, **options: Any) -> Result:
        """One frame at one of the programs."""
        before = self._counts()
        outcome = testrun.run(self._program(place), frame, **options)
        fresh = {
            index: size - before.get(index, (0, 0))[1]
            for index, (packets, size) in self._counts().items()
            if packets != before.get(index, (0, 0))[0]
        }
        assert len(fresh) == 1, f"counted under {fresh}"
        ((index, length),) = fresh.items()
        action = ACTIONS["xdp" if self._hooks[place] == "xdp" else "tc"][outcome.action]
        return Result(self._verdicts.name_of(index), action, outcome.frame, "ipip", length)

    def sent(self, place: str, frame: bytes, peer: str, **way: Any) -> Result:
        """The same, where the way to PEER is known. The frame goes twice, the second time the short way if there is
        one, which must not show.
        """
        first = None
        for _ in range(50):
            self.resolve(peer, **way)
            result = self.send(place, frame)
            if result.verdict == "PUNT_NEIGHBOUR" or not self.knows_peer(peer):
                continue
            if first:
                assert result == first
                return result
            first = result
        raise AssertionError("the way was forgotten each time")

    def delivered(self, frame: bytes, station: str, **way: Any) -> Result:
        """A frame from the underlay, where the way to STATION is known, twice."""
        first = None
        for _ in range(50):
            self.resolve_inner(station, **way)
            result = self.send("arriving", frame)
            if result.verdict in ("PASS_DECAP", "PUNT_ROUTE"):
                continue
            if first:
                assert result == first
                return result
            first = result
        raise AssertionError("the way was forgotten each time")

    def counts(self, peer: str) -> tuple[int, ...]:
        """struct tunnel_count of a peer, without its owner."""
        return self.maps["ipip_counts"].sums().get(self.index(peer), (0, 0, 0, 0))[:4]

    def _counts(self) -> dict[int, tuple[int, ...]]:
        return self.maps["counters"].sums()

    def _program(self, place: str) -> Program:
        if place not in self._programs:
            hook = self._hooks[place]
            compiled = self._compiled[hook]
            maps = {name: self.maps[name] for name in compiled.maps}
            constants = written(self._stage, slot=1 if place == "port" else 0, seed=5, role=ROLES[place])
            kind = "xdp" if hook == "xdp" else "tc"
            program = load(compiled, program_name(hook), kind, maps, constants=constants)
            self._programs[place] = self._stack.enter_context(program)
        return self._programs[place]


def _inner_place(address: str) -> int:
    """Where ipip_ways has an inner address."""
    words = address_words(ip_address(address))
    key = words[0]
    if ":" in address:
        key = (words[0] ^ words[1] << 32) + (words[2] ^ words[3] << 32) & (1 << 64) - 1
    return table_hash(key) % CACHED


def _hop(dest: str, source: str, mtu: int, ifindex: int) -> tuple[Any, ...]:
    """struct hop."""
    now = ticks_now()
    to, by = (int.from_bytes(bytes.fromhex(one.replace(":", "")), "little") for one in (dest, source))
    header = (to | (by & 0xFFFF) << 48, by >> 16, 0)
    return (now, now, ifindex, mtu, 1, 0, IDENT, (0, 0, 0), header)
