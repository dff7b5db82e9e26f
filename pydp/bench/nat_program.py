# SPDX-License-Identifier: Apache-2.0
"""How quickly services can be told: all of them at once, and one among many.

`iptables-restore` and `nft` are processes that are started for each change, as everybody does who uses them; pydp is
called in this process, with its database and maps open.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

from pydp.bench import nat_kernel, nat_paths
from pydp.bench.blocks import Measure, Sample
from pydp.bench.cpus import pair, pinned
from pydp.bench.nat_paths import NatPath
from pydp.datapath import Datapath
from pydp.lab import Namespace
from pydp.services.database import Database
from pydp.services.model import Service
from pydp.services.program import COUNTED, MAPS, Programmer

_BACKENDS = 4
Change = Callable[[Namespace, int, Service, Service], None]
# Those who exchange the backends of a service.
CHANGES: dict[str, Change] = {
    "legacy": lambda ns, number, _, new: nat_kernel.change_iptables(ns, "legacy", number, new),
    "iptables-nft": lambda ns, number, _, new: nat_kernel.change_iptables(ns, "nft", number, new),
    "nftables": lambda ns, _, old, new: nat_kernel.change_nftables(ns, old, new),
}


def program(path: NatPath, stack: ExitStack, *, count: int) -> Measure:
    """Services a second when COUNT of them are written where there is one."""
    known = nat_paths.services(count, _BACKENDS)
    ns = nat_paths.make_rig(path, known, stack).router.ns
    few = known[:1]
    writer = nat_kernel.WRITERS.get(path.name)

    def measure(_seconds: float) -> Sample:
        with pinned(pair()[0]):
            if writer:
                writer(ns, few)
                taken = _taken(lambda: writer(ns, known))
            else:
                taken = ns.call(_replace_all, few, known)
        return Sample(count / taken)

    return measure


def change(path: NatPath, stack: ExitStack, *, count: int) -> Measure:
    """Changes a second when the backends of the middle one of COUNT services are exchanged, one change after the other;
    by the median.
    """
    known = nat_paths.services(count, _BACKENDS)
    ns = nat_paths.make_rig(path, known, stack).router.ns
    number = count // 2
    versions = itertools.cycle((known[number], nat_paths.services(number + 1, _BACKENDS, shift=50)[number]))
    current = next(versions)
    changer = CHANGES.get(path.name)

    def native(seconds: float, changer: Change) -> list[float]:
        nonlocal current
        found, begin = [], time.perf_counter()
        while time.perf_counter() - begin < seconds:
            new = next(versions)
            found.append(_taken(lambda old=current, new=new: changer(ns, number, old, new)))  # type: ignore[misc]
            current = new
        return found

    def measure(seconds: float) -> Sample:
        with pinned(pair()[0]):
            found = native(seconds, changer) if changer else ns.call(_replace_one, versions, seconds)
        return Sample(1 / median(found))

    return measure


def _taken(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextlib.contextmanager
def _programmer() -> Iterator[Programmer]:
    """That of the one instance of this namespace, within the lock of the store."""
    datapath = Datapath()
    with datapath.store.locked():
        (instance,) = datapath.read().instances.values()
        database = Database.open(datapath.path(instance), write=True)
        with database, datapath.open_maps(instance, [*MAPS, COUNTED]) as maps:
            yield Programmer(database, maps)


def _replace_all(before: list[Service], services: list[Service]) -> float:
    with _programmer() as programmer:
        programmer.apply({one.name: one for one in before}, every=True)
        return _taken(lambda: programmer.apply({one.name: one for one in services}, every=True))


def _replace_one(versions: Iterator[Service], seconds: float) -> list[float]:
    """What each change took, with database and maps open."""
    found = []
    with _programmer() as programmer:
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            wanted = {new.name: new for new in (next(versions),)}
            found.append(_taken(lambda wanted=wanted: programmer.apply(wanted)))  # type: ignore[misc]
    return found
