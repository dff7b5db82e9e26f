# SPDX-License-Identifier: Apache-2.0
"""Steps of several ways side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydp.lab.stories.model import Step

_T = TypeVar("_T")


def _title(step: Step) -> str:
    return step.title


def paired(ways: Sequence[Sequence[Step]]) -> list[tuple[Step | None, ...]]:
    """Rows with a step of each way: those of the same title in one row, None where a way has none."""
    return side_by_side(ways, _title)


def side_by_side(columns: Sequence[Sequence[_T]], key: Callable[[_T], str]) -> list[tuple[_T | None, ...]]:
    """Rows with an item of each column, in the order of all columns; items with equal keys share a row."""
    waiting = [list(column) for column in columns]
    rows: list[tuple[_T | None, ...]] = []
    while any(waiting):
        chosen = _next(waiting, key)
        rows.append(tuple(column.pop(0) if column and key(column[0]) == chosen else None for column in waiting))
    return rows


def _next(waiting: Sequence[list[_T]], key: Callable[[_T], str]) -> str:
    """Of what columns are at: what no other column has, else what the first one has."""
    keys = [{key(item) for item in column} for column in waiting]
    heads = [key(column[0]) for column in waiting if column]
    alone = [head for head in heads if sum(head in each for each in keys) == 1]
    return (alone or heads)[0]
