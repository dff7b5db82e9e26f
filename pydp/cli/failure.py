# SPDX-License-Identifier: Apache-2.0
"""The one place where an exception becomes one or two lines on stderr and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from ebpf import errors as ebpf
from pydp.errors import PydpError

FAILED, CANNOT, NOT_PERMITTED = 1, 4, 5
_LACKS = (ebpf.NotSupported, ebpf.HeadersMissing, ebpf.BpffsMissing)
_RIGHTS = (errno.EPERM, errno.EACCES)


def report(error: Exception, *, verbose: bool = False) -> int:
    """Print what went wrong and how to mend it, with VERBOSE the compiler's or verifier's log too. Gives the status."""
    from pydp.cli.output import printable

    message, hint = describe(error)
    lines = [f"pydp: {printable(message)}"]
    if hint:
        lines.append(f"  {printable(hint)}")
    log = getattr(error, "log", "")
    if verbose:
        lines += [log.rstrip()] if log else _traceback(error)
    with contextlib.suppress(OSError):  # stderr may be closed or full, too
        print("\n".join(lines), file=sys.stderr)
    return status_of(error)


def describe(error: Exception) -> tuple[str, str]:
    """What happened, and the command or step that mends it ("" for none)."""
    if isinstance(error, PydpError):
        return str(error), error.hint
    if isinstance(error, ebpf.EbpfError):
        return str(error), error.hint or ("--verbose shows the whole log" if error.log else "")
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return where + what, "run as root" if error.errno in _RIGHTS and os.geteuid() else ""
    return f"internal fault: {type(error).__name__}: {error}{_place(error)}", "please report it"


def status_of(error: Exception) -> int:
    """The exit status of the contract."""
    if isinstance(error, PydpError):
        return error.status
    if isinstance(error, _LACKS):
        # Headers may be there, and a full disk keep them from being merged: that is no lack of the machine's.
        return FAILED if isinstance(error.__cause__, OSError) else CANNOT
    if isinstance(error, ebpf.NotPermitted):
        return NOT_PERMITTED
    if isinstance(error, OSError) and error.errno in _RIGHTS:
        return NOT_PERMITTED
    return FAILED


def _place(error: Exception) -> str:
    """Where it was raised."""
    step = error.__traceback__
    while step and step.tb_next:
        step = step.tb_next
    return f" ({step.tb_frame.f_code.co_filename}:{step.tb_lineno})" if step else ""


def _traceback(error: Exception) -> list[str]:
    """What a developer wants of a fault of ours; nothing for errors raised on purpose."""
    import traceback  # 10 ms

    return [] if isinstance(error, PydpError | ebpf.EbpfError | OSError) else traceback.format_exception(error)
