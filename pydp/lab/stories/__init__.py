# SPDX-License-Identifier: Apache-2.0
"""Stories about Linux's networking: each builds a topology, tries something by the kernel and by eBPF, and checks it.

    run = play(find("veth"), "kernel")
    run.status, run.checks

A story is a module of this package with a constant ``STORY``.
"""

from __future__ import annotations

import difflib
import importlib

from pydp.errors import UsageError
from pydp.lab.stories.model import Story

NAMES = ("namespace", "veth", "bridge", "tuntap", "iptables", "ipip", "vxlan", "macvlan", "ipvlan", "ebpf")


def find(name: str) -> Story:
    """The story of that name. Raises UsageError."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else "`pydp lab list` shows those that there are"
        raise UsageError(f"no story {name}", hint=hint)
    story: Story = importlib.import_module(f"pydp.lab.stories.{name}").STORY
    return story


def stories() -> list[Story]:
    """All of them, in the order they are told."""
    return [find(name) for name in NAMES]
