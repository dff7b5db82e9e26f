# SPDX-License-Identifier: Apache-2.0
"""What services did, with a bound to the number of series: above it backends count together for their service, and
services together for the instance.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydp.datapath import files
from pydp.datapath.reader import Reader
from pydp.datapath.state import Instance
from pydp.services.counts import FAILURES, Count, backend_counts, service_failures
from pydp.services.database import Database
from pydp.services.names import Names, read_names

MOST = 10_000  # backends, or services, that have series of their own


@dataclass(frozen=True, slots=True)
class Served:
    """What a backend did, or several of them: then ``backend`` is "", and ``service`` too if they are of several.
    ``flows``: those that live. ``up`` is None for several.
    """

    service: str
    backend: str
    count: Count
    flows: int
    up: bool | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """The services of an instance: how many, how many backends in which state, what each did, and failures by service
    ("" for all) and reason.
    """

    instance: str
    services: int
    backends: Mapping[str, int]
    served: Sequence[Served]
    failures: Mapping[tuple[str, str], int]


def read_services(reader: Reader, instance: Instance, namespace: str, flows: Mapping[int, int]) -> Services:
    """NAMESPACE: the cookie that files go by. FLOWS: how many live by number of the backend. Raises EbpfError,
    PydpError.
    """
    path = files.path(namespace, instance)
    about = path.stat()
    names = _names(path, (about.st_ino, about.st_mtime_ns, about.st_size))
    counts = backend_counts(reader, instance, {number: one.generation for number, one in names.backends.items()})
    failures = service_failures(reader, instance, names.services)
    return summed_up(instance.name, names, counts, failures, flows)


@functools.lru_cache(maxsize=8)
def _names(path: Path, _: tuple[int, ...]) -> Names:
    """Read once as long as the file stays as it is: a hundred thousand services take seconds."""
    with Database.open(path) as database:
        return read_names(database)


def summed_up(
    instance: str,
    names: Names,
    counts: Mapping[int, Count],
    failures: Mapping[int, Sequence[int]],
    flows: Mapping[int, int],
    most: int = MOST,
) -> Services:
    """Services from what is known by number: series for each backend, each service, or the whole, as they fit."""
    many = len(names.services) > most
    states = Counter(one.state.value if one.up else "down" for one in names.backends.values())
    if len(names.backends) <= most:
        served = [
            Served(one.service, one.backend, counts[number], flows.get(number, 0), one.up)
            for number, one in names.backends.items()
        ]
    else:
        groups = defaultdict[str, list[int]](list)
        for number, one in names.backends.items():
            groups["" if many else one.service].append(number)
        served = [
            Served(service, "", _sum(counts[number] for number in some), sum(flows.get(number, 0) for number in some))
            for service, some in groups.items()
        ]
    failed = Counter[tuple[str, str]]()
    for number, found in failures.items():
        for reason, times in zip(FAILURES, found, strict=True):
            failed["" if many else names.services[number], reason] += times
    return Services(instance, len(names.services), states, _merged(served), failed)


def _sum(counts: Iterable[Count]) -> Count:
    return Count(*map(sum, zip(*counts, strict=True)))


def _merged(served: Iterable[Served]) -> list[Served]:
    """This host as a backend has a record for each IP version: one series for both."""
    found: dict[tuple[str, str], Served] = {}
    for one in served:
        key = one.service, one.backend
        if key in found:
            other = found[key]
            one = Served(*key, _sum((one.count, other.count)), one.flows + other.flows, one.up and other.up)
        found[key] = one
    return list(found.values())
