# SPDX-License-Identifier: Apache-2.0
"""The kernel's nat table as the twin of mode nat: rules as kube-proxy and administrators write them."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from pydp.lab import Namespace
from pydp.services.model import Backend, Frontend, Service, end_text

_TOOLS = {4: "iptables-restore", 6: "ip6tables-restore"}
_NETLINK_NETFILTER = 12
_CT_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_NOWHERE = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}
_HOOKS = ("PREROUTING", "OUTPUT")
_EMPTY = "*nat\nCOMMIT\n*filter\nCOMMIT\n"


@contextlib.contextmanager
def iptables(
    ns: Namespace, services: Sequence[Service], masquerade: Sequence[str], snat: Sequence[str]
) -> Iterator[None]:
    """Rules for the same as these options of pydp; at the end they go, and what the kernel remembers of connections."""
    try:
        for version, tool in _TOOLS.items():
            nat, kept = list[str](), list[str]()
            for service in services:
                for frontend in service.frontends:
                    if version in frontend.versions:
                        kept += _frontend(nat, service, frontend, version)
            nat += _sources(version, masquerade, snat)
            ns.run([tool], stdin="\n".join(("*nat", *nat, "COMMIT", "*filter", *kept, "COMMIT", "")))
        yield
    finally:
        for tool in _TOOLS.values():
            ns.run([tool], stdin=_EMPTY)
        forget(ns)


def forget(ns: Namespace) -> None:
    """Empty the kernel's conntrack table."""
    with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.send(struct.pack("=IHHIIBBH", 20, _CT_DELETE, 5, 1, 0, 0, 0, 0))  # NLM_F_REQUEST | NLM_F_ACK
        _, _, _, _, _, failed = struct.unpack_from("=IHHIIi", sock.recv(4096))
        assert not failed, f"flushing conntrack: errno {-failed}"


def _frontend(nat: list[str], service: Service, frontend: Frontend, version: int) -> list[str]:
    """Add to the rules of table nat; gives those of table filter."""
    addressed = f"-d {frontend.address}" if frontend.address else "-m addrtype --dst-type LOCAL"
    match = f"{addressed} -p {frontend.protocol} --dport {frontend.port}"
    backends = [one for one in service.backends if one.address is None or one.address.version == version]
    if not backends:
        return [f"-A {hook} {match} -j REJECT --reject-with {_NOWHERE[version]}" for hook in ("FORWARD", "OUTPUT")]
    for number, backend in enumerate(backends):
        chance = f"-m statistic --mode random --probability {1 / (len(backends) - number):.9f}"
        nat += [f"-A {hook} {match} {chance} {_target(backend)}" for hook in _HOOKS]
        if backend.address:  # its own client
            nat.append(f"-A POSTROUTING -s {backend.address} -d {backend.address} -j MASQUERADE")
    if service.masquerade or frontend.masquerade:
        asked = f"--ctorigdst {frontend.address} --ctorigdstport {frontend.port}"
        nat.append(f"-A POSTROUTING -p {frontend.protocol} -m conntrack {asked} -j MASQUERADE")
    return []


def _target(backend: Backend) -> str:
    if backend.address is None:
        return f"-j REDIRECT --to-ports {backend.port}"
    return f"-j DNAT --to-destination {end_text(backend.address, backend.port)}"


def _sources(version: int, masquerade: Iterable[str], snat: Iterable[str]) -> Iterator[str]:
    for text in snat:
        rest, _, device = text.partition("@")
        prefix, _, source = rest.partition("=")
        if (":" in prefix) == (version == 6):
            where = f"-o {device}" if device else ""
            yield f"-A POSTROUTING -s {prefix} ! -d {prefix} {where} -j SNAT --to-source {source}"
    for text in masquerade:
        prefix, _, device = text.partition("@")
        if (":" in prefix) == (version == 6):
            yield f"-A POSTROUTING -s {prefix} ! -d {prefix} {f'-o {device}' if device else ''} -j MASQUERADE"
