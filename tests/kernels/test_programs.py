# SPDX-License-Identifier: Apache-2.0
"""Every program of every mode and hook passes the running kernel's verifier: each is attached to real devices.

`make test-kernels` makes the README's table of what is noted here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pydp.datapath import Datapath
from pydp.datapath.state import State
from pydp.lab import Namespace, Node, Nodes
from pydp.modes import MODES
from pydp.modes.peers import KINDS
from tests.kernels.needs import need_device, note
from tests.net.bridging import attached
from tests.net.tunnelling import NodesFactory, lab_options

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

HOOKS = ("tc", "xdp")


@dataclass(frozen=True, slots=True)
class Case:
    """An attach: what it needs to be there before, on which device, with which options. ``lab`` is for Nodes. Ports
    beyond the first have the same programs, so most cases have one.
    """

    mode: str
    options: Callable[[Nodes], Mapping[str, Any]] = lambda made: {}
    device: Callable[[Node], tuple[str, ...]] = lambda node: (node.dev, *node.ports[:1])
    before: Callable[[Nodes], None] = lambda made: None
    after: Callable[[Nodes], None] = lambda made: None
    needs: str = ""
    lab: Mapping[str, Any] = field(default_factory=dict)


def underlay(node: Node) -> tuple[str, ...]:
    return (node.dev,)


def bridge(*words: str) -> Callable[[Nodes], None]:
    """A kernel bridge of a node's ports."""

    def make(made: Nodes) -> None:
        ns = made[0].ns
        ns.run(["ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", *words])
        for name in made[0].ports:
            ns.run(["ip", "link", "set", name, "master", "br0"])
        ns.run(["ip", "link", "set", "br0", "up"])

    return make


def tunnel_device(words: str) -> Callable[[Nodes], None]:
    """A kernel's tunnel device over a node's underlay, with a route that leads into it."""

    def make(made: Nodes) -> None:
        ends = ["local", made[0].address4, "remote", made[1].address4, "dev", made[0].dev]
        made[0].ns.run(["ip", "link", "add", "tun0", *words.split(), *ends])
        made[0].ns.run(["ip", "link", "set", "tun0", "up"])
        made[0].ns.run(["ip", "route", "add", "10.21.0.0/24", "dev", "tun0"])

    return make


def tunnel(kind: str, **more: Any) -> Callable[[Nodes], Mapping[str, Any]]:
    """Options of mode ipip between the first two nodes."""
    inner6, outer6 = kind in ("sit", "ip6ip6"), kind in ("ip6ip6", "ip4ip6")
    behind = "fd01:2:0::/64" if inner6 else "10.21.0.0/24"

    def options(made: Nodes) -> Mapping[str, Any]:
        local, remote = ((node.address6 if outer6 else node.address4) for node in made.nodes[:2])
        return {"kind": kind, "local": local, "peer": (f"{remote}={behind}",), "port": ("p0",), **more}

    return options


def vtep(ipv6: bool) -> Callable[[Nodes], Mapping[str, Any]]:
    def options(made: Nodes) -> Mapping[str, Any]:
        local, remote = ((node.address6 if ipv6 else node.address4) for node in made.nodes[:2])
        return {"vni": 100, "local": local, "remote": (remote,), "port": made[0].ports[:1]}

    return options


def ipvlan(kind: str) -> Callable[[Nodes], Mapping[str, Any]]:
    return lambda made: {"type": kind, "child": ("p0=10.9.0.1", "p1=10.9.0.2")}


ROUTED = {"routed": True, "ipv6": True, "underlay6": True}
NAT = {"service": ("tcp:192.0.2.1:80=10.20.0.1:8080",), "masquerade": ("10.20.0.0/24",)}
CASES = {
    "count": Case("count"),
    "bridge": Case("bridge", device=lambda node: node.ports),
    "bridge, VLANs": Case(
        "bridge", lambda made: {"vlan_filtering": True, "vlan": ("p0=5:pvid:untagged",)}, lambda node: node.ports
    ),
    "bridge, 802.1ad": Case(
        "bridge", lambda made: {"vlan_filtering": True, "vlan_protocol": "802.1ad"}, lambda node: node.ports
    ),
    "bridge, adopting": Case("bridge", device=lambda node: ("br0",), before=bridge()),
    "bridge, adopting VLANs": Case(
        "bridge", device=lambda node: ("br0",), before=bridge("vlan_filtering", "1"),
        needs="type bridge vlan_filtering 1",
    ),
    "vxlan": Case("vxlan", vtep(ipv6=False), underlay),
    "vxlan, over IPv6": Case("vxlan", vtep(ipv6=True), underlay, lab={"underlay6": True}),
    "vxlan, adopting": Case(
        "vxlan", device=underlay, before=lambda made: made.kernel_vxlan(made[0]) and None,
        after=lambda made: made.kernel_down(made[0]),
    ),
    **{f"ipip, {kind}": Case("ipip", tunnel(kind), underlay, lab=ROUTED) for kind in KINDS},
    "ipip, gre with key": Case("ipip", tunnel("gre", key=7), underlay, lab=ROUTED),
    "ipip, adopting ipip": Case(
        "ipip", device=underlay, before=tunnel_device("type ipip"), needs="type ipip local 192.0.2.1", lab=ROUTED
    ),
    "ipip, adopting gre": Case(
        "ipip", device=underlay, before=tunnel_device("type gre"), needs="type gre local 192.0.2.1", lab=ROUTED
    ),
    "macvlan": Case("macvlan", lambda made: {"child": made[0].ports[:1]}, underlay),
    "ipvlan": Case("ipvlan", ipvlan("l3"), underlay),
    "ipvlan, l2": Case("ipvlan", ipvlan("l2"), underlay),
    "ipvlan, l3s": Case("ipvlan", ipvlan("l3s"), underlay),
    "nat": Case("nat", lambda made: NAT, underlay, lab=ROUTED),
    "nat, accounting": Case("nat", lambda made: {**NAT, "accounting": True}, underlay, lab=ROUTED),
}  # fmt: skip


def hooks_of(name: str) -> tuple[str, ...]:
    """Generic XDP runs the programs of native XDP: it is enough to see one of each mode attached there."""
    return (*HOOKS, "xdp-generic") if name in MODES or name == "ipip, ipip" else HOOKS


def test_every_mode_is_here() -> None:
    assert {case.mode for case in CASES.values()} == set(MODES)


@pytest.fixture(scope="module")
def labs(module_nodes: NodesFactory) -> Callable[[Case, str], Nodes]:
    """Two nodes as a case wants them, made once: each has processes, which take a second to begin under emulation."""
    made: dict[str, Nodes] = {}

    def get(case: Case, hook: str) -> Nodes:
        options = {**case.lab, **offloads(hook)}
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = module_nodes(2, 2, direct=True, **options)
        return made[key]

    return get


@contextlib.contextmanager
def prepared(case: Case, made: Nodes) -> Iterator[None]:
    """With what the case has there before; no device of it stays."""
    ns = made[0].ns
    there = devices(ns)
    case.before(made)
    try:
        yield
    finally:
        case.after(made)
        for name in devices(ns) - there:
            ns.run(["ip", "link", "del", name])


def devices(ns: Namespace) -> set[str]:
    """But those that the kernel has in every namespace as soon as there is one of their kind, such as tunl0."""
    shown = json.loads(ns.run(["ip", "-json", "link"]).stdout)
    return {one["ifname"] for one in shown} - {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0"}


@pytest.mark.parametrize(("name", "hook"), [(name, hook) for name in CASES for hook in hooks_of(name)])
def test_the_verifier_takes_it(labs: Callable[[Case, str], Nodes], name: str, hook: str) -> None:
    """On each port every hook that the mode wants has a program afterwards, and none when it is detached."""
    case = CASES[name]
    row = {"case": name, "mode": case.mode, "hook": hook}
    with noted(row):
        if case.needs:
            need_device(case.needs)
        made = labs(case, hook)
        ns = made[0].ns
        given = case.options(made)
        with (
            prepared(case, made),
            attached(ns, *case.device(made[0]), mode=case.mode, hook=hook, options=given) as instance,
        ):
            assert instance.hook == hook
            wanted = {(ifindex, one) for ifindex, hooks in instance.hooks.items() for one in hooks}
            state = read(ns)
            assert {(one.ifindex, one.hook) for one in state.attachments.values()} == wanted
            row |= {"programs": len(wanted), "links": sorted({one.kind for one in state.attachments.values()})}
        assert not read(ns).attachments


def offloads(hook: str) -> dict[str, Any]:
    """Generic XDP wants no frames that were merged before."""
    if hook != "xdp-generic":
        return lab_options(hook)
    plain = {"tx": False, "txvlan": False, "gro": False}
    return {"offloads": plain, "node_offloads": plain}


def read(ns: Namespace) -> State:
    state: State = ns.call(lambda: Datapath().read())
    return state


@contextlib.contextmanager
def noted(row: dict[str, Any]) -> Iterator[None]:
    """Note how it ended: passed, skipped or failed, with what was said."""
    try:
        yield
    except BaseException as error:
        row |= {"outcome": "skipped" if isinstance(error, pytest.skip.Exception) else "failed", "why": str(error)[:300]}
        raise
    else:
        row["outcome"] = "passed"
    finally:
        note("programs", row)
