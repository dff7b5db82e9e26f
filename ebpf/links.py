# SPDX-License-Identifier: Apache-2.0
"""Programs attached to interfaces: what holds them there, and how another takes their place.

Where the kernel has them these are bpf_links (XDP since 5.9, tcx since 6.6): they are gone with the process that did
not pin them, nobody else can replace their program, and ours is swapped atomically. Kernels before 6.6 have only
filters on a clsact qdisc for tc; those are replaced atomically too, but stay until they are deleted.
"""

from __future__ import annotations

import errno
from typing import Protocol

from ebpf import libbpf
from ebpf.errors import AttachError, DeviceGone
from ebpf.handle import Handle
from ebpf.hooks import Hook, filters
from ebpf.loader import Program

# Our place in a clsact filter chain: the first priority, a handle of our own.
FILTER_HANDLE = 0x70790001
FILTER_PRIORITY = 1
# What the kernel says when a filter, the chain or qdisc it would be on, or the interface is not there.
_NO_FILTER = (errno.ENOENT, errno.EINVAL, errno.ENODEV)


class Link(Protocol):
    """A program attached to an interface."""

    hook: Hook
    kind: str

    def update(self, program: Program, expected: Program | None = None) -> None:
        """Swap the program atomically; with EXPECTED only if that one is running. Raises AttachError."""

    def detach(self) -> None:
        """Take the program off the interface."""

    def pin(self, path: str) -> None:
        """Keep the link when the process ends (a filter stays by itself and needs no pin)."""

    def close(self) -> None:
        """Let go of it; an unpinned bpf_link is detached by that."""

    @property
    def ifindex(self) -> int:
        """The interface, 0 when it is gone."""

    @property
    def program_id(self) -> int:
        """Id of the program that runs, 0 for none."""


class BpfLink(Handle):
    """An XDP or tcx bpf_link. Owns its file descriptor."""

    def __init__(self, fd: int, hook: Hook) -> None:
        super().__init__(fd)
        self.hook = hook
        self.kind = "xdp" if hook.startswith("xdp") else "tcx"

    @classmethod
    def open(cls, path: str, hook: Hook) -> BpfLink:
        """Reopen a pinned link. Raises OSError."""
        return cls(libbpf.obj_get(path), hook)

    def update(self, program: Program, expected: Program | None = None) -> None:
        try:
            libbpf.link_update(self.fd, program.fd, expected.fd if expected else None)
        except OSError as error:
            if error.errno == errno.EPERM and expected is not None:
                raise AttachError("the program that runs is not the one to be replaced") from error
            if error.errno == errno.ENOLINK:
                raise DeviceGone("the interface is gone") from error
            raise AttachError(f"replacing the program: {error.strerror}") from error

    def detach(self) -> None:
        """At once. Closing or unpinning the link would do as much, but only after an RCU grace period."""
        try:
            libbpf.link_detach(self.fd)
        except OSError as error:
            if error.errno != errno.ENOLINK:  # it was detached before
                raise AttachError(f"detaching: {error.strerror}") from error
        self.close()

    @property
    def ifindex(self) -> int:
        return int(self._info().ifindex)

    @property
    def program_id(self) -> int:
        return int(self._info().prog_id)

    def _info(self) -> libbpf.LinkInfo:
        try:
            return libbpf.link_info(self.fd)
        except OSError as error:
            raise AttachError(f"asking for a link: {error.strerror}") from error


class FilterLink:
    """A filter on a clsact qdisc, for kernels without tcx. OWNS_QDISC: the qdisc was made for it and goes with it."""

    kind = "clsact"

    def __init__(self, ifindex: int, hook: Hook, *, owns_qdisc: bool = False) -> None:
        self._ifindex = ifindex
        self.hook = hook
        self._where = libbpf.TC_EGRESS if hook == "tc-egress" else libbpf.TC_INGRESS
        self._owns_qdisc = owns_qdisc

    @classmethod
    def create(cls, program: Program, ifindex: int, hook: Hook) -> FilterLink:
        """Raises OSError; then a qdisc that was made for it is gone again."""
        link = cls(ifindex, hook)
        link._owns_qdisc = libbpf.tc_hook_create(ifindex, link._where)
        try:
            link._attach(program, replace=False)
        except OSError:
            link._release_qdisc()
            raise
        return link

    def _attach(self, program: Program, *, replace: bool) -> None:
        libbpf.tc_attach(self._ifindex, self._where, program.fd, FILTER_HANDLE, FILTER_PRIORITY, replace=replace)

    def update(self, program: Program, expected: Program | None = None) -> None:
        """Swap the program. tc knows no comparison: EXPECTED is compared just before."""
        running = self.program_id
        if not running:
            raise DeviceGone("the interface or its filter is gone")
        if expected is not None and running != expected.id:
            raise AttachError("the program that runs is not the one to be replaced")
        try:
            self._attach(program, replace=True)
        except OSError as error:
            if error.errno in _NO_FILTER:
                raise DeviceGone("the interface or its qdisc is gone") from error
            raise AttachError(f"replacing the program: {error.strerror}") from error

    def detach(self) -> None:
        try:
            libbpf.tc_detach(self._ifindex, self._where, FILTER_HANDLE, FILTER_PRIORITY)
        except OSError as error:
            if error.errno not in _NO_FILTER:
                raise AttachError(f"removing the filter: {error.strerror}") from error
            return
        self._release_qdisc()

    def _release_qdisc(self) -> None:
        if self._owns_qdisc:
            remove_qdisc(self._ifindex)

    def pin(self, path: str) -> None:
        """Nothing to do: filters outlive the process."""

    def close(self) -> None:
        """Nothing to do: no file descriptor."""

    @property
    def ifindex(self) -> int:
        return self._ifindex if self.program_id else 0

    @property
    def program_id(self) -> int:
        try:
            return libbpf.tc_query(self._ifindex, self._where, FILTER_HANDLE, FILTER_PRIORITY)
        except OSError as error:
            if error.errno in _NO_FILTER:
                return 0
            raise AttachError(f"interface {self._ifindex}: asking for its filter: {error.strerror}") from error


def remove_qdisc(ifindex: int) -> None:
    """Remove the clsact qdisc of an interface unless it holds a filter; fine if there is none. Raises AttachError."""
    if filters(ifindex, "tc") or filters(ifindex, "tc-egress"):
        return
    try:
        libbpf.tc_hook_destroy(ifindex)
    except OSError as error:
        if error.errno not in _NO_FILTER:
            raise AttachError(f"interface {ifindex}: removing its clsact qdisc: {error.strerror}") from error
