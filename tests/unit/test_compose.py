# SPDX-License-Identifier: Apache-2.0
"""Texts of programs: what of a mode's options is in them, and what is written into the compiled code instead."""

from __future__ import annotations

import re

import pytest

from pydp.datapath.compose import STAGE_CONSTANTS, Stage, compose, written
from pydp.modes import MODES
from pydp.sources import bpf_src

PORT = {"slot": 3, "seed": 4, "role": 1}


def text_of(*stages: Stage) -> str:
    return compose("tc", stages, counters=True, frags=False).text


def stage(mode: str, number: int, value: int, **more: int) -> Stage:
    return Stage(number, mode, {**dict.fromkeys(MODES[mode].traits.written, value), **more})


@pytest.mark.parametrize("mode", MODES)
def test_numbers_leave_the_text_as_it_is(mode: str) -> None:
    one, other = stage(mode, 1, 5), stage(mode, 1, 70_000)
    assert text_of(one) == text_of(other)
    assert text_of(one) != text_of(stage(mode, 1, 5, PYDP_SHAPE=1))
    before, after = (written(each, **PORT) for each in (one, other))
    names = MODES[mode].traits.written
    assert sorted(before.values()) == sorted([3, 4, 1, before[STAGE_CONSTANTS + 3], *[5] * len(names)])
    assert sorted(after.values()) == sorted([3, 4, 1, after[STAGE_CONSTANTS + 3], *[70_000] * len(names)])


@pytest.mark.parametrize("mode", MODES)
def test_names_are_those_of_the_text(mode: str) -> None:
    text = "".join(path.read_text() for path in bpf_src().rglob("*.[ch]"))
    names = MODES[mode].traits.written
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_stages_have_numbers_of_their_own() -> None:
    members = stage("nat", 0, 1), stage("vxlan", 1, 1), stage("bridge", 2, 1)
    found = [written(each, **PORT) for each in members]
    assert len(set().union(*found)) == sum(map(len, found))
    assert [{number // STAGE_CONSTANTS for number in one} for one in found] == [{0}, {1}, {2}]
