# SPDX-License-Identifier: Apache-2.0
"""`pydp healthcheck`: the services of an instance are read from its database, probed, and found up or down."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ebpf.errors import EbpfError
from pydp.datapath import Datapath
from pydp.errors import NothingAttached, PydpError
from pydp.services.api import Services
from pydp.services.database import Database, file_errors
from pydp.services.health import Checker, Picture, ended
from pydp.services.model import BackendHealth, Service
from pydp.services.probed import read_health
from pydp.services.probes import AT_ONCE, Target
from pydp.services.stored import load

_FILES = AT_ONCE + 128  # descriptors that may be open at a time


class Probed:
    """The services of an instance that are to be probed. All calls are made from one thread."""

    def __init__(self, datapath: Datapath, name: str) -> None:
        self._datapath, self._name = datapath, name
        self._database: Database | None = None
        self._file: tuple[object, ...] = ()
        self._version = -1

    def look(self) -> Picture | None:
        """None if nothing has changed since the last look. Raises NothingAttached, PydpError."""
        with _errors():
            database = self._current()
            with file_errors(database.path):
                (version,) = database.connection.execute("pragma data_version").fetchone()
                if version == self._version:
                    return None
                picture = _picture(database)
            self._version = version
            return picture

    def keep(self, found: list[BackendHealth]) -> None:
        """Raises NothingAttached, PydpError."""
        with _errors():
            Services(self._datapath, self._name).set_health(found)

    def _current(self) -> Database:
        """An attach makes another file, which counts from then on and may have the name of one that is gone."""
        try:
            path = self._datapath.path(self._datapath.instance(self._name))
        except NothingAttached:
            self.close()
            raise
        with file_errors(path):
            file = path, path.stat().st_ino
        if self._database is None or file != self._file:
            self.close()
            self._database, self._file, self._version = Database.open(path), file, -1
        return self._database

    def close(self) -> None:
        if self._database:
            self._database.close()
        self._database = None


def watch(
    name: str, *, once: bool, changed: Callable[[BackendHealth], None], complain: Callable[[str], None]
) -> list[BackendHealth]:
    """Probe the services of an instance until SIGTERM, or ONCE; gives what one round found. Raises PydpError."""
    with _alone(name), ThreadPoolExecutor(1) as thread:  # SQLite wants one thread, and a lock may have to be waited for
        probed = Probed(Datapath(), name)
        _allow_files()
        try:
            return asyncio.run(_run(probed, thread, once=once, changed=changed, complain=complain))
        finally:
            thread.submit(probed.close).result()


async def _run(
    probed: Probed,
    thread: ThreadPoolExecutor,
    *,
    once: bool,
    changed: Callable[[BackendHealth], None],
    complain: Callable[[str], None],
) -> list[BackendHealth]:
    loop = asyncio.get_running_loop()

    async def look() -> Picture | None:
        return await loop.run_in_executor(thread, probed.look)

    async def keep(found: list[BackendHealth]) -> None:
        await loop.run_in_executor(thread, probed.keep, found)

    checker = Checker(look, keep, changed, complain)
    if once:
        return await checker.once()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    tasks = [asyncio.create_task(checker.run()), asyncio.create_task(told.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # of the checker, which ends by a fault only
    finally:
        await ended(*tasks)
    return []


def _picture(database: Database) -> Picture:
    connection = database.connection
    connection.execute("begin")
    try:
        numbers = [number for (number,) in connection.execute("select number from service where health is not null")]
        services = [one.service for one in load(connection, numbers).values()]
        known = read_health(database)
    finally:
        connection.execute("commit")
    return Picture(tuple(target for one in services for target in targets(one)), known)


def targets(service: Service) -> Iterator[Target]:
    """Its backends, if they are to be probed. One that is this host itself is probed by loopback."""
    health = service.health
    if health is None or health.kind == "none":
        return
    loopback = "127.0.0.1" if any(4 in one.versions for one in service.frontends) else "::1"
    for one in service.backends:
        host = loopback if one.address is None else str(one.address)
        yield Target(service.name, one.address, one.port, host, health)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What the datapath says is outlived like the rest."""
    try:
        yield
    except EbpfError as error:
        raise PydpError(str(error), hint=error.hint) from error


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two of a kind would contradict each other. An abstract socket is the namespace's, and goes with its process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0pydp-healthcheck-{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PydpError(f"another pydp healthcheck is probing for {name}") from None
        yield


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
