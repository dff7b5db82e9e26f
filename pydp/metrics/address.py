# SPDX-License-Identifier: Apache-2.0
"""Where to listen: an address in words, and a socket bound to it and nothing else."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

from pydp.errors import NotAllowed, PydpError, UsageError

_LISTEN = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<four>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_BACKLOG = 64


def parse_listen(text: str) -> tuple[str, int]:
    """("127.0.0.1:9818", "[::1]:9818" or "localhost:9818") -> (address, port); port 0 takes a free one.

    Names other than localhost are refused: what they mean may change, and so who can reach us. Raises UsageError.
    """
    found = _LISTEN.fullmatch(text)
    if not found or int(found["port"]) > 65535:
        raise UsageError(f"--listen {text}: not of the form ADDR:PORT", hint="as in 127.0.0.1:9818 or [::1]:9818")
    host = found["six"] or ("127.0.0.1" if found["four"] == "localhost" else found["four"])
    try:
        (ipaddress.IPv6Address if found["six"] else ipaddress.IPv4Address)(host)
    except ValueError as error:
        raise UsageError(f"--listen {text}: {error}", hint="0.0.0.0 or [::] stands for every address") from error
    return host, int(found["port"])


def listen_on(text: str) -> socket.socket:
    """A listening socket. Raises UsageError, NotAllowed, and PydpError when the address is taken."""
    host, port = parse_listen(text)
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(text, error) from error
    return sock


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """Where a browser finds it."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def _refusal(text: str, error: OSError) -> PydpError:
    if error.errno == errno.EADDRINUSE:
        return PydpError(f"--listen {text}: taken by another process", hint="`ss -ltnp` shows which; or choose another")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"--listen {text}: no device here has this address", hint="`ip address` shows those there are"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotAllowed(f"--listen {text}: not permitted", hint="run as root, or take a port above 1023")
    return PydpError(f"--listen {text}: {error.strerror}")
