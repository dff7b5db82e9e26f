# SPDX-License-Identifier: Apache-2.0
"""A topology, made by netlink, and the commands that would make the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydp.lab.netns import Namespace
from pydp.lab.stories.model import Node, Port, Topology
from pydp.lab.topology import End, create_veth, wait_up
from pydp.lab.underlay import add_route

# Where the kernel has br_netfilter built in, each namespace gives bridged frames to iptables; pydp.lab has that off.
_BRIDGE_NETFILTER = "net.bridge.bridge-nf-call-iptables"


def build(topology: Topology, spaces: Mapping[str, Namespace]) -> None:
    """Make wires, addresses and routes in namespaces that there are. Raises NetlinkError, LabError, OSError."""
    for each in topology.nodes:
        if each.router:
            spaces[each.name].sysctl("ipv4.ip_forward", 1)
    made = []
    for (one, left), (other, right) in topology.ends():
        ends = [_end(topology, spaces, where, what) for where, what in ((one, left), (other, right))]
        made.append((ends[0].ns, create_veth(*ends)))
    for ns, index in made:
        wait_up(ns.ipr(), [index])
    for each in topology.nodes:
        if each.default:
            add_route(spaces[each.name], "default", each.default)


def commands(topology: Topology) -> Iterator[str]:
    """What `build` does, as a person would type it."""
    for each in topology.nodes:
        yield f"ip netns add {each.name}"
        settings = [f"net.{key}={value}" for key, value in _settings(each)]
        yield f"ip netns exec {each.name} sysctl -qw {' '.join(settings)}"
        yield f"ip -n {each.name} link set lo up"
    for (one, left), (other, right) in topology.ends():
        yield (
            f"ip -n {one.name} link add {_device(topology, one, left)} type veth"
            f" peer name {_device(topology, other, right)} netns {other.name}"
        )
        for each, device in ((other, right), (one, left)):  # in the order of create_veth, which routes are found in
            yield from (f"ip -n {each.name} addr add {address} dev {device.name}" for address in device.addresses)
            yield f"ip -n {each.name} link set {device.name} up"
    for each in topology.nodes:
        if each.default:
            yield f"ip -n {each.name} route add default via {each.default}"


def _end(topology: Topology, spaces: Mapping[str, Namespace], where: Node, what: Port) -> End:
    mac = topology.mac(f"{where.name}:{what.name}")
    return End(ns=spaces[where.name], name=what.name, mac=mac, mtu=what.mtu, addresses=what.addresses)


def _device(topology: Topology, where: Node, what: Port) -> str:
    mtu = "" if what.mtu == 1500 else f" mtu {what.mtu}"
    return f"{what.name} address {topology.mac(f'{where.name}:{what.name}')}{mtu}"


def _settings(each: Node) -> Iterator[tuple[str, int]]:
    """What `Namespace` sets: nothing of the host's, captures without IPv6, and bridges that are only bridges."""
    yield "ipv4.ip_forward", int(each.router)
    yield "ipv4.conf.all.rp_filter", 0
    yield "ipv4.conf.default.rp_filter", 0
    yield "ipv6.conf.all.disable_ipv6", 1
    yield "ipv6.conf.default.disable_ipv6", 1
    if Path("/proc/sys", *_BRIDGE_NETFILTER.split(".")).exists():
        yield _BRIDGE_NETFILTER.removeprefix("net."), 0
