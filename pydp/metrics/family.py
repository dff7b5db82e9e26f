# SPDX-License-Identifier: Apache-2.0
"""What a metric is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``kind``: "counter" (the name ends in _total) or "gauge"; ``help`` one line."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
