# SPDX-License-Identifier: Apache-2.0
"""One probe of one backend: TCP connect, HTTP GET, or a command.

A probe goes to the backend's own address and port, never to a frontend.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self

import aiohttp
from yarl import URL

from pydp.services.model import Address, Health, end_text

AT_ONCE = 256  # probes under way at a time
_COMMANDS = 16  # of these, commands
_GOOD = range(200, 400)  # HTTP status codes, as kubelet has it
# Lacks of this host: they say nothing of the backend.
_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES)


class Failed(Exception):
    """The backend did not do what the probe wants; the text tells why."""


class Unable(Exception):
    """The probe could not be made, which says nothing of the backend."""


@dataclass(frozen=True, slots=True)
class Target:
    """A backend of a service, and how it is probed. ``host`` is the IP address that the probe goes to."""

    service: str
    address: Address | None
    port: int
    host: str
    health: Health

    @property
    def key(self) -> tuple[str, Address | None, int]:
        """What tells it from others."""
        return self.service, self.address, self.port

    def __str__(self) -> str:
        return f"{self.service} {end_text(self.address, self.port)}"


class Prober:
    """Makes probes, within an ``async with`` block."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)
        self._commands = asyncio.Semaphore(_COMMANDS)
        self._session: Any = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=False)  # certificates are not looked at
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "pydp-healthcheck", "Accept": "*/*"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def probe(self, target: Target) -> None:
        """Returns when the backend is well. Raises Failed, Unable."""
        health = target.health
        kinds = {"tcp": self._tcp, "http": self._http, "https": self._http, "exec": self._exec}
        async with self._commands if health.kind == "exec" else self._places:
            try:
                async with asyncio.timeout(health.timeout):
                    await kinds[health.kind](target, health.port or target.port)
            except TimeoutError:
                raise Failed(f"no answer within {health.timeout:g} s") from None
            except OSError as error:
                raise _verdict(error) from error

    async def _tcp(self, target: Target, port: int) -> None:
        _, writer = await asyncio.open_connection(target.host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _http(self, target: Target, port: int) -> None:
        health = target.health
        as_written = health.path.isascii() and health.path.isprintable() and " " not in health.path
        url = URL(f"{health.kind}://{end_text(ip_address(target.host), port)}{health.path}", encoded=as_written)
        try:
            async with self._session.get(
                url,
                allow_redirects=False,
                headers={"Host": health.host} if health.host else None,
                server_hostname=health.host.partition(":")[0] or None if health.kind == "https" else None,
            ) as response:
                status = response.status
        except aiohttp.ClientConnectorError as error:
            raise _verdict(error.os_error) from error
        except aiohttp.ServerDisconnectedError as error:
            raise Failed("closed without an answer") from error
        except aiohttp.ClientResponseError as error:
            raise Failed(f"no HTTP: {error.message.partition(':')[0].lower()}") from error
        except aiohttp.ClientError as error:
            raise Failed(f"no answer: {error}") from error
        except ValueError as error:  # of a path or host that no request can hold
            raise Unable(str(error)) from error
        if status not in _GOOD:
            raise Failed(f"HTTP status {status}")

    async def _exec(self, target: Target, port: int) -> None:
        """The command is told by its environment whom to look at, and says by its exit status how it went."""
        environment = {
            **os.environ,
            "BACKEND_ADDRESS": target.host,
            "BACKEND_PORT": str(port),
            "SERVICE": target.service,
        }
        try:
            child = await asyncio.create_subprocess_exec(
                *target.health.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise Unable(f"{target.health.command[0]}: {getattr(error, 'strerror', None) or error}") from error
        try:
            status = await child.wait()
        finally:
            if child.returncode is None:  # the time is over: whatever it started ends, too
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await asyncio.shield(child.wait())
        if status:
            raise Failed(f"exit status {status}" if status > 0 else f"ended by signal {-status}")


def _verdict(error: OSError) -> Failed | Unable:
    """Whether an error of a socket is the backend's or this host's."""
    if isinstance(error, ssl.SSLError):  # which has numbers of its own
        return Failed(f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}")
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return Unable(text) if error.errno in _LACKS else Failed(text[:1].lower() + text[1:])
