# SPDX-License-Identifier: Apache-2.0
"""A comparison from its beginning to its end: what was there is there again, however it ends."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydp.bench.noise import Noise, NoiseMeter
from pydp.compare.readings import EBPF, KERNEL, Reading, Sample, read, shared, turn
from pydp.compare.subject import Subject
from pydp.compare.turns import Turns
from pydp.datapath import Datapath, Instance, Reader, comparing
from pydp.datapath.reader import stamp_of
from pydp.errors import PydpError
from pydp.modes.base import Role

LEAST_PACKETS = 100  # in each turn of a block that counts
IDLE, LATE = "too little traffic", "turns were late: the machine was busy"
_ORDERS = ((KERNEL, EBPF, EBPF, KERNEL), (EBPF, KERNEL, KERNEL, EBPF))
_WARM = 0.5  # s at the beginning, at most, for caches and addresses
_SETTLING = 0.1  # s after a switch, at most, in which nothing is counted: what was on its way still goes the other way


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: ``seconds`` in all, in turns of ``slice`` seconds. With ``share``, not by turns: that share
    of the flows goes by eBPF all the time.
    """

    seconds: float
    slice: float
    share: float | None = None

    @property
    def turns(self) -> int:
        """Of a block: with a share of the flows both paths are measured at once."""
        return 1 if self.share is not None else 4

    @property
    def blocks(self) -> int:
        return max(int(self.seconds / (self.slice * self.turns) + 1e-6), 1)


@dataclass(frozen=True, slots=True)
class Block:
    """Both paths, with one sample or two of each. ``why`` says why it does not count, and is empty when it does."""

    samples: dict[str, list[Sample]]
    noise: Noise
    why: str = ""


@dataclass(slots=True)
class Series:
    """The blocks so far, and the instance that they are of. ``fault`` is what ended the comparison early."""

    blocks: list[Block] = field(default_factory=list)
    instance: Instance | None = None
    fault: str = ""

    @property
    def kept(self) -> list[Block]:
        return [block for block in self.blocks if not block.why]

    def because(self, why: str) -> int:
        """How many blocks do not count for that reason."""
        return sum(block.why == why for block in self.blocks)


def run(plan: Plan, series: Series, choose: Callable[[Datapath], Subject], progress: Callable[[int], None]) -> None:
    """Fill SERIES, which holds what was measured also after an interrupt. CHOOSE says what to compare, once what an
    earlier comparison left has been put back. Raises PydpError, EbpfError, OSError.
    """
    datapath = Datapath()
    with comparing.holding():
        datapath.end_comparisons()
        subject = choose(datapath)
        try:
            instance = _begun(datapath, subject)
            series.instance = instance
            _measure(datapath, instance, plan, series, progress)
        finally:
            datapath.end_comparisons()


def _begun(datapath: Datapath, subject: Subject) -> Instance:
    return datapath.attach(subject.request) if subject.request else datapath.begin_comparison(subject.name)


def _measure(
    datapath: Datapath, instance: Instance, plan: Plan, series: Series, progress: Callable[[int], None]
) -> None:
    """Block by block, until somebody changes what is attached in a way that ends it."""
    with _watched(datapath, instance) as watched:
        watched.wait(min(plan.slice, _WARM), share_of(EBPF) if plan.share is None else plan.share)
        for number in range(plan.blocks):
            progress(number)
            try:
                series.blocks.append(_block(watched, plan))
            except _ChangedError as error:
                series.fault = str(error)
                return


class _ChangedError(PydpError):
    """Somebody has changed what is being compared."""


class _Watched:
    """An instance while it is compared: its counters and its turns, open."""

    def __init__(self, datapath: Datapath, instance: Instance, reader: Reader) -> None:
        self._datapath = datapath
        self._devices = devices(instance)
        self.turns = Turns(0 if comparing.is_made(instance) else 1)
        self._use(reader, instance)

    def _use(self, reader: Reader, instance: Instance) -> None:
        self._reader, self._instance = reader, instance
        self._times = reader.map(instance, comparing.TIMES)
        self.turns.open(reader.map(instance, comparing.TURNS))

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it ends by itself
            self.turns.end()
        self._reader.close()

    def read(self) -> Reading:
        """Raises _ChangedError."""
        if stamp_of(self._datapath.store) != self._reader.stamp:
            self._open_again()
        return read(self._reader, self._instance.name, self._times, self._devices)

    def wait(self, seconds: float, share: float) -> None:
        """A turn in which nothing is counted."""
        self.turns.give(share, seconds)
        time.sleep(seconds)

    def _open_again(self) -> None:
        """Another instance may have come to the same ports: programs are new, maps are those they were."""
        reader = Reader.open(self._datapath)
        now = reader.state.instances.get(self._instance.name)
        if now is None or not comparing.is_compared(now) or now.revision != self._instance.revision:
            reader.close()
            raise _ChangedError(f"{self._instance.name} was changed or detached meanwhile")
        self._reader.close()
        self._use(reader, now)


@contextlib.contextmanager
def _watched(datapath: Datapath, instance: Instance) -> Iterator[_Watched]:
    watched = _Watched(datapath, instance, Reader.open(datapath))
    try:
        yield watched
    finally:
        watched.close()


def devices(instance: Instance) -> set[int]:
    """Whose drops count: ports, and what is adopted."""
    ports = {ifindex for ifindex in instance.slots if instance.roles.get(ifindex) != Role.COMPANION}
    return ports | ({instance.adopted} if instance.adopted else set())


def share_of(path: str) -> float:
    """Of the flows by eBPF, in a turn of PATH."""
    return 1 if path == EBPF else 0


def _block(watched: _Watched, plan: Plan) -> Block:
    meter = NoiseMeter()
    samples: dict[str, list[Sample]] = {KERNEL: [], EBPF: []}
    late = False
    # In either order, so that traffic with a rhythm of its own does not always meet the same path.
    for path in random.choice(_ORDERS) if plan.share is None else (EBPF,):
        share = share_of(path) if plan.share is None else plan.share
        before, after = _turn(watched, share, plan)
        late |= watched.turns.late
        found = {path: turn(path, before, after)} if plan.share is None else shared(before, after)
        for each, sample in found.items():
            samples[each].append(sample)
    idle = any(sample.packets < LEAST_PACKETS for some in samples.values() for sample in some)
    return Block(samples, meter.read(), LATE if late else IDLE if idle else "")


def _turn(watched: _Watched, share: float, plan: Plan) -> tuple[Reading, Reading]:
    """Readings at the two ends of a turn."""
    begun = time.monotonic()
    watched.turns.give(share, plan.slice)
    if plan.share is None:
        time.sleep(min(_SETTLING, plan.slice / 5))
    before = watched.read()
    time.sleep(max(begun + plan.slice - time.monotonic(), 0))
    return before, watched.read()
