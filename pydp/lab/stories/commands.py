# SPDX-License-Identifier: Apache-2.0
"""What a person would type, made into what is executed: names of nodes become those of namespaces, and that is all."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PROGRAMS = {"pydp": ("-m", "pydp"), "python3": ()}  # run by the interpreter that runs us


@dataclass(frozen=True, slots=True)
class Command:
    """Words to execute, the files that stdin comes from and stdout goes to ("" for none), and whether it stays."""

    words: tuple[str, ...]
    source: str = ""
    sink: str = ""
    background: bool = False

    @property
    def program(self) -> str:
        """The one that is meant: what `ip netns exec NAME` is to execute, else the first word."""
        return self.words[_program_at(self.words)]


def parse(text: str, names: Mapping[str, str]) -> Command:
    """TEXT with quotes, `< FILE`, `> FILE` and a last `&` as in a shell, and nothing else of a shell."""
    words = shlex.split(text)
    background = words[-1] == "&"
    if background:
        words.pop()
    source, sink = (_redirected(words, sign) for sign in "<>")
    placed = [names.get(word, word) if _is_name(words, at) else word for at, word in enumerate(words)]
    program = _program_at(words)
    if placed[program] in _PROGRAMS:
        placed[program : program + 1] = [sys.executable, *_PROGRAMS[placed[program]]]
    return Command(tuple(placed), source, sink, background)


def _is_name(words: list[str], at: int) -> bool:
    """Whether a namespace is named there: `ip -n NAME`, `ip netns exec NAME`, `ip -n NAME link set DEV netns NAME`."""
    if words[1:2] == ["-n"] and at == 2:
        return True
    if words[:2] == ["ip", "netns"]:
        return at == 3
    return words[0] == "ip" and words[at - 1] == "netns"


def _program_at(words: Sequence[str]) -> int:
    """Where the name of the program stands: behind `ip netns exec NAME`, or first."""
    return 4 if tuple(words[:3]) == ("ip", "netns", "exec") else 0


def _redirected(words: list[str], sign: str) -> str:
    if sign not in words:
        return ""
    at = words.index(sign)
    _, name = words[at : at + 2]
    del words[at : at + 2]
    return name
