# SPDX-License-Identifier: Apache-2.0
"""Packets through composed programs by test run: frame in, verdict and frame out.

A Rig is an attach without devices: options and a hand-made view go through the mode's functions into real maps, the
stages are composed and compiled as for an attach (once per configuration and session), and a program is loaded for
each port that is used. Ports are interface indices that no machine has, so whatever redirects goes nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from ebpf import libbpf, testrun
from ebpf.compiler import Compiled, compile_source
from ebpf.loader import Program, load
from ebpf.maps import ARRAYS, Map
from ebpf.source import Source, flatten
from pydp.datapath.compose import Stage, compose, program_name, written
from pydp.datapath.control import run_control
from pydp.kernel.defaults import possible_cpus
from pydp.model import Bridge, Defaults, FdbEntry, Link, Vxlan
from pydp.modes import MODES
from pydp.modes.base import Context, Mode, Role, Target
from pydp.modes.fdb import TICK
from pydp.modes.table import address_words
from pydp.sources import bpf_src

HERE = Path(__file__).parent
BASE = 0x70000000  # ifindex of port 0
BRIDGE = BASE - 1  # ifindex of an adopted bridge
SEED = 0x5EED5EED5EED5EED
CLOCK_MONOTONIC_COARSE = 6
HOOKS = ("xdp", "tc")
PASS, DROP, REDIRECT = "pass", "drop", "redirect"
# What hooks return: XDP_DROP, XDP_PASS, XDP_REDIRECT; TC_ACT_SHOT, TC_ACT_UNSPEC (-1), TC_ACT_REDIRECT.
ACTIONS = {
    "xdp": {0: "aborted", 1: DROP, 2: PASS, 3: "tx", 4: REDIRECT},
    "tc": {2: DROP, 0xFFFFFFFF: PASS, 7: REDIRECT, 0: "ok"},
}
SMALL = {"fdb_size": 256}
WRITTEN = frozenset({
    "fdb", "fdb_events", "counters", "count_kinds", "vxlan_hops", "vxlan_counts", "compare_asked", "compare_times",
})  # by the datapath  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there (pydp.modes.base.View)."""

    links: Mapping[int, Link]
    bridges: Mapping[int, Bridge] = field(default_factory=dict)
    vxlans: Mapping[int, Vxlan] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.bridges[ifindex].name if ifindex in self.bridges else self.links[ifindex].name

    def link(self, name: str) -> Link:
        return next(one for one in self.links.values() if one.name == name)


@dataclass(frozen=True, slots=True)
class Result:
    """``verdict``, ``mode`` and ``length`` in bytes as counted ("" when nothing was); ``action`` in words."""

    verdict: str
    action: str
    frame: bytes
    mode: str = ""
    length: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """An address as it stands in the table; ``where`` is all of it, ``idle`` in ticks."""

    slot: int
    where: int
    seen: int


def numbered(mode: Mode, options: Any, context: Context) -> Context:
    """With numbers for the mode's members, as a first attach gives them."""
    numbers = {
        kind: {name: number for number, name in enumerate(names)}
        for kind, names in mode.members(options, context).items()
    }
    return replace(context, numbers=numbers, released=dict.fromkeys(numbers, frozenset()))


def port_mac(port: int) -> bytes:
    return bytes([2, 0, 0, 0, 1, port])


def station_mac(port: int) -> bytes:
    """What is at the other end of a port, if that is a veth."""
    return bytes([2, 0, 0, 0, 0x0A, port])


def links(count: int, mtu: int = 1500) -> dict[int, Link]:
    """Ports p0, p1, ..."""
    return {BASE + i: Link(BASE + i, f"p{i}", mac=port_mac(i), mtu=mtu, up=True) for i in range(count)}


def empty(one: Map) -> None:
    """Leave nothing in a map, of an array zeros."""
    if one.spec.flags & libbpf.F_MMAPABLE:
        size = -(-one.spec.value.size // 8) * 8 * one.spec.max_entries
        with mmap.mmap(one.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE) as memory:
            memory[:] = bytes(len(memory))
    elif one.spec.kind in ARRAYS:
        for keys, values in one.chunks():
            if bytes(values).strip(b"\0"):
                count = len(keys) // one.spec.key.size
                libbpf.map_update_batch(one.fd, bytes(keys), bytes(len(values)), count)
    else:
        one.delete_raw(one.raw()[0])


def ticks_now() -> int:
    """The datapath's clock."""
    return time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) >> 24


class Rig:
    """Programs, maps and what goes through them. ``bridge`` makes the adopting form, its ports by index BASE + n.

    Mode vxlan has port 0 as underlay, the ports that its options name after it, and its companion last. Modes macvlan
    and ipvlan have port 0 as parent; at the other end of the others are stations. ``compare`` makes programs of a
    comparison, in which that share goes by eBPF when nobody says anything.
    """

    def __init__(
        self,
        hook: str,
        *,
        ports: int = 4,
        mtu: int = 1500,
        options: Mapping[str, Any] | None = None,
        bridge: Bridge | None = None,
        fdb: Sequence[FdbEntry] = (),
        modes: Sequence[str] = ("bridge",),
        counters: bool = True,
        frags: bool = False,
        compare: int | None = None,
    ) -> None:
        self.hook = hook
        self.frags = frags
        self._stack = contextlib.ExitStack()
        self._programs: dict[tuple[int, str], Program] = {}
        self._preludes: dict[tuple[int, str], tuple[Program, Map | None]] = {}
        self._tunnels: dict[int, Map] = {}
        self.modes = tuple(modes)
        devices = links(ports, mtu)
        if bridge:
            devices[BRIDGE] = Link(BRIDGE, bridge.name, kind="bridge", mac=bridge.mac, mtu=mtu)
        view = View(devices, {BRIDGE: bridge} if bridge else {})
        names = [bridge.name] if bridge else [f"p{i}" for i in range(ports)]
        if {"vxlan", "macvlan", "ipvlan"} & set(modes):
            names = names[:1]
        self.options = {name: self._options_of(name, options or {}) for name in modes}
        self.contexts = {name: self._context(view, name, names, fdb) for name in modes}
        comparison = {} if compare is None else {"PYDP_COMPARE": 1, "PYDP_COMPARE_REST": compare}
        self.stages = [
            Stage(number, name, {**MODES[name].constants(self.options[name], self.contexts[name]), **comparison})
            for number, name in enumerate(modes)
        ]
        self.compiled = compile_source(compose(hook, self.stages, counters=counters, frags=frags))
        self._verdicts = self.compiled.abi.enum("verdict")
        self.maps: dict[str, Map] = {}
        try:
            self.maps |= {name: self._make(name) for name in self.compiled.maps}
            self._fill()
        except BaseException:
            self.close()
            raise

    def _options_of(self, name: str, given: Mapping[str, Any]) -> Any:
        if name in ("macvlan", "ipvlan"):
            return MODES[name].Options(**given)
        return MODES[name].Options(**({**SMALL, **given} if name in ("bridge", "vxlan") else {}))

    def _context(self, view: View, name: str, names: Sequence[str], fdb: Sequence[FdbEntry]) -> Context:
        adopted = view.bridges and name != "bridge"
        target = (
            Target(tuple(port.ifindex for port in view.bridges[BRIDGE].ports))
            if adopted
            else MODES[name].target(self.options[name], names, view)
        )
        companion = 0
        if target.companion:
            companion = BASE + len(target.ports)
            roles = {**target.roles, companion: Role.COMPANION}
            target = replace(target, ports=(*target.ports, companion), roles=roles)
        slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
        ends = {ifindex: station_mac(ifindex - BASE) for ifindex in target.ports}
        context = Context(
            view, target, slots, self.hook, frozenset(), fdb, companion=companion, ends=ends,
            defaults=Defaults(cpus=possible_cpus()),
        )  # fmt: skip
        return numbered(MODES[name], self.options[name], context)

    def _make(self, name: str) -> Map:
        spec = self.compiled.maps[name]
        for mode in self.modes:
            sizes = MODES[mode].sizes(self.options[mode], self.contexts[mode])
            if name in MODES[mode].traits.maps:
                spec = spec.sized(sizes.get(name, spec.max_entries))
        return self._stack.enter_context(Map.create(spec))

    def _fill(self) -> None:
        for mode in self.modes:
            for name, entries in MODES[mode].entries(self.options[mode], self.contexts[mode]).items():
                self.maps[name].update(entries)
            if self.hook == "tc":
                for name, program in MODES[mode].traits.tails.items():
                    if name in self.maps:
                        self.maps[name].set(0, self.program(0, program).fd)
            if MODES[mode].traits.control:
                self.control(*MODES[mode].requests(self.options[mode], self.contexts[mode]))
        self._made = ticks_now()
        self._table = {index: one for index, one in self.maps["fdb"] if any(one.key)} if "fdb" in self.maps else {}

    def reset(self) -> None:
        """As if just made: what was written by the datapath or a test is forgotten."""
        for name, one in self.maps.items():
            if name in WRITTEN:
                empty(one)
        for mode in self.modes:
            for name, entries in MODES[mode].entries(self.options[mode], self.contexts[mode]).items():
                self.maps[name].update(entries)
        self._restore()

    def refill(self, mode: str, given: Mapping[str, Any]) -> None:
        """The maps as an attach with other options fills them, where these change no code. Until the next reset."""
        options, context = self._options_of(mode, given), self.contexts[mode]
        assert MODES[mode].constants(options, context) == MODES[mode].constants(self.options[mode], context)
        for name, entries in MODES[mode].entries(options, context).items():
            self.maps[name].update(entries)

    def _restore(self) -> None:
        """Write the table as the requests of the attach had left it, as if they had been made just now."""
        later = ticks_now() - self._made
        for index, bucket in self._table.items():
            seen = tuple(one + later & 0xFFFFFFFF for one in bucket.seen)
            self.maps["fdb"].set(index, bucket._replace(seen=seen))

    def program(self, port: int, name: str = "") -> Program:
        """The program of a port, loaded when first asked for."""
        name = name or program_name(self.hook)
        if (port, name) not in self._programs:
            constants: dict[int, int] = {}
            for stage in self.stages:
                role = self.contexts[stage.mode].target.role(BASE + port)
                constants |= written(stage, slot=port, seed=SEED, role=role)
            loaded = load(
                self.compiled, name, self.hook, self.maps, constants=constants, frags=self.frags and self.hook == "xdp"
            )
            self._programs[port, name] = self._stack.enter_context(loaded)
        return self._programs[port, name]

    def control(self, *requests: tuple[Any, ...]) -> list[Any]:
        """Have the datapath do these requests; gives them with their results (up to 16 of them)."""
        return run_control(self.program(0, "fdb_control"), self.maps["fdb_requests"], self.maps["fdb_cursor"], requests)

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Packets and bytes by mode and verdict."""
        return {
            (self.modes[index // 64], self._verdicts.name_of(index % 64)): (packets, size)
            for index, (packets, size) in self.maps["counters"].sums().items()
        }

    def send(self, frame: bytes, port: int = 0, **options: Any) -> Result:
        """One frame as if it came in at PORT."""
        return self._sent(self.program(port), frame, **options)

    def send_cut(self, frame: bytes, length: int, port: int = 0) -> Result:
        """The first LENGTH bytes of a frame."""
        if self.hook == "xdp":
            return self.send(frame[:length], port)
        program, _ = self.prelude("cut", port)
        return self._sent(program, frame, skb={"mark": length})

    def send_through(self, prelude: str, frame: bytes, port: int = 0, *, finish: bool = False) -> Result:
        """The same, through a program of prelude.c, which calls that of the port. FINISH runs it once more on what is
        left: see prelude.c."""
        program, runs = self.prelude(prelude, port)
        if runs:
            runs.set(0, 0)
        if not finish:
            return self._sent(program, frame)
        return replace(self._sent(program, frame, repeat=2), action="")

    def send_described(self, frame: bytes, port: int, vni: int, remote: str) -> Result:
        """A frame that a tunnel device of the kernel took out of a packet from REMOTE (tc only)."""
        program, _ = self.prelude("described", port)
        address = ip_address(remote)
        self._tunnels[port].set(0, (vni, address_words(address), int(address.version == 6)))
        return self._sent(program, frame)

    def prelude(self, name: str, port: int) -> tuple[Program, Map | None]:
        """A program of prelude.c that calls that of the port, and its count of runs if it has one."""
        if (port, name) not in self._preludes:
            compiled = prelude_of(self.hook, self.frags)
            maps = {key: self._stack.enter_context(Map.create(spec)) for key, spec in compiled.maps.items()}
            maps["prelude_next"].set(0, self.program(port).fd)
            frags = self.frags and self.hook == "xdp"
            program = load(compiled, f"prelude_{name}", self.hook, maps, frags=frags)
            if name == "described":
                self._tunnels[port] = maps["prelude_tunnels"]
            self._preludes[port, name] = (self._stack.enter_context(program), maps.get("prelude_runs"))
        return self._preludes[port, name]

    def _sent(self, program: Program, frame: bytes, **options: Any) -> Result:
        before = self.counts() if "counters" in self.maps else {}
        outcome = testrun.run(program, frame, **options)
        after = self.counts() if "counters" in self.maps else {}
        fresh = [
            (mode, verdict, size - before.get((mode, verdict), (0, 0))[1])
            for (mode, verdict), (packets, size) in after.items()
            if packets != before.get((mode, verdict), (0, 0))[0]
        ]
        assert len(fresh) <= 1, f"counted more than once: {fresh}"
        mode, verdict, length = fresh[0] if fresh else ("", "", 0)
        return Result(verdict, ACTIONS[self.hook][outcome.action], outcome.frame, mode, length)

    def tell(self, *heard: tuple[int, bytes]) -> None:
        """Frames that came before, as (port, frame)."""
        for port, frame in heard:
            testrun.run(self.program(port), frame)

    def fdb(self) -> dict[tuple[bytes, int], Entry]:
        """All that stands in the table, by address and VLAN. Fails when an entry is half written or stands twice."""
        found: dict[tuple[bytes, int], Entry] = {}
        for _, bucket in self.maps["fdb"]:
            for key, where, seen in zip(bucket.key, bucket.where, bucket.seen, strict=True):
                assert bool(key) == bool(where), f"key {key:#x} with where {where:#x}"
                if key:
                    name = ((key & (1 << 48) - 1).to_bytes(6, "little"), key >> 48)
                    assert name not in found, f"{name} stands twice"
                    found[name] = Entry(where & 0xFFFF, where, seen)
        return found

    def events(self) -> dict[str, int]:
        """What was counted of the table: learned, moved, aged, evicted, full."""
        members = self.compiled.abi.enum("fdb_event").members
        sums = self.maps["fdb_events"].sums()
        return {
            name.removeprefix("FDB_").lower(): sums[number][0] for name, number in members.items() if number in sums
        }

    def age(self, seconds: float, macs: Iterable[tuple[bytes, int]] | None = None) -> None:
        """Make entries (all of them, or these) that much older, as if time had passed."""
        chosen = None if macs is None else {int.from_bytes(mac, "little") | vid << 48 for mac, vid in macs}
        for index, bucket in self.maps["fdb"]:
            seen = [
                (one - round(seconds / TICK)) & 0xFFFFFFFF if key and (chosen is None or key in chosen) else one
                for key, one in zip(bucket.key, bucket.seen, strict=True)
            ]
            self.maps["fdb"].set(index, bucket._replace(seen=tuple(seen)))

    def close(self) -> None:
        """Let go of maps and programs."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def prelude_of(hook: str, frags: bool = False) -> Compiled:
    """The programs of prelude.c for a hook."""
    return compile_source(_with_config(f'#include "prelude_{hook}.c"\n', hook, frags))


@functools.cache
def probe_of(hook: str) -> Compiled:
    """The parser alone, at full depth: see probe.c."""
    return compile_source(_with_config('#include "lib/packet.h"\n#include "probe.c"\n', hook, False))


def _with_config(text: str, hook: str, frags: bool) -> Source:
    facts = ("DEPTH 4", f"FRAGS {int(frags)}", "COUNTERS 0", "EGRESS 0", "COMPARE 0")
    config = "".join(f"#define PYDP_{fact}\n" for fact in facts)
    return flatten(
        f'#include "config.h"\n#include "abi.h"\n#include "hook/{hook}.h"\n{text}',
        name="main.c",
        include_dirs=[bpf_src(), HERE],
        virtual={"config.h": config},
    )
