# SPDX-License-Identifier: Apache-2.0
"""Attaching programs to interfaces: XDP native and generic, tc ingress and egress.

Where the kernel has them we use bpf_links (XDP since 5.9, tcx since 6.6): they are gone with the process that did not
pin them, nobody else can replace their program, and ours is swapped atomically. Kernels before 6.6 have only filters on
a clsact qdisc for tc; those are replaced atomically too, but stay until they are deleted.

A hook that is taken by somebody else is refused, never shared: our programs redirect, so whatever comes after them
would no longer see the packets, and whatever comes before them would have been there without knowing it.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from typing import Literal, Protocol

from ebpf import libbpf
from ebpf.errors import AttachError, DeviceGone, EbpfError, ForeignProgram, NotPermitted, NotSupported
from ebpf.filters import read_filters
from ebpf.loader import Program

Hook = Literal["xdp", "xdp-generic", "tc", "tc-egress"]
HOOKS: tuple[Hook, ...] = ("xdp", "xdp-generic", "tc", "tc-egress")

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


class BpfLink:
    """An XDP or tcx bpf_link. Owns its file descriptor."""

    def __init__(self, fd: int, hook: Hook) -> None:
        self.fd = fd
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

    def pin(self, path: str) -> None:
        libbpf.obj_pin(self.fd, path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

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


def has_qdisc(ifindex: int) -> bool:
    """Whether an interface has a clsact or ingress qdisc, which can hold filters."""
    from pyroute2 import IPRoute  # heavy: only who attaches to tc pays for it

    with IPRoute() as netlink:
        return any(one.get_attr("TCA_KIND") in ("clsact", "ingress") for one in netlink.get_qdiscs(index=ifindex))


def remove_qdisc(ifindex: int) -> None:
    """Remove the clsact qdisc of an interface unless it holds a filter; fine if there is none. Raises AttachError."""
    if filters(ifindex, "tc") or filters(ifindex, "tc-egress"):
        return
    try:
        libbpf.tc_hook_destroy(ifindex)
    except OSError as error:
        if error.errno not in _NO_FILTER:
            raise AttachError(f"interface {ifindex}: removing its clsact qdisc: {error.strerror}") from error


@functools.cache
def tcx_supported() -> bool:
    """Whether this kernel has tcx links (6.6): asked of the loopback device, which is always there."""
    try:
        libbpf.prog_query(1, libbpf.ATTACH_TCX_INGRESS)
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)
    return True


def kind_of(hook: Hook) -> str:
    """How this kernel attaches to HOOK: "xdp", "tcx" or "clsact"."""
    if hook.startswith("xdp"):
        return "xdp"
    return "tcx" if tcx_supported() else "clsact"


def attach(program: Program, ifindex: int, hook: Hook, *, name: str = "", tcx: bool | None = None) -> Link:
    """Attach PROGRAM to the interface with IFINDEX (NAME is for messages).

    TCX false takes a clsact filter even where tcx is there. Raises ForeignProgram when the hook is taken, NotSupported
    when driver or kernel cannot, DeviceGone, NotPermitted, AttachError.
    """
    where = name or f"interface {ifindex}"
    refuse_foreign(ifindex, hook, where)
    try:
        if hook in ("xdp", "xdp-generic"):
            mode = libbpf.XDP_FLAGS_DRV_MODE if hook == "xdp" else libbpf.XDP_FLAGS_SKB_MODE
            return BpfLink(libbpf.link_create(program.fd, ifindex, libbpf.ATTACH_XDP, mode), hook)
        if tcx_supported() if tcx is None else tcx:
            kind = libbpf.ATTACH_TCX_EGRESS if hook == "tc-egress" else libbpf.ATTACH_TCX_INGRESS
            return BpfLink(libbpf.link_create(program.fd, ifindex, kind), hook)
        return FilterLink.create(program, ifindex, hook)
    except OSError as error:
        raise _attach_error(where, ifindex, hook, error) from error


def refuse_foreign(ifindex: int, hook: Hook, where: str) -> None:
    """Raise ForeignProgram when any program or filter holds HOOK of the interface."""
    taken = holders(ifindex, hook, name=where)
    if taken:
        what = "XDP" if hook.startswith("xdp") else hook
        raise ForeignProgram(
            f"{where}: {what} is taken by {', '.join(taken)}, which pydp leaves alone",
            hint=_removal(hook, where, taken),
        )


def _removal(hook: Hook, where: str, taken: list[str]) -> str:
    if hook.startswith("xdp"):
        return f"if nobody needs it: ip link set {where} xdp off (a bpf_link: end its owner, see bpftool link)"
    side = "egress" if hook == "tc-egress" else "ingress"
    if any("filter" in one for one in taken):
        return f"if nobody needs it: tc filter del dev {where} {side}"
    return f"if nobody needs it: end its owner (see bpftool net show dev {where})"


def holders(ifindex: int, hook: Hook, *, name: str = "") -> list[str]:
    """Who holds HOOK of an interface, in words; empty when it is free. Raises DeviceGone, AttachError."""
    where = name or f"interface {ifindex}"
    if hook in ("xdp", "xdp-generic"):
        try:
            found = [number for number in libbpf.xdp_query(ifindex) if number]
        except OSError as error:
            raise _attach_error(where, ifindex, hook, error) from error
        return [describe_program(number) for number in found]
    taken = [f"filter {one}" for one in filters(ifindex, hook)]
    if tcx_supported():
        kind = libbpf.ATTACH_TCX_EGRESS if hook == "tc-egress" else libbpf.ATTACH_TCX_INGRESS
        try:
            taken += [describe_program(number) for number in libbpf.prog_query(ifindex, kind)]
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _attach_error(where, ifindex, hook, error) from error
    return taken


def describe_program(prog_id: int) -> str:
    """A program in words, by its id."""
    try:
        fd = libbpf.prog_fd_by_id(prog_id)
    except OSError:
        return f"program id {prog_id}"
    try:
        return f"program {libbpf.prog_info(fd).name.decode() or '(no name)'!r} (id {prog_id})"
    finally:
        os.close(fd)


def filters(ifindex: int, hook: Hook) -> list[str]:
    """The tc filters on one side of an interface, in words; none for one that is gone."""
    direction = "egress" if hook == "tc-egress" else "ingress"
    try:
        found = [one for one in read_filters(ifindex) if one.direction == direction]
    except OSError:
        return []
    return [
        f"{one.kind} {one.name!r} (pref {one.pref})" if one.name else f"{one.kind} (pref {one.pref})" for one in found
    ]


def _attach_error(where: str, ifindex: int, hook: Hook, error: OSError) -> EbpfError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{where}: attaching to {hook}: not permitted", hint="run as root, or with CAP_NET_ADMIN")
    if error.errno in (errno.ENODEV, errno.ENXIO) or not _exists(ifindex):  # XDP says EINVAL for no interface
        return DeviceGone(f"{where}: the interface is gone")
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return ForeignProgram(f"{where}: {hook} was taken by another program in this moment")
    if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
        mend = "--hook tc works on every device" if hook.startswith("xdp") else "Linux 5.15 or newer is needed"
        return NotSupported(f"{where}: its driver or this kernel has no {hook} hook", hint=mend)
    if error.errno == errno.ERANGE:
        return NotSupported(f"{where}: its MTU is too large for native XDP", hint="use --hook tc, or lower the MTU")
    return AttachError(f"{where}: attaching to {hook}: {error.strerror}")


def _exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True
