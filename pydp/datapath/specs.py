# SPDX-License-Identifier: Apache-2.0
"""What the maps of an attached instance are, without compiling: from its document and the C text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebpf.abi import Abi, codec
from ebpf.errors import LayoutMismatch
from ebpf.maps import MapSpec
from ebpf.records import Record
from pydp.datapath.compose import Stage, compose
from pydp.datapath.state import Instance
from pydp.modes import MODES

VERDICTS, STAGES = 64, 4  # enum limit in abi.h


def describe(spec: MapSpec) -> dict[str, Any]:
    """A map in words that JSON can hold."""
    return {
        "kind": spec.kind,
        "key": _ctype(spec.key),
        "value": _ctype(spec.value),
        "layout": [[one.name, one.offset, one.size] for one in spec.value.fields]
        if isinstance(spec.value, Record)
        else [],
    }


def _ctype(one: Any) -> str:
    return f"struct {one.name}" if isinstance(one, Record) else str(one.name)


def compare_layouts(pin: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise LayoutMismatch with each difference between a map's value as it was pinned and as the C text has it now."""
    if before is None or before["layout"] == now["layout"]:
        return
    was = {member: (offset, size) for member, offset, size in before["layout"]}
    has = {member: (offset, size) for member, offset, size in now["layout"]}
    told = [
        f"{member} was {_at(was.get(member))}, is {_at(has.get(member))}"
        for member in dict.fromkeys([*was, *has])
        if was.get(member) != has.get(member)
    ]
    raise LayoutMismatch(
        f"map {pin} was made by a version with another layout: " + "; ".join(told),
        hint="pydp detach it, then attach again: what was learned and counted is lost",
    )


def _at(place: tuple[int, int] | None) -> str:
    return f"{place[1]} bytes at {place[0]}" if place else "not there"


def abi_of(instance: Instance) -> Abi:
    """The types of an instance's C text."""
    stage = Stage(0, instance.mode, instance.constants)
    return Abi(compose(instance.hook, [stage], counters=instance.counters, frags=instance.frags).text)


def specs_of(instance: Instance) -> dict[str, MapSpec]:
    """The specs of an instance's maps. Raises LayoutMismatch when the C text has moved on since it was attached."""
    abi = abi_of(instance)
    found = {}
    for name, told in instance.maps.items():
        spec = MapSpec(name, told["kind"], codec(abi, told["key"]), codec(abi, told["value"]), 0)
        compare_layouts(f"{instance.name}-{name}", told, describe(spec))
        found[name] = spec
    return found


def counters_spec(abi: Abi) -> MapSpec:
    """The verdict counters of an attachment (lib/exit.h)."""
    return MapSpec("counters", "percpu_array", codec(abi, "__u32"), codec(abi, "struct counter"), STAGES * VERDICTS)


def dict_options(instance: Instance) -> Any:
    """The options object of an instance."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in instance.options.items()}
    return MODES[instance.mode].Options(**given)
