# SPDX-License-Identifier: Apache-2.0
"""Mode nat without a kernel: options and a hand-made view in, constants, sizes and map entries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pydp.config import merge
from pydp.errors import NoSuchLink, UsageError
from pydp.model import Defaults, Link
from pydp.modes.base import Context, Target
from pydp.modes.nat import DEVICE_PEER, DEVICE_PORT, DEVICE_XDP, MAX_PLACES, NatMode, NatOptions
from pydp.modes.nat_rules import TIMEOUTS, parse_rules, parse_timeouts
from pydp.modes.table import address_words
from pydp.options import parse_options

MODE = NatMode()
ETH0, VETH, BRIDGE, LO, TUN, VRF, SLAVE = 10, 11, 12, 1, 13, 14, 15
ADDRESSES = {
    LO: ("127.0.0.1/8", "::1/128"),
    ETH0: ("169.254.7.7/16", "192.0.2.1/24", "192.0.2.9/24", "fe80::1/64", "2001:db8::1/64"),
    BRIDGE: ("10.0.1.1/24",),
}


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there."""

    links: Mapping[int, Link]
    tunnels: Mapping[int, Any] = field(default_factory=dict)
    bridges: Mapping[int, Any] = field(default_factory=dict)
    vxlans: Mapping[int, Any] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.links[ifindex].name

    def link(self, name: str) -> Link:
        for one in self.links.values():
            if one.name == name:
                return one
        raise NoSuchLink(name)


def mac(last: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, last])


def view(*more: Link) -> View:
    links = (
        Link(LO, "lo", mac=bytes(6), loopback=True, mtu=65536),
        Link(ETH0, "eth0", mac=mac(ETH0), mtu=1500),
        Link(VETH, "veth1", kind="veth", mac=mac(VETH), mtu=9000, master=BRIDGE),
        Link(BRIDGE, "br0", kind="bridge", mac=mac(BRIDGE), mtu=1500),
        Link(TUN, "tun0", kind="tun", mtu=1400),
        Link(VRF, "red", kind="vrf", mac=mac(VRF)),
        Link(SLAVE, "eth1", mac=mac(SLAVE), mtu=1500, master=VRF),
    )
    return View({one.ifindex: one for one in (*links, *more)})


def made(
    *names: str,
    seen: View | None = None,
    peers: Sequence[int] = (),
    takers: Sequence[int] = (),
    addresses: Mapping[int, Sequence[str]] = ADDRESSES,
    **options: Any,
) -> tuple[NatOptions, Context]:
    given = parse_options(NatOptions, options)
    seen = seen or view()
    target = MODE.target(given, names or ("eth0", "veth1"), seen)
    context = Context(
        seen,
        target,
        {ifindex: slot for slot, ifindex in enumerate(target.ports)},
        "tc",
        frozenset(peers),
        defaults=Defaults(ttl=61, hop_limit=62, strict=frozenset({"eth0", "veth1"}), cpus=3),
        addresses={ifindex: [ip_interface(one) for one in some] for ifindex, some in addresses.items()},
        takers=frozenset(takers),
    )
    return given, context


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masquerade": ("10.0.1.1/24",)}, "--masquerade 10.0.1.1/24: 10.0.1.1/24 has host bits set"),
        ({"masquerade": ("here",)}, "--masquerade here: 'here' does not appear to be an IPv4 or IPv6 network"),
        ({"masquerade": ("224.0.0.0/8",)}, "a multicast address is nobody's source"),
        ({"masquerade": ("10.0.1.0/24@eth9",)}, "--masquerade 10.0.1.0/24@eth9: "),
        ({"masquerade": ("10.0.1.0/24@tun0",)}, "tun0 is no port of the instance"),
        ({"masquerade": ("10.0.1.0/24", "10.0.1.0/24")}, "there is --masquerade 10.0.1.0/24 already"),
        (
            {"masquerade": ("10.0.1.0/24",), "snat": ("10.0.1.0/24=192.0.2.7",)},
            "--snat 10.0.1.0/24=192.0.2.7: there is --masquerade 10.0.1.0/24 already",
        ),
        ({"snat": ("10.0.1.0/24",)}, "--snat 10.0.1.0/24: not of the form PREFIX=ADDR[@DEV]"),
        ({"snat": ("10.0.1.0/24=there",)}, "'there' is not an IP address"),
        ({"snat": ("10.0.1.0/24=fd00::1",)}, "not translated from one IP version to the other"),
        ({"snat": ("10.0.1.0/24=0.0.0.0",)}, "0.0.0.0 is not the address of one host"),
        ({"masquerade": tuple(f"10.{n}.0.0/16" for n in range(65))}, "65 rules, 64 at most"),
        ({"timeout": ("udp",)}, "--timeout udp: not of the form NAME=SECONDS"),
        ({"timeout": ("arp=30",)}, "there is no timeout 'arp'"),
        ({"timeout": ("udp=long",)}, "'long' is not a number of seconds"),
        ({"timeout": ("udp=0",)}, "0 is not between 1 and 10000000"),
        ({"timeout": ("udp=nan",)}, "nan is not between"),
        ({"flows": 1000}, "--flows: 1000 is not between 1024 and"),
        ({"max_backends": 0}, "--max-backends: 0 is not between"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert message in str(caught.value)


def test_hints_show_what_would_do() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"masquerade": ("10.0.1.1/24",)}, "the network is 10.0.1.0/24"),
        ({"masquerade": ("10.0.1.0/24@tun0",)}, "name tun0 among the interfaces"),
        ({"timeout": ("arp=30",)}, "tcp_established"),
    )
    for options, hint in cases:
        with pytest.raises(UsageError) as caught:
            made(**options)
        assert hint in caught.value.hint


def test_devices_without_ethernet_are_refused() -> None:
    with pytest.raises(UsageError, match="lo: the loopback device") as caught:
        made("eth0", "lo")
    assert "name the devices" in caught.value.hint
    with pytest.raises(UsageError, match="tun0: a tun without Ethernet addresses"):
        made("tun0")
    many = view(*(Link(100 + n, f"v{n}", mac=mac(1)) for n in range(257)))
    with pytest.raises(UsageError, match="257 ports: 256 at most"):
        made(*(f"v{n}" for n in range(257)), seen=many)


def test_rules_are_looked_at_from_the_longest_prefix() -> None:
    rules = parse_rules(
        ["0.0.0.0/0@eth0", "10.0.0.0/8", "10.0.0.0/8@br0", "fd00::/8"], ["10.0.1.0/24=192.0.2.7"],
        Target((ETH0, VETH)), view(),
    )  # fmt: skip
    assert [(str(one.network), one.device) for one in rules] == [
        ("10.0.1.0/24", 0), ("10.0.0.0/8", BRIDGE), ("10.0.0.0/8", 0), ("fd00::/8", 0), ("0.0.0.0/0", ETH0),
    ]  # fmt: skip
    assert [one.to for one in rules] == [ip_address("192.0.2.7"), None, None, None, None]


def test_timeouts_are_ticks_of_the_datapath() -> None:
    tick = (1 << 24) / 1e9
    plain = parse_timeouts(())
    assert plain.keys() == TIMEOUTS.keys()
    assert plain["tcp_established"] == round(432_000 / tick)
    changed = parse_timeouts(["udp=1.5", "tcp_close=3"])
    assert {name: round(ticks * tick, 1) for name, ticks in changed.items() if ticks != plain[name]} == {
        "udp": 1.5,
        "tcp_close": 3.0,
    }


def test_flags_and_tables_give_the_same() -> None:
    config = merge({"mode": "nat", "interfaces": ("eth0",)}, {"masquerade": ["10.0.0.0/8"], "flows": "2000"})
    assert config.options == {"masquerade": ("10.0.0.0/8",), "flows": 2000}


# What follows from them


def test_hooks() -> None:
    options, context = made()
    assert MODE.hooks(options, context.target, ETH0, "tc") == ("tc", "tc-egress")
    for hook in ("xdp", "xdp-generic"):
        assert MODE.hooks(options, context.target, ETH0, hook) == (hook, "tc", "tc-egress")


def test_constants() -> None:
    instance = made(flows=5000, masquerade=("10.0.0.0/8",), timeout=("icmp=60",), accounting=True)
    found = MODE.constants(*instance)
    assert (found["PYDP_NAT_FLOWS"], found["PYDP_NAT_BUCKETS"]) == (8192, 4096)
    assert (found["PYDP_NAT_RULES"], found["PYDP_NAT_ACCOUNTING"]) == (1, 1)
    assert (found["PYDP_NAT_TTL"], found["PYDP_NAT_HOP_LIMIT"]) == (61, 62)
    assert found["PYDP_NAT_TIMEOUT_ICMP"] == round(60 / ((1 << 24) / 1e9))
    assert found["PYDP_NAT_PLACES"] == MODE.sizes(*instance)["nat_devices"]
    assert 1 << 64 - found["PYDP_NAT_HINT_SHIFT"] == MODE.sizes(*instance)["nat_hints"]
    assert {f"PYDP_NAT_TIMEOUT_{name.upper()}" for name in TIMEOUTS} < found.keys()


def test_sizes() -> None:
    sizes = MODE.sizes(*made(flows=1024, max_services=1000, max_backends=3000, max_slots=5))
    assert {name: sizes[name] for name in sizes if name not in ("nat_devices", "nat_rules", "nat_locals")} == {
        "nat_frontends": 4096, "nat_failures": 1024, "nat_backends": 4096, "nat_counts": 3 * 4096, "nat_slots": 8,
        "nat_hints": 16384,
        "nat_flows": 1024, "nat_index": 512, "nat_recents": 3,
    }  # fmt: skip
    assert sizes["nat_rules"] == 1


def test_ports() -> None:
    """What comes in by a port of a bridge is the bridge's for the routing, but not what comes in by one of a VRF.

    Of rp_filter that of the device counts which the routing sees. A bridge is marked as one.
    """
    entries = MODE.entries(*made("eth0", "veth1", "eth1", "br0"))
    own, master = (int.from_bytes(mac(ifindex), "little") for ifindex in (VETH, BRIDGE))
    eth0, eth1 = (int.from_bytes(mac(ifindex), "little") for ifindex in (ETH0, SLAVE))
    assert entries["nat_ports"] == {
        0: (eth0, eth0, ETH0, ETH0, 1, 0),
        1: (own, master, VETH, BRIDGE, 3, 0),
        2: (eth1, eth1, SLAVE, SLAVE, 3, 0),
        3: (master, master, BRIDGE, BRIDGE, 7, 0),
    }


def test_devices_have_the_address_that_masquerading_takes() -> None:
    """A bridge is passed by what its port carries, and counts as one."""
    instance = made(peers=[VETH], takers=[ETH0, BRIDGE])
    found = {one[0]: one[1:] for one in MODE.entries(*instance)["nat_devices"].values()}
    nothing = (0, 0, 0, 0)
    v4, v6 = address_words(ip_address("192.0.2.1"))[0], address_words(ip_address("2001:db8::1"))
    macs = {ifindex: values[-1] for ifindex, values in found.items()}
    assert macs == {
        TUN: 0,
        **{one: int.from_bytes(mac(one), "little") for one in (ETH0, VETH, BRIDGE, VRF, SLAVE)},
    }
    assert {ifindex: values[:-1] for ifindex, values in found.items()} == {
        ETH0: (DEVICE_PORT | DEVICE_XDP, v4, v6, 1500),
        VETH: (DEVICE_PORT | DEVICE_PEER, 0, nothing, 9000),
        BRIDGE: (DEVICE_PORT | DEVICE_XDP, address_words(ip_address("10.0.1.1"))[0], nothing, 1500),
        TUN: (0, 0, nothing, 1400),
        VRF: (0, 0, nothing, 0),
        SLAVE: (0, 0, nothing, 1500),
    }
    places = MODE.sizes(*instance)["nat_devices"]
    assert all(place == one[0] % places for place, one in MODE.entries(*instance)["nat_devices"].items())


def test_ports_have_a_place_whatever_else_there_is() -> None:
    many = view(*(Link(1000 + n * MAX_PLACES, f"v{n}", mac=mac(1)) for n in range(3)))
    instance = made("v2", seen=many)
    assert MODE.sizes(*instance)["nat_devices"] == MAX_PLACES
    found = [one[0] for one in MODE.entries(*instance)["nat_devices"].values()]
    assert 1000 + 2 * MAX_PLACES in found
    assert 1000 not in found


def test_locals_are_all_addresses_of_this_host() -> None:
    instance = made()
    found = MODE.entries(*instance)["nat_locals"]
    assert {key: ifindex for key, ifindex in found.items() if ifindex == LO} == {
        (address_words(ip_address("127.0.0.1")), 0, 0, 4): LO,
        (address_words(ip_address("::1")), 0, 0, 6): LO,
    }
    assert (address_words(ip_address("fe80::1")), 0, 0, 6) in found
    assert len(found) == 8
    assert MODE.sizes(*instance)["nat_locals"] >= 2 * len(found)


def test_rules() -> None:
    instance = made(masquerade=("10.0.0.0/8@eth0",), snat=("fd00::/8=2001:db8::7",))
    network = ip_network("fd00::/8")
    assert MODE.entries(*instance)["nat_rules"] == {
        0: (address_words(ip_address("10.0.0.0")), address_words(ip_address("255.0.0.0")), (0, 0, 0, 0), ETH0, 4),
        1: (
            address_words(network.network_address),
            address_words(network.netmask),
            address_words(ip_address("2001:db8::7")),
            0,
            6,
        ),
    }
