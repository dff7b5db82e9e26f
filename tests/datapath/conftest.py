# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the packet tests."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import pytest

from tests.datapath.harness import HOOKS, Rig
from tests.datapath.nat_net import NETS, Net
from tests.datapath.nat_rig import NatRig
from tests.datapath.rewrite_rig import Rewriter

MakeRig = Callable[..., Rig]
MakeNat = Callable[..., NatRig]
One = TypeVar("One", Rig, NatRig)


class _Rigs(Generic[One]):
    """Rigs by what they were made from: loading one takes some 100 ms, emptying one takes 2. MOST are kept, those that
    were wanted last.
    """

    def __init__(self, make: Callable[..., One], most: int) -> None:
        self._make, self._most = make, most
        self._made: dict[str, One] = {}

    def get(self, hook: str, **options: Any) -> One:
        key = repr((hook, sorted(options.items())))
        if one := self._made.pop(key, None):
            one.reset()
        else:
            if len(self._made) == self._most:
                self._made.pop(next(iter(self._made))).close()
            one = self._make(hook, **options)
        self._made[key] = one
        return one

    def close(self) -> None:
        for one in self._made.values():
            one.close()


@pytest.fixture(scope="session")
def many_files() -> None:
    """A rig holds some 20 file descriptors, one of mode nat some 50."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture(scope="session")
def rigs(requires_root: None, many_files: None) -> Iterator[_Rigs[Rig]]:
    made = _Rigs(Rig, 32)
    yield made
    made.close()


@pytest.fixture(params=HOOKS)
def hook(request: pytest.FixtureRequest) -> str:
    """Each test on XDP and on tc."""
    name: str = request.param
    return name


@pytest.fixture
def rig(rigs: _Rigs[Rig], hook: str) -> MakeRig:
    """Gives rigs for the hook, with the options of `Rig`, as if just made."""
    return lambda **options: rigs.get(hook, **options)


@pytest.fixture
def rig_on(rigs: _Rigs[Rig]) -> Callable[..., Rig]:
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


@pytest.fixture(scope="session")
def nat_rigs(requires_root: None, many_files: None) -> Iterator[_Rigs[NatRig]]:
    made = _Rigs(lambda hook, **arguments: NatRig(hook, **{"takers": (0, 1, 2), **arguments}), 16)
    yield made
    made.close()


@pytest.fixture
def nat_on(nat_rigs: _Rigs[NatRig]) -> MakeNat:
    """Gives rigs of mode nat, as if just made: hook, and the arguments of `NatRig`."""
    return nat_rigs.get


@pytest.fixture
def nat(nat_on: MakeNat, hook: str) -> MakeNat:
    """The same for each hook."""
    return lambda **arguments: nat_on(hook, **arguments)


@pytest.fixture(params=NETS, ids="IPv{}".format)
def net(request: pytest.FixtureRequest) -> Net:
    """Each test by either IP version."""
    return NETS[request.param]
