# SPDX-License-Identifier: Apache-2.0
"""Mode count: counts what passes by kind and leaves it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydp.modes.base import Context, Mode, Target, Traits, View

KINDS = 8  # COUNT_KINDS


@dataclass(frozen=True, slots=True)
class CountOptions:
    """It has none."""


class CountMode(Mode):
    """See bpf_src/count.c."""

    name = "count"
    traits = Traits(
        order=0, depth=4, maps=frozenset({"count_kinds"}), learned=frozenset({"count_kinds"}), claims=False,
        alone="it leaves every packet to the kernel anyway",
    )  # fmt: skip
    Options = CountOptions

    def target(self, options: CountOptions, names: Sequence[str], view: View) -> Target:
        return Target(tuple(view.link(name).ifindex for name in names))

    def sizes(self, options: CountOptions, context: Context) -> Mapping[str, int]:
        return {"count_kinds": KINDS * (max(context.slots.values()) + 1)}
