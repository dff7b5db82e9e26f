# SPDX-License-Identifier: Apache-2.0
"""Many services that are new, at once: their rows and records made by columns, not one by one.

A hundred thousand services have half a million backends, and a few microseconds for each are seconds. Most services are
plain: ready backends with one weight, of one IP version, chosen from at random. What is known of such a backend before
it has a number is packed once; numbers, generations and what follows from them are put between for all backends
together. What comes of it is the same as what `Stored` makes of a service (tests/unit/test_services_bulk.py), which is
also what a change that was interrupted is finished by.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, repeat
from typing import Any

from pydp.services.model import ENDINGS, NUMBERS, Backend, BackendState, Frontend, Service
from pydp.services.records import (
    BACKEND,
    ENDING_FLAGS,
    FRONTEND,
    MASQUERADE,
    PRESENT,
    NameRow,
    affinity_ticks,
    common_flags,
    name_key,
    row_of,
)
from pydp.services.rows import (
    BACKEND_ROW_SIZE,
    HOST,
    frontend_rows,
    health_text,
    pack_frontends,
    pack_runs,
)

# Of struct _BACKEND_ROW behind number and generation: the rest, and where its parts are.
_REST = struct.Struct("=B16sHHBBBBd")
_AT_REST = BACKEND_ROW_SIZE - _REST.size
_VERSION, _ADDRESS, _PORT, _ENDING = _AT_REST, _AT_REST + 1, _AT_REST + 17, _AT_REST + 24
_FLAGS = bytes(PRESENT | flag for flag in ENDING_FLAGS).ljust(256, b"\0")
_READY = BackendState.READY
_NOT_PLAIN = b"", 0


class Bulk:
    """Plain services, which nobody has yet: `take` them, `number` them, then ask for rows and records."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        self.names: list[list[NameRow]] = []
        self.numbers: Sequence[int] = ()  # of the services
        self.runs: Sequence[tuple[int, int]] = ()
        self.counts: list[int] = []  # of their backends
        self._rests: list[bytes] = []
        self._kinds: list[int] = []  # IP versions
        self._known: dict[int, tuple[bytes, int]] = {}  # by id() of a backend: many services may have it
        self._rows = b""
        self._backends: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.services)

    def take(self, service: Service) -> bool:
        """Whether the service is plain, and now among these."""
        if service.scheduler != "random" or not service.backends:
            return False
        known = self._known
        parts = [known.get(id(one)) or self._learn(one) for one in service.backends]
        kind = parts[0][1]
        version = kind & 15
        if not kind or any(part[1] != kind for part in parts) or not _all_of(service.frontends, version):
            return False
        self.services.append(service)
        self.names.append(_names(service, version))
        self.counts.append(len(parts))
        self._kinds.append(version)
        self._rests += [part[0] for part in parts]
        return True

    def _learn(self, one: Backend) -> tuple[bytes, int]:
        """What is packed of a backend, and IP version and weight in one number: 0 if it is not plain."""
        found = _NOT_PLAIN
        if one.address is not None and one.weight and one.state is _READY:
            version = one.address.version
            rest = _REST.pack(
                version, one.address.packed, one.port, one.weight, 0, one.local, one.serving,
                ENDINGS.index(one.on_end), one.deadline or 0.0,
            )  # fmt: skip
            found = rest, one.weight << 4 | version
        self._known[id(one)] = found
        return found

    def number(
        self, services: Sequence[int], backends: Sequence[int], generation: int, runs: Sequence[tuple[int, int]]
    ) -> None:
        """Give out numbers of services and of their backends, the latter with generations from GENERATION on, and runs
        of slots.
        """
        self.numbers, self.runs, self._backends = services, runs, backends
        self._rows = interleaved(
            BACKEND_ROW_SIZE,
            len(backends),
            (0, 4, array("I", backends).tobytes()),
            (4, 4, array("I", range(generation, generation + len(backends))).tobytes()),
            (_AT_REST, _REST.size, b"".join(self._rests)),
        )
        self._rests.clear()

    def service_rows(self) -> Iterator[tuple[Any, ...]]:
        """As of `ServiceRow`."""
        ends = accumulate(self.counts)
        for one, number, count, end, kind, run in zip(
            self.services, self.numbers, self.counts, ends, self._kinds, self.runs, strict=True
        ):
            backends = self._rows[(end - count) * BACKEND_ROW_SIZE : end * BACKEND_ROW_SIZE]
            yield (
                number, one.name, one.scheduler, one.table_size, one.affinity, int(one.masquerade), int(one.dsr),
                health_text(one), one.source, pack_frontends(frontend_rows(one)), backends, pack_runs({kind: run}),
            )  # fmt: skip

    def name_rows(self) -> Iterator[tuple[bytes, int, int | None]]:
        """(key, number of the service, port of every address of this host)."""
        for number, names in zip(self.numbers, self.names, strict=True):
            for name in names:
                yield name.key, number, name.wild

    # What is to stand in maps: keys and values

    def backend_records(self) -> tuple[bytes, bytes]:
        rows, step = self._rows, BACKEND_ROW_SIZE
        services = array("I")
        for number, count in zip(self.numbers, self.counts, strict=True):
            services.extend(repeat(number, count))
        columns = [(at, 1, rows[_ADDRESS + at :: step]) for at in range(16)]
        columns += [(16, 1, rows[_PORT + 1 :: step]), (17, 1, rows[_PORT::step])]  # in the network's order
        columns += [(18, 1, rows[_VERSION::step]), (19, 1, rows[_ENDING::step].translate(_FLAGS))]
        columns += [(20 + at, 1, rows[4 + at :: step]) for at in range(4)]  # generations
        columns += [(24, 4, services.tobytes())]
        values = interleaved(BACKEND.size, len(self._backends), *columns)
        return array("I", self._backends).tobytes(), values

    def slot_records(self) -> tuple[bytes, bytes]:
        places = array("I")
        for (first, _), count in zip(self.runs, self.counts, strict=True):
            places.extend(range(first, first + count))
        return places.tobytes(), array("I", self._backends).tobytes()

    def frontend_records(self) -> tuple[bytes, bytes]:
        keys, values, pack = [], [], FRONTEND.pack
        backends = iter(self._backends)
        for one, number, count, (first, _), names in zip(
            self.services, self.numbers, self.counts, self.runs, self.names, strict=True
        ):
            ticks = affinity_ticks(one.affinity)
            row = row_of(list(islice(backends, count)))
            for name in names:
                keys.append(name.key)
                values.append(pack(number, first, count, name.flags, ticks, row))
        return b"".join(keys), b"".join(values)


def _all_of(frontends: Sequence[Frontend], version: int) -> bool:
    """Whether these are all of an IP version, and any backend will do for them."""
    for one in frontends:
        its = one.version if one.address is None else one.address.version
        if its != version or one.local_only:
            return False
    return True


def _names(service: Service, version: int) -> list[NameRow]:
    """What is to stand in nat_frontends."""
    common, found = common_flags(service), []
    for one in service.frontends:
        address = HOST if one.address is None else one.address.packed
        key = name_key(address, one.port, NUMBERS[one.protocol], version)
        wild = one.port if one.address is None else None
        found.append(NameRow(key, version, common | (MASQUERADE if one.masquerade else 0), wild))
    return found


def interleaved(size: int, count: int, *columns: tuple[int, int, bytes]) -> bytes:
    """COUNT records of SIZE bytes, of columns: (place in a record, width, the column's bytes). The rest is zero."""
    made = bytearray(size * count)
    for at, width, data in columns:
        for byte in range(width):
            made[at + byte :: size] = data[byte::width]
    return bytes(made)
