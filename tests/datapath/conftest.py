# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the packet tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.datapath.harness import HOOKS, Rig
from tests.datapath.nat_net import NETS, Net
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_rig import Rewriter

MakeRig = Callable[..., Rig]
MakeNat = Callable[..., NatRig]


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


@pytest.fixture(scope="module", params=["xdp", "tc", "tc, summed up by the device"])
def rewriter(requires_root: None, request: pytest.FixtureRequest) -> Iterator[Rewriter]:
    """The library of mode nat on each hook, and on tc also where the kernel watches over the device's sum."""
    hook, _, summed = request.param.partition(",")
    one = Rewriter(hook, bool(summed))
    yield one
    one.close()


@pytest.fixture(scope="module", params=HOOKS)
def plain(requires_root: None, request: pytest.FixtureRequest) -> Iterator[Rewriter]:
    """The same without such a sum."""
    one = Rewriter(request.param)
    yield one
    one.close()


@pytest.fixture(scope="module")
def nat_rigs(requires_root: None) -> Iterator[dict[str, NatRig]]:
    """All rigs of mode nat in a module, by what they were made from."""
    made: dict[str, NatRig] = {}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def nat_on(nat_rigs: dict[str, NatRig]) -> MakeNat:
    """Gives rigs of mode nat, as if just made: hook, and the arguments of `NatRig`."""

    def get(hook: str, **arguments: Any) -> NatRig:
        key = repr((hook, sorted(arguments.items())))
        if key in nat_rigs:
            nat_rigs[key].reset()
        else:
            nat_rigs[key] = NatRig(hook, **{"takers": (0, 1, 2), **arguments})
        return nat_rigs[key]

    return get


@pytest.fixture
def nat(nat_on: MakeNat, hook: str) -> MakeNat:
    """The same for each hook."""
    return lambda **arguments: nat_on(hook, **arguments)


@pytest.fixture(params=NETS, ids="IPv{}".format)
def net(request: pytest.FixtureRequest) -> Net:
    """Each test by either IP version."""
    return NETS[request.param]
