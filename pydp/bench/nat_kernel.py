# SPDX-License-Identifier: Apache-2.0
"""Services as netfilter has them: the rules that kube-proxy writes for iptables, and a map of nftables.

A service has one frontend, with an IPv4 address, and as many backends as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pydp.lab import Namespace
from pydp.services.model import Service

_PATIENCE = 600  # s
_MARK = "0x4000"
_FIXED = f"""\
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark {_MARK}/{_MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {_MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark {_MARK}
"""


def write_iptables(ns: Namespace, flavour: str, services: Sequence[Service]) -> None:
    """Replace the table nat by these services; FLAVOUR is legacy or nft. Raises LabError."""
    _restore(ns, flavour, iptables_table(services))


def change_iptables(ns: Namespace, flavour: str, number: int, service: Service) -> None:
    """Write the chains of one service anew, its backends having changed. Raises LabError."""
    lines = ["*nat", *_chains(number, service), "COMMIT"]
    _restore(ns, flavour, "\n".join(lines) + "\n", "--noflush")


def _restore(ns: Namespace, flavour: str, text: str, *options: str) -> None:
    ns.run([f"iptables-{flavour}-restore", *options], stdin=text, timeout=_PATIENCE)


def iptables_table(services: Iterable[Service]) -> str:
    """The table nat, as kube-proxy has it: a rule for each service in one chain, a chain for each of them that draws a
    backend, and a chain for each backend.
    """
    lines = ["*nat", _FIXED.rstrip()]
    for number, service in enumerate(services):
        (frontend,) = service.frontends
        lines += _chains(number, service)
        lines.append(
            f"-A KUBE-SERVICES -d {frontend.address}/32 -p {frontend.protocol} -m {frontend.protocol}"
            f" --dport {frontend.port} -j KUBE-SVC-{number}"
        )
    return "\n".join([*lines, "COMMIT"]) + "\n"


def _chains(number: int, service: Service) -> Iterator[str]:
    """The chains of a service and its backends: declared, which empties them, and filled."""
    (frontend,) = service.frontends
    count, protocol = len(service.backends), frontend.protocol
    yield f":KUBE-SVC-{number} - [0:0]"
    for place, backend in enumerate(service.backends):
        chain, rest = f"KUBE-SEP-{number}-{place}", count - place
        chance = f" -m statistic --mode random --probability {1 / rest:.10f}" if rest > 1 else ""
        yield f":{chain} - [0:0]"
        yield f"-A KUBE-SVC-{number}{chance} -j {chain}"
        yield f"-A {chain} -s {backend.address}/32 -j KUBE-MARK-MASQ"
        yield f"-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}"


def write_nftables(ns: Namespace, services: Sequence[Service]) -> None:
    """Make the table with its map, in place of one that is there. Raises LabError."""
    draws = f"ip daddr . meta l4proto . th dport . numgen random mod {len(services[0].backends)}"
    elements = ", ".join(element for service in services for element in _elements(service))
    text = f"""\
table ip pydp
delete table ip pydp
table ip pydp {{
 map backends {{ typeof {draws} : ip daddr . th dport; elements = {{ {elements} }} }}
 chain prerouting {{ type nat hook prerouting priority dstnat; dnat ip to {draws} map @backends; }}
 chain output {{ type nat hook output priority -100; dnat ip to {draws} map @backends; }}
}}
"""
    _nft(ns, text)


def change_nftables(ns: Namespace, before: Service, service: Service) -> None:
    """Exchange the elements of one service. Raises LabError."""
    old, new = (", ".join(_elements(one)) for one in (before, service))
    _nft(ns, f"delete element ip pydp backends {{ {old} }}\nadd element ip pydp backends {{ {new} }}\n")


def _nft(ns: Namespace, text: str) -> None:
    ns.run(["nft", "-f", "-"], stdin=text, timeout=_PATIENCE)


def _elements(service: Service) -> Iterator[str]:
    (frontend,) = service.frontends
    for place, one in enumerate(service.backends):
        yield f"{frontend.address} . {frontend.protocol} . {frontend.port} . {place} : {one.address} . {one.port}"


Writer = Callable[[Namespace, Sequence[Service]], None]
# Those who replace all services.
WRITERS: dict[str, Writer] = {
    "legacy": lambda ns, services: write_iptables(ns, "legacy", services),
    "iptables-nft": lambda ns, services: write_iptables(ns, "nft", services),
    "nftables": write_nftables,
}
