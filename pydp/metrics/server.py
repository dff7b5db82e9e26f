# SPDX-License-Identifier: Apache-2.0
"""The exporter: two processes.

The one that was started keeps its rights and does nothing but open what is pinned and read what only root may
(pydp.metrics.supply). Its child gives up all rights, reads counters through the descriptors it is handed, and speaks
HTTP or HTTPS. Each ends with the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ebpf import libbpf
from pydp.datapath.api import Datapath
from pydp.errors import NotAllowed, PydpError, UsageError
from pydp.metrics.address import listen_on, url_of
from pydp.metrics.rights import allow_descriptors, become_nobody, close_all_but, end_with_parent
from pydp.metrics.supply import Supplied, Supplier, pair
from pydp.metrics.tls import server_context
from pydp.metrics.webconfig import WebConfig, read_web_config

_INTERRUPTED = 130


class _Stopped(BaseException):
    """SIGTERM or SIGINT came; the argument is the exit status."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to serve: ``listen`` is "ADDR:PORT", ``web_config`` the web configuration file; with ``program_stats`` the
    kernel counts and times runs of eBPF programs meanwhile.
    """

    listen: str = "127.0.0.1:9818"
    web_config: Path | None = None
    program_stats: bool = False


def serve(service: Service) -> int:
    """Serve the metrics of the current network namespace. Gives 0 after SIGTERM, 130 after SIGINT.

    Raises UsageError for an address that makes no sense or a web configuration that is wrong, PydpError when the
    address is taken or the serving process ends by itself, NotAllowed without root, EbpfError. For the main thread of a
    process that has no other: it forks.
    """
    if os.geteuid() != 0:
        raise NotAllowed("what is pinned is root's to open", hint="run as root: what serves gives up its rights")
    datapath = Datapath()
    config = _web_config(service.web_config)
    timing = _time_programs() if service.program_stats else None
    listener = listen_on(service.listen)
    allow_descriptors()
    channel, childs = pair()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    child = 0
    try:
        parent = os.getpid()
        child = os.fork()
        if not child:
            _child(listener, childs, parent, service, config)
        listener.close()
        childs.close()
        Supplier(channel, datapath, service.web_config).run()
    except _Stopped as stopped:
        status: int = stopped.args[0]
        return status
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second one must not keep us from ending the child
        channel.close()
        if timing is not None:
            os.close(timing)
        code = _end(child)
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == -signal.SIGTERM:  # somebody stops both of us, and it was first (systemd does so)
        return 0
    ended = signal.Signals(-code).name if code < 0 else f"status {code}"
    raise PydpError(f"the process that serves has ended: {ended}")


def _web_config(path: Path | None) -> WebConfig:
    """Raises UsageError."""
    config = read_web_config(path) if path else WebConfig()
    try:
        if config.tls:
            server_context(config.tls)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from error
    return config


def _time_programs() -> int:
    """A descriptor: while it is open the kernel counts and times programs. Raises PydpError."""
    try:
        return libbpf.enable_stats()
    except OSError as error:
        raise PydpError(
            f"--program-stats: the kernel refuses ({error.strerror})", hint="sysctl -w kernel.bpf_stats_enabled=1"
        ) from error


def _stop(number: int, _: Any) -> NoReturn:
    raise _Stopped(_INTERRUPTED if number == signal.SIGINT else 0)


def _end(child: int) -> int:
    """End the child, unless it has; gives its exit status, or the number of a signal as a negative one."""
    if not child:
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(
    listener: socket.socket, channel: socket.socket, parent: int, service: Service, config: WebConfig
) -> NoReturn:
    """All of the child's life. It never returns into what its parent was doing."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends us
        close_all_but({listener.fileno(), channel.fileno()})
        _serve(listener, channel, parent, service, config)
        status = 0
    except _Stopped:  # came before we could set the signals
        status = 0
    except NotAllowed as error:
        _tell(f"{error}\n  {error.hint}")
        status = error.status
    except BaseException:  # noqa: BLE001 - told here, since beyond lies the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(listener: socket.socket, channel: socket.socket, parent: int, service: Service, config: WebConfig) -> None:
    from pydp.metrics.guard import Guard  # here, so that the parent never loads what speaks to strangers
    from pydp.metrics.page import Page
    from pydp.metrics.sources import LiveSources
    from pydp.metrics.web import Server, application, rehearse

    supplied = Supplied(channel)
    page = Page(lambda: LiveSources(supplied, supplied.rules, service.program_stats), _tell)
    answer = application(page)
    guard = Guard(config, supplied.web_config if service.web_config else None, _tell)
    rehearse(answer)
    become_nobody()
    end_with_parent(parent)
    with Server(listener, answer, guard) as server:
        _tell(url_of(listener, "https" if config.tls else "http"))
        server.serve_forever()


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or a pipe that nobody reads
        print(f"pydp exporter: {text}", file=sys.stderr, flush=True)
