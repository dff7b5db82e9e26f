# SPDX-License-Identifier: Apache-2.0
"""Runs operations on the datapath that are killed, or fail, at a chosen moment. Started by `Operator` in a namespace.

The process imports and compiles once and forks a child for every operation, so that a kill hits the milliseconds in
which something changes and not the second in which clang works. A line of JSON on stdin is an operation, one on stdout
its result.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import mmap
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ebpf import hooks, libbpf, pins
from ebpf.errors import EbpfError
from pydp.datapath import Datapath, Request, change, comparing, files, recovery
from pydp.errors import PydpError
from pydp.lab import Namespace
from pydp.services.attach import prepared
from pydp.services.program import Programmer

ROOT = Path(__file__).resolve().parents[2]
# Everything that changes what others see: killing before each of these is killing at every moment that matters.
CHANGES = (
    *((libbpf, name) for name in (
        "obj_pin", "link_create", "link_update", "tc_hook_create", "tc_hook_destroy", "tc_attach", "tc_detach",
        "test_run",
    )),
    *((os, name) for name in ("mkdir", "rmdir", "unlink", "link", "rename")),
    (pins, "exchange"),
    (files, "tidy"),
    *((Programmer, name) for name in ("reprogram", "apply", "_write", "_give_up")),
    (change, "set_promisc"),
    (recovery, "set_promisc"),
)  # fmt: skip
_CALLS = (
    "map_create map_lookup map_update map_next_key map_lookup_batch map_update_batch prog_load obj_get map_info "
    "prog_info link_info prog_query xdp_query tc_query"
)
FAILING = (*CHANGES, *((libbpf, name) for name in _CALLS.split()))


@dataclass(frozen=True, slots=True)
class Result:
    """How an operation ended: "done", "killed", "error" (one of ours) or "crash". ``calls``: of patched functions."""

    end: str
    calls: int
    seconds: float
    message: str = ""


class Operator:
    """The process, from the side of a test. With ``tcx`` False it believes to be on a kernel before 6.6."""

    def __init__(self, ns: Namespace, *, tcx: bool = True) -> None:
        command = [sys.executable, str(Path(__file__)), *([] if tcx else ["--clsact"])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._ns = ns
        self._process = ns.popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ns.end(self._process)

    def attach(
        self, mode: str, *interfaces: str, hook: str = "tc", fault: dict[str, Any] | None = None, **options: Any
    ) -> Result:
        wanted = {"mode": mode, "interfaces": interfaces, "hook": hook, "options": options}
        return self._ask({"attach": wanted, **(fault or {})})

    def detach(self, *names: str, fault: dict[str, Any] | None = None) -> Result:
        """All of them when none is named."""
        return self._ask({"detach": names or None, **(fault or {})})

    def compare(self, name: str, fault: dict[str, Any] | None = None) -> Result:
        """Begin a comparison of an instance, and leave it."""
        return self._ask({"compare": name, **(fault or {})})

    def settle(self, fault: dict[str, Any] | None = None) -> Result:
        """End what comparisons have left."""
        return self._ask({"settle": True, **(fault or {})})

    def _ask(self, what: dict[str, Any]) -> Result:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return Result(**json.loads(self._process.stdout.readline()))


def work(wanted: dict[str, Any]) -> None:
    if "attach" in wanted:
        one, datapath = wanted["attach"], Datapath()
        request = Request(
            one["mode"], tuple(one["interfaces"]), name=one["mode"], hook=one["hook"], options=one["options"]
        )
        datapath.attach(*prepared(datapath, request))
    elif "compare" in wanted:
        with comparing.holding():
            Datapath().begin_comparison(wanted["compare"])
    elif "settle" in wanted:
        Datapath().end_comparisons()
    else:
        Datapath().detach(wanted["detach"])


def patch(points: tuple[tuple[Any, str], ...], counter: memoryview, at: int, act: Callable[[], None]) -> None:
    """Count calls of all POINTS in COUNTER, and ACT instead of call number AT (from 1)."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            counter[0] += 1
            if counter[0] == at:
                act()
            return function(*args, **options)

        return call

    for module, name in points:
        setattr(module, name, counted(getattr(module, name)))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def child(wanted: dict[str, Any], counter: memoryview, out: int) -> None:
    """Never returns."""
    failing = "fail_at" in wanted
    at = wanted.get("fail_at", wanted.get("kill_at", 0))
    patch(FAILING if failing else CHANGES, counter, at, fail if failing else kill)
    try:
        work(wanted)
        said = ["done", ""]
    except (EbpfError, PydpError) as error:
        said = ["error", f"{type(error).__name__}: {error}"]
    except BaseException:  # noqa: BLE001 - the test shall see it, whatever it is
        said = ["crash", traceback.format_exc()]
    os.write(out, json.dumps(said).encode())
    os._exit(0)


def run(wanted: dict[str, Any], counter: memoryview) -> Result:
    counter[0] = 0
    incoming, outgoing = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        child(wanted, counter, outgoing)
    os.close(outgoing)
    if "kill_after" in wanted:
        time.sleep(wanted["kill_after"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    seconds = time.monotonic() - start
    with os.fdopen(incoming) as file:
        said = file.read()
    end, message = json.loads(said) if said else ("killed", "")
    return Result(end, counter[0], seconds, message)


def main() -> None:
    if "--clsact" in sys.argv:
        hooks.tcx_supported = lambda: False  # type: ignore[assignment]
    counter = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    for line in sys.stdin:
        wanted = json.loads(line)
        if wanted.pop("here", False):  # in this process, so that its children find everything compiled
            work(wanted)
            result = Result("done", 0, 0.0)
        else:
            result = run(wanted, counter)
        print(json.dumps({name: getattr(result, name) for name in Result.__slots__}), flush=True)


if __name__ == "__main__":
    main()
