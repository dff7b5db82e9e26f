# SPDX-License-Identifier: Apache-2.0
"""Samples of what is loaded: instances, programs, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydp.datapath.reader import ProgramRun
from pydp.datapath.state import State
from pydp.metrics.found import Sample


class Programs:
    """Samples of programs. Remembers what programs that were replaced had counted, so that the sums never fall."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], ProgramRun] = {}
        self._before: dict[tuple[str, ...], tuple[int, float]] = {}

    def samples(self, state: State, programs: Sequence[ProgramRun]) -> Iterator[Sample]:
        for each in state.instances.values():
            yield "pydp_instance_info", (each.name, each.mode, each.hook), 1
        self._forget(programs)
        for one in programs:
            labels = (one.instance, one.device, one.hook)
            runs, seconds = self._since_start(labels, one)
            yield "pydp_program_info", (*labels, one.name, str(one.id), one.tag), 1
            yield "pydp_program_runs_total", labels, runs
            yield "pydp_program_run_time_seconds_total", labels, seconds
            for instance in state.attachments[f"{one.ifindex}-{one.hook}"].stages:
                device = state.instances[instance].names[one.ifindex]
                yield "pydp_attached", (instance, device, one.hook), one.running

    def _forget(self, programs: Sequence[ProgramRun]) -> None:
        """What is detached, or containers that come and go would be remembered for ever."""
        there = {(one.instance, one.device, one.hook) for one in programs}
        for gone in self._last.keys() - there:
            del self._last[gone]
            self._before.pop(gone, None)

    def _since_start(self, labels: tuple[str, ...], one: ProgramRun) -> tuple[int, float]:
        last = self._last.get(labels, one)
        runs, seconds = self._before.get(labels, (0, 0.0))
        if last.id != one.id:
            runs, seconds = self._before[labels] = runs + last.runs, seconds + last.seconds
        self._last[labels] = one
        return runs + one.runs, seconds + one.seconds
