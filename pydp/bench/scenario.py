# SPDX-License-Identifier: Apache-2.0
"""What a scenario is: one kind of traffic over several ways, and what is to be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum

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


class Role(StrEnum):
    """What a way stands for beside the others."""

    KERNEL = "kernel"
    EBPF = "ebpf"
    LIMIT = "limit"  # the bare hook, which decides nothing


_LIMITS = frozenset({"redirect", "devmap", "peer", "bytes", "connect", "direct"})
_MINE = ("pydp", "uncounted")


@dataclass(frozen=True, slots=True)
class Way:
    """One way for the traffic to go. ``build`` makes it, for as long as the stack, and gives what measures it; ``slow``
    says how many seconds that takes, about, for the estimate of the time left.
    """

    name: str
    title: str
    build: Callable[[ExitStack], Measure]
    slow: float = 0.8

    @property
    def role(self) -> Role:
        """As names go: what is neither pydp nor bare is the kernel's."""
        if self.name.startswith(_MINE):
            return Role.EBPF
        return Role.LIMIT if self.name in _LIMITS else Role.KERNEL


@dataclass(frozen=True, slots=True)
class Point:
    """Where a scenario lies on a curve: of a ``curve`` with that ``title``, at ``at`` of what ``axis`` names, drawn by
    ``series`` where the curve has several, such as distributions.
    """

    curve: str
    title: str
    axis: str
    at: float
    series: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic over several ways. Values are in ``unit``, shown divided by ``scale``, more being better
    unless ``less`` is; ``cpu_per`` says of what CPU time is told. A quick run leaves those out that are not
    ``brief``, unless they are asked for by their names. A name begins with that of the suite. ``around`` is how many
    seconds a measurement takes beside its length: a tool that begins and ends, a rate that is sought anew.
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
    less: bool = False
    brief: bool = True
    point: Point | None = None
    around: float = 0.03

    @property
    def suite(self) -> str:
        return self.name.partition("-")[0]

    def seconds(self, plan: Plan) -> float:
        """What it may take by that plan, on a machine that has nothing else to do."""
        once = sum(plan.seconds + self.around for _ in self.paths)
        return sum(path.slow for path in self.paths) + min(2 * plan.blocks * once, plan.within) + once

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
