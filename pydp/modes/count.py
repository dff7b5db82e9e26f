# SPDX-License-Identifier: Apache-2.0
"""Mode count: counts what passes by kind and leaves it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydp.modes.base import Context, Entries, Target, Traits, View

KINDS = 8  # COUNT_KINDS


@dataclass(frozen=True, slots=True)
class CountOptions:
    """It has none."""


class CountMode:
    """See bpf_src/count.c."""

    name = "count"
    traits = Traits(
        order=0, depth=4, maps=frozenset({"count_kinds"}), learned=frozenset({"count_kinds"}), claims=False
    )  # fmt: skip
    Options = CountOptions

    def target(self, options: CountOptions, names: Sequence[str], view: View) -> Target:
        return Target(tuple(view.link(name).ifindex for name in names))

    def hooks(self, options: CountOptions, target: Target, hook: str) -> tuple[str, ...]:
        return (hook,)

    def constants(self, options: CountOptions, context: Context) -> Mapping[str, int]:
        return {}

    def sizes(self, options: CountOptions, context: Context) -> Mapping[str, int]:
        return {"count_kinds": KINDS * (max(context.slots.values()) + 1)}

    def entries(self, options: CountOptions, context: Context) -> Entries:
        return {}

    def requests(self, options: CountOptions, context: Context) -> Sequence[tuple[Any, ...]]:
        return ()
