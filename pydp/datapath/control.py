# SPDX-License-Identifier: Apache-2.0
"""Requests that a datapath carries out itself: what only its programs write (the FDB, conntrack) is changed by a run of
its control program on requests that Python has written into a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebpf import testrun
from ebpf.loader import Program
from ebpf.maps import Map


def run_control(program: Program, requests: Map, cursor: Map, wanted: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Have the datapath do what is WANTED; gives the requests with their results. Raises EbpfError."""
    done: list[Any] = []
    room = requests.spec.max_entries
    for at in range(0, len(wanted), room):
        part = wanted[at : at + room]
        requests.update(dict(enumerate(part)))
        run_requests(program, cursor, len(part))
        done += [requests.get(number) for number in range(len(part))] if len(part) <= 16 else []
    return done


def run_requests(program: Program, cursor: Map, count: int) -> None:
    """Have the datapath do the first COUNT requests. Raises EbpfError."""
    cursor.set(0, (0, count))
    repeat = count
    while cursor.get(0).next < count:
        testrun.run(program, bytes(64), repeat=repeat)
        # A request that walks the table takes a run per bucket; runs past the end do nothing but take time.
        repeat = min(16 * max(repeat, 64), 1 << 16)
