# SPDX-License-Identifier: Apache-2.0
"""What a dashboard is made of, without Grafana's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# What the variables at the top of a dashboard choose.
NODE = 'node=~"$node"'
CHOSEN = f'{NODE}, instance=~"$instance"'
WINDOW = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Plot:
    """A panel over time. ``queries``: PromQL by legend, in which {{label}} stands for a label's value; ``unit`` by
    Grafana's names; ``note`` explains; ``width`` of 24; with ``latest`` the last values only, as numbers.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = "pps"
    note: str = ""
    width: int = 12
    latest: bool = False
    stacked: bool = False
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: rows of plots by title. ``mode`` "" shows instances of every mode."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Plot]]
    mode: str = ""

    @property
    def plots(self) -> Iterator[Plot]:
        for plots in self.rows.values():
            yield from plots

    @property
    def variables(self) -> Mapping[str, str]:
        """Queries of the variables, by name."""
        mode = f', mode="{self.mode}"' if self.mode else ""
        return {
            "node": "label_values(pydp_build_info, node)",
            "instance": f"label_values(pydp_instance_info{{{NODE}{mode}}}, instance)",
        }


def total(metric: str, by: str, labels: str = "", *, chosen: str = CHOSEN) -> str:
    """The rate of a counter of what is chosen, summed by labels."""
    return f"sum by ({by}) (rate({metric}{{{', '.join(part for part in (chosen, labels) if part)}}}{WINDOW}))"
