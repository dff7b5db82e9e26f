# SPDX-License-Identifier: Apache-2.0
"""Services as pydp speaks of them: what clients speak to, who answers, and how the one is chosen for the other.

Frozen records without sockets, files and eBPF. Times are seconds; deadlines are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, get_args

from pydp.errors import UsageError

Address = IPv4Address | IPv6Address
Protocol = Literal["tcp", "udp", "sctp"]
Scheduler = Literal["random", "maglev"]
Ending = Literal["reset", "move"]
HealthKind = Literal["none", "tcp", "http", "https", "exec"]

NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA's of the protocols
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
ENDINGS: tuple[Ending, ...] = get_args(Ending)
HEALTH_KINDS: tuple[HealthKind, ...] = get_args(HealthKind)

TABLE_SIZE = 16381  # places of a Maglev table
MAX_TABLE_SIZE = 1048573
MAX_WEIGHT = 65535
MAX_AFFINITY = 86400.0 * 365


class BackendState(StrEnum):
    """Ready ones get connections, draining ones keep those that they have, down ones are left out."""

    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Frontend:
    """What clients speak to.

    ``address`` None is every address of this host, of IP version ``version``; 0 there means those that the service
    has backends of. With an address, the version follows from it. ``masquerade``: backends see this host as the
    client. ``local_only``: only backends on this node answer. ``host_exempt``: but all answer clients on this host
    itself, and see this host.
    """

    protocol: Protocol
    address: Address | None
    port: int
    version: Literal[0, 4, 6] = 0
    masquerade: bool = False
    local_only: bool = False
    host_exempt: bool = False

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions it may be reached by."""
        if self.address is not None:
            return (self.address.version,)
        return (self.version,) if self.version else (4, 6)

    def __str__(self) -> str:
        if self.address is not None:
            return f"{self.protocol}:{end_text(self.address, self.port)}"
        return f"{self.protocol}:any{self.version or ''}:{self.port}"


@dataclass(frozen=True, slots=True)
class Backend:
    """Who answers. ``address`` None is this host itself, at the address that the client spoke to.

    ``weight`` 0 gets no connections. ``local``: it is on this node. ``serving``: while draining it still answers, and
    gets connections when nobody is ready. ``deadline`` is when draining is over (None: when its connections are), and
    ``on_end`` what becomes of the rest then, and of all when the backend is deleted.
    """

    address: Address | None
    port: int
    weight: int = 1
    state: BackendState = BackendState.READY
    local: bool = False
    serving: bool = True
    deadline: float | None = None
    on_end: Ending = "reset"

    @property
    def end(self) -> tuple[Address | None, int]:
        """What tells it from others of its service."""
        return self.address, self.port

    def __str__(self) -> str:
        return end_text(self.address, self.port) + (f"*{self.weight}" if self.weight != 1 else "")


@dataclass(frozen=True, slots=True)
class Health:
    """How backends are probed. ``port`` 0 is the backend's own. After ``rise`` probes that went well a backend is up,
    after ``fall`` that did not it is down. ``path`` and ``host`` are for HTTP, ``command`` for exec.
    """

    kind: HealthKind = "none"
    port: int = 0
    path: str = "/"
    host: str = ""
    command: tuple[str, ...] = ()
    interval: float = 10.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class Service:
    """Frontends that are answered by the same backends.

    ``affinity``: seconds for which a client stays with its backend, 0 for not at all. ``dsr``: backends answer the
    client themselves. ``table_size`` is that of scheduler maglev, a prime. ``source`` tells where it comes from: "cli"
    or a file.
    """

    name: str
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...] = ()
    scheduler: Scheduler = "random"
    table_size: int = TABLE_SIZE
    affinity: float = 0.0
    masquerade: bool = False
    dsr: bool = False
    health: Health | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """What probes say of a backend, which is ``address``:``port`` of the service of that name.

    ``up`` False keeps it from getting connections. ``since`` is when that began (seconds since the epoch), ``reason``
    the outcome of the probe that decided it; ``checks`` and ``failures`` count probes.
    """

    service: str
    address: Address | None
    port: int
    up: bool
    since: float
    reason: str = ""
    checks: int = 0
    failures: int = 0


def end_text(address: Address | None, port: int) -> str:
    """ADDR:PORT, or PORT alone for this host."""
    if address is None:
        return str(port)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def eligible(frontend: Frontend, version: int, backends: Iterable[Backend]) -> list[Backend]:
    """Those who get the connections of a frontend that come by one IP version, in their order: all that are ready; if
    there are none, those that still answer while draining (as kube-proxy has it, KEP-1669); none if all are down.
    """
    able = [
        one
        for one in backends
        if one.weight
        and (one.address is None or one.address.version == version)
        and (one.local or not frontend.local_only)
    ]
    ready = [one for one in able if one.state == BackendState.READY]
    return ready or [one for one in able if one.state == BackendState.DRAINING and one.serving]


def check(service: Service) -> None:
    """Raises UsageError that names the service and what is wrong with it. Numbers were checked when they were read."""
    where = f"service {service.name}"
    versions = {version for frontend in service.frontends for version in frontend.versions}
    ends = set()
    for one in service.backends:
        if one.address is not None and one.address.version not in versions and versions:
            raise UsageError(
                f"{where}: backend {one} is IPv{one.address.version} and no frontend is: {service.frontends[0]}",
                hint="addresses are not translated from one IP version to the other",
            )
        if one.end in ends:
            raise UsageError(f"{where}: backend {one} is there twice")
        ends.add(one.end)
    if any(one.address is None for one in service.backends):
        if not all(one.address is None for one in service.backends):
            raise UsageError(f"{where}: backends are on this host itself or at addresses, not both")
        if service.dsr:
            raise UsageError(f"{where}: dsr: a backend that is this host itself needs no encapsulation")
    if service.dsr and (service.masquerade or any(one.masquerade for one in service.frontends)):
        raise UsageError(f"{where}: dsr and masquerade: a backend that answers the client has to know it")
    if service.scheduler == "maglev" and not is_prime(service.table_size):
        raise UsageError(f"{where}: table_size {service.table_size}: not a prime, such as {TABLE_SIZE}")


def check_all(services: Iterable[Service]) -> None:
    """Check each, and that no two have a name or a frontend in common. Raises UsageError that names both."""
    names: dict[str, Service] = {}
    taken: dict[tuple[str, Address | None, int, int], Service] = {}
    for service in services:
        if service.name in names:
            raise UsageError(f"service {service.name} is there twice{_sources(names[service.name], service)}")
        names[service.name] = service
        check(service)
        for frontend in service.frontends:
            for version in frontend.versions:
                key = frontend.protocol, frontend.address, frontend.port, version
                other = taken.setdefault(key, service)
                if other is not service:
                    raise UsageError(
                        f"frontend {frontend} belongs to the services {other.name} and {service.name}"
                        + _sources(other, service)
                    )
        if len(set(map(str, service.frontends))) != len(service.frontends):
            raise UsageError(f"service {service.name}: a frontend is there twice")


def _sources(one: Service, other: Service) -> str:
    named = [each for each in dict.fromkeys((one.source, other.source)) if each]
    return f" ({' and '.join(named)})" if named else ""


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
