# SPDX-License-Identifier: Apache-2.0
"""The exporter: two processes.

The one that was started keeps its rights and does nothing but open what is pinned (pydp.metrics.supply). Its child
gives up all rights, reads counters through the descriptors it is handed, and speaks HTTP. Each ends with the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from pydp.datapath.api import Datapath
from pydp.errors import NotAllowed, PydpError
from pydp.metrics.address import listen_on, url_of
from pydp.metrics.rights import allow_descriptors, become_nobody, close_all_but, end_with_parent
from pydp.metrics.supply import Supplied, Supplier, pair

_INTERRUPTED = 130


class _Stopped(BaseException):
    """SIGTERM or SIGINT came; the argument is the exit status."""


def serve(listen: str = "127.0.0.1:9818") -> int:
    """Serve the metrics of the current network namespace at LISTEN ("ADDR:PORT"). Gives 0 after SIGTERM, 130 after
    SIGINT.

    Raises UsageError for an address that makes no sense, PydpError when it is taken or the serving process ends by
    itself, NotAllowed without root, EbpfError. For the main thread of a process that has no other: it forks.
    """
    if os.geteuid() != 0:
        raise NotAllowed("what is pinned is root's to open", hint="run as root: what serves gives up its rights")
    datapath = Datapath()
    listener = listen_on(listen)
    allow_descriptors()
    channel, childs = pair()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    child = 0
    try:
        parent = os.getpid()
        child = os.fork()
        if not child:
            _child(listener, childs, parent)
        listener.close()
        childs.close()
        Supplier(channel, datapath).run()
    except _Stopped as stopped:
        status: int = stopped.args[0]
        return status
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second one must not keep us from ending the child
        channel.close()
        code = _end(child)
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == -signal.SIGTERM:  # somebody stops both of us, and it was first (systemd does so)
        return 0
    ended = signal.Signals(-code).name if code < 0 else f"status {code}"
    raise PydpError(f"the process that serves has ended: {ended}")


def _stop(number: int, _: Any) -> NoReturn:
    raise _Stopped(_INTERRUPTED if number == signal.SIGINT else 0)


def _end(child: int) -> int:
    """End the child, unless it has; gives its exit status, or the number of a signal as a negative one."""
    if not child:
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(listener: socket.socket, channel: socket.socket, parent: int) -> NoReturn:
    """All of the child's life. It never returns into what its parent was doing."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends us
        close_all_but({listener.fileno(), channel.fileno()})
        _serve(listener, channel, parent)
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


def _serve(listener: socket.socket, channel: socket.socket, parent: int) -> None:
    from pydp.metrics.page import Page  # here, so that the parent never loads what speaks to strangers
    from pydp.metrics.sources import LiveSources
    from pydp.metrics.web import Server, application, rehearse

    supplied = Supplied(channel)
    answer = application(Page(lambda: LiveSources(supplied, supplied.rules), _tell))
    rehearse(answer)
    become_nobody()
    end_with_parent(parent)
    with Server(listener, answer) as server:
        _tell(url_of(listener))
        server.serve_forever()


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or a pipe that nobody reads
        print(f"pydp exporter: {text}", file=sys.stderr, flush=True)
