# SPDX-License-Identifier: Apache-2.0
"""The FDB of bpf_src/lib/fdb.h from Python's side: keys, flags, and the requests that fdb_control() takes.

The numbers stand in the C text; tests/unit/test_numbers.py compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydp.model import FdbEntry

TICK = (1 << 24) / 1e9  # seconds, FDB_TICK_SHIFT
WAYS = 4  # FDB_WAYS
VALID, STATIC, LOCAL, STICKY, OWNED = 0x10000, 0x20000, 0x40000, 0x80000, 0x100000  # enum fdb_flag
REMOTE = 0x400000
SLOT_MASK = 0xFFFF
ADD, DELETE, FLUSH = 1, 2, 3  # enum fdb_operation


def ticks(seconds: float) -> int:
    """Seconds in the unit of struct fdb_bucket's `seen`; 0 only for 0."""
    return max(1, round(seconds / TICK)) if seconds else 0


def fdb_key(mac: bytes, vid: int) -> int:
    """The key of struct fdb_bucket: the address, first byte lowest, then the VLAN id."""
    return int.from_bytes(mac, "little") | vid << 48


def buckets(size: int) -> int:
    """Buckets of the table. It has more places than --fdb-size asks for, so that addresses that meet do not evict each
    other."""
    return power_of_two(-(-size * 3 // (2 * WAYS)))


def power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _add(key: int, where: int, idle: int) -> tuple[Any, ...]:
    """A struct fdb_request."""
    return (key, ADD, where, 0, 0, 0, idle, 0, 0)


def _flush(where: int, mask: int, vid: int | None = None) -> tuple[Any, ...]:
    return (0, FLUSH, where, mask, 0xFFFF if vid is not None else 0, vid or 0, 0, 0, 0)


def add_request(mac: bytes, vid: int, slot: int, *, sticky: bool = False, remote: bool = False) -> tuple[Any, ...]:
    """Enter a permanent address, with REMOTE one behind the VTEP whose index stands for the slot."""
    where = slot | STATIC | (STICKY if sticky else 0) | (REMOTE if remote else 0)
    return _add(fdb_key(mac, vid), where, 0)


def local_request(key: int, slot: int) -> tuple[Any, ...]:
    """Enter an address of this host."""
    return _add(key, slot | LOCAL | STATIC | OWNED, 0)


def remote_request(key: int, vtep: int, idle: float, *, static: bool = False) -> tuple[Any, ...]:
    """Enter an address behind the VTEP with that index, last heard of IDLE seconds ago or, if static, by the kernel."""
    return _add(key, vtep | REMOTE | (STATIC | OWNED if static else 0), ticks(idle))


def forget_request() -> tuple[Any, ...]:
    """Take out what an earlier attach entered."""
    return _flush(OWNED, OWNED)


def delete_request(mac: bytes, vid: int) -> tuple[Any, ...]:
    """Take an address out."""
    return (fdb_key(mac, vid), DELETE, 0, 0, 0, 0, 0, 0, 0)


def flush_request(
    *, slot: int | None = None, vid: int | None = None, static: bool = False, remote: bool | None = None
) -> tuple[Any, ...]:
    """Take out learned addresses (with STATIC also permanent ones, never this host's), of a slot or VLAN or all. REMOTE
    takes those behind VTEPs only, or, if false, those behind ports; where it is true, the slot is a VTEP's index.
    """
    mask, where = OWNED | LOCAL, 0
    if remote is not None:
        mask, where = mask | REMOTE, REMOTE if remote else 0
    if not static:
        mask |= STATIC
    if slot is not None:
        mask, where = mask | 0xFFFF, where | slot
    return _flush(where, mask, vid)


def kernel_request(entry: FdbEntry, slots: Mapping[int, int]) -> tuple[Any, ...] | None:
    """What the kernel bridge knows, as a request; None for what concerns no port."""
    key = fdb_key(entry.mac, entry.vid)
    if entry.mac[0] & 1:
        return None
    if entry.local:
        return local_request(key, slots.get(entry.ifindex, 0))
    if entry.ifindex not in slots:
        return None
    slot = slots[entry.ifindex]
    if entry.static or entry.extern_learn or entry.sticky:
        return _add(key, slot | STATIC | OWNED | (STICKY if entry.sticky else 0), 0)
    return _add(key, slot, ticks(entry.updated))
