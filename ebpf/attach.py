# SPDX-License-Identifier: Apache-2.0
"""Attaching programs to interfaces: XDP native and generic, tc ingress and egress."""

from __future__ import annotations

from ebpf import libbpf
from ebpf.hooks import Hook, hook_error, kind_of, refuse_foreign
from ebpf.links import BpfLink, FilterLink, Link
from ebpf.loader import Program


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
        if kind_of(hook) == "tcx" if tcx is None else tcx:
            kind = libbpf.ATTACH_TCX_EGRESS if hook == "tc-egress" else libbpf.ATTACH_TCX_INGRESS
            return BpfLink(libbpf.link_create(program.fd, ifindex, kind), hook)
        return FilterLink.create(program, ifindex, hook)
    except OSError as error:
        raise hook_error(where, ifindex, hook, error) from error
