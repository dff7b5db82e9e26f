# SPDX-License-Identifier: Apache-2.0
"""What the datapath counted for backends and services, by their numbers.

Reading goes by the layouts that the instance notes, so that a process without rights can do it. Numbers are given out
from 0 on: no more of a map is read than holds those that are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ebpf import libbpf
from pydp.datapath.reader import Reader
from pydp.datapath.specs import compare_layouts
from pydp.datapath.state import Instance

FAILURES = ("backend", "full", "exhausted", "ended")  # enum nat_failure
_COUNT = [
    ["sent_packets", 0, 8], ["sent_bytes", 8, 8], ["received_packets", 16, 8], ["received_bytes", 24, 8],
    ["flows", 32, 8], ["owner", 40, 8], ["pad", 48, 16],
]  # fmt: skip
_FIELDS, _OWNER = 8, 5  # words of a record, and which one the owner is


class Count(NamedTuple):
    """What went to and came from a backend. A GSO frame counts once; ``flows``: connections begun."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    flows: int = 0


def backend_counts(reader: Reader, instance: Instance, generations: Mapping[int, int]) -> dict[int, Count]:
    """Counters by number, of the backends with these GENERATIONS: what was counted for another one that had the number
    is left out. Raises EbpfError.
    """
    compare_layouts(f"{instance.name}-nat_counts", instance.maps["nat_counts"], {"layout": _COUNT})
    words = _words(reader, instance, "nat_counts", max(generations, default=-1) + 1, _FIELDS)
    step = _FIELDS * libbpf.cpu_count()
    found = {}
    for number, generation in generations.items():
        mine = words[number * step : (number + 1) * step].tolist()
        cpus = [at for at in range(0, len(mine), _FIELDS) if mine[at + _OWNER] == generation]
        found[number] = Count(*(sum(mine[at + field] for at in cpus) for field in range(_OWNER)))
    return found


def service_failures(reader: Reader, instance: Instance, numbers: Collection[int]) -> dict[int, tuple[int, ...]]:
    """How often a connection of a service failed, by the reason (`FAILURES`), for those that had any; by number. Those
    beyond the size of the map are not counted. Raises EbpfError.
    """
    fields = len(FAILURES)
    words = _words(reader, instance, "nat_failures", max(numbers, default=-1) + 1, fields)
    step = fields * libbpf.cpu_count()
    found = {}
    for number in numbers:
        mine = words[number * step : (number + 1) * step].tolist()
        if any(mine):
            found[number] = tuple(sum(mine[field::fields]) for field in range(fields))
    return found


def _words(reader: Reader, instance: Instance, name: str, count: int, fields: int) -> memoryview:
    """The first COUNT records of an array that has one for each CPU, or all if it has less."""
    size, read = count * fields * 8 * libbpf.cpu_count(), bytearray()
    if count:
        for _, values in reader.chunks(instance, name):
            read += values
            if len(read) >= size:
                break
    return memoryview(bytes(read[:size])).cast("Q")
