# SPDX-License-Identifier: Apache-2.0
"""What is asked of frames that are sent one way: how many get through, how many without any loss, how long they take.

A *flood* has generator, path and sink on one CPU: the generator waits for what it has sent, nothing is lost, and the
time of a frame is what all three take. For the other two the generator sends by the clock, whatever becomes of the
frames, and another CPU carries them: the port where they come in is polled by a thread of its own there. So frames
wait, and are lost when they come faster than they go, as behind a NIC; and all ways pay for what lies between the CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair, poll_on
from pydp.bench.delays import Delays
from pydp.bench.errors import BenchError
from pydp.bench.frames import Generator, Sink
from pydp.lab import Namespace

BURST = 4  # frames that leave together: one by one, who sends takes longer than who carries
_TRIAL = 0.01  # s
_VERIFIED = 4  # trials that have to lose something: one alone may have met a stall of the machine
_RESOLUTION = 1.03  # the rate is known when one so many times as high loses frames
_BEGIN = 200_000.0  # frames a second
_STEPS = (2.0, 1.2)  # factors by which a rate is sought, first and later
_SHORT = 0.9  # share of a rate that has to leave for a trial to be one
_TRIES = 3  # at a share of the rate, which is sought anew when frames are lost


@dataclass(frozen=True, slots=True)
class Port:
    """Where frames come into what is measured."""

    ns: Namespace
    dev: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """How frames are sent. ``timed`` ones say when they left; ``begin`` gives what measures them."""

    timed: bool
    begin: Callable[[Generator, Sink, Port], Measure]


@dataclass(frozen=True, slots=True)
class Trial:
    """``offered`` frames a second left, the share ``lost`` of which did not arrive, and the share ``disordered`` after
    one that left later.
    """

    offered: float
    lost: float
    delays: Delays
    disordered: float = 0


class Load:
    """Frames at rates of our choosing, carried by another CPU than the one that sends them. Raises BenchError where
    there is no other.
    """

    def __init__(self, generator: Generator, sink: Sink, port: Port) -> None:
        near, far = pair()
        if near == far:
            raise BenchError("delays and loss-free rates take two CPUs: one sends, the other carries")
        poll_on(port.ns, port.dev, far)
        self._generator = generator
        self._sink = sink
        self._rate = 0.0

    def offer(self, rate: float, seconds: float) -> Trial:
        """One trial. Raises BenchError when frames arrive altered."""
        count = max(round(rate * seconds), 64 * BURST)
        before, delays = self._sink.read(), Delays.read(self._sink)
        offered = self._generator.offer(count, rate, BURST)
        arrived = self._sink.settled(before.packets + count).since(before)
        if arrived.corrupt:
            raise BenchError(f"{arrived.corrupt} of {arrived.packets} frames did not arrive as they were sent")
        taken = Delays.read(self._sink).since(delays)
        disordered = arrived.disordered / max(arrived.packets, 1)
        return Trial(offered, max(1 - arrived.packets / count, 0), taken, disordered)

    def lossfree(self) -> float:
        """The highest rate at which no frame is lost (RFC 2544, section 26.1), or the highest at which we can send:
        by halving, from where it was last; a loss has to be seen in several trials, as a virtual machine stalls now
        and then (ETSI GS NFV-TST 009, binary search with loss verification). Raises BenchError when all rates lose.
        """
        low, high = 0.0, math.inf
        rate, step = (self._rate, _STEPS[1]) if self._rate else (_BEGIN, _STEPS[0])
        while high > low * _RESOLUTION:
            offered = self._carried(rate)
            if not offered:
                high = rate
            else:
                low = max(low, offered)
                if offered < _SHORT * rate:
                    break
            if high < 1:
                raise BenchError("frames are lost at every rate")
            rate = math.sqrt(low * high) if low and high < math.inf else low * step if low else high / step
        self._rate = low
        return low

    def share(self, share: float, seconds: float) -> Trial:
        """A trial at a share of that rate."""
        for _ in range(_TRIES):
            if not self._rate:
                self.lossfree()
            trial = self.offer(share * self._rate, seconds)
            if not trial.lost:
                break
            self.lossfree()
        return trial

    def _carried(self, rate: float) -> float:
        """The rate that was offered, 0 if frames of all trials at it got lost."""
        for _ in range(_VERIFIED):
            trial = self.offer(rate, _TRIAL)
            if not trial.lost:
                return trial.offered
        return 0


def _flood(generator: Generator, sink: Sink, _port: Port) -> Measure:
    def measure(seconds: float) -> Sample:
        run = generator.run(sink, seconds)
        # Generator, path and sink share one CPU, which does nothing else: its time per packet follows.
        return Sample(run.per_second, 1e9 / run.per_second, run.lost, run.disordered)

    return measure


def _lossfree(generator: Generator, sink: Sink, port: Port) -> Measure:
    load = Load(generator, sink, port)
    return lambda _seconds: Sample(load.lossfree())


def delay(percent: int) -> Traffic:
    """How long frames take when so many percent are offered of the rate at which none is lost."""

    def begin(generator: Generator, sink: Sink, port: Port) -> Measure:
        load = Load(generator, sink, port)

        def measure(seconds: float) -> Sample:
            trial = load.share(percent / 100, seconds)
            found = trial.delays.percentiles()
            return Sample(found["50"], disordered=trial.disordered, offered=trial.offered, percentiles=found)

        return measure

    return Traffic(True, begin)


FLOOD = Traffic(False, _flood)
LOSS_FREE = Traffic(True, _lossfree)
