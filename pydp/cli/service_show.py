# SPDX-License-Identifier: Apache-2.0
"""How services and backends are shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pydp.cli.output import printable, table

if TYPE_CHECKING:
    from pydp.services.model import Frontend
    from pydp.services.show import BackendShown, ServiceShown

_SHOWN = 3  # frontends in a line
_FAILURES: Mapping[str, str] = {
    "backend": "without a backend",
    "full": "without room",
    "exhausted": "without a free port",
    "ended": "whose backend has gone",
}
COLUMNS = ("BACKEND", "STATE", "WHY", "WEIGHT", "CONNECTIONS", "SENT", "BYTES", "RECEIVED", "BYTES ")


def overview(found: Sequence[ServiceShown]) -> str:
    """A line for each service."""
    headers = ("SERVICE", "FRONTENDS", "BACKENDS", "SCHEDULER", "CONNECTIONS", "FAILED")
    return table(headers, [_row(one) for one in found], right=headers[4:])


def document(one: ServiceShown) -> dict[str, Any]:
    """A service, for JSON."""
    from pydp.services.text import health_text

    service = one.service
    health = service.health and {**asdict(service.health), "text": health_text(service.health)}
    return {
        "service": service.name,
        "frontends": [_frontend(each) for each in service.frontends],
        **{key: getattr(service, key) for key in ("scheduler", "table_size", "affinity", "masquerade", "dsr")},
        "health": health,
        "source": service.source,
        "failures": dict(one.failures),
        "backends": [backend_document(each) for each in one.backends],
    }


def _frontend(one: Frontend) -> dict[str, Any]:
    return {
        "protocol": one.protocol,
        "address": None if one.address is None else str(one.address),
        "version": one.versions[0] if len(one.versions) == 1 else None,
        "port": one.port,
        "masquerade": one.masquerade,
        "local_only": one.local_only,
        "host_exempt": one.host_exempt,
    }


def _frontend_text(one: Frontend) -> str:
    local = ", local backends only" if one.local_only else ""
    exempt = " but for clients on this host" if one.host_exempt else ""
    return f"{one}{', masqueraded' if one.masquerade else ''}{local}{exempt}"


def backend_document(one: BackendShown) -> dict[str, Any]:
    """A backend, for JSON."""
    back = one.backend
    health = one.health and {key: getattr(one.health, key) for key in ("up", "since", "reason", "checks", "failures")}
    return {
        "address": None if back.address is None else str(back.address),
        **{key: getattr(back, key) for key in ("port", "weight", "local", "serving", "deadline", "on_end")},
        "state": one.state.value,
        "health": health,
        **one.count._asdict(),
    }


def _row(one: ServiceShown) -> Sequence[object]:
    fronts = [str(each) for each in one.service.frontends]
    more = f" and {len(fronts) - _SHOWN} more" if len(fronts) > _SHOWN else ""
    return (
        one.service.name,
        " ".join(fronts[:_SHOWN]) + more,
        _states(one),
        one.service.scheduler,
        sum(each.count.flows for each in one.backends),
        sum(one.failures.values()),
    )


def _states(one: ServiceShown) -> str:
    counts = Counter(each.state.value for each in one.backends)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"


def details(one: ServiceShown) -> str:
    """All of a service."""
    from pydp.services.text import health_text

    service = one.service
    about = [f"scheduler {service.scheduler}"]
    if service.scheduler == "maglev":
        about.append(f"table of {service.table_size}")
    about += [f"affinity {service.affinity:g} s"] if service.affinity else []
    about += [word for word in ("masquerade", "dsr") if getattr(service, word)]
    if service.health:
        about.append(f"health {health_text(service.health)} every {service.health.interval:g} s")
    failures = ", ".join(f"{count} {_FAILURES[key]}" for key, count in one.failures.items() if count)
    lines = [
        f"{service.name}: {', '.join(about)}" + (f", from {service.source}" if service.source else ""),
        *(f"  frontend {_frontend_text(each)}" for each in service.frontends),
        *([f"  connections that failed: {failures}"] if failures else []),
    ]
    rows = [backend_row(each) for each in one.backends]
    return "\n".join(
        [printable("\n".join(lines)), *filter(None, [table(COLUMNS, rows, right=COLUMNS[3:], indent="  ")])]
    )


def backend_row(one: BackendShown) -> Sequence[object]:
    """The cells of COLUMNS."""
    count = one.count
    return (
        str(replace(one.backend, weight=1)),
        one.state.value,
        _why(one),
        one.backend.weight,
        count.flows,
        count.sent_packets,
        count.sent_bytes,
        count.received_packets,
        count.received_bytes,
    )


def _why(one: BackendShown) -> str:
    """Why it is in that state, as far as there is more to say."""
    if one.health and not one.health.up:
        return one.health.reason
    if one.state.value == "draining" and one.backend.deadline is not None:
        left = one.backend.deadline - time.time()
        return f"{one.backend.on_end} in {left:.0f} s" if left > 0 else f"{one.backend.on_end} now"
    return ""
