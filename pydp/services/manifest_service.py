# SPDX-License-Identifier: Apache-2.0
"""A Service of Kubernetes (v1) as kube-proxy would program it: one service of ours for each of its ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import Literal

from pydp.services.manifest_endpoints import PROTOCOLS, Slice, address, backends
from pydp.services.model import PROTOCOLS as OURS
from pydp.services.model import Address, Backend, Frontend, Protocol, Service
from pydp.services.tables import Table

Note = Callable[[str], None]
Version = Literal[0, 4, 6]
Taken = dict[tuple[str, Address | None, int, int], str]  # by protocol, address, port and IP version: the service

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_POLICIES = ("Cluster", "Local")
_AFFINITY = 10800  # seconds, the default of sessionAffinityConfig.clientIP.timeoutSeconds
_PROXY = "service.kubernetes.io/service-proxy-name"  # label: another proxy than the cluster's serves it
_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"  # annotation, older than the key


def from_service(table: Table, name: str, slices: Sequence[Slice], taken: Taken, note: Note) -> Iterator[Service]:
    """Services called after NAME, whose backends are in SLICES. Raises UsageError, also if a frontend is TAKEN."""
    spec = table.table("spec")
    reason = _left_out(table, spec)
    if reason:
        note(f"{table.title}: {reason}: skipped")
        return
    _refuse_ranges(table, spec)
    affinity, all_ready = _affinity(spec), spec.flag("publishNotReadyAddresses")
    entrances = _Entrances(table, spec, note)
    ports = spec.tables("ports")
    if not ports:
        raise spec.wrong(("ports",), "a Service has one at least")
    labels: set[str] = set()
    for port in ports:
        label, protocol = port.text("name"), port.choice("protocol", PROTOCOLS, "TCP")
        if len(ports) > 1 and not label:
            raise port.wrong(("name",), "is missing: there are several ports")
        if label in labels:
            raise port.wrong(("name",), f"{label!r} is the name of two ports")
        labels.add(label)
        title = f"{name}:{label}" if label else name
        frontends = entrances.of(port, OURS[PROTOCOLS.index(protocol)])
        _claim(frontends, title, taken, port)
        if slices and not any((label, protocol) in one.ports for one in slices):
            note(f"{title}: its endpoints have no {protocol} port named {label!r}")
        found = _speaking(frontends, backends(slices, label, protocol), all_ready)
        if frontends:
            yield Service(title, frontends, tuple(found), affinity=affinity, source=table.document.file)
        else:
            note(f"{title}: no address or port that clients could speak to: skipped")


def _left_out(table: Table, spec: Table) -> str:
    """Why kube-proxy would have nothing to do for a Service; "" if it has."""
    kind = spec.choice("type", _TYPES, "ClusterIP")
    proxy = table.table("metadata").table("labels").text(_PROXY)
    if kind == "ExternalName":
        return "of type ExternalName, which is for DNS"
    if "None" in (spec.text("clusterIP"), *spec.texts("clusterIPs")):
        return "headless (clusterIP None), which is for DNS"
    return f"label {_PROXY} leaves it to {proxy}" if proxy not in ("", "pydp") else ""


def _refuse_ranges(table: Table, spec: Table) -> None:
    """Clients are not filtered here: who wrote ranges meant to keep others out."""
    annotations = table.table("metadata").table("annotations")
    written = [(spec, "loadBalancerSourceRanges", text) for text in spec.texts("loadBalancerSourceRanges")]
    written += [(annotations, _RANGES, text) for text in annotations.text(_RANGES).split(",") if text]
    everybody = False
    for where, key, text in written:
        try:
            everybody |= ip_network(text.strip(), strict=False).prefixlen == 0
        except ValueError:
            raise where.wrong((key,), f"{text!r} is not a prefix") from None
    if written and not everybody:
        where, key, _ = written[0]
        raise where.wrong((key,), "clients are not filtered by their address here")


def _affinity(spec: Table) -> float:
    """Seconds for which a client stays with its backend; 0 for not at all."""
    seconds = spec.table("sessionAffinityConfig").table("clientIP").number("timeoutSeconds", 1, 86400, _AFFINITY)
    return float(seconds) if spec.choice("sessionAffinity", ("None", "ClientIP"), "None") == "ClientIP" else 0.0


class _Entrances:
    """By what addresses a Service is reached. Clients from outside come by node ports, external IPs and load balancers:
    they are masqueraded unless externalTrafficPolicy is Local, since an answer from another node would not come back
    this way. Even then this host itself gets all backends by these addresses. With kube-proxy so do containers, if it
    was told which they are (its clusterCIDR); here they are clients like others.
    """

    def __init__(self, table: Table, spec: Table, note: Note) -> None:
        self._own = list(_addresses(spec, "clusterIPs" if spec.texts("clusterIPs") else "clusterIP"))
        self._version = _version(self._own, spec.texts("ipFamilies"))
        self._outer: list[Address] = []
        for one in (*_addresses(spec, "externalIPs"), *_ingress(table)):
            if self._version and one.version != self._version:
                note(f"{table.title}: {one} is not of its IP family: skipped")
            else:
                self._outer.append(one)
        self._inner_local = spec.choice("internalTrafficPolicy", _POLICIES, "Cluster") == "Local"
        self._outer_local = spec.choice("externalTrafficPolicy", _POLICIES, "Cluster") == "Local"
        self._on_nodes = spec.text("type") in ("NodePort", "LoadBalancer")

    def of(self, port: Table, protocol: Protocol) -> tuple[Frontend, ...]:
        """The frontends of one port, each once."""
        number, node = port.number("port", 1, 65535), port.number("nodePort", 0, 65535, 0)
        outer: list[tuple[Address | None, int, Version]] = [(one, number, 0) for one in self._outer]
        if node and self._on_nodes:
            outer.append((None, node, self._version))
        found: dict[Address | None, Frontend] = {
            one: Frontend(protocol, one, number, local_only=self._inner_local) for one in self._own
        }
        local = self._outer_local
        for one, at, version in outer:
            found.setdefault(
                one,
                Frontend(protocol, one, at, version, masquerade=not local, local_only=local, host_exempt=local),
            )
        return tuple(found.values())


def _version(own: Iterable[Address], families: Iterable[str]) -> Version:
    """The IP version of a Service that has but one, else 0: that of its addresses or, without any, as it says."""
    versions = {one.version for one in own} or {6 if one == "IPv6" else 4 for one in families}
    if len(versions) != 1:
        return 0
    return 4 if 4 in versions else 6


def _addresses(spec: Table, key: str) -> Iterator[Address]:
    if key == "clusterIP":
        if spec.text(key):
            yield address(spec, key)
        return
    for at, text in enumerate(spec.texts(key)):
        yield address(spec, key, at, text=text)


def _ingress(table: Table) -> Iterator[Address]:
    """Addresses of load balancers whose packets arrive as they were sent (ipMode VIP)."""
    for one in table.table("status").table("loadBalancer").tables("ingress"):
        if one.has("ip") and one.choice("ipMode", ("VIP", "Proxy"), "VIP") == "VIP":
            yield address(one, "ip")


def _claim(frontends: Iterable[Frontend], name: str, taken: Taken, port: Table) -> None:
    for frontend in frontends:
        for version in frontend.versions:
            other = taken.setdefault((frontend.protocol, frontend.address, frontend.port, version), name)
            if other != name:
                raise port.wrong((), f"{frontend} belongs to {other}, too")


def _speaking(frontends: Iterable[Frontend], found: Iterable[Backend], all_ready: bool) -> Iterator[Backend]:
    """Those that have an IP version of the frontends'. With publishNotReadyAddresses all are ready."""
    versions = {version for frontend in frontends for version in frontend.versions}
    for one in found:
        if one.address is not None and one.address.version in versions:
            yield Backend(one.address, one.port, local=one.local) if all_ready else one
