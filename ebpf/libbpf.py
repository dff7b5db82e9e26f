# SPDX-License-Identifier: Apache-2.0
"""The calls of libbpf.so.1 that we use, as Python functions.

libbpf is already on every machine that has bcc, which links it. Its low-level functions take versioned option structs
(`sz` first), so one binding serves every libbpf 1.x. Each function here returns a plain value or raises OSError with
the kernel's errno; turning that into a sentence is the caller's business, who knows what was asked.
"""

from __future__ import annotations

import ctypes as ct
import functools
import os
from typing import Any

# enum bpf_map_type, bpf_prog_type, bpf_attach_type (include/uapi/linux/bpf.h)
MAP_TYPES = {
    1: "hash", 2: "array", 3: "prog_array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash", 10: "lru_percpu_hash",
    11: "lpm_trie", 12: "array_of_maps", 13: "hash_of_maps", 14: "devmap", 16: "cpumap", 17: "xskmap",
    25: "devmap_hash", 27: "ringbuf",
}  # fmt: skip
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_CGROUP_SOCK_ADDR = 18
ATTACH_CGROUP_CONNECT4 = 10
ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
F_NO_PREALLOC = 1 << 0
F_MMAPABLE = 1 << 10
F_XDP_HAS_FRAGS = 1 << 5
F_REPLACE = 1 << 2
F_TEST_XDP_LIVE_FRAMES = 1 << 1
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
TC_INGRESS = 1 << 0
TC_EGRESS = 1 << 1
TC_F_REPLACE = 1 << 0

_u8, _u32, _u64, _ptr, _int = ct.c_uint8, ct.c_uint32, ct.c_uint64, ct.c_void_p, ct.c_int


class _Opts(ct.Structure):
    """An option struct of libbpf: the first member is its own size, so that old and new libraries agree."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.sz = ct.sizeof(self)


class _MapCreateOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("btf_fd", _u32), ("btf_key_type_id", _u32), ("btf_value_type_id", _u32),
        ("btf_vmlinux_value_type_id", _u32), ("inner_map_fd", _u32), ("map_flags", _u32), ("map_extra", _u64),
        ("numa_node", _u32), ("map_ifindex", _u32),
    ]  # fmt: skip


class _ProgLoadOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("attempts", _int), ("expected_attach_type", _int), ("prog_btf_fd", _u32),
        ("prog_flags", _u32), ("prog_ifindex", _u32), ("kern_version", _u32), ("attach_btf_id", _u32),
        ("attach_prog_fd", _u32), ("attach_btf_obj_fd", _u32), ("fd_array", _ptr), ("func_info", _ptr),
        ("func_info_cnt", _u32), ("func_info_rec_size", _u32), ("line_info", _ptr), ("line_info_cnt", _u32),
        ("line_info_rec_size", _u32), ("log_level", _u32), ("log_size", _u32), ("log_buf", ct.c_char_p),
    ]  # fmt: skip


class _LinkCreateOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("flags", _u32), ("iter_info", _ptr), ("iter_info_len", _u32), ("target_btf_id", _u32),
        ("union", _u64 * 4),
    ]  # fmt: skip


class _LinkUpdateOpts(_Opts):
    _fields_ = [("sz", ct.c_size_t), ("flags", _u32), ("old_prog_fd", _u32)]


class _TestRunOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("data_in", _ptr), ("data_out", _ptr), ("data_size_in", _u32), ("data_size_out", _u32),
        ("ctx_in", _ptr), ("ctx_out", _ptr), ("ctx_size_in", _u32), ("ctx_size_out", _u32), ("retval", _u32),
        ("repeat", _int), ("duration", _u32), ("flags", _u32), ("cpu", _u32), ("batch_size", _u32),
    ]  # fmt: skip


class _QueryOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("query_flags", _u32), ("attach_flags", _u32), ("prog_ids", _ptr), ("prog_cnt", _u32),
        ("prog_attach_flags", _ptr),
    ]  # fmt: skip


class _XdpQueryOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("prog_id", _u32), ("drv_prog_id", _u32), ("hw_prog_id", _u32), ("skb_prog_id", _u32),
        ("attach_mode", _u8),
    ]  # fmt: skip


class _TcHook(_Opts):
    _fields_ = [("sz", ct.c_size_t), ("ifindex", _int), ("attach_point", _int), ("parent", _u32)]


class _TcOpts(_Opts):
    _fields_ = [
        ("sz", ct.c_size_t), ("prog_fd", _int), ("flags", _u32), ("prog_id", _u32), ("handle", _u32),
        ("priority", _u32),
    ]  # fmt: skip


class _BatchOpts(_Opts):
    _fields_ = [("sz", ct.c_size_t), ("elem_flags", _u64), ("flags", _u64)]


class MapInfo(ct.Structure):
    """struct bpf_map_info, its first part."""

    _fields_ = [
        ("type", _u32), ("id", _u32), ("key_size", _u32), ("value_size", _u32), ("max_entries", _u32),
        ("map_flags", _u32), ("name", ct.c_char * 16),
    ]  # fmt: skip


class ProgInfo(ct.Structure):
    """struct bpf_prog_info up to the run counters."""

    _fields_ = [
        ("type", _u32), ("id", _u32), ("tag", _u8 * 8), ("jited_prog_len", _u32), ("xlated_prog_len", _u32),
        ("jited_prog_insns", _u64), ("xlated_prog_insns", _u64), ("load_time", _u64), ("created_by_uid", _u32),
        ("nr_map_ids", _u32), ("map_ids", _u64), ("name", ct.c_char * 16), ("ifindex", _u32), ("gpl_compatible", _u32),
        ("netns_dev", _u64), ("netns_ino", _u64), ("nr_jited_ksyms", _u32), ("nr_jited_func_lens", _u32),
        ("jited_ksyms", _u64), ("jited_func_lens", _u64), ("btf_id", _u32), ("func_info_rec_size", _u32),
        ("func_info", _u64), ("nr_func_info", _u32), ("nr_line_info", _u32), ("line_info", _u64),
        ("jited_line_info", _u64), ("nr_jited_line_info", _u32), ("line_info_rec_size", _u32),
        ("jited_line_info_rec_size", _u32), ("nr_prog_tags", _u32), ("prog_tags", _u64), ("run_time_ns", _u64),
        ("run_cnt", _u64), ("recursion_misses", _u64), ("verified_insns", _u32),
    ]  # fmt: skip


class LinkInfo(ct.Structure):
    """struct bpf_link_info for XDP (ifindex) and tcx (ifindex, attach_type) links."""

    _fields_ = [
        ("type", _u32), ("id", _u32), ("prog_id", _u32), ("pad", _u32), ("ifindex", _u32), ("attach_type", _u32),
        ("rest", _u32 * 8),
    ]  # fmt: skip


@functools.cache
def _lib() -> ct.CDLL:
    return ct.CDLL("libbpf.so.1", use_errno=True)


def _call(name: str, *args: Any) -> int:
    """Call NAME; libbpf 1.x returns a negative errno."""
    result = int(getattr(_lib(), name)(*args))
    if result < 0:
        code = -result
        raise OSError(code, os.strerror(code))
    return result


def silence() -> None:
    """libbpf prints its warnings on stderr by itself; ours are exceptions."""
    _lib().libbpf_set_print(None)


def map_create(
    kind: int, name: str, key_size: int, value_size: int, max_entries: int, flags: int = 0, inner_fd: int = 0
) -> int:
    opts = _MapCreateOpts(map_flags=flags, inner_map_fd=inner_fd)
    return _call("bpf_map_create", kind, name.encode()[:15], key_size, value_size, max_entries, ct.byref(opts))


def map_lookup(fd: int, key: bytes, value: ct.Array[ct.c_char]) -> None:
    _call("bpf_map_lookup_elem", fd, key, value)


def map_update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    _call("bpf_map_update_elem", fd, key, value, _u64(flags))


def map_delete(fd: int, key: bytes) -> None:
    _call("bpf_map_delete_elem", fd, key)


def map_next_key(fd: int, key: bytes | None, following: ct.Array[ct.c_char]) -> None:
    _call("bpf_map_get_next_key", fd, key, following)


def map_lookup_batch(fd: int, start: Any, following: Any, keys: Any, values: Any, count: int) -> tuple[int, bool]:
    """Read up to COUNT entries; gives how many there were and whether the map ended with them (ENOENT)."""
    number = _u32(count)
    opts = _BatchOpts()
    try:
        _call("bpf_map_lookup_batch", fd, start, following, keys, values, ct.byref(number), ct.byref(opts))
    except FileNotFoundError:
        return number.value, True
    return number.value, False


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> int:
    """Write COUNT entries; gives how many were written."""
    number = _u32(count)
    opts = _BatchOpts()
    _call("bpf_map_update_batch", fd, keys, values, ct.byref(number), ct.byref(opts))
    return number.value


def map_delete_batch(fd: int, keys: bytes, count: int) -> int:
    number = _u32(count)
    opts = _BatchOpts()
    _call("bpf_map_delete_batch", fd, keys, ct.byref(number), ct.byref(opts))
    return number.value


def prog_load(
    kind: int, name: str, insns: bytes, *, license_: str, flags: int = 0, attach_type: int = 0, log: Any = None
) -> int:
    opts = _ProgLoadOpts(prog_flags=flags, expected_attach_type=attach_type)
    if log is not None:
        opts.log_level, opts.log_size, opts.log_buf = 1, len(log), ct.cast(log, ct.c_char_p)
    code = ct.create_string_buffer(insns, len(insns))
    return _call(
        "bpf_prog_load", kind, name.encode()[:15], license_.encode(), code, ct.c_size_t(len(insns) // 8), ct.byref(opts)
    )


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """TARGET: an ifindex, or for the hooks of a cgroup the file descriptor of its folder."""
    opts = _LinkCreateOpts(flags=flags)
    return _call("bpf_link_create", prog_fd, target, attach_type, ct.byref(opts))


def link_update(link_fd: int, prog_fd: int, expected_fd: int | None = None) -> None:
    """Swap the program of a link atomically; with EXPECTED_FD only if that one is running (else EPERM)."""
    opts = _LinkUpdateOpts()
    if expected_fd is not None:
        opts.flags, opts.old_prog_fd = F_REPLACE, expected_fd
    _call("bpf_link_update", link_fd, prog_fd, ct.byref(opts))


def link_detach(link_fd: int) -> None:
    """Take the program off at once, whoever else holds the link. Harmless when it is off already."""
    _call("bpf_link_detach", link_fd)


def obj_pin(fd: int, path: str) -> None:
    _call("bpf_obj_pin", fd, path.encode())


def obj_get(path: str) -> int:
    """Raises OSError that names PATH."""
    try:
        return _call("bpf_obj_get", path.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _info(fd: int, info: Any) -> Any:
    size = _u32(ct.sizeof(info))
    _call("bpf_obj_get_info_by_fd", fd, ct.byref(info), ct.byref(size))
    return info


def map_info(fd: int) -> MapInfo:
    found: MapInfo = _info(fd, MapInfo())
    return found


def prog_info(fd: int) -> ProgInfo:
    found: ProgInfo = _info(fd, ProgInfo())
    return found


def link_info(fd: int) -> LinkInfo:
    found: LinkInfo = _info(fd, LinkInfo())
    return found


def enable_stats() -> int:
    """Have the kernel count and time runs of all programs while the descriptor that this gives is open (Linux 5.8)."""
    return _call("bpf_enable_stats", 0)  # BPF_STATS_RUN_TIME


def prog_fd_by_id(prog_id: int) -> int:
    return _call("bpf_prog_get_fd_by_id", prog_id)


def prog_query(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs on a tcx hook, in the order they run."""
    ids = (_u32 * 64)()
    opts = _QueryOpts(prog_ids=ct.cast(ids, _ptr), prog_cnt=64)
    _call("bpf_prog_query_opts", ifindex, attach_type, ct.byref(opts))
    return list(ids[: opts.prog_cnt])


def xdp_query(ifindex: int) -> tuple[int, int]:
    """(id of the program in native or offload mode, id of the one in generic mode); 0 for none."""
    opts = _XdpQueryOpts()
    _call("bpf_xdp_query", ifindex, 0, ct.byref(opts))
    return opts.drv_prog_id or opts.hw_prog_id, opts.skb_prog_id


def test_run(prog_fd: int, **options: Any) -> Any:
    opts = _TestRunOpts(**options)
    _call("bpf_prog_test_run_opts", prog_fd, ct.byref(opts))
    return opts


def tc_hook_create(ifindex: int, where: int) -> bool:
    """Make the clsact qdisc; False when it was there already."""
    hook = _TcHook(ifindex=ifindex, attach_point=where)
    try:
        _call("bpf_tc_hook_create", ct.byref(hook))
    except FileExistsError:
        return False
    return True


def tc_hook_destroy(ifindex: int) -> None:
    """Remove the clsact qdisc with both its directions."""
    hook = _TcHook(ifindex=ifindex, attach_point=TC_INGRESS | TC_EGRESS)
    _call("bpf_tc_hook_destroy", ct.byref(hook))


def tc_attach(ifindex: int, where: int, prog_fd: int, handle: int, priority: int, *, replace: bool) -> None:
    hook = _TcHook(ifindex=ifindex, attach_point=where)
    opts = _TcOpts(prog_fd=prog_fd, flags=TC_F_REPLACE if replace else 0, handle=handle, priority=priority)
    _call("bpf_tc_attach", ct.byref(hook), ct.byref(opts))


def tc_detach(ifindex: int, where: int, handle: int, priority: int) -> None:
    hook = _TcHook(ifindex=ifindex, attach_point=where)
    opts = _TcOpts(handle=handle, priority=priority)
    _call("bpf_tc_detach", ct.byref(hook), ct.byref(opts))


def tc_query(ifindex: int, where: int, handle: int, priority: int) -> int:
    """Id of the program in that place of the filter chain (ENOENT when there is none)."""
    hook = _TcHook(ifindex=ifindex, attach_point=where)
    opts = _TcOpts(handle=handle, priority=priority)
    _call("bpf_tc_query", ct.byref(hook), ct.byref(opts))
    return int(opts.prog_id)


def cpu_count() -> int:
    """Number of possible CPUs: how many values a per-CPU map gives."""
    return _call("libbpf_num_possible_cpus")


silence()
