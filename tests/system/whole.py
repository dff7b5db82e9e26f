# SPDX-License-Identifier: Apache-2.0
"""Is everything in a network namespace as the datapath's state says, and nothing else there?"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ebpf import hooks, libbpf
from ebpf.links import FilterLink
from ebpf.loader import Program
from ebpf.pins import STATE
from pydp import fdb
from pydp.datapath import Datapath, Reader, State, comparing
from pydp.datapath.compose import again_names
from pydp.datapath.stages import again_pin
from pydp.datapath.state import PORTS
from pydp.modes import MODES

_HOOKS = ("xdp", "xdp-generic", "tc", "tc-egress")


def check(kind: str = "tcx") -> State:
    """The state of the namespace of this thread. KIND: how programs get to tc here, "tcx" or "clsact"."""
    datapath = Datapath()
    state = datapath.read()
    for link in links():
        _check_link(datapath, state, link, kind)
    base = datapath.store.base
    pins = {str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir()}
    if not state.instances:
        # Killed as the first or last thing, a process may leave the folder that it locked; the next one removes it.
        assert not any(base.glob("*")), f"left behind: {pins}"
        return state
    assert pins == {f"current/{name}" for name in _expected_pins(state)}
    with Reader.open(datapath) as reader:
        for instance in state.instances.values():
            if instance.mode == "bridge":
                local = {row.ifindex for row in fdb.rows(reader, instance) if row.local}
                assert set(instance.slots) <= local, "an address of this host is missing in the FDB"
    return state


def shape(state: State) -> dict[str, list[int]]:
    """Instances and their ports, to compare states by; first 0 for one whose path is compared with the kernel's."""
    return {name: [0] * comparing.is_compared(one) + sorted(one.slots) for name, one in state.instances.items()}


def links() -> list[dict[str, Any]]:
    """The devices of this namespace, as `ip -details link` tells."""
    shown = subprocess.run(["ip", "-j", "-d", "link"], capture_output=True, check=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(shown)
    return found


def running(ifindex: int, hook: str, kind: str) -> list[int]:
    """Ids of the programs on a hook."""
    if hook.startswith("xdp"):
        found = libbpf.xdp_query(ifindex)[hook == "xdp-generic"]
        return [found] if found else []
    if kind == "clsact":
        found = FilterLink(ifindex, hook).program_id  # type: ignore[arg-type]
        return [found] if found else []
    return libbpf.prog_query(ifindex, libbpf.ATTACH_TCX_EGRESS if hook == "tc-egress" else libbpf.ATTACH_TCX_INGRESS)


def _check_link(datapath: Datapath, state: State, link: dict[str, Any], kind: str) -> None:
    name, ifindex = link["ifname"], link["ifindex"]
    for hook in _HOOKS:
        key = f"{ifindex}-{hook}"
        found = running(ifindex, hook, kind)
        if key not in state.attachments:
            assert not found, f"a stray program on {name} {hook}"
            continue
        with Program.open(str(datapath.store.current / "programs" / key)) as program:
            assert found == [program.id], f"{name} {hook} runs another program than the state says"
    assert (link["promiscuity"] > 0) == ("promisc" in state.settings.get(ifindex, {})), f"promiscuity of {name}"
    if kind == "clsact":
        wanted = any(one.ifindex == ifindex and one.kind == "clsact" for one in state.attachments.values())
        assert hooks.has_qdisc(ifindex) == wanted, f"clsact qdisc of {name}"


def _expected_pins(state: State) -> set[str]:
    found = {STATE, PORTS}
    for key, one in state.attachments.items():
        folders = ["programs", "counters"] + ([] if one.kind == "clsact" else ["links"])
        found |= {f"{folder}/{key}" for folder in folders}
        for name in one.stages:
            if again_names(one.hook, state.instances[name].mode):
                found.add(f"maps/{again_pin(one, name)}")
    for name, instance in state.instances.items():
        found |= {f"maps/{name}-{map_name}" for map_name in instance.maps}
        if MODES[instance.mode].traits.control:
            found.add(f"programs/{name}-control")
    return found
