# SPDX-License-Identifier: Apache-2.0
"""Everything that ebpf raises.

EbpfError
 +- HeadersMissing      no kernel headers to compile against
 +- CompileError        clang refused the source: file, line, message
 +- VerifierError       the kernel refused the program: file, line, the rule it broke
 +- NotSupported        this kernel, driver or bcc cannot do it
 +- NotPermitted        the caller lacks a capability
 +- BpffsMissing        no bpf file system to pin into
 +- PinError            a pin is missing, taken, or not what its name says
 |   +- LayoutMismatch  a pinned map has another layout than the program expects
 +- MapError            a map operation failed
 |   +- MapFull         no room for one more entry
 +- AttachError         a program could not be attached
     +- ForeignProgram  somebody else's program is on the interface
     +- DeviceGone      the interface vanished
"""

from __future__ import annotations


class EbpfError(Exception):
    """Base of all errors here. ``hint`` is the command or step that mends it; ``log`` the whole story for --verbose."""

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.log = log


class HeadersMissing(EbpfError):
    """No kernel headers were found to compile against."""


class SourceError(EbpfError):
    """A complaint about one place in the C source."""

    def __init__(self, message: str, *, file: str = "", line: int = 0, hint: str = "", log: str = "") -> None:
        where = f"{file}:{line}: " if file else ""
        super().__init__(where + message, hint=hint, log=log)
        self.file = file
        self.line = line


class CompileError(SourceError):
    """clang refused the source."""


class VerifierError(SourceError):
    """The kernel's verifier refused the program."""


class NotSupported(EbpfError):
    """This kernel, driver or library cannot do what was asked."""


class NotPermitted(EbpfError):
    """The caller lacks CAP_BPF, CAP_NET_ADMIN or access to bpffs."""


class BpffsMissing(EbpfError):
    """No bpf file system is mounted where pins are kept."""


class PinError(EbpfError):
    """A pin is missing, taken, or not what its name says."""


class LayoutMismatch(PinError):
    """A pinned map has another layout than the program expects."""


class MapError(EbpfError):
    """A map operation failed."""


class MapFull(MapError):
    """The map has no room for one more entry."""


class AttachError(EbpfError):
    """A program could not be attached or replaced."""


class ForeignProgram(AttachError):
    """Somebody else's program is on the interface; it is left alone."""


class DeviceGone(AttachError):
    """The interface vanished before or while the program was attached."""
