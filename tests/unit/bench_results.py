# SPDX-License-Identifier: Apache-2.0
"""Results of runs that never were: with values drawn as a machine would give them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from pydp.bench.blocks import Block, Plan, Sample, Series
from pydp.bench.noise import Noise
from pydp.bench.results import Cost, Results, ScenarioResult, evaluate
from pydp.bench.scenario import Comparison, Point, Scenario, Way
from pydp.bench.statistics import Interval, Target

NOBODY = Noise(0.0, 0.0)
PLAN = Plan(20, 0.1, 20)
MACHINE = {
    "kernel": "6.18.0",
    "cpus": 2,
    "cpu": "<a processor>",
    "load": 0.5,
    "mitigations": {"retbleed": "Vulnerable"},
}
TITLES = {"kernel": "kernel bridge", "pydp": "pydp --hook xdp", "redirect": "bare XDP bpf_redirect"}


def scenario(name: str = "bridge-xdp-64", *, less: bool = False, point: Point | None = None) -> Scenario:
    """Three ways, none of which can be built."""

    def build(_stack: object) -> object:
        raise AssertionError("nothing is built here")

    return Scenario(
        name, f"what {name} does", "us" if less else "Mpps", 1e-6 if less else 1e6,
        tuple(Way(way, title, build) for way, title in TITLES.items()),  # type: ignore[arg-type]
        (Comparison("pydp", ("kernel",), Target(2)), Comparison("pydp", ("redirect",))),
        PLAN, PLAN, "packet", less=less, point=point,
    )  # fmt: skip


def series(
    speeds: Mapping[str, float], *, seed: int, blocks: int = 20, spread: float = 0.1,
    lost: Mapping[str, float] | None = None,
) -> Series:  # fmt: skip
    """Blocks in which the machine as a whole is faster and slower, and each measurement by SPREAD besides."""
    draw = random.Random(seed)
    found = Series()
    for _ in range(blocks):
        whole = draw.gauss(0, 0.3)

        def sample(way: str, whole: float = whole) -> Sample:
            value = speeds[way] * math.exp(whole + draw.gauss(0, spread))
            return Sample(value, 1e9 / value, (lost or {}).get(way, 0.0), 0.0)

        found.blocks.append(Block({way: (sample(way), sample(way)) for way in speeds}, NOBODY))
    return found


def result(
    name: str = "bridge-xdp-64", *, pydp: float = 4e6, seed: int = 1, blocks: int = 20, less: bool = False,
    point: Point | None = None, lost: float = 0.0,
) -> ScenarioResult:  # fmt: skip
    """The kernel reaches 1e6, the limit 5e6."""
    speeds = {"kernel": 1e6, "pydp": pydp, "redirect": 5e6}
    return evaluate(
        scenario(name, less=less, point=point), series(speeds, seed=seed, blocks=blocks, lost={"pydp": lost})
    )  # fmt: skip


def results(*scenarios: ScenarioResult, cost: float = 0.0, seed: int = 1) -> Results:
    """A run; with COST a program that takes so many times as long as varying its packet does."""
    draw = random.Random(seed)
    costs = []
    if cost:
        ratios = tuple(cost * math.exp(draw.gauss(0, 0.03)) for _ in range(15))
        costs.append(Cost("bridge", "xdp", 256, "uniform", Interval(50 * cost, 49 * cost, 51 * cost), 40.0, ratios))
    return Results(
        MACHINE, {"pydp": "1.0", "sockperf": ""},
        {"what": [], "quick": True, "blocks": None, "noise": 0.6, "aa": False},
        "2026-01-01T00:00:00Z", "2026-01-01T00:03:00Z", list(scenarios), costs,
    )  # fmt: skip
