# SPDX-License-Identifier: Apache-2.0
"""A topology drawn with the characters that terminals have for boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from pydp.lab.stories.layout import Box, Picture, Points, arrange
from pydp.lab.stories.model import Topology

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
# By the sides of a cell that a line leads to.
_SIGNS = {
    _UP | _DOWN: "│", _LEFT | _RIGHT: "─", _DOWN | _RIGHT: "┌", _DOWN | _LEFT: "┐", _UP | _RIGHT: "└", _UP | _LEFT: "┘",
    _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _LEFT | _RIGHT | _DOWN: "┬", _LEFT | _RIGHT | _UP: "┴",
    _UP | _DOWN | _LEFT | _RIGHT: "┼", _UP: "│", _DOWN: "│", _LEFT: "─", _RIGHT: "─",
}  # fmt: skip


def text(topology: Topology, marks: Mapping[str, Sequence[str]]) -> str:
    """The drawing, with MARKS as further lines of nodes."""
    picture = arrange(topology, marks)
    sides: dict[tuple[int, int], int] = {}
    for line in (*(_border(box) for box in picture.boxes), *picture.wires):
        for cell, side in _sides(line):
            sides[cell] = sides.get(cell, 0) | side
    return "\n".join(_rows(picture, sides))


def _rows(picture: Picture, sides: Mapping[tuple[int, int], int]) -> Iterator[str]:
    words = {}
    for box in picture.boxes:
        for x, y, word in ((box.x + 2, box.y, f" {box.title} "), *_lines(box)):
            words.update({(x + at, y): letter for at, letter in enumerate(word)})
    for y in range(picture.height):
        row = (words.get((x, y)) or _SIGNS.get(sides.get((x, y), 0), " ") for x in range(picture.width))
        yield "".join(row).rstrip()


def _lines(box: Box) -> Iterator[tuple[int, int, str]]:
    for number, line in enumerate(box.lines):
        yield box.x + 2, box.y + 1 + number, line


def _border(box: Box) -> Points:
    bottom = box.y + box.height - 1
    return ((box.x, box.y), (box.right, box.y), (box.right, bottom), (box.x, bottom), (box.x, box.y))


def _sides(line: Points) -> Iterator[tuple[tuple[int, int], int]]:
    """Each cell that a line goes through, with the sides that it leaves it by."""
    for (x, y), (to_x, to_y) in pairwise(line):
        if y == to_y:
            for cell in range(min(x, to_x), max(x, to_x)):
                yield (cell, y), _RIGHT
                yield (cell + 1, y), _LEFT
        else:
            for cell in range(min(y, to_y), max(y, to_y)):
                yield (x, cell), _DOWN
                yield (x, cell + 1), _UP
