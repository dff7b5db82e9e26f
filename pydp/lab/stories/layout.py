# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a topology's drawing stand, in cells of text; the same for a terminal and for a page.

Nodes stand in columns. A wire leads from the right of one to the left of a node in the next column, or comes back to
the node that it left, and turns in a lane of its own between the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydp.lab.stories.model import Node, Topology

_BETWEEN = 1  # rows between boxes of a column
_LANE = 2  # cells from one lane to the next
Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A node: ``title`` stands in its upper border, each of ``lines`` on a row of its own below."""

    title: str
    lines: tuple[str, ...]
    x: int
    y: int
    width: int

    @property
    def height(self) -> int:
        """With both borders."""
        return len(self.lines) + 2

    @property
    def right(self) -> int:
        """The column of its right border."""
        return self.x + self.width - 1


@dataclass(frozen=True, slots=True)
class Picture:
    """``wires`` are lines with corners."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    wires: tuple[Points, ...]


def arrange(topology: Topology, marks: Mapping[str, Sequence[str]]) -> Picture:
    """Place everything; MARKS are further lines of nodes. Raises ValueError for a wire that skips a column."""
    columns = [
        [_box(each, marks.get(each.name, ())) for each in topology.nodes if each.column == number]
        for number in range(max(each.column for each in topology.nodes) + 1)
    ]
    height = max(_height(column) for column in columns)
    lanes = [len(wires) for wires in _by_gap(topology, len(columns))]
    placed: dict[str, Box] = {}
    x = 0
    for column, count in zip(columns, lanes, strict=True):
        width, y = max(box.width for box in column), (height - _height(column)) // 2
        for box in column:
            placed[box.title] = replace(box, x=x, y=y, width=width)
            y += box.height + _BETWEEN
        x += width + (_LANE * count + 3 if count else 2)
    wires = tuple(_wires(topology, placed, len(columns)))
    width = max([box.right for box in placed.values()] + [cell for wire in wires for cell, _ in wire]) + 1
    return Picture(width, height, tuple(placed.values()), wires)


def _box(each: Node, marks: Sequence[str]) -> Box:
    lines = (*(" ".join((device.name, *device.addresses)) for device in each.ports), *marks)
    return Box(each.name, lines, 0, 0, max(len(line) for line in (each.name + "  ", *lines)) + 4)


def _height(column: Sequence[Box]) -> int:
    return sum(box.height + _BETWEEN for box in column) - _BETWEEN


def _by_gap(topology: Topology, columns: int) -> list[list[tuple[tuple[str, int], tuple[str, int]]]]:
    """Wires by the column that is left of them; an end is a node and the number of its line."""
    found: list[list[tuple[tuple[str, int], tuple[str, int]]]] = [[] for _ in range(columns)]
    for ends in topology.ends(later=True):
        one, other = sorted(ends, key=lambda end: end[0].column)
        if other[0].column - one[0].column > 1:
            raise ValueError(f"the wire from {one[0].name} to {other[0].name} skips a column")
        if one[0].column == other[0].column and one[0] is not other[0]:
            raise ValueError(f"the wire from {one[0].name} to {other[0].name} stays in a column")
        near, far = ((where.name, where.ports.index(what)) for where, what in (one, other))
        found[one[0].column].append((near, far))
    return found


def _wires(topology: Topology, placed: Mapping[str, Box], columns: int) -> Iterator[Points]:
    for wires in _by_gap(topology, columns):
        for lane, (near, far) in enumerate(wires):
            left, right = placed[near[0]], placed[far[0]]
            y, to = left.y + 1 + near[1], right.y + 1 + far[1]
            turn = left.right + 2 + _LANE * (len(wires) - 1 - lane if to > y else lane)
            end = left.right if left is right else right.x
            yield ((left.right, y), (end, to)) if y == to else ((left.right, y), (turn, y), (turn, to), (end, to))
