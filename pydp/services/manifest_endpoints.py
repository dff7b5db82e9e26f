# SPDX-License-Identifier: Apache-2.0
"""Who answers for a Service of Kubernetes: its EndpointSlices (discovery.k8s.io/v1), or its Endpoints (v1) where it has
no slices, as from clusters before 1.21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from pydp.errors import UsageError
from pydp.services.model import Address, Backend, BackendState
from pydp.services.tables import Table
from pydp.services.text import check_address

PROTOCOLS = ("TCP", "UDP", "SCTP")

_OWNER = "kubernetes.io/service-name"
_FAMILIES = {"IPv4": 4, "IPv6": 6, "FQDN": 0}


@dataclass(frozen=True, slots=True)
class Slice:
    """Ports by (name, protocol), and the endpoints that have all of them."""

    ports: dict[tuple[str, str], int]
    endpoints: tuple[Backend, ...]  # their port is nothing yet


def owner(table: Table) -> str:
    """Name of the Service, in the same namespace, that an EndpointSlice is for; "" for none."""
    return table.table("metadata").table("labels").text(_OWNER)


def from_slice(table: Table, node: str, note: Callable[[str], None]) -> Slice:
    """An EndpointSlice as NODE sees it. Raises UsageError."""
    version = _FAMILIES[table.choice("addressType", tuple(_FAMILIES), "")]
    if not version:
        note(f"{table.title}: host names are not looked up: skipped")
        return Slice({}, ())
    endpoints = tuple(_endpoint(one, version, node) for one in table.tables("endpoints"))
    return Slice(dict(_ports(table.tables("ports"))), endpoints)


def from_endpoints(table: Table, node: str) -> Iterator[Slice]:
    """The subsets of an Endpoints object. Raises UsageError."""
    for subset in table.tables("subsets"):
        endpoints = [
            Backend(address(one, "ip"), 0, state=state, local=bool(node) and one.text("nodeName") == node)
            for key, state in (("addresses", BackendState.READY), ("notReadyAddresses", BackendState.DOWN))
            for one in subset.tables(key)
        ]
        yield Slice(dict(_ports(subset.tables("ports"))), tuple(endpoints))


def backends(slices: Iterable[Slice], name: str, protocol: str) -> tuple[Backend, ...]:
    """Those who answer for the port of that name, each once: slices may overlap while endpoints move between them."""
    found: dict[tuple[Address | None, int], Backend] = {}
    for one in slices:
        port = one.ports.get((name, protocol))
        if port is None:
            continue
        for each in one.endpoints:
            if (each.address, port) not in found or each.local:
                found[each.address, port] = Backend(
                    each.address, port, state=each.state, local=each.local, serving=each.serving
                )
    return tuple(found.values())


def address(table: Table, *path: str | int, text: str | None = None) -> Address:
    """The IP address at PATH, or TEXT that stands there. Raises UsageError."""
    found = table.text(str(path[0])) if text is None else text
    try:
        return check_address(ip_address(found.replace("%", " ")), "")  # no scopes, which Python would take
    except ValueError:
        raise table.wrong(path, f"{found!r} is not an IP address") from None
    except UsageError as error:
        raise table.wrong(path, str(error).removeprefix(": ")) from None


def _ports(tables: Iterable[Table]) -> Iterator[tuple[tuple[str, str], int]]:
    """Ports without a number mean all ports; kube-proxy takes no notice of them either."""
    for one in tables:
        key = one.text("name"), one.choice("protocol", PROTOCOLS, "TCP")
        if one.has("port"):
            yield key, one.number("port", 1, 65535)


def _endpoint(table: Table, version: int, node: str) -> Backend:
    """Its first address: the others are the same endpoint's, and nobody uses them (API reference)."""
    texts = table.texts("addresses")
    if not texts:
        raise table.wrong(("addresses",), "an endpoint has one at least")
    found = address(table, "addresses", 0, text=texts[0])
    if found.version != version:
        raise table.wrong(("addresses", 0), f"{found} is not an IPv{version} address, as addressType says")
    state, serving = _state(table.table("conditions"))
    return Backend(found, 0, state=state, serving=serving, local=bool(node) and table.text("nodeName") == node)


def _state(conditions: Table) -> tuple[BackendState, bool]:
    """Whether it gets connections, and whether it may if nobody else can (KEP-1669). What is not said is ready and
    serving, and not terminating.
    """
    ready, serving = conditions.flag("ready", True), conditions.flag("serving", True)
    if ready:
        return BackendState.READY, True
    return (BackendState.DRAINING, serving) if conditions.flag("terminating") else (BackendState.DOWN, serving)
