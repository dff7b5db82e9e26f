# SPDX-License-Identifier: Apache-2.0
"""Where a story takes place: its namespaces, the processes in them, what was attached there, and the end of it all."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydp.bench.interrupt import postponed
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.stories import leftovers, processes
from pydp.lab.stories.building import build
from pydp.lab.stories.commands import Command, parse
from pydp.lab.stories.listening import Listener
from pydp.lab.stories.model import Output, Seen, Step, Topology
from pydp.lab.tools import listens
from pydp.lab.topology import poll

_TIMEOUT = 180  # seconds that a command may take; on an emulated machine everything takes ten times as long
_PACKAGES = {"ping": "iputils-ping", **{name: name for name in ("bpftool", "iptables", "iperf3", "curl")}}


class Stage:
    """A topology that stands for the length of a ``with`` block. With ``names`` its namespaces are called that, and
    ``folder``, which is made, has the files.

    Whatever happens in the block, its end kills the processes, detaches what was attached, and removes namespaces and
    files; unless `release` was called.
    """

    def __init__(self, topology: Topology, names: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        given = names or {}
        self.spaces = {
            each.name: Namespace(leftovers.PREFIX, label=f"-{each.name}", name=given.get(each.name, ""))
            for each in topology.nodes
        }
        self.names = {name: ns.name for name, ns in self.spaces.items()}
        self.folder = folder or Path()
        self._made = folder is None
        self._topology = topology
        self._background: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._make_folder()
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            for ns in self.spaces.values():
                stack.enter_context(ns)
            stack.callback(self._detach)
            stack.callback(self._end_processes)
            build(self._topology, self.spaces)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with postponed():  # nobody else knows what is attached in a namespace that is gone
            self._stack.close()

    def release(self) -> None:
        """Leave everything standing when the block ends."""
        self._stack.pop_all()
        self._background = []
        for ns in self.spaces.values():
            ns.release()

    def play(self, step: Step) -> Seen:
        """Do a step. Raises LabError when a command fails that should not, or is not installed."""
        outputs: list[Output] = []
        with contextlib.ExitStack() as stack:
            listeners = {
                place.partition(" ")[0]: stack.enter_context(Listener(self.spaces, place)) for place in step.capture
            }
            busy = _busy_seconds()
            waiting = step.ready
            for text in step.commands:
                command = parse(text, self.names)
                if command.background:
                    self._start(command)
                    continue
                self._wait_ready(waiting)
                waiting = ()
                outputs.append(self._do(command, text, step))
            self._wait_ready(waiting)
            busy = _busy_seconds() - busy
            captures = {place: each.lines() for place, each in listeners.items()}
        return Seen(tuple(outputs), captures, busy)

    def _do(self, command: Command, text: str, step: Step) -> Output:
        done = self._run(command, text)
        if done.status and not step.may_fail:
            said = done.err.strip() or done.out.strip() or "no message"
            raise LabError(f"{text}: exit status {done.status}: {said.splitlines()[-1].strip()}")
        return done

    def _run(self, command: Command, text: str) -> Output:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context((self.folder / command.source).open("rb")) if command.source else None
            sink = stack.enter_context((self.folder / command.sink).open("wb")) if command.sink else None
            child = self._popen(command, source or subprocess.DEVNULL, sink or subprocess.PIPE, subprocess.PIPE)
            stack.callback(_end, child)
            try:
                out, err = child.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired as error:
                raise LabError(f"{text}: no end after {_TIMEOUT} s") from error
        return Output(text, child.returncode, *(os.fsdecode(text or b"") for text in (out, err)))

    def _start(self, command: Command) -> None:
        nothing = subprocess.DEVNULL
        self._background.append(self._popen(command, nothing, nothing, nothing))

    def _popen(self, command: Command, *files: Any) -> subprocess.Popen[bytes]:
        """A session of its own: Ctrl-C reaches this process alone, which then ends everything in order."""
        stdin, stdout, stderr = files
        program = command.program
        if not shutil.which(program):
            hint = f"apt-get install {_PACKAGES[program]}" if program in _PACKAGES else ""
            raise LabError(f"{program} is not installed", hint=hint)
        child: subprocess.Popen[bytes] = subprocess.Popen(
            command.words, cwd=self.folder, env=processes.environment(self.folder), start_new_session=True,
            stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        return child

    def _wait_ready(self, ready: Sequence[str]) -> None:
        places = [place.split(":") for place in ready]

        def listening() -> bool:
            for child in self._background:
                if child.poll() is not None:
                    words = child.args if isinstance(child.args, Sequence) else ()
                    raise LabError(f"{' '.join(map(str, words))}: ended with status {child.returncode}")
            return all(self.spaces[node].call(_listening_here, int(number), kind) for node, kind, number in places)

        if places:
            poll(f"somebody listens at {' '.join(ready)}", listening, timeout=60, interval=0.02)

    def _make_folder(self) -> None:
        if self._made:
            self.folder = leftovers.make_folder()
        else:
            self.folder.mkdir(mode=0o700)

    def _end_processes(self) -> None:
        processes.end(self.folder)
        for child in self._background:
            child.wait()
        self._background = []

    def _detach(self) -> None:
        for ns in self.spaces.values():
            leftovers.detach(ns.path)


def _listening_here(number: int, kind: str) -> bool:
    return listens("thread-self", number, kind)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children, unless it has ended, and close its pipes."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _busy_seconds() -> float:
    """That all CPUs together have worked since they were started: /proc/stat without idle, iowait and stolen time."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, _stat().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _stat() -> str:
    with Path("/proc/stat").open() as file:
        return file.readline()
