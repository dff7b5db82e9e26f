# SPDX-License-Identifier: Apache-2.0
"""What is attached, as file descriptors: counters, maps and programs opened once, read as often as wanted.

Opening needs root (the pins are root's), reading only the descriptors: the exporter has a Reader opened for it by a
process that may, and works on without rights.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ebpf import libbpf
from ebpf.abi import Abi
from ebpf.maps import ARRAYS, Map
from pydp.datapath.api import Datapath
from pydp.datapath.specs import VERDICTS, abi_of, counters_spec, specs_of
from pydp.datapath.state import Attachment, Instance, State

_CLOCK_MONOTONIC_COARSE = 6  # what bpf_ktime_get_coarse_ns() reads


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

    def __init__(self, state: State, descriptors: Mapping[str, int]) -> None:
        """DESCRIPTORS by the names of their pins ("counters/5-tc"), as `open` makes them and `descriptors` gives them."""
        self.state = state
        self.descriptors = dict(descriptors)

    @classmethod
    def open(cls, datapath: Datapath) -> Reader:
        """Open all that is attached. Raises EbpfError; a change in between is simply read anew."""
        while True:
            state = datapath.read()
            try:
                return cls(state, dict(_open(datapath, state)))
            except FileNotFoundError:
                if datapath.read().generation == state.generation:
                    raise

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _abi(self) -> dict[str, Abi]:
        return {name: abi_of(instance) for name, instance in self.state.instances.items()}

    @cached_property
    def _verdicts(self) -> dict[int, tuple[str, str, str]]:
        """(kind, reason, meaning) by number; the same for all instances."""
        for abi in self._abi.values():
            found = abi.enum("verdict")
            return {
                number: (*name.lower().split("_", 1), found.comments[name])  # type: ignore[misc]
                for name, number in found.members.items()
            }
        return {}

    def map(self, instance: Instance, name: str) -> Map:
        """A map of an instance. Belongs to the reader: do not close it. Raises EbpfError, KeyError."""
        spec = specs_of(instance)[name]
        descriptor = self.descriptors[f"maps/{instance.name}-{name}"]
        return Map(spec.sized(int(libbpf.map_info(descriptor).max_entries)), descriptor)

    def verdicts(self) -> list[Verdict]:
        """All verdicts that occurred, summed over the CPUs."""
        found = []
        for key, one in self.state.attachments.items():
            names = {number: name for name, number in one.stages.items()}
            spec = counters_spec(self._abi[next(iter(one.stages))])
            for index, (packets, size) in Map(spec, self.descriptors[f"counters/{key}"]).sums().items():
                stage, number = divmod(index, VERDICTS)
                if stage in names:
                    kind, reason, what = self._verdicts.get(number, ("unknown", str(number), ""))
                    device = self._device(one)
                    found.append(
                        Verdict(names[stage], one.ifindex, device, one.hook, kind, reason, what, packets, size)
                    )
        return found

    def fills(self) -> list[Fill]:
        """Every map that can fill up by itself: arrays are full by nature, and what stands in one is its mode's
        business.
        """
        found = []
        for instance in self.state.instances.values():
            for name, told in instance.maps.items():
                if told["kind"] in ARRAYS:
                    continue
                one = self.map(instance, name)
                entries = len(one.raw()[0]) // one.spec.key.size
                found.append(Fill(instance.name, name, told["kind"], entries, one.spec.max_entries))
        return found

    def programs(self) -> list[ProgramRun]:
        """The programs of all attachments. ``running`` is false when the port or its link is gone."""
        found = []
        for key, one in self.state.attachments.items():
            info = libbpf.prog_info(self.descriptors[f"programs/{key}"])
            link = self.descriptors.get(f"links/{key}")
            running = link is None or libbpf.link_info(link).ifindex != 0
            found.append(
                ProgramRun(
                    next(iter(one.stages)), one.ifindex, self._device(one), one.hook, info.name.decode(), info.id,
                    bytes(info.tag).hex(), info.run_cnt, info.run_time_ns / 1e9, running,
                )
            )  # fmt: skip
        return found

    def _device(self, one: Attachment) -> str:
        return self.state.instances[next(iter(one.stages))].names[one.ifindex]


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
