# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: a frame in, verdict and frame out, without any device."""

from __future__ import annotations

import ctypes as ct
import errno
import struct
from dataclasses import dataclass

from ebpf import libbpf
from ebpf.errors import EbpfError, NotPermitted
from ebpf.loader import Program

_ROOM = 1 << 16
# Offsets in struct __sk_buff (uapi/linux/bpf.h) of the members that a test may set or wants to see.
_SKB_SIZE = 192
_SKB_FIELDS = {
    "mark": 8, "vlan_present": 20, "vlan_tci": 24, "vlan_proto": 28, "priority": 32, "ingress_ifindex": 36,
    "ifindex": 40, "tstamp": 152, "wire_len": 160, "gso_segs": 164, "gso_size": 176,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test run gave: the hook's return value, the frame as the program left it, and ns per run (mean)."""

    action: int
    frame: bytes
    duration_ns: int
    context: bytes = b""


def run(
    program: Program, frame: bytes, *, repeat: int = 1, ifindex: int = 0, skb: dict[str, int] | None = None
) -> Outcome:
    """Run PROGRAM on FRAME.

    Frames have 14 bytes or more. XDP sees those above a page in several buffers; IFINDEX is the device they seem to
    come from. tc takes up to some 3.7 kB, whole IP headers only, and ``skb`` members (mark, gso_size, ...) as they may
    be set in a test run. A VLAN tag cannot be put into skb metadata, where the kernel puts it before tc on a device: it
    stays in the frame. Raises EbpfError.
    """
    out = ct.create_string_buffer(max(_ROOM, len(frame) + 512))
    data = ct.create_string_buffer(frame, len(frame))
    options: dict[str, object] = {
        "data_in": ct.cast(data, ct.c_void_p), "data_size_in": len(frame),
        "data_out": ct.cast(out, ct.c_void_p), "data_size_out": len(out), "repeat": repeat,
    }  # fmt: skip
    xdp = program.info.type == libbpf.PROG_TYPE_XDP
    context = _xdp_context(len(frame), ifindex) if xdp else _skb_context(ifindex, skb or {})
    room = ct.create_string_buffer(max(len(context), _SKB_SIZE))
    if context:
        given = ct.create_string_buffer(context, len(context))
        options |= {"ctx_in": ct.cast(given, ct.c_void_p), "ctx_size_in": len(context)}
    if not xdp:
        options |= {"ctx_out": ct.cast(room, ct.c_void_p), "ctx_size_out": len(room)}
    try:
        done = libbpf.test_run(program.fd, **options)
    except OSError as error:
        raise _error(program, error) from error
    return Outcome(done.retval, out.raw[: done.data_size_out], done.duration, room.raw[: done.ctx_size_out])


def _xdp_context(length: int, ifindex: int) -> bytes:
    """struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex."""
    return struct.pack("<6I", 0, length, 0, ifindex, 0, 0) if ifindex else b""


def _skb_context(ifindex: int, fields: dict[str, int]) -> bytes:
    context = bytearray(_SKB_SIZE)
    for name, value in ({"ifindex": ifindex} | fields if ifindex else fields).items():
        struct.pack_into("<I", context, _SKB_FIELDS[name], value)
    return bytes(context)


def skb_field(outcome: Outcome, name: str) -> int:
    """A member of the __sk_buff as the program left it."""
    value: int = struct.unpack_from("<I", outcome.context, _SKB_FIELDS[name])[0]
    return value


def live_frames(program: Program, frame: bytes, count: int, *, ifindex: int, batch: int = 64) -> None:
    """Send COUNT copies of FRAME through an XDP program as if IFINDEX had received them; redirects and passes are real.

    The kernel recycles the pages without writing them again: a program that wants varying frames writes them itself.
    Needs 5.18. Raises EbpfError.
    """
    data = ct.create_string_buffer(frame, len(frame))
    context = ct.create_string_buffer(struct.pack("<6I", 0, len(frame), 0, ifindex, 0, 0), 24)
    try:
        libbpf.test_run(
            program.fd, data_in=ct.cast(data, ct.c_void_p), data_size_in=len(frame),
            ctx_in=ct.cast(context, ct.c_void_p), ctx_size_in=24, repeat=count,
            flags=libbpf.F_TEST_XDP_LIVE_FRAMES, batch_size=batch,
        )  # fmt: skip
    except OSError as error:
        raise _error(program, error) from error


def _error(program: Program, error: OSError) -> EbpfError:
    if error.errno == errno.EPERM:
        return NotPermitted(f"test run of {program.name}: not permitted", hint="run as root")
    return EbpfError(f"test run of {program.name}: {error.strerror}")
