# SPDX-License-Identifier: Apache-2.0
"""Hooks of an interface: which there are on this kernel, and who holds them.

A hook that is taken by somebody else is refused, never shared: our programs redirect, so whatever comes after them
would no longer see the packets, and whatever comes before them would have been there without knowing it.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from typing import Literal

from ebpf import libbpf
from ebpf.errors import AttachError, DeviceGone, EbpfError, ForeignProgram, NotPermitted, NotSupported
from ebpf.filters import read_filters

Hook = Literal["xdp", "xdp-generic", "tc", "tc-egress"]
HOOKS: tuple[Hook, ...] = ("xdp", "xdp-generic", "tc", "tc-egress")


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
            raise hook_error(where, ifindex, hook, error) from error
        return [describe_program(number) for number in found]
    taken = [f"filter {one}" for one in filters(ifindex, hook)]
    if tcx_supported():
        kind = libbpf.ATTACH_TCX_EGRESS if hook == "tc-egress" else libbpf.ATTACH_TCX_INGRESS
        try:
            taken += [describe_program(number) for number in libbpf.prog_query(ifindex, kind)]
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise hook_error(where, ifindex, hook, error) from error
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


def has_qdisc(ifindex: int) -> bool:
    """Whether an interface has a clsact or ingress qdisc, which can hold filters."""
    from pyroute2 import IPRoute  # heavy: only who attaches to tc pays for it

    with IPRoute() as netlink:
        return any(one.get_attr("TCA_KIND") in ("clsact", "ingress") for one in netlink.get_qdiscs(index=ifindex))


def hook_error(where: str, ifindex: int, hook: Hook, error: OSError) -> EbpfError:
    """What the kernel means by an ERROR about HOOK of an interface, which is called WHERE."""
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
