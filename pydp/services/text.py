# SPDX-License-Identifier: Apache-2.0
"""Services as they are written on the command line, and read from there.

    tcp:10.96.0.1:80=10.0.1.2:8080*3,10.0.1.3:8080      a frontend and its backends, one of weight 3
    udp:[fd00::1]:53=[fd00::2]:53                       IPv6 addresses in brackets
    tcp:any:30080=10.0.1.2:80                           every address of this host; any4 or any6 for one IP version
    tcp:80=8080                                         the same, and the backend is this host itself

Every error is a UsageError that repeats the text at fault after WHERE, the flag or key that it was given by.
"""

from __future__ import annotations

import shlex
from ipaddress import IPv6Address, ip_address
from typing import Literal

from pydp.errors import UsageError
from pydp.services.model import (
    HEALTH_KINDS,
    MAX_WEIGHT,
    PROTOCOLS,
    Address,
    Backend,
    Frontend,
    Health,
    Protocol,
    Service,
    check,
)

_ANY: dict[str, Literal[0, 4, 6]] = {"any": 0, "any4": 4, "any6": 6}
_FRONTEND = "tcp:10.96.0.1:80, udp:[fd00::1]:53, tcp:any:30080"
_BACKEND = "10.0.1.2:8080, [fd00::2]:8080, 10.0.1.2:8080*3 for a weight"
_NAME = 253


def parse_service(text: str, where: str = "--service") -> Service:
    """FRONTEND[=BACKEND[*WEIGHT],...]; the service is called after its frontend."""
    front, _, back = text.partition("=")
    frontend = parse_frontend(front, where)
    return _service(frontend, parse_backends(back, where))


def parse_forward(text: str, where: str = "--forward") -> Service:
    """PROTOCOL:PORT=BACKEND[,...]: a port of every address of this host."""
    service = parse_service(text, where)
    if service.frontends[0].address is not None:
        raise UsageError(f"{where} {text}: a port of every address of this host", hint=f"--service {text}")
    if not service.backends or service.backends[0].address is None:
        raise UsageError(f"{where} {text}: to which address and port?", hint=f"{where} tcp:8080=10.0.1.2:80")
    return service


def parse_redirect(text: str, where: str = "--redirect") -> Service:
    """PROTOCOL:PORT=PORT: to another port of this host."""
    service = parse_service(text, where)
    if service.frontends[0].address is not None:
        raise UsageError(f"{where} {text}: a port of every address of this host", hint=f"{where} tcp:80=8080")
    if len(service.backends) != 1 or service.backends[0].address is not None:
        raise UsageError(f"{where} {text}: to one other port of this host", hint=f"{where} tcp:80=8080")
    return service


def _service(frontend: Frontend, backends: tuple[Backend, ...]) -> Service:
    service = Service(str(frontend), (frontend,), backends)
    check(service)
    return service


def parse_frontend(text: str, where: str = "frontend") -> Frontend:
    """PROTOCOL:ADDRESS:PORT, PROTOCOL:any[4|6]:PORT or PROTOCOL:PORT."""
    protocol, _, rest = text.partition(":")
    if protocol not in PROTOCOLS or not rest:
        raise UsageError(f"{where} {text}: not a protocol ({', '.join(PROTOCOLS)}), an address and a port",
                         hint=f"such as {_FRONTEND}")  # fmt: skip
    name: Protocol = protocol
    address, colon, port = rest.rpartition(":")
    if address in _ANY or not colon:
        return Frontend(name, None, _port(port, text, where), _ANY.get(address, 0))
    return Frontend(name, _address(address, text, where, _FRONTEND), _port(port, text, where))


def parse_backends(text: str, where: str = "backends") -> tuple[Backend, ...]:
    """BACKEND[,...], or nothing."""
    return tuple(parse_backend(one, where) for one in text.split(",")) if text else ()


def parse_backend(text: str, where: str = "backend") -> Backend:
    """ADDRESS:PORT[*WEIGHT], or PORT of this host."""
    end, star, weight = text.partition("*")
    address, colon, port = end.rpartition(":")
    if star and not (weight.isdecimal() and int(weight) <= MAX_WEIGHT):
        raise UsageError(f"{where} {text}: the weight {weight} is not a number from 0 to {MAX_WEIGHT}")
    return Backend(
        _address(address, text, where, _BACKEND) if colon else None,
        _port(port, text, where, _BACKEND),
        int(weight) if star else 1,
    )


def parse_health(text: str, where: str = "--health") -> Health:
    """none, tcp, http[:/PATH], https[:/PATH] or exec:COMMAND."""
    kind, colon, rest = text.partition(":")
    for one in HEALTH_KINDS:
        if kind != one:
            continue
        if one in ("http", "https"):
            if rest and not rest.startswith("/"):
                raise UsageError(f"{where} {text}: the path {rest} does not begin with /")
            return Health(one, path=rest or "/")
        if one == "exec":
            return Health(one, command=_command(rest, text, where))
        if not colon:
            return Health(one)
    raise UsageError(f"{where} {text}: not understood", hint="tcp, http:/path, https:/path, exec:COMMAND or none")


def health_text(health: Health) -> str:
    """What `parse_health` reads, without numbers."""
    if health.kind in ("http", "https"):
        return f"{health.kind}:{health.path}"
    return f"exec:{shlex.join(health.command)}" if health.kind == "exec" else health.kind


def service_text(service: Service) -> str:
    """What `parse_service` reads, of the first frontend."""
    return f"{service.frontends[0]}={','.join(map(str, service.backends))}"


def check_name(name: str, where: str = "--name") -> str:
    """A name that fits in a line. Raises UsageError."""
    if not name or len(name) > _NAME or not name.isprintable() or " " in name or name == "-":
        raise UsageError(f"{where} {name!r}: a name has up to {_NAME} printable characters and no space")
    return name


def _command(rest: str, text: str, where: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(rest))
    except ValueError as error:
        raise UsageError(f"{where} {text}: {error}") from None
    if not words:
        raise UsageError(f"{where} {text}: which command?", hint="exec:/usr/bin/check --quick")
    return words


def _port(text: str, whole: str, where: str, like: str = _FRONTEND) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text) <= 65535:
        raise UsageError(f"{where} {whole}: {text or 'nothing'} is not a port from 1 to 65535", hint=f"such as {like}")
    return int(text)


def _address(text: str, whole: str, where: str, like: str) -> Address:
    bare = text.removeprefix("[").removesuffix("]")
    try:
        address = ip_address(bare)
    except ValueError:
        raise UsageError(f"{where} {whole}: {text or 'nothing'} is not an IP address", hint=f"such as {like}") from None
    if (address.version == 6) != (text == f"[{bare}]"):
        raise UsageError(f"{where} {whole}: IPv6 addresses stand in brackets, others do not", hint=f"such as {like}")
    return check_address(address, f"{where} {whole}")


def check_address(address: Address, where: str) -> Address:
    """An address that packets can be routed to. Raises UsageError."""
    special = (
        (address.is_multicast, "a multicast address"),
        (address.is_unspecified, "no address; `any` is every address of this host"),
        (address.is_loopback, "an address that no packet comes or goes by; a PORT alone is this host itself"),
        (address.version == 6 and address.is_link_local, "a link-local address, which is none without its link"),
        (isinstance(address, IPv6Address) and bool(address.ipv4_mapped), "an IPv4 address in IPv6's clothes"),
        (str(address) == "255.255.255.255", "the broadcast address"),
    )
    for wrong, reason in special:
        if wrong:
            raise UsageError(f"{where}: {address} is {reason}")
    return address
