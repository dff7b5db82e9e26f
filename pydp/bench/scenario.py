# SPDX-License-Identifier: Apache-2.0
"""What a scenario is: one kind of traffic over several ways, and what is to be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pydp.bench.blocks import Measure, Plan
from pydp.bench.statistics import Target


@dataclass(frozen=True, slots=True)
class Comparison:
    """A way against another, or against the fastest of several: by what it carries, or with ``per_cpu`` by what a
    second of CPU time does. ``target`` is what is to be reached, if anything.
    """

    path: str
    against: tuple[str, ...]
    target: Target | None = None
    per_cpu: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """One way for the traffic to go. ``build`` makes it, for as long as the stack, and gives what measures it."""

    name: str
    title: str
    build: Callable[[ExitStack], Measure]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic over several ways. Values are in ``unit``, shown divided by ``scale``, more being better;
    ``cpu_per`` says of what CPU time is told.
    """

    name: str
    title: str
    unit: str
    scale: float
    paths: tuple[Way, ...]
    comparisons: tuple[Comparison, ...]
    full: Plan
    quick: Plan
    cpu_per: str = ""

    def with_again(self) -> Scenario:
        """With pydp's way a second time: the A/A comparison, whose ratio should be 1, shows the floor of noise."""
        mine = next(path for path in self.paths if path.name == "pydp")
        again = replace(mine, name=f"{mine.name}-again", title=f"{mine.title}, built a second time")
        return replace(
            self,
            paths=(*self.paths, again),
            comparisons=(*self.comparisons, Comparison(again.name, (mine.name,))),
        )

    def build(self, stack: ExitStack) -> Mapping[str, Measure]:
        """Make all ways, side by side, for as long as STACK. Raises PydpError, EbpfError, OSError."""
        return {path.name: path.build(stack) for path in self.paths}
