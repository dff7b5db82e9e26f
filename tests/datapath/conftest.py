# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the packet tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.datapath.harness import HOOKS, Rig

MakeRig = Callable[..., Rig]


class _Rigs:
    """Rigs by what they were made from: loading one takes some 100 ms, emptying one takes 2."""

    def __init__(self) -> None:
        self._made: dict[str, Rig] = {}

    def get(self, hook: str, **options: Any) -> Rig:
        key = repr((hook, sorted(options.items())))
        if key in self._made:
            self._made[key].reset()
        else:
            if len(self._made) == 32:  # a rig holds some 20 file descriptors
                self._made.pop(next(iter(self._made))).close()
            self._made[key] = Rig(hook, **options)
        return self._made[key]

    def close(self) -> None:
        for one in self._made.values():
            one.close()


@pytest.fixture(scope="module")
def rigs(requires_root: None) -> Iterator[_Rigs]:
    """All rigs of a module."""
    made = _Rigs()
    yield made
    made.close()


@pytest.fixture(params=HOOKS)
def hook(request: pytest.FixtureRequest) -> str:
    """Each test on XDP and on tc."""
    name: str = request.param
    return name


@pytest.fixture
def rig(rigs: _Rigs, hook: str) -> MakeRig:
    """Gives rigs for the hook, with the options of `Rig`, as if just made."""
    return lambda **options: rigs.get(hook, **options)


@pytest.fixture
def rig_on(rigs: _Rigs) -> Callable[..., Rig]:
    """The same for tests that know their hook: the first argument."""
    return rigs.get
