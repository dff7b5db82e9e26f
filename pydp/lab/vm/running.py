# SPDX-License-Identifier: Apache-2.0
"""Guests one after the other, some at a time, or two on one virtual wire. Nothing of them outlives this process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydp.errors import NotAllowed, UsageError
from pydp.lab.vm.guests import Guest, Outcome, Settings
from pydp.lab.vm.kernels import lab_cache
from pydp.lab.vm.qemu import Machine

_TICK = 0.5  # seconds between looks at the clock
_CHUNK = 1 << 16

Ended = Callable[[Outcome], None]


def run(
    guests: Sequence[Guest],
    settings: Settings | None = None,
    *,
    jobs: int = 1,
    wire: bool = False,
    results: Path | None = None,
    ended: Ended | None = None,
) -> list[Outcome]:
    """Boot the guests, JOBS at a time, and run their commands; output goes to stdout and stderr as it comes.

    Where more than one runs at a time, lines begin with the guest's name. With WIRE two guests run at once, joined by
    their eth0. What they wrote goes to RESULTS, in a folder for each. ENDED is called for each that is done. Raises
    LabError, UsageError, NotAllowed.
    """
    if os.geteuid():
        raise NotAllowed("guests see this machine's files as root does", hint="run as root")
    if wire and len(guests) != 2:
        raise UsageError(f"a wire has two ends, and there are {len(guests)} guests", hint="--kernel 6.1,6.12 --wire")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_place())
        ends = _wire(stack) if wire else [None] * len(guests)
        loop = _Loop(settings or Settings(), place, results, ended, named=wire or (jobs > 1 and len(guests) > 1))
        stack.callback(loop.close)
        return loop.run(list(zip(guests, ends, strict=True)), jobs=2 if wire else max(1, jobs))


def _wire(stack: contextlib.ExitStack) -> list[int | None]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        stack.enter_context(end)
    return [end.fileno() for end in ends]


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """A folder for the guests of this run, locked while it lives; those of killed runs are removed."""
    running = lab_cache() / "running"
    running.mkdir(exist_ok=True)
    guard = os.open(running, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)  # between making a folder and locking it, it looks as if it was left
        for left in running.iterdir():
            _remove_if_left(left)
        place = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=running))
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(guard)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(descriptor)


class _Loop:
    """Waits for all machines at once, in one thread: QEMU ends when the thread that started it does."""

    def __init__(self, settings: Settings, place: Path, results: Path | None, ended: Ended | None, *, named: bool):
        self._settings = settings
        self._place = place
        self._results = results
        self._ended = ended
        self._named = named
        self._shared = place / "shared"
        self._shared.mkdir()
        self._selector = selectors.DefaultSelector()
        self._machines: list[Machine] = []
        self._done: dict[str, Outcome] = {}

    def run(self, waiting: list[tuple[Guest, int | None]], *, jobs: int) -> list[Outcome]:
        order = [guest.name for guest, _ in waiting]
        while waiting or self._machines:
            while waiting and len(self._machines) < jobs:
                guest, wire = waiting.pop(0)
                self._start(guest, wire)
            for key, _ in self._selector.select(_TICK):
                key.data.read()
            for machine in tuple(self._machines):
                machine.overdue()
                if machine.process.poll() is not None:
                    self._finish(machine)
        return [self._done[name] for name in order]

    def close(self) -> None:
        for machine in self._machines:
            machine.close()
        self._selector.close()

    def _start(self, guest: Guest, wire: int | None) -> None:
        machine = Machine(guest, self._settings, self._place / guest.name, self._shared, wire)
        self._machines.append(machine)
        prefix = f"[{guest.name}] " if self._named else ""
        for source, sink in zip(machine.outputs, (sys.stdout, sys.stderr), strict=True):
            self._selector.register(source, selectors.EVENT_READ, _Copier(source, sink.buffer, prefix, self._selector))

    def _finish(self, machine: Machine) -> None:
        for key in [key for key in self._selector.get_map().values() if key.fileobj in machine.outputs]:
            while key.data.read():
                pass
        self._machines.remove(machine)
        outcome = machine.outcome()
        machine.close()
        if self._results is not None:
            machine.collect(self._results / machine.guest.name)
        shutil.rmtree(machine.place, ignore_errors=True)
        self._done[machine.guest.name] = outcome
        if self._ended:
            self._ended(outcome)


class _Copier:
    """From a guest to here; whole lines only where they are marked with its name."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, prefix: str, selector: selectors.BaseSelector) -> None:
        self._source = source
        self._sink = sink
        self._prefix = prefix.encode()
        self._selector = selector
        self._rest = b""

    def read(self) -> bool:
        """Copy what there is; False at the end."""
        data = self._source.read(_CHUNK)
        if not data:
            self._selector.unregister(self._source)
            self._write(self._prefix + self._rest + b"\n" if self._rest else b"")
            return False
        if self._prefix:
            *lines, self._rest = (self._rest + data).split(b"\n")
            data = b"".join(self._prefix + line + b"\n" for line in lines)
        self._write(data)
        return True

    def _write(self, data: bytes) -> None:
        if data:
            self._sink.write(data)
            self._sink.flush()
