# SPDX-License-Identifier: Apache-2.0
"""The tunnels of an instance: who is at their other ends, what went each way, and what did not go (`fates`). The peers
of mode ipip, with what is behind them, are read and changed in `peers`.
"""

from pydp.tunnels.reading import (
    Segments,
    Tunnel,
    count_guests,
    find,
    find_one,
    guests,
    has_segments,
    has_tunnels,
    max_guests,
    segments,
    tunnels,
)

__all__ = [
    "Segments",
    "Tunnel",
    "count_guests",
    "find",
    "find_one",
    "guests",
    "has_segments",
    "has_tunnels",
    "max_guests",
    "segments",
    "tunnels",
]
