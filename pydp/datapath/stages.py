# SPDX-License-Identifier: Apache-2.0
"""Which stages each port has, under which numbers, and what their programs are built from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ebpf import hooks
from ebpf.source import Source
from pydp.datapath.compose import Stage, compose, written
from pydp.datapath.state import Attachment, Instance, State
from pydp.modes.base import Role


def planned(old: State, new: State) -> State:
    """NEW, which follows on OLD, with its attachments: which stages, under which numbers, built from what."""
    attachments = {}
    places = {(ifindex, hook) for one in new.instances.values() for ifindex in one.slots for hook in one.hooks[ifindex]}
    for ifindex, hook in sorted(places):
        before = old.attachments.get(f"{ifindex}-{hook}")
        stages = _numbered(sorted(new.stages_of(ifindex, hook)), before.stages if before else {})
        kind = before.kind if before else hooks.kind_of(hook)  # type: ignore[arg-type]
        one = Attachment(ifindex, hook, stages, kind=kind)
        attachments[one.key] = replace(one, build=_build_id(new, one))
    return replace(new, generation=old.generation + 1, attachments=attachments)


def source_of(state: State, one: Attachment) -> Source:
    """The text of an attachment's programs."""
    members = [(number, state.instances[name]) for name, number in one.stages.items()]
    return compose(
        one.hook,
        [Stage(number, instance.mode, instance.constants) for number, instance in members],
        counters=all(instance.counters for _, instance in members),
        frags=one.hook == "xdp" and any(instance.frags for _, instance in members),
    )


def again_pin(one: Attachment, instance: str) -> str:
    """The pin of what the programs of an attachment hand an instance's packets to."""
    return f"{one.key}+{instance}"


def written_at(instance: Instance, number: int, one: Attachment) -> dict[int, int]:
    """What is written into the code of an instance's stage, at one port."""
    return written(
        Stage(number, instance.mode, instance.constants),
        slot=instance.slots[one.ifindex],
        seed=instance.seed,
        role=instance.roles.get(one.ifindex, Role.PORT),
    )


def _build_id(state: State, one: Attachment) -> str:
    facts = [
        (name, number, state.instances[name].revision, written_at(state.instances[name], number, one))
        for name, number in sorted(one.stages.items())
    ]
    text = json.dumps(facts) + source_of(state, one).text
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _numbered(names: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
    """A number for each stage: the one it had, else the lowest that is free. Counters go by it: it must not change."""
    numbers = {name: before[name] for name in names if name in before}
    for name in names:
        if name not in numbers:
            numbers[name] = next(n for n in range(len(names) + len(before) + 1) if n not in numbers.values())
    return numbers
