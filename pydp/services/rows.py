# SPDX-License-Identifier: Apache-2.0
"""Services as rows of the database.

Addresses are 16 bytes as they stand in a packet, IPv4 in the first four; zeros stand for this host.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from pydp.services.model import (
    ENDINGS,
    NUMBERS,
    Address,
    Backend,
    BackendState,
    Frontend,
    Health,
    Service,
)

HOST_EXEMPT = 2  # of FrontendRow.local_only
LOCAL_ONLY = 8  # in the kind of a run, beside the IP version
HOST = bytes(16)
_STATES = tuple(BackendState)
_READY, _DRAINING = BackendState.READY, _STATES.index(BackendState.DRAINING)
_PROTOCOLS = {number: name for name, number in NUMBERS.items()}
_FRONTEND_ROW = struct.Struct("=BB16sHBB")
_BACKEND_ROW = struct.Struct("=IIB16sHHBBBBd")
_RUN = struct.Struct("=BII")
BACKEND_ROW_SIZE = _BACKEND_ROW.size  # bytes of one in ServiceRow.backends

End = tuple[int, bytes, int]
"""IP version, address and port of a backend: what tells it from others of its service."""


class FrontendRow(NamedTuple):
    """A frontend; ``version`` as in Frontend, where its address does not tell."""

    protocol: int
    version: int
    address: bytes
    port: int
    masquerade: int
    local_only: int  # 1: for all clients, 2: but for those on this host


class BackendRow(NamedTuple):
    """A backend as one IP version sees it; ``state`` and ``ending`` are places in BackendState and ENDINGS."""

    number: int
    generation: int
    version: int
    address: bytes
    port: int
    weight: int
    state: int
    local: int
    serving: int
    ending: int
    deadline: float  # 0 for none

    @property
    def end(self) -> End:
        return self[2:5]

    @property
    def packed(self) -> bytes:
        """Its address in 4 or 16 bytes, none for this host."""
        return _unpadded(self.version, self.address)


make_backend: Callable[[Iterable[Any]], BackendRow] = functools.partial(tuple.__new__, BackendRow)  # without a frame


class ServiceRow(NamedTuple):
    """A service by its number; ``health`` is JSON or None, the last three are packed."""

    number: int
    name: str
    scheduler: str
    table_size: int
    affinity: float
    masquerade: int
    dsr: int
    health: str | None
    source: str
    frontends: bytes
    backends: bytes
    runs: bytes = b""


Runs = dict[int, tuple[int, int]]
"""Where slots are: (first, size) by kind, which is an IP version, with LOCAL_ONLY for slots of local backends."""


def address_of(packed: bytes) -> Address | None:
    """The address in 4 or 16 bytes; nothing stands for this host."""
    if not packed:
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def padded(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _unpadded(version: int, address: bytes) -> bytes:
    return b"" if address == HOST else address[:4] if version == 4 else address


def ends_of(packed: bytes, port: int) -> list[End]:
    """What tells the rows of a backend, of which this host has one for each IP version."""
    if not packed:
        return [(4, HOST, port), (6, HOST, port)]
    return [(4 if len(packed) == 4 else 6, packed.ljust(16, b"\0"), port)]


def service_row(
    number: int, one: Service, frontends: Sequence[FrontendRow], backends: Sequence[BackendRow]
) -> ServiceRow:
    return ServiceRow(
        number, one.name, one.scheduler, one.table_size, one.affinity, int(one.masquerade), int(one.dsr),
        health_text(one), one.source, pack_frontends(frontends), pack_backends(backends)
    )  # fmt: skip


def health_text(one: Service) -> str | None:
    return None if one.health is None else json.dumps(asdict(one.health))


def pack_frontends(rows: Iterable[FrontendRow]) -> bytes:
    return b"".join([_FRONTEND_ROW.pack(*row) for row in rows])


def frontend_rows(one: Service) -> list[FrontendRow]:
    return [
        FrontendRow(
            NUMBERS[front.protocol], front.version if front.address is None else front.address.version,
            HOST if front.address is None else padded(front.address), front.port,
            front.masquerade, front.local_only << front.host_exempt,
        )
        for front in one.frontends
    ]  # fmt: skip


def backend_rows(one: Service, had: Mapping[End, BackendRow], fresh: Iterator[tuple[int, int]]) -> list[BackendRow]:
    """In the order of their numbers. Number and generation are those of the row that a backend HAD, or the next of
    FRESH ones. This host is a backend of each IP version.
    """
    found = []
    for back in one.backends:
        address, port = back.address, back.port
        state = 0 if back.state is _READY else _STATES.index(back.state)
        if address is None:
            ends = [(version, HOST, port) for version in host_versions(one.frontends)]
        else:
            ends = [(address.version, padded(address), port)]
        for end in ends:
            number, generation, *_ = had.get(end) or next(fresh)
            version, packed, _ = end
            found.append(
                make_backend(
                    (number, generation, version, packed, port, back.weight, state, back.local, back.serving,
                     ENDINGS.index(back.on_end), back.deadline or 0.0)
                )
            )  # fmt: skip
    return sorted(found) if had else found


def host_versions(frontends: Iterable[Frontend]) -> tuple[int, ...]:
    """The IP versions by which this host itself is a backend."""
    return tuple(sorted({version for one in frontends for version in one.versions}))


def unpack_frontends(packed: bytes) -> list[FrontendRow]:
    return list(map(FrontendRow._make, _FRONTEND_ROW.iter_unpack(packed)))


def pack_backends(rows: Iterable[BackendRow]) -> bytes:
    pack = _BACKEND_ROW.pack
    return b"".join([pack(*row) for row in rows])


def unpack_backends(packed: bytes) -> list[BackendRow]:
    return list(map(make_backend, _BACKEND_ROW.iter_unpack(packed)))


def pack_runs(runs: Runs) -> bytes:
    return b"".join([_RUN.pack(kind, *run) for kind, run in runs.items()])


def unpack_runs(packed: bytes) -> Runs:
    return {kind: (first, size) for kind, first, size in _RUN.iter_unpack(packed)}


def eligible(kind: int, backends: Iterable[BackendRow], down: frozenset[End]) -> list[BackendRow]:
    """Those who get connections, as `model.eligible` has it; DOWN are those that probes found to be."""
    version, local_only = kind & ~LOCAL_ONLY, kind & LOCAL_ONLY
    able = [
        one
        for one in backends
        if one.version == version and one.weight and (not local_only or one.local) and not (down and one[2:5] in down)
    ]
    ready = [one for one in able if not one.state]
    return ready or [one for one in able if one.state == _DRAINING and one.serving]


def service_of(row: ServiceRow) -> Service:
    """The service that a row was made of."""
    health = None
    if row.health is not None:
        told: dict[str, Any] = json.loads(row.health)
        health = Health(**{**told, "command": tuple(told["command"])})
    backends = unpack_backends(row.backends)
    ends = {(one.packed, one.port): one for one in backends}  # this host has a row for each IP version
    return Service(
        name=row.name,
        frontends=tuple(map(frontend_of, unpack_frontends(row.frontends))),
        backends=tuple(map(backend_of, ends.values())),
        scheduler=row.scheduler,  # type: ignore[arg-type]
        table_size=row.table_size,
        affinity=row.affinity,
        masquerade=bool(row.masquerade),
        dsr=bool(row.dsr),
        health=health,
        source=row.source,
    )


def frontend_of(one: FrontendRow) -> Frontend:
    address = address_of(_unpadded(one.version, one.address))
    version = 0 if address else one.version
    return Frontend(
        _PROTOCOLS[one.protocol], address, one.port, version, bool(one.masquerade), bool(one.local_only),  # type: ignore[arg-type]
        host_exempt=one.local_only == HOST_EXEMPT,
    )  # fmt: skip


def backend_of(one: BackendRow) -> Backend:
    return Backend(
        address_of(one.packed), one.port, one.weight, _STATES[one.state], bool(one.local),
        bool(one.serving), one.deadline or None, ENDINGS[one.ending],
    )  # fmt: skip
