# SPDX-License-Identifier: Apache-2.0
"""What is attached, as file descriptors: counters, maps and programs opened once, read as often as wanted.

Opening needs root (the pins are root's), reading only the descriptors: the exporter has a Reader opened for it by a
process that may, and works on without rights.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebpf import libbpf
from ebpf.abi import Abi
from ebpf.errors import LayoutMismatch, PinError
from ebpf.links import FilterLink
from ebpf.maps import ARRAYS, Map, MapSpec
from ebpf.pins import STATE, Store
from ebpf.records import Scalar
from pydp.datapath.api import Datapath
from pydp.datapath.specs import STAGES, VERDICTS, specs_of
from pydp.datapath.state import Attachment, Instance, State
from pydp.modes import MODES
from pydp.sources import bpf_src

_CLOCK_MONOTONIC_COARSE = 6  # what bpf_ktime_get_coarse_ns() reads
_COUNTER = 16  # struct counter of abi.h: packets and bytes, 64 bits each
_PATIENCE = 1.0  # seconds in which a tree of pins that is being taken down must be gone
_PAUSE = 0.01
# Verdicts that leave a packet to the stack with the work done.
_IN_PLACE = (("pass", "encap"), ("pass", "decap"), ("pass", "nat"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict of one instance on one port and hook. ``kind``: pass, forward, flood, punt or drop; ``reason`` the
    rest of its name in lower case; ``what`` its meaning in words.
    """

    instance: str
    ifindex: int
    device: str
    hook: str
    kind: str
    reason: str
    what: str
    packets: int
    bytes: int

    @property
    def carried(self) -> bool:
        """Whether eBPF did what there was to be done with such packets, and did not drop them."""
        return self.kind in ("forward", "flood") or (self.kind, self.reason) in _IN_PLACE


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a map is."""

    instance: str
    map: str
    kind: str
    entries: int
    max_entries: int


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """A loaded program. ``runs`` and ``seconds`` stand still unless kernel.bpf_stats_enabled is set."""

    instance: str
    ifindex: int
    device: str
    hook: str
    name: str
    id: int
    tag: str
    runs: int
    seconds: float
    running: bool


class Reader:
    """Open descriptors of one state. Close it, or use it in a ``with`` block."""

    def __init__(self, state: State, descriptors: Mapping[str, int], stamp: int = 0) -> None:
        """DESCRIPTORS by the names of their pins ("counters/5-tc"), as `open` makes them and `descriptors` gives them;
        STAMP as `stamp_of` gave it.
        """
        self.state = state
        self.descriptors = dict(descriptors)
        self.stamp = stamp

    @classmethod
    def open(cls, datapath: Datapath) -> Reader:
        """Open all that is attached. Raises EbpfError, OSError.

        It waits for no lock: the current tree of pins is whole at every moment, also while a change is under way or
        after one was killed. A change in between is read anew.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            stamp = stamp_of(datapath.store)
            try:
                state = State.from_document(datapath.store.read())
                reader = cls(state, dict(_open(datapath, state)), stamp)
            except FileNotFoundError as error:  # the tree went, or the last instance's is being removed
                if time.monotonic() > deadline:
                    raise PinError(f"{error.filename or datapath.store.current}: a pin is missing") from error
                time.sleep(_PAUSE)
                continue
            if stamp_of(datapath.store) == stamp:
                return reader
            reader.close()

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, instance: Instance, name: str) -> Map:
        """A map of an instance. Belongs to the reader: do not close it. Raises EbpfError, KeyError."""
        spec = specs_of(instance)[name]
        descriptor = self.descriptors[f"maps/{instance.name}-{name}"]
        return Map(spec.sized(int(libbpf.map_info(descriptor).max_entries)), descriptor)

    def raw(self, instance: Instance, name: str) -> tuple[bytes, bytes]:
        """All keys and all values of a map of an instance, as runs of bytes. Asks for no C text. Raises EbpfError."""
        keys, values = self._untyped(instance, name).raw()
        return keys, values

    def chunks(self, instance: Instance, name: str) -> Iterator[tuple[memoryview, memoryview]]:
        """The same in runs that are good until the next is asked for, for maps that are too large to be held."""
        return self._untyped(instance, name).chunks()

    def _untyped(self, instance: Instance, name: str) -> Map:
        """A map whose keys and values are so many bytes: for `Map.raw` only."""
        descriptor = self.descriptors[f"maps/{instance.name}-{name}"]
        info = libbpf.map_info(descriptor)
        key, value = Scalar(name, int(info.key_size)), Scalar(name, int(info.value_size))
        return Map(MapSpec(name, instance.maps[name]["kind"], key, value, int(info.max_entries)), descriptor)

    def verdicts(self) -> list[Verdict]:
        """All verdicts that occurred, summed over the CPUs. Raises LayoutMismatch."""
        names, found = verdict_names(), []
        size = _COUNTER * libbpf.cpu_count()
        keys, cursor = ct.create_string_buffer(4 * STAGES * VERDICTS), ct.create_string_buffer(8)
        values = ct.create_string_buffer(size * STAGES * VERDICTS)
        for key, one in self.state.attachments.items():
            descriptor = self.descriptors[f"counters/{key}"]
            _check_counters(key, libbpf.map_info(descriptor))
            used = VERDICTS * (max(one.stages.values()) + 1)
            got, _ = libbpf.map_lookup_batch(descriptor, None, cursor, keys, values, used)
            raw = memoryview(values)[: got * size].tobytes()
            for instance, stage in one.stages.items():
                device = self.state.instances[instance].names[one.ifindex]
                for number, packets, length in _occurred(raw, size, stage):
                    kind, reason, what = names.get(number, ("unknown", str(number), ""))
                    found.append(Verdict(instance, one.ifindex, device, one.hook, kind, reason, what, packets, length))
        return found

    def fills(self) -> list[Fill]:
        """Every map that can fill up by itself: arrays are full by nature, and what stands in one is its mode's
        business. Raises EbpfError.
        """
        found = []
        for instance in self.state.instances.values():
            for name, told in instance.maps.items():
                if told["kind"] in ARRAYS:
                    continue
                one = self._untyped(instance, name)
                entries = len(one.raw()[0]) // one.spec.key.size
                found.append(Fill(instance.name, name, told["kind"], entries, one.spec.max_entries))
        return found

    def programs(self) -> list[ProgramRun]:
        """The programs of all attachments, each under the instance that decides about the port's frames. ``running``
        is false when the port or its link is gone.
        """
        found = []
        for key, one in self.state.attachments.items():
            info = libbpf.prog_info(self.descriptors[f"programs/{key}"])
            instance = decider(self.state, one.stages)
            found.append(
                ProgramRun(
                    instance, one.ifindex, self.state.instances[instance].names[one.ifindex], one.hook,
                    info.name.decode(), info.id, bytes(info.tag).hex(), info.run_cnt, info.run_time_ns / 1e9,
                    self._runs(key, one, info.id),
                )
            )  # fmt: skip
        return found

    def _runs(self, key: str, one: Attachment, program: int) -> bool:
        link = self.descriptors.get(f"links/{key}")
        if link is not None:
            return bool(libbpf.link_info(link).ifindex)
        return FilterLink(one.ifindex, one.hook).program_id == program  # type: ignore[arg-type]


def decider(state: State, instances: Iterable[str]) -> str:
    """Of instances that share a port the one that decides about its frames, else the first by name."""
    ordered = sorted(instances)
    return next((name for name in ordered if MODES[state.instances[name].mode].traits.claims), ordered[0])


@functools.cache
def verdict_names() -> Mapping[int, tuple[str, str, str]]:
    """(kind, reason, meaning) by number, of abi.h; the same for all instances. Raises OSError."""
    found = Abi((bpf_src() / "abi.h").read_text()).enum("verdict")
    split = {number: name.lower().split("_", 1) for name, number in found.members.items()}
    meanings = {number: found.comments[name] for name, number in found.members.items()}
    return {number: (kind, reason, meanings[number]) for number, (kind, reason) in split.items()}


def stamp_of(store: Store) -> int:
    """A number that every change of what is attached changes, also a detach and an attach after it; 0 for nothing.

    It is the id of the map that holds the state: ids are given out in order, and the map is made anew. Raises OSError.
    """
    try:
        descriptor = libbpf.obj_get(str(store.current / STATE))
    except FileNotFoundError:
        return 0
    try:
        return int(libbpf.map_info(descriptor).id)
    finally:
        os.close(descriptor)


def _check_counters(key: str, info: libbpf.MapInfo) -> None:
    """The kernel writes as much as the map holds, whatever room we give."""
    if info.value_size != _COUNTER or info.max_entries < STAGES * VERDICTS:
        raise LayoutMismatch(
            f"counters/{key} has {info.max_entries} values of {info.value_size} bytes, not {STAGES * VERDICTS} of "
            f"{_COUNTER}",
            hint="detach with the version of pydp that attached, then attach again",
        )


def _occurred(raw: bytes, size: int, stage: int) -> Iterator[tuple[int, int, int]]:
    """(verdict, packets, bytes) of a stage that are not zero; RAW holds SIZE bytes per counter: a pair per CPU."""
    nothing = bytes(size)
    for number in range(VERDICTS):
        at = (stage * VERDICTS + number) * size
        if (one := raw[at : at + size]) != nothing:
            words = memoryview(one).cast("Q").tolist()
            yield number, sum(words[::2]), sum(words[1::2])


def coarse_clock() -> int:
    """Nanoseconds of the clock that the datapath stamps entries with."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)


def _open(datapath: Datapath, state: State) -> Iterator[tuple[str, int]]:
    """Descriptors by pin; closes those it made when it fails."""
    made: list[int] = []
    try:
        for key, one in state.attachments.items():
            folders = ["counters", "programs"] + ([] if one.kind == "clsact" else ["links"])
            for name in (f"{folder}/{key}" for folder in folders):
                made.append(libbpf.obj_get(str(datapath.store.current / name)))
                yield name, made[-1]
        for instance in state.instances.values():
            for map_name in instance.maps:
                name = f"maps/{instance.name}-{map_name}"
                made.append(libbpf.obj_get(str(datapath.store.current / name)))
                yield name, made[-1]
    except OSError:
        for descriptor in made:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        raise
