# SPDX-License-Identifier: Apache-2.0
"""Who may see the page: basic authentication before the application, by a configuration that may change."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import bcrypt

from pydp.errors import PydpError
from pydp.metrics.tls import server_context
from pydp.metrics.webconfig import WebConfig

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_KEPT = 100  # passwords whose test is remembered: bcrypt takes some 50 ms on purpose
_EVERY = 1.0  # seconds after which a connection has the configuration read again
_REFUSED = [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", 'Basic realm="pydp"')]


@dataclass(frozen=True, slots=True)
class Access:
    """A configuration and what follows from it."""

    config: WebConfig
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, config: WebConfig) -> Access:
        """Raises UsageError."""
        return cls(config, server_context(config.tls) if config.tls else None)


class Guard:
    """Holds the configuration: the first one, and those that READ gives later, at most once a second. One that cannot
    be used is told once, and the last that could stays.
    """

    def __init__(
        self,
        first: WebConfig,
        read: Callable[[], WebConfig] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._access = Access.of(first)
        self._read = read
        self._tell = tell
        self._told = ""
        self._next = time.monotonic() + _EVERY
        self._lock = threading.Lock()
        self._passwords = Passwords()

    def access(self) -> Access:
        """What holds now."""
        with self._lock:
            if self._read and time.monotonic() >= self._next:
                self._renew(self._read)
                self._next = time.monotonic() + _EVERY
            return self._access

    def _renew(self, read: Callable[[], WebConfig]) -> None:
        try:
            config = read()
            if config != self._access.config:
                self._access = Access.of(config)
                self._tell("web configuration read anew")
            self._told = ""
        except (PydpError, OSError) as error:
            if str(error) != self._told:
                self._tell(f"the web configuration stays as it was: {error}")
            self._told = str(error)

    def guarded(self, answer: Application) -> Application:
        """The application behind it."""

        def ask(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            config = self.access().config

            def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                return start_response(status, [*headers, *config.headers.items()], *rest)

            if config.users and not self._passwords.right(config.users, environ.get("HTTP_AUTHORIZATION", "")):
                start("401 Unauthorized", list(_REFUSED))
                return [b"Unauthorized\n"]
            return answer(environ, start)

        return ask


class Passwords:
    """Tests passwords, one at a time, so that guessing takes one CPU at the most."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._nobody = bcrypt.hashpw(os.urandom(16).hex().encode(), bcrypt.gensalt(10)).decode()
        self._known: dict[bytes, bool] = {}
        self._lock = threading.Lock()

    def right(self, users: Any, header: str) -> bool:
        """Whether HEADER (Authorization) names one of the USERS with the right password. Takes as long for a name that
        there is as for one that there is not.
        """
        given = _credentials(header)
        if given is None:
            return False
        name, password = given
        stored = users.get(name, self._nobody).encode()
        key = hmac.digest(self._secret, b"\0".join((name.encode(), stored, password)), "sha256")
        with self._lock:
            if key not in self._known:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[key] = _matches(password, stored) and name in users
            return self._known[key]


def _matches(password: bytes, stored: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, stored)
    except ValueError:  # longer than bcrypt takes, or with a zero in it
        return False


def _credentials(header: str) -> tuple[str, bytes] | None:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None
