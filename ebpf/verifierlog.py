# SPDX-License-Identifier: Apache-2.0
"""Reading the verifier's log: which line of ours it stopped at, and which line of the log matters."""

from __future__ import annotations

import re
from pathlib import Path

_LINE_MARK = re.compile(r'^#line (\d+) "(.*)"', re.MULTILINE)
_REMARK = re.compile(r"^; (.*)$", re.MULTILINE)
_PLACE = re.compile(r" @ (\S+?):(\d+)$")
_FUNCTION = re.compile(r"(?!typedef|#)\w[\w\s*]*\([^;]*$")  # the first line of a definition, at column 0


def with_our_lines(log: str, text: str) -> str:
    """LOG with the lines of our files in its remarks, and where they stand.

    bcc puts an attribute before each function, on a line of its own, so what the kernel is told of a place in the n-th
    function after a mark is n lines too far down. Kernels before 6.9 do not tell it, and give the line's text alone:
    that has a place where it stands but once in TEXT (see `unmarked`).
    """
    places: dict[str, list[tuple[str, int]]] = {}
    ours: dict[tuple[str, int], tuple[int, str]] = {}
    file, line, shift = "", 0, 0
    for physical in text.splitlines():
        if mark := _LINE_MARK.match(physical):
            file, line, shift = Path(mark[2]).name, int(mark[1]) - 1, 0
            continue
        line += 1
        shift += bool(_FUNCTION.match(physical))
        ours[file, line + shift] = line, physical.strip()
        if physical.strip():
            places.setdefault(physical.strip(), []).append((file, line))

    def placed(found: re.Match[str]) -> str:
        code = found[1]
        if told := _PLACE.search(code):
            file, line = Path(told[1]).name, int(told[2])
            line, stands_there = ours.get((file, line), (line, ""))
            return f"; {code[: told.start()].strip() or stands_there} @ {file}:{line}"
        stands = places.get(code.strip(), [])
        return f"; {code} @ {stands[0][0]}:{stands[0][1]}" if len(stands) == 1 else f"; {code}"

    return _REMARK.sub(placed, log)


def tells_places(log: str) -> bool:
    """Does the kernel that wrote LOG say of lines where they stand?"""
    return any(_PLACE.search(remark) for remark in _REMARK.findall(log))


def unmarked(text: str) -> str:
    """TEXT as one file: bcc tells the kernel what stands in a line of its own file, and not in one of another name."""
    return _LINE_MARK.sub("", text)


def last_place(log: str) -> tuple[str, int]:
    """File and line of the last source remark in a verifier log (`; code @ file.c:12`); ("", 0) if it tells none."""
    remarks = _REMARK.findall(log)
    found = _PLACE.search(remarks[-1]) if remarks else None
    return (Path(found[1]).name, int(found[2])) if found else ("", 0)


def reason(log: str) -> str:
    """The line that matters: the last one that is neither a statistic, an instruction, a register dump nor a remark."""
    noise = re.compile(
        r"^(processed \d+ insns|max_states|verification time|stack depth|;|\d+: |from \d+ to|\s*$|mark_precise|"
        r"R\d+\w*=)"
    )
    lines = [line for line in log.splitlines() if not noise.match(line)]
    return lines[-1].strip() if lines else "refused by the verifier"
