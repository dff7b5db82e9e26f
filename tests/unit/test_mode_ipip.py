# SPDX-License-Identifier: Apache-2.0
"""Mode ipip without a kernel: options and a hand-made view in, map entries and routes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pydp.config import merge
from pydp.errors import UsageError
from pydp.model import Link, Route, Tunnel
from pydp.modes import peers as parts
from pydp.modes.base import Context, Role, Target
from pydp.modes.ipip import VETH_PEER, IpipMode, IpipOptions, peer_indices
from pydp.modes.peers import KINDS, parse_peers
from pydp.modes.table import address_words, table_key
from pydp.options import parse_options

MODE = IpipMode()
LOCAL, PEER, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
LOCAL6, PEER6 = "2001:db8::1", "2001:db8::2"
PLAIN = (f"{PEER}=10.2.0.0/16",)
ETH0, P0, P1, TUN = 10, 11, 12, 20


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there."""

    links: Mapping[int, Link]
    tunnels: Mapping[int, Tunnel] = field(default_factory=dict)
    bridges: Mapping[int, Any] = field(default_factory=dict)
    vxlans: Mapping[int, Any] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.links[ifindex].name

    def link(self, name: str) -> Link:
        return next(one for one in self.links.values() if one.name == name)


def view(*tunnels: Tunnel, mtu: int = 1500, **port: Any) -> View:
    named = {ETH0: "eth0", P0: "p0", P1: "p1"}
    links = {index: Link(index, name, mac=bytes([2, 0, 0, 0, 0, index]), mtu=mtu) for index, name in named.items()}
    links[P1] = Link(P1, "p1", mac=b"\2\0\0\0\0\x0c", mtu=mtu, **port)
    links[99] = Link(99, "br0", kind="bridge")
    return View(links, {one.ifindex: one for one in tunnels})


def device(ifindex: int = TUN, **more: Any) -> Tunnel:
    given = {"name": f"tun{ifindex}", "kind": "ipip", "local": LOCAL, "remote": PEER, "lower": ETH0, "up": True}
    return Tunnel(ifindex=ifindex, **{**given, **more})


def made(
    *, seen: View | None = None, peers: Sequence[int] = (), routes: Sequence[Route] = (), **options: Any
) -> tuple[IpipOptions, Context]:
    given = parse_options(IpipOptions, {"local": LOCAL, "peer": PLAIN, **options})
    seen = seen or view()
    target = MODE.target(given, ["eth0"], seen)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    return given, Context(seen, target, slots, "tc", frozenset(peers), foreign_routes=routes)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local": ""}, "--local: which address"),
        ({"local": "here"}, "--local here: not an IP address"),
        ({"local": "224.0.0.1"}, "--local 224.0.0.1: not the address of one host"),
        ({"local": LOCAL6}, "--local 2001:db8::1: --kind ipip goes over IPv4"),
        ({"peer": ("192.0.2.2",)}, "--peer 192.0.2.2: not of the form ADDR=PREFIX"),
        ({"peer": ("192.0.2.2=",)}, "not of the form"),
        ({"peer": ("=10.0.0.0/8",)}, "not of the form"),
        ({"peer": ("there=10.0.0.0/8",)}, "--peer there: not an IP address"),
        ({"peer": ("192.0.2.2=10.0.0.1/8",)}, "--peer 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
        ({"peer": ("192.0.2.2=ten",)}, "--peer ten"),
        ({"peer": ("192.0.2.2=fd00::/8",)}, "--peer fd00::/8: --kind ipip carries IPv4"),
        ({"peer": ("2001:db8::2=10.0.0.0/8",)}, "--peer 2001:db8::2: --kind ipip goes over IPv4"),
        ({"peer": ("192.0.2.2=10.0.0.0/8,10.0.0.0/8",)}, "10.0.0.0/8 is behind it already"),
        ({"peer": ("192.0.2.2=10.0.0.0/8", "192.0.2.3=10.0.0.0/8")}, "10.0.0.0/8 is behind the peer 192.0.2.2 already"),
        ({"peer": ("192.0.2.2=192.0.2.0/24",)}, "it has 192.0.2.1 in it, the address of this end"),
        ({"peer": ("192.0.2.2=0.0.0.0/0",)}, "it has 192.0.2.1 in it"),
        ({"peer": ("192.0.2.2=10.0.0.0/8", "198.18.0.1=192.0.2.2/32")}, "the address of a peer"),
        ({"peer": ("192.0.2.2=224.0.0.0/8",)}, "a multicast network is behind nobody"),
        ({"peer": (f"{LOCAL}=10.2.0.0/16",)}, f"--peer {LOCAL}: it is --local"),
        ({"key": 5}, "--key 5: only --kind gre has keys"),
        ({"ttl": "0"}, "--ttl 0: auto, inherit, or 1 to 255"),
        ({"ttl": "256"}, "--ttl 256"),
        ({"tos": "256"}, "--tos 256: inherit, or 0 to 255"),
        ({"kind": "vxlan"}, "--kind: 'vxlan' is not one of ipip, sit"),
        ({"key": 1 << 32, "kind": "gre"}, "--key"),
        ({"kind": "gre", "peer": ("192.0.2.2=10.0.0.0/8,fd00::/8",)}, "carries IPv4 here, as the first prefix is"),
        ({"port": ("eth0",)}, "--port eth0: it is the underlay"),
        ({"peer": ()}, "eth0 carries no IP tunnel device of the kernel, and no --peer"),
        ({"peer": (), "kind": "gre"}, "eth0 carries no gre tunnel device"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert message in str(caught.value)


def test_hints_show_what_would_do() -> None:
    for options, hint in (
        ({"local": LOCAL6, "peer": (f"{PEER6}=10.0.0.0/8",)}, "--kind ip4ip6 or gre"),
        ({"peer": ("192.0.2.2=fd00::/8",)}, "--kind sit or gre"),
        ({"peer": ("192.0.2.2=10.0.0.1/8",)}, "the network is 10.0.0.0/8"),
        ({"peer": ()}, "pydp attach --mode ipip --kind ipip --local ADDR --peer ADDR=PREFIX eth0, or ip tunnel add"),
    ):
        with pytest.raises(UsageError) as caught:
            made(**options)
        assert hint in caught.value.hint


def test_ports_of_a_bridge_and_lo_are_refused() -> None:
    with pytest.raises(UsageError, match="it is a port of br0") as caught:
        made(seen=view(master=99), port=("p1",))
    assert "--port br0" in caught.value.hint
    with pytest.raises(UsageError, match="loopback"):
        made(seen=view(loopback=True), port=("p1",))
    with pytest.raises(UsageError, match="one underlay"):
        MODE.target(IpipOptions(local=LOCAL, peer=PLAIN), ["eth0", "p0"], view())


def test_ipv6_needs_its_mtu() -> None:
    with pytest.raises(UsageError, match="leaves 1260 bytes"):
        made(seen=view(mtu=1280), kind="sit", peer=(f"{PEER}=fd00::/8",))


def test_flags_and_tables_give_the_same() -> None:
    """Peers may be given together or one by one."""
    once = parse_peers(["192.0.2.2=10.0.0.0/8,11.0.0.0/8"])
    assert once == parse_peers(["192.0.2.2=10.0.0.0/8", "192.0.2.2=11.0.0.0/8"])
    assert once == {ip_address(PEER): (ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8"))}
    assert parts.peer_text(*next(iter(once.items()))) == "192.0.2.2=10.0.0.0/8,11.0.0.0/8"
    config = merge({"mode": "ipip", "interfaces": ("eth0",)}, {"local": LOCAL, "peer": ["192.0.2.2=10.2.0.0/16"]})
    assert config.options == {"local": LOCAL, "peer": PLAIN}


# What follows from them


@pytest.mark.parametrize(
    ("kind", "local", "peer", "more", "overhead", "constants"),
    [
        ("ipip", LOCAL, "192.0.2.2=10.2.0.0/16", {}, 20, (4, 0, 0, 0, 0)),
        ("sit", LOCAL, "192.0.2.2=fd02::/16", {}, 20, (41, 0, 1, 0, 0)),
        ("ip6ip6", LOCAL6, "2001:db8::2=fd02::/16", {}, 40, (41, 1, 1, 0, 0)),
        ("ip4ip6", LOCAL6, "2001:db8::2=10.2.0.0/16", {}, 40, (4, 1, 0, 0, 0)),
        ("gre", LOCAL, "192.0.2.2=10.2.0.0/16", {}, 24, (47, 0, 0, 1, 0)),
        ("gre", LOCAL, "192.0.2.2=fd02::/16", {"key": 7}, 28, (47, 0, 1, 1, 1)),
        ("gre", LOCAL6, "2001:db8::2=10.2.0.0/16", {"key": 0}, 48, (47, 1, 0, 1, 1)),
    ],
)
def test_kinds(
    kind: str, local: str, peer: str, more: dict[str, Any], overhead: int, constants: tuple[int, ...]
) -> None:
    instance = made(kind=kind, local=local, peer=(peer,), **more)
    found = MODE.constants(*instance)
    names = ("IPIP_PROTOCOL", "TUNNEL_IPV6", "IPIP_INNER6", "IPIP_GRE", "IPIP_KEYED")
    assert tuple(found[f"PYDP_{name}"] for name in names) == constants
    assert found["PYDP_IPIP_KEY"] == more.get("key", 0)
    address, _, prefix = peer.partition("=")
    gateway = "fe80::5efe:c000:0202" if kind != "ip6ip6" and ":" in prefix else address
    (route,) = MODE.routes(*instance)
    assert route == Route(prefix, ETH0, gateway, mtu=1500 - overhead, onlink=gateway != address)


@pytest.mark.parametrize(
    ("options", "flags", "ttl", "tos"),
    [
        ({}, 1 | 4, 0, 0),
        ({"ttl": "9", "tos": "0x10"}, 4, 9, 16),
        ({"tos": "inherit", "pmtudisc": False}, 1 | 2 | 8, 0, 0),
        ({"kind": "sit", "peer": (f"{PEER}=fd00::/8",), "pmtudisc": False}, 1, 0, 0),
        ({"kind": "ip6ip6", "local": "2001:db8::1", "peer": ("2001:db8::2=fd00::/8",)}, 4, 64, 0),
        ({"kind": "ip6ip6", "local": "2001:db8::1", "peer": ("2001:db8::2=fd00::/8",), "ttl": "inherit"}, 5, 0, 0),
    ],
    ids=str,
)
def test_policies(options: dict[str, Any], flags: int, ttl: int, tos: int) -> None:
    found = MODE.constants(*made(**options))
    assert (found["PYDP_IPIP_FLAGS"], found["PYDP_IPIP_TTL"], found["PYDP_IPIP_TOS"]) == (flags, ttl, tos)
    assert found["PYDP_IPIP_SOURCE_CHECK"] == 1


def test_entries() -> None:
    instance = made(peer=(f"{PEER}=10.2.0.0/16,10.9.0.0/24", f"{OTHER}=10.3.0.0/16"), port=("p0", "p1"), peers=[P0])
    entries, indices = MODE.entries(*instance), peer_indices(*instance)
    one, other = (indices[ip_address(text)] for text in (PEER, OTHER))
    assert one != other
    assert entries["ipip_prefixes"] == {
        (16, address_words(ip_address("10.2.0.0"))): one,
        (24, address_words(ip_address("10.9.0.0"))): one,
        (16, address_words(ip_address("10.3.0.0"))): other,
    }
    assert entries["ipip_peers"][one] == (address_words(ip_address(PEER)), table_key(ip_address(PEER), 0))
    known = {
        key: value
        for keys, values, _ in entries["ipip_known"].values()
        for key, value in zip(keys, values, strict=True)
        if key
    }
    assert known == {table_key(ip_address(PEER), 0): one, table_key(ip_address(OTHER), 0): other}
    macs = [int.from_bytes(bytes([2, 0, 0, 0, 0, index]), "little") for index in (ETH0, P0, P1)]
    assert entries["ipip_ports"] == {0: (macs[0], ETH0, 0), 1: (macs[1], P0, VETH_PEER), 2: (macs[2], P1, 0)}
    places = MODE.sizes(*instance)["ipip_devices"]
    assert entries["ipip_devices"] == {P0 % places: (macs[1], P0, VETH_PEER), P1 % places: (macs[2], P1, 0)}
    assert "ipip_devices" not in MODE.entries(*made())  # no program looks at it without ports


def test_hooks() -> None:
    options, context = made(port=("p0",))
    assert context.target == Target((ETH0, P0), roles={ETH0: Role.UNDERLAY})
    for hook in ("tc", "xdp"):
        assert MODE.hooks(options, context.target, ETH0, hook) == (hook, "tc-egress")
        assert MODE.hooks(options, context.target, P0, hook) == (hook,)


def test_most_peers_keep_their_place_when_others_change() -> None:
    def places(count: int) -> dict[Any, int]:
        peers = tuple(f"{ip_address('198.18.0.2') + n}={ip_network((10 << 24 | n << 8, 24))}" for n in range(count))
        found = dict(peer_indices(*made(peer=peers)))
        assert len(set(found.values())) == count
        return found

    before, after = places(900), places(901)
    moved = [address for address, index in before.items() if after[address] != index]
    assert len(moved) <= 3
    assert places(10_000)


def test_a_source_for_the_hosts_own_packets() -> None:
    (route,) = MODE.routes(*made(source="10.1.0.1"))
    assert route.src == "10.1.0.1"


# The kernel's tunnel devices

BEHIND = (Route("10.2.0.0/16", TUN, protocol=4), Route("10.3.0.0/16", TUN + 1, protocol=4), Route("10.4.0.0/16", ETH0))


def adopted(*devices: Tunnel, **options: Any) -> tuple[IpipOptions, Context]:
    return made(**{"seen": view(*devices), "local": "", "peer": (), "routes": BEHIND, **options})


def test_devices_are_adopted_with_the_routes_that_lead_into_them() -> None:
    options, context = adopted(device(ttl=7, tos=1), device(TUN + 1, remote=OTHER, ttl=7, tos=1), port=("p0",))
    assert context.target.adopted == TUN
    assert MODE.routes(options, context) == ()
    assert MODE.hooks(options, context.target, ETH0, "tc") == ("tc",)
    found = parts.adopted(options, ETH0, context.view, BEHIND)
    assert found is not None
    assert found.devices == (TUN, TUN + 1)
    assert found.networks == {
        ip_address(PEER): (ip_network("10.2.0.0/16"),),
        ip_address(OTHER): (ip_network("10.3.0.0/16"),),
    }
    constants = MODE.constants(options, context)
    assert (constants["PYDP_IPIP_ADOPTED"], constants["PYDP_IPIP_TTL"], constants["PYDP_IPIP_FLAGS"]) == (1, 7, 2 | 4)


@pytest.mark.parametrize(
    ("kind", "more", "wanted", "found"),
    [
        ("ipip", {"protocol": 4}, None, "ipip"),
        ("ipip", {"protocol": 0}, None, "ipip"),
        ("sit", {"protocol": 41}, None, "sit"),
        ("gre", {}, None, "gre"),
        ("ip6gre", {"local": LOCAL6, "remote": PEER6}, None, "gre"),
        ("ip6tnl", {"local": LOCAL6, "remote": PEER6}, None, "ip6ip6"),
        ("ip6tnl", {"local": LOCAL6, "remote": PEER6}, "ip4ip6", "ip4ip6"),
        ("ip6tnl", {"local": LOCAL6, "remote": PEER6, "protocol": 4}, None, "ip4ip6"),
        ("ip6tnl", {"local": LOCAL6, "remote": PEER6, "protocol": 41}, "ip4ip6", ""),
        ("gretap", {}, None, ""),
        ("ipip", {"protocol": 137}, None, ""),
        ("sit", {}, "gre", ""),
    ],
)
def test_kinds_of_devices(kind: str, more: dict[str, Any], wanted: str | None, found: str) -> None:
    seen = view(device(kind=kind, **more))
    peers = parts.adopted(IpipOptions(kind=wanted), ETH0, seen)
    assert (peers.kind if peers else "") == found
    assert found in ("", *KINDS)


@pytest.mark.parametrize(
    "special",
    [
        {"up": False}, {"remote": ""}, {"local": ""}, {"external": True}, {"encap": True}, {"lower": P0},
        {"kind": "gre", "checksum": True}, {"kind": "gre", "sequence": True}, {"ignore_df": True},
        {"kind": "gre", "key_in": 1, "key_out": 2}, {"lower": 0},
    ],
    ids=lambda special: ",".join(special),
)  # fmt: skip
def test_devices_with_what_is_not_built_here_are_the_kernels(special: dict[str, Any]) -> None:
    assert parts.adopted(IpipOptions(), ETH0, view(device(**special))) is None


def test_devices_without_a_lower_one_are_found_by_their_address() -> None:
    found = parts.adopted(IpipOptions(local=LOCAL), ETH0, view(device(lower=0)))
    assert found is not None
    assert parts.adopted(IpipOptions(local=OTHER), ETH0, view(device(lower=0))) is None


def test_devices_of_other_settings_stay_the_kernels() -> None:
    seen = view(device(), device(TUN + 1, remote=OTHER, ttl=9), device(TUN + 2, remote="192.0.2.4"))
    found = parts.adopted(IpipOptions(), ETH0, seen, BEHIND)
    assert found is not None
    assert found.devices == (TUN, TUN + 2)
