# SPDX-License-Identifier: Apache-2.0
"""Mode nat without devices: the programs of all its hooks on one set of maps.

Ports p0, p1, ... have an index that no machine has, so whatever redirects goes nowhere. There is no routing either:
`route` says what bpf_fib_lookup() would have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any, Self

from ebpf import testrun
from ebpf.compiler import Compiled, compile_source
from ebpf.loader import Program, load
from ebpf.maps import Map
from pydp.datapath.compose import Stage, again_names, compose, kind_of, program_name, written
from pydp.kernel.defaults import possible_cpus
from pydp.model import Defaults
from pydp.modes import MODES
from pydp.modes.base import Context
from pydp.modes.fdb import TICK
from pydp.modes.nat import SERVICE_MAPS, NatOptions
from pydp.modes.table import address_words
from pydp.services.counts import Count
from pydp.services.database import Database
from pydp.services.model import Service
from pydp.services.program import Programmer
from tests.datapath.harness import ACTIONS, BASE, PASS, SEED, Result, empty, links, ticks_now
from tests.datapath.ipip_rig import View

MODE = MODES["nat"]
# By port: p0 leads to the world, the others to containers.
ADDRESSES: Mapping[int, Sequence[str]] = {
    0: ("192.0.2.1/24", "2001:db8::1/64"),
    1: ("10.0.1.254/24", "fd01::fe/64"),
    2: ("10.0.2.254/24", "fd02::fe/64"),
}
SMALL = {"flows": 1024, "max_services": 256, "max_backends": 256, "max_slots": 1 << 17}
NEIGHBOUR = "02:00:00:00:0b:{:02x}"  # who is behind a port
HOPS = 1024  # NAT_HOPS
IP_UDP = 17
UDP_YOUNG, UDP_TICKS = 128, 16  # NAT_UDP_YOUNG, and ticks of an instant by NAT_UDP_SHIFT


@dataclass(frozen=True, slots=True)
class Flow:
    """A conntrack entry; tuples as (source, port, destination, port), ``life`` in ticks from now."""

    protocol: int
    original: tuple[str, int, str, int]
    reply: tuple[str, int, str, int]
    kind: str
    state: str
    flags: int
    backend: int
    life: int
    packets: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)


class NatRig:
    """The programs, and the maps of an instance. Close it, or use it in a ``with`` block."""

    def __init__(
        self, hook: str = "tc", *, ports: int = 3, options: Mapping[str, Any] | None = None, mtu: int = 1500,
        addresses: Mapping[int, Sequence[str]] = ADDRESSES, peers: Sequence[int] = (), takers: Sequence[int] = (),
        seed: int = SEED,
    ) -> None:  # fmt: skip
        """PEERS are ports that are veths whose other end may be handed frames, TAKERS those that take XDP's."""
        self.hook = hook
        self._seed = seed
        self._stack = contextlib.ExitStack()
        self._programs: dict[tuple[int, str], Program] = {}
        self.routes: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.programmer: Programmer | None = None
        self.options = NatOptions(**{**SMALL, **(options or {})})
        view = View(links(ports, mtu))
        target = MODE.target(self.options, [f"p{port}" for port in range(ports)], view)
        self.context = Context(
            view, target, {ifindex: slot for slot, ifindex in enumerate(target.ports)}, hook,
            peers=frozenset(BASE + port for port in peers), takers=frozenset(BASE + port for port in takers),
            addresses={BASE + port: [ip_interface(one) for one in some] for port, some in addresses.items()},
            defaults=Defaults(cpus=possible_cpus()),
        )  # fmt: skip
        self._stage = Stage(0, "nat", MODE.constants(self.options, self.context))
        hooks = MODE.hooks(self.options, target, BASE, hook)
        self._compiled = {one: compile_source(compose(one, [self._stage], counters=True, frags=False)) for one in hooks}
        self.abi = self._compiled[hook].abi
        self._verdicts = self.abi.enum("verdict")
        self.maps: dict[str, Map] = {}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        sizes = MODE.sizes(self.options, self.context)
        for compiled in self._compiled.values():
            for name, spec in compiled.maps.items():
                if name not in self.maps:
                    made = Map.create(spec.sized(sizes.get(name, spec.max_entries)))
                    self.maps[name] = self._stack.enter_context(made)
        for name, entries in MODE.entries(self.options, self.context).items():
            if name in self.maps:  # or no program looks at it
                self.maps[name].update(entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def reset(self) -> None:
        """As if just made: no services, no flows, no routes, nothing counted."""
        self.routes = {}
        self.programmer = None
        for name in (*SERVICE_MAPS, *MODE.traits.learned, "nat_pieces", "nat_ways", "counters"):
            if name in self.maps:
                empty(self.maps[name])
        self.pause()

    # Services

    def serve(self, *services: Service) -> Programmer:
        """Have these services and no others; gives who changes them. What goes by numbers stays."""
        if self.programmer is None:
            self.programmer = Programmer(Database.in_memory(), self.maps)
            self.programmer.reprogram()
        self.programmer.apply({one.name: one for one in services}, every=True)
        return self.programmer

    # Routing

    def route(self, to: str, port: int, *, by: Sequence[int] = (), mtu: int = 1500, ready: bool = True) -> None:
        """What comes in by the ports BY (all of them) for the address TO leaves by PORT, whose next hop is known if it
        is READY.
        """
        self.pause()
        for came_by in by or range(len(self.context.slots)):
            dest, source = bytes.fromhex(NEIGHBOUR.format(port).replace(":", "")), _mac(self.context, port)
            header = (int.from_bytes(dest + source[:2], "little"), int.from_bytes(source[2:], "little"), 0)
            self.routes[to, came_by] = (BASE + port, mtu, int(ready), 0, header)

    def _set_routes(self) -> None:
        """An answer holds for 50 ms."""
        now = ticks_now()
        entries: dict[int, tuple[Any, ...]] = {}
        for (to, port), (ifindex, mtu, ready, pad, header) in self.routes.items():
            address, device = address_words(ip_address(to)), BASE + port
            index = way_index(address, device)
            assert index not in entries, f"the routes to {to} and to {entries[index][0]} need the same place"
            entries[index] = (address, device, now, now, ifindex, mtu, ready, pad, header)
        self.maps["nat_ways"].update(entries)

    # Packets

    def pause(self) -> None:
        """As if some 16 ms had passed: the short way of XDP has forgotten what it was told before a change."""
        if "nat_recents" in self.maps:
            empty(self.maps["nat_recents"])

    def send(self, frame: bytes, port: int = 0, *, hook: str = "", came_by: int | None = None, **skb: int) -> Result:
        """One frame as it comes in at PORT, or on HOOK "tc-egress" as it leaves there: CAME_BY is the port that it came
        in by before, or it is this host's.
        """
        if came_by is not None:
            skb["ingress_ifindex"] = BASE + came_by
        hook = hook or self.hook
        program = self._program(port, hook)
        before = self.maps["counters"].sums()
        self._set_routes()
        outcome = testrun.run(program, frame, skb=skb)
        fresh = {
            index: size - before.get(index, (0, 0))[1]
            for index, (packets, size) in self.maps["counters"].sums().items()
            if packets != before.get(index, (0, 0))[0]
        }
        assert len(fresh) == 1, f"counted under {fresh}"
        ((index, length),) = fresh.items()
        action = ACTIONS[kind_of(hook)][outcome.action]
        return Result(self._verdicts.name_of(index), action, outcome.frame, "nat", length)

    def sends(self, frames: Iterable[bytes], port: int = 0) -> list[bytes]:
        """Many frames that come in at PORT, as the tc program leaves them."""
        program = self._program(port, "tc")
        found, until = [], 0.0
        for frame in frames:
            if self.routes and time.monotonic() > until:
                self._set_routes()
                until = time.monotonic() + TICK  # of the three for which they hold
            found.append(testrun.run(program, frame).frame)
        return found

    def carry(self, frame: bytes, port: int = 0, **skb: int) -> Result:
        """One frame as it comes in at PORT, through its programs one after the other: what XDP punts has to reach tc as
        it was. ``mode`` is the hook that had the last word.
        """
        if self.hook == "xdp":
            result = self.send(frame, port)
            if result.verdict != "PUNT_NAT":
                return replace(result, mode="xdp")
            assert (result.action, result.frame) == (PASS, frame)
        return replace(self.send(frame, port, hook="tc", **skb), mode="tc")

    def host(self, frame: bytes, port: int = 0, **skb: int) -> Result:
        """A frame that this host sends out of PORT."""
        return self.send(frame, port, hook="tc-egress", **skb)

    def compiled(self, hook: str) -> Compiled:
        """What the programs of a hook were compiled to."""
        return self._compiled[hook]

    def _program(self, port: int, hook: str) -> Program:
        if (port, hook) not in self._programs:
            tails = {}
            if functions := again_names(hook, "nat"):
                tails["nat_tails"] = self._stack.enter_context(Map.create(self._compiled[hook].maps["nat_tails"]))
            for number, function in enumerate(functions, start=1):
                tails["nat_tails"].set(number, self._load(port, hook, function, tails).fd)
            self._programs[port, hook] = self._load(port, hook, program_name(hook), tails)
            if functions:
                tails["nat_tails"].set(0, self._programs[port, hook].fd)
        return self._programs[port, hook]

    def _load(self, port: int, hook: str, function: str, tails: Mapping[str, Map]) -> Program:
        compiled = self._compiled[hook]
        maps = {name: self.maps[name] for name in compiled.maps} | dict(tails)
        program = load(compiled, function, kind_of(hook), maps, constants=self.written(port))
        return self._stack.enter_context(program)

    def written(self, port: int) -> dict[int, int]:
        """What is written into the code of a port's programs."""
        return written(self._stage, slot=port, seed=self._seed, role=self.context.target.role(BASE + port))

    # Counters

    def counts(self) -> dict[int, Count]:
        """Of backends that anything was counted for, over all CPUs."""
        found: dict[int, Count] = {}
        for place, (*values, _owner, _pad) in self.maps["nat_counts"].items():
            if any(values):
                number = place // self.context.defaults.cpus
                found[number] = Count(*map(sum, zip(found.get(number, Count()), values, strict=True)))
        return found

    # Conntrack

    def flows(self) -> list[Flow]:
        """Those that live, as they stand in the table."""
        classes, states = self.abi.enum("nat_class"), self.abi.enum("nat_state")
        now, found = ticks_now(), []
        for _, one in self.maps["nat_flows"]:
            life = (one.life - now + (1 << 31)) % (1 << 32) - (1 << 31)
            kind = classes.name_of(one.life >> 32).removeprefix("NAT_CLASS_")
            if kind in ("NEW", "ASSURED", "CLOSING") and life >= 0:
                state = _udp_state(one) or states.name_of(one.state).removeprefix("NAT_STATE_")
                original, reply = (_ends(each, one.version) for each in (one.original, one.reply))
                found.append(Flow(one.protocol, original, reply, kind, state, one.flags, one.backend, life,
                                  one.packets, one.bytes))  # fmt: skip
        return found

    def index(self) -> dict[int, list[int]]:
        """Where each record stands in the index: the numbers of its buckets by the number of the record."""
        found: dict[int, list[int]] = {}
        for number, bucket in self.maps["nat_index"]:
            for place in bucket.place:
                if place:
                    found.setdefault((place & 0xFFFFFFFF) - 1, []).append(number)
        return found

    def events(self) -> dict[str, int]:
        """What was counted of the table, by enum nat_event."""
        members, sums = self.abi.enum("nat_event").members, self.maps["nat_events"].sums()
        return {
            name.removeprefix("NAT_EVENT_").lower(): sums[number][0]
            for name, number in members.items()
            if number in sums
        }

    def age(self, seconds: float) -> None:
        """As if so much time had passed for flows, clients with affinity and packets in fragments."""
        self.pause()
        ticks = round(seconds / TICK)
        flows = {}
        for number, one in self.maps["nat_flows"]:
            if one.life:
                life = one.life & ~0xFFFFFFFF | (one.life - ticks) & 0xFFFFFFFF
                flows[number] = one._replace(life=life, state=_aged(one, ticks))
        self.maps["nat_flows"].update(flows)
        for name in ("nat_clients", "nat_pieces"):
            if name in self.maps:
                aged = {key: one._replace(seen=(one.seen - ticks) & 0xFFFFFFFF) for key, one in self.maps[name]}
                self.maps[name].update(aged)


def way_index(address: tuple[int, int, int, int], device: int) -> int:
    """Place of a destination in nat_ways (nat_way_find)."""
    hashed = ((address[0] | address[3] << 32) ^ device) * 0x9E3779B97F4A7C15
    return hashed >> 54 & HOPS - 1


def _udp_state(one: Any) -> str:
    """Of a flow of UDP (enum nat_udp); empty for others."""
    if one.protocol != IP_UDP:
        return ""
    return "YOUNG" if one.state & UDP_YOUNG else "OLD" if one.state else "NONE"


def _aged(one: Any, ticks: int) -> int:
    """The state, in which a flow of UDP has the instant when it began (nat_udp_next)."""
    if _udp_state(one) != "YOUNG":
        return int(one.state)
    instant = one.state - min(round(ticks / UDP_TICKS), UDP_YOUNG - 16)
    return UDP_YOUNG | instant & UDP_YOUNG - 1


def _mac(context: Context, port: int) -> bytes:
    return context.view.links[BASE + port].mac


def _ends(one: Any, version: int) -> tuple[str, int, str, int]:
    """A struct nat_tuple in words."""
    source, dest = (_address(words, version) for words in (one.saddr, one.daddr))
    sport, dport = (int.from_bytes(port.to_bytes(2, "little"), "big") for port in (one.sport, one.dport))
    return source, sport, dest, dport


def _address(words: Sequence[int], version: int) -> str:
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    return str(IPv6Address(packed) if version == 6 else IPv4Address(packed[:4]))
