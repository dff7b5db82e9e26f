# SPDX-License-Identifier: Apache-2.0
"""Why packets of a tunnel were not carried: those that eBPF left to the kernel or dropped, by tunnel and reason. As in
`reading`, no C text of the instance and no file of root's is asked for.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

from pydp.datapath.reader import Reader, verdict_names
from pydp.datapath.state import Instance
from pydp.tunnels.reading import owners

_KEY = struct.Struct("=QII")  # struct tunnel_fate: owner, index, verdict


@dataclass(frozen=True, slots=True)
class Fate:
    """Packets from or for the tunnel with this index; ``kind`` is punt or drop, ``reason`` as in a Verdict."""

    index: int
    kind: str
    reason: str
    packets: int


def fates(reader: Reader, instance: Instance) -> list[Fate]:
    """All that occurred; nothing of tunnels that are gone. Raises EbpfError."""
    name = next((one for one in ("vxlan_fates", "ipip_fates") if one in instance.maps), None)
    keys, values = reader.raw(instance, name) if name else (b"", b"")
    if not keys:
        return []
    there, names, found = owners(reader, instance), verdict_names(), Counter[tuple[int, int]]()
    counts = memoryview(values).cast("Q")
    cpus = len(counts) * _KEY.size // len(keys)
    for number, (owner, index, verdict) in enumerate(_KEY.iter_unpack(keys)):
        if verdict in names and index < len(there) and there[index] == owner:
            found[index, verdict] += sum(counts[number * cpus : (number + 1) * cpus])
    return [Fate(index, *names[verdict][:2], packets) for (index, verdict), packets in found.items()]
