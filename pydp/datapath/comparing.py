# SPDX-License-Identifier: Apache-2.0
"""Instances that are being compared with the kernel's path: their programs have lib/compare.h in them.

That they have is a constant of theirs like any other, so a comparison begins and ends as everything changes: programs
are built anew and switched to in one step, and all maps stay. Whoever compares holds an abstract socket of the
namespace, which the kernel takes from a process that dies; what is compared while nobody holds it was left by one that
was killed, and is put back by whoever changes something next.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydp.datapath.compose import COMPARE
from pydp.datapath.state import Instance, State
from pydp.errors import PydpError
from pydp.modes import MODES

TURNS, TIMES = "compare_turns", "compare_times"
MAPS = frozenset({TURNS, "compare_clock", "compare_asked", TIMES})
WHOLE = 1000  # COMPARE_WHOLE
_REST = "PYDP_COMPARE_REST"
_SOCKET = "\0pydp-compare"
_BACKLOG = 4096  # one for each command that looks; they are never accepted
_UCRED = struct.Struct("=iII")


def is_compared(instance: Instance) -> bool:
    """Whether its programs are those of a comparison."""
    return bool(instance.constants.get(COMPARE))


def is_made(instance: Instance) -> bool:
    """Whether it was attached for the comparison, and goes with it."""
    return is_compared(instance) and not instance.constants[_REST]


def begun(instance: Instance, *, made: bool) -> Instance:
    """The instance as it is compared. Left to itself, all goes by eBPF; if it was MADE for that, by the kernel."""
    return replace(instance, constants={**instance.constants, COMPARE: 1, _REST: 0 if made else WHOLE})


def ended(instance: Instance) -> Instance:
    """The instance as it was before. Its maps are those it had."""
    return replace(
        instance,
        constants={name: value for name, value in instance.constants.items() if name not in (COMPARE, _REST)},
        maps={name: told for name, told in instance.maps.items() if name not in MAPS},
    )


def settled(state: State) -> State:
    """STATE after its comparisons: what was attached for one is gone. STATE itself if there is none."""
    if not any(is_compared(one) for one in state.instances.values()):
        return state
    return replace(
        state,
        instances={
            name: ended(one) if is_compared(one) else one for name, one in state.instances.items() if not is_made(one)
        },
    )


def maps_of(instance: Instance) -> frozenset[str]:
    """The maps that its programs may have."""
    return MODES[instance.mode].traits.maps | (MAPS if is_compared(instance) else frozenset())


def left_over(instances: Mapping[str, Instance]) -> bool:
    """Whether one of them is as a comparison left it that was killed. Raises OSError."""
    return any(is_compared(one) for one in instances.values()) and not under_way()


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Be the one that compares in this namespace. Raises PydpError when there is one already."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(_SOCKET)
        except OSError as error:
            raise PydpError("a comparison is under way in this network namespace", hint="wait for it to end") from error
        sock.listen(_BACKLOG)
        yield


def under_way() -> bool:
    """Whether somebody compares in this namespace. Anybody may take the name, so only our own user is believed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(_SOCKET)
        except BlockingIOError:  # its backlog is full
            return True
        except ConnectionRefusedError:
            return False
        _, user, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(user == os.geteuid())
