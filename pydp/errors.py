# SPDX-License-Identifier: Apache-2.0
"""Everything that pydp raises on purpose, with the exit status it ends a command with.

PydpError             1  it failed, with the reason
 +- UsageError        2  wrong usage or configuration, naming what is at fault
 |   +- NoSuchLink       no network interface of that name (or number) in this namespace
 +- NothingAttached   3  there is nothing to detach or to show
 +- Unsupported       4  this kernel or driver cannot do it
 +- NotAllowed        5  the caller lacks a right
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PydpError(Exception):
    """Base of all errors here. ``hint`` is the command or step that mends it; ``status`` the exit status of the
    command.
    """

    status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PydpError):
    """The command line or the configuration asks for something that makes no sense."""

    status = 2


class NoSuchLink(UsageError):
    """No network interface of that name; ``known`` gives the names there are, so that the hint can offer near ones."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        near = difflib.get_close_matches(name, list(known), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ip link` lists the interfaces of this namespace"
        super().__init__(f"no interface {name}", hint=hint)
        self.name = name
        self.near = tuple(near)


class NothingAttached(PydpError):
    """No such instance, or none at all."""

    status = 3


class Unsupported(PydpError):
    """This kernel or driver cannot do what was asked."""

    status = 4


class NotAllowed(PydpError):
    """The caller lacks a capability or access to a file."""

    status = 5
