# SPDX-License-Identifier: Apache-2.0
"""Mode bridge without a kernel: options and a hand-made view in, map entries and requests out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pydp.errors import UsageError
from pydp.model import Bridge, BridgePort, FdbEntry, Link, PortState, Vlan
from pydp.modes.base import Context, Target
from pydp.modes.bridge import (
    FORWARDING,
    HAIRPIN,
    ISOLATED,
    LEARNING,
    PEER,
    PRESENT,
    PUNT,
    BridgeMode,
    BridgeOptions,
)
from pydp.modes.fdb import (
    LOCAL,
    OWNED,
    REMOTE,
    STATIC,
    STICKY,
    add_request,
    delete_request,
    fdb_key,
    flush_request,
    ticks,
)
from pydp.options import parse_options

MODE = BridgeMode()
BR0 = 100
USUAL = PRESENT | FORWARDING | LEARNING
ADD, FLUSH = 1, 3
KEY, OPERATION, WHERE, MASK, VID_MASK, VID, SEEN = range(7)  # struct fdb_request


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there."""

    links: Mapping[int, Link]
    bridges: Mapping[int, Bridge] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.links[ifindex].name

    def link(self, name: str) -> Link:
        return next(one for one in self.links.values() if one.name == name)


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def links(count: int, **more: Any) -> dict[int, Link]:
    """eth0 ... with indices 10 ..."""
    return {10 + i: Link(10 + i, f"eth{i}", mac=mac(i & 255), mtu=1500, **more) for i in range(count)}


def names(count: int) -> list[str]:
    return [f"eth{i}" for i in range(count)]


def standalone(count: int = 3, *, peers: Sequence[int] = (), **options: Any) -> tuple[BridgeOptions, Context]:
    given = BridgeOptions(**options)
    view = View(links(count))
    target = MODE.target(given, names(count), view)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    return given, Context(view, target, slots, "tc", frozenset(peers))


def adopted(
    *ports: Mapping[str, Any], fdb: Sequence[FdbEntry] = (), options: Mapping[str, Any] | None = None, **bridge: Any
) -> tuple[BridgeOptions, Context]:
    made = tuple(
        BridgePort(**{"ifindex": 10 + i, "bridge": BR0, "state": PortState.FORWARDING, **port})
        for i, port in enumerate(ports)
    )
    devices = {**links(len(ports), master=BR0), BR0: Link(BR0, "br0", kind="bridge", mac=mac(100), mtu=1500)}
    view = View(devices, {BR0: Bridge(BR0, "br0", mac=mac(100), ports=made, **bridge)})
    given = BridgeOptions(**(options or {}))
    target = MODE.target(given, ["br0"], view)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    return given, Context(view, target, slots, "tc", frozenset(), fdb)


def entries(made: tuple[BridgeOptions, Context], name: str) -> Mapping[Any, Any]:
    return MODE.entries(*made)[name]


def flags(made: tuple[BridgeOptions, Context], slot: int) -> int:
    value: int = entries(made, "bridge_ports")[slot][3]
    return value


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ageing": "-1"}, "--ageing: -1 is not between 0 and 1000000"),
        ({"ageing": "soon"}, "--ageing: 'soon' is not a number of seconds"),
        ({"ageing": "nan"}, "--ageing"),
        ({"fdb_size": "15"}, "--fdb-size: 15 is not between 16 and"),
        ({"fdb_size": "4194305"}, "--fdb-size"),
        ({"fdb_size": "1.5"}, "--fdb-size: '1.5' is not a whole number"),
        ({"vlan_protocol": "802.1x"}, "--vlan-protocol: '802.1x' is not one of 802.1q, 802.1ad"),
        ({"vlan_filtering": "yes"}, "--vlan-filtering: 'yes' is neither true nor false"),
        ({"ports": 3}, "ports: there is no such option"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(BridgeOptions, options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolated": ("eth9",)}, "--isolated eth9: it is not among the ports"),
        ({"hairpin": ("eth9",)}, "--hairpin eth9: it is not among the ports"),
        ({"vlan": ("eth0=10",)}, "--vlan needs --vlan-filtering"),
        ({"vlan": ("eth9=10",), "vlan_filtering": True}, "--vlan eth9=10: eth9 is not among the ports"),
        ({"vlan": ("eth0",), "vlan_filtering": True}, "--vlan eth0: not of the form"),
        ({"vlan": ("eth0=",), "vlan_filtering": True}, "not of the form"),
        ({"vlan": ("eth0=ten",), "vlan_filtering": True}, "not of the form"),
        ({"vlan": ("eth0=10:tagged",), "vlan_filtering": True}, "not of the form"),
        ({"vlan": ("eth0=0",), "vlan_filtering": True}, "VLAN ids are 1 to 4094"),
        ({"vlan": ("eth0=4095",), "vlan_filtering": True}, "VLAN ids are 1 to 4094"),
        ({"vlan": ("eth0=20-10",), "vlan_filtering": True}, "VLAN ids are 1 to 4094"),
        ({"vlan": ("eth0=10-20:pvid",), "vlan_filtering": True}, "a port has one PVID"),
    ],
)
def test_what_does_not_fit_the_ports_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        standalone(**options)
    assert message in str(caught.value)


# Ports


def test_standalone_ports() -> None:
    made = standalone(3, peers=[11], hairpin=("eth0",), isolated=("eth2",))
    assert entries(made, "bridge_ports") == {
        0: (10, 1518, 1, USUAL | HAIRPIN),
        1: (11, 1518, 1, USUAL | PEER),
        2: (12, 1518, 1, USUAL | ISOLATED),
    }


def test_256_ports_and_not_one_more() -> None:
    assert len(standalone(256)[1].target.ports) == 256
    with pytest.raises(UsageError, match="257 ports are too many"):
        standalone(257)


def test_a_port_named_twice_is_one() -> None:
    assert MODE.target(BridgeOptions(), ["eth0", "eth1", "eth0"], View(links(2))) == Target((10, 11))


def test_ports_of_a_bridge_and_lo_are_refused() -> None:
    _, context = adopted({}, {})
    with pytest.raises(UsageError, match="eth0 is a port of br0") as caught:
        MODE.target(BridgeOptions(), ["eth0"], context.view)
    assert "pydp attach --mode bridge br0" in caught.value.hint
    with pytest.raises(UsageError, match="lo is the loopback"):
        MODE.target(BridgeOptions(), ["lo"], View({1: Link(1, "lo", loopback=True)}))


@pytest.mark.parametrize(
    ("options", "interfaces", "message"),
    [
        ({}, ["br0", "eth0"], "br0 is a bridge: it is adopted alone"),
        ({}, ["eth0", "br0"], "it is adopted alone"),
        ({"hairpin": ("eth0",)}, ["br0"], "adopted with the VLANs and flags it has"),
        ({"isolated": ("eth0",)}, ["br0"], "adopted with the VLANs and flags it has"),
        ({"vlan_filtering": True}, ["br0"], "adopted with the VLANs and flags it has"),
    ],
)
def test_what_an_adopted_bridge_refuses(options: dict[str, Any], interfaces: list[str], message: str) -> None:
    _, context = adopted({}, {})
    with pytest.raises(UsageError) as caught:
        MODE.target(BridgeOptions(**options), interfaces, context.view)
    assert message in str(caught.value)


def test_a_bridge_without_ports_is_refused() -> None:
    with pytest.raises(UsageError, match="br0 has no ports"):
        adopted()


@pytest.mark.parametrize("state", [state for state in PortState if state != PortState.FORWARDING])
def test_ports_that_do_not_forward_are_the_kernels(state: PortState) -> None:
    assert flags(adopted({"state": state}, {}), 0) == PRESENT | LEARNING | PUNT


@pytest.mark.parametrize(
    "special",
    [
        {"locked": True}, {"mab": True}, {"neigh_suppress": True}, {"proxy_arp": True}, {"vlan_tunnel": True},
        {"group_fwd_mask": 8}, {"backup_port": 11},
    ],
    ids=lambda special: next(iter(special)),
)  # fmt: skip
def test_ports_with_what_is_not_built_here_are_the_kernels(special: dict[str, Any]) -> None:
    made = adopted(special, {})
    assert flags(made, 0) == PRESENT | LEARNING | PUNT
    assert flags(made, 1) == USUAL


def test_flags_of_an_adopted_bridge() -> None:
    made = adopted({"learning": False}, {"hairpin": True}, {"isolated": True})
    assert [flags(made, slot) for slot in range(3)] == [PRESENT | FORWARDING, USUAL | HAIRPIN, USUAL | ISOLATED]
    assert "bridge_floods" not in MODE.entries(*made)  # the kernel floods


# Who floods to whom


def members(words: Sequence[int]) -> set[int]:
    """The slots of a bitmap."""
    return {64 * word + bit for word, bits in enumerate(words) for bit in range(64) if bits >> bit & 1}


def test_nobody_gets_his_own_frame_back_but_by_hairpin() -> None:
    floods = entries(standalone(3, hairpin=("eth1",)), "bridge_floods")
    assert {slot: [members(one) for one in kinds] for slot, kinds in floods.items()} == {
        0: [{1, 2}] * 3,
        1: [{0, 1, 2}] * 3,
        2: [{0, 1}] * 3,
    }


def test_isolated_ports_flood_to_others_only() -> None:
    floods = entries(standalone(4, isolated=("eth0", "eth1"), hairpin=("eth0",)), "bridge_floods")
    assert {slot: members(kinds[0]) for slot, kinds in floods.items()} == {
        0: {2, 3},
        1: {2, 3},
        2: {0, 1, 3},
        3: {0, 1, 2},
    }


def test_floods_of_256_ports() -> None:
    floods = entries(standalone(256), "bridge_floods")
    assert all(members(kinds[2]) == set(range(256)) - {slot} for slot, kinds in floods.items())


# VLANs


def vlans(*given: str, count: int = 3) -> dict[int, tuple[set[int], set[int]]]:
    """Members and untagged members, by VLAN."""
    found = entries(standalone(count, vlan_filtering=True, vlan=given), "bridge_vlans")
    return {vid: (members(who), members(untagged)) for vid, (who, untagged) in found.items()}


def pvids(*given: str, count: int = 3) -> list[int]:
    ports = entries(standalone(count, vlan_filtering=True, vlan=given), "bridge_ports")
    return [ports[slot][2] for slot in range(count)]


def test_all_begin_in_vlan_1() -> None:
    assert vlans() == {1: ({0, 1, 2}, {0, 1, 2})}
    assert pvids() == [1, 1, 1]
    assert "bridge_vlans" not in MODE.entries(*standalone(3))


@pytest.mark.parametrize(
    ("given", "members_of_10", "untagged_in_10", "pvid"),
    [
        ("eth0=10", {0}, set(), 1),
        ("eth0=10:untagged", {0}, {0}, 1),
        ("eth0=10:pvid", {0}, set(), 10),
        ("eth0=10:pvid:untagged", {0}, {0}, 10),
        ("eth0=10:untagged:pvid", {0}, {0}, 10),
        ("eth0=10 pvid untagged", {0}, {0}, 10),
        ("eth0=9-11:untagged", {0}, {0}, 1),
        ("eth0=10-10:pvid", {0}, set(), 10),
    ],
)
def test_membership(given: str, members_of_10: set[int], untagged_in_10: set[int], pvid: int) -> None:
    assert vlans(given)[10] == (members_of_10, untagged_in_10)
    assert pvids(given)[0] == pvid


def test_the_last_word_on_a_vlan_counts() -> None:
    found = vlans("eth0=10:untagged", "eth0=10", "eth1=1", "eth0=4094")
    assert found == {1: ({0, 1, 2}, {0, 2}), 10: ({0}, set()), 4094: ({0}, set())}
    assert pvids("eth0=10:pvid", "eth0=11:pvid") == [11, 1, 1]


def test_vlans_of_an_adopted_bridge() -> None:
    made = adopted(
        {"pvid": 5, "vlans": (Vlan(5, True), Vlan(7))},
        {"pvid": None, "vlans": (Vlan(7),)},
        vlan_filtering=True,
        vlan_protocol=0x88A8,
    )
    assert entries(made, "bridge_vlans") == {5: ((1, 0, 0, 0), (1, 0, 0, 0)), 7: ((3, 0, 0, 0), (0, 0, 0, 0))}
    assert [port[2] for port in entries(made, "bridge_ports").values()] == [5, 0]
    constants = MODE.constants(*made)
    assert constants["PYDP_BRIDGE_TAG_PROTOCOL"] == 0x88A8
    assert constants["PYDP_BRIDGE_VLAN_FILTERING"] == 1
    assert "bridge_vlans" not in MODE.entries(*adopted({"vlans": (Vlan(5),)}))


# Constants


def test_constants() -> None:
    constants = MODE.constants(*standalone(5))
    assert constants == {
        "PYDP_BRIDGE_ADOPTED": 0,
        "PYDP_BRIDGE_VLAN_FILTERING": 0,
        "PYDP_BRIDGE_TAG_PROTOCOL": 0x8100,
        "PYDP_BRIDGE_SLOTS": 8,
        "PYDP_FDB_BUCKETS": 32768,
        "PYDP_FDB_AGEING": ticks(300),
    }


@pytest.mark.parametrize(("size", "buckets"), [(16, 8), (256, 128), (65536, 32768), (4_194_304, 2_097_152)])
def test_the_table_has_half_as_many_places_again(size: int, buckets: int) -> None:
    made = standalone(fdb_size=size)
    assert MODE.constants(*made)["PYDP_FDB_BUCKETS"] == MODE.sizes(*made)["fdb"] == buckets
    assert buckets * 4 >= 1.5 * size


def test_ageing() -> None:
    assert MODE.constants(*adopted({}, ageing=30.0))["PYDP_FDB_AGEING"] == ticks(30)
    assert MODE.constants(*adopted({}, ageing=30.0, options={"ageing": 60.0}))["PYDP_FDB_AGEING"] == ticks(60)
    assert ticks(0) == 0
    assert ticks(1e-9) == 1
    assert abs(ticks(300) * (1 << 24) / 1e9 - 300) < 0.01


def test_hooks() -> None:
    alone, below = standalone(2), adopted({}, {})
    assert MODE.hooks(alone[0], alone[1].target, 1, "xdp") == ("xdp", "tc")  # XDP cannot copy
    assert MODE.hooks(alone[0], alone[1].target, 1, "tc") == ("tc",)
    assert MODE.hooks(below[0], below[1].target, 1, "xdp") == ("xdp",)


# Requests


def test_the_hosts_own_addresses() -> None:
    first, *rest = MODE.requests(*standalone(2))
    assert (first[OPERATION], first[WHERE], first[MASK]) == (FLUSH, OWNED, OWNED)
    assert {request[KEY]: request[WHERE] for request in rest} == {
        fdb_key(mac(slot), 0): slot | LOCAL | STATIC | OWNED for slot in range(2)
    }


def test_the_hosts_own_addresses_in_their_ports_vlans() -> None:
    _, *rest = MODE.requests(*standalone(2, vlan_filtering=True, vlan=("eth1=10",)))
    assert {request[KEY] for request in rest} == {
        fdb_key(mac(0), 0), fdb_key(mac(0), 1), fdb_key(mac(1), 0), fdb_key(mac(1), 1), fdb_key(mac(1), 10)
    }  # fmt: skip


def test_a_device_without_address_is_nobodys() -> None:
    view = View({10: Link(10, "tun0", kind="tun", mtu=1500)})
    context = Context(view, Target((10,)), {10: 0}, "tc")
    assert [request[OPERATION] for request in MODE.requests(BridgeOptions(), context)] == [FLUSH]


@pytest.mark.parametrize(
    ("entry", "where", "seen"),
    [
        ({}, 1, 0),
        ({"updated": 100.0}, 1, ticks(100)),
        ({"static": True, "updated": 100.0}, 1 | STATIC | OWNED, 0),
        ({"extern_learn": True}, 1 | STATIC | OWNED, 0),
        ({"static": True, "sticky": True}, 1 | STATIC | OWNED | STICKY, 0),
        ({"local": True}, 1 | STATIC | OWNED | LOCAL, 0),
        ({"local": True, "ifindex": BR0}, 0 | STATIC | OWNED | LOCAL, 0),
        ({"vid": 7}, 1, 0),
    ],
    ids=str,
)
def test_what_the_kernel_bridge_knows(entry: dict[str, Any], where: int, seen: int) -> None:
    known = FdbEntry(**{"mac": mac(50), "vid": 0, "ifindex": 11, "bridge": BR0, **entry})
    requests = {request[KEY]: request for request in MODE.requests(*adopted({}, {}, fdb=[known]))[1:]}
    found = requests[fdb_key(mac(50), known.vid)]
    assert (found[OPERATION], found[WHERE], found[SEEN]) == (ADD, where, seen)


@pytest.mark.parametrize("entry", [{"mac": b"\1\0\x5e\0\0\1"}, {"ifindex": 99}], ids=str)
def test_what_concerns_no_port_is_left_out(entry: dict[str, Any]) -> None:
    known = FdbEntry(**{"mac": mac(50), "vid": 0, "ifindex": 11, "bridge": BR0, **entry})
    without = MODE.requests(*adopted({}, {}))
    assert MODE.requests(*adopted({}, {}, fdb=[known])) == without


def test_the_kernels_word_on_an_address_of_a_port_counts() -> None:
    known = FdbEntry(mac(0), 0, BR0, BR0, local=True)
    requests = [one for one in MODE.requests(*adopted({}, {}, fdb=[known])) if one[KEY] == fdb_key(mac(0), 0)]
    assert len(requests) == 1


def test_keys_are_the_address_first_byte_lowest_then_the_vlan() -> None:
    assert fdb_key(bytes.fromhex("0123456789ab"), 0xFFF) == 0x0FFF_AB8967452301


def test_requests_of_a_person() -> None:
    assert add_request(mac(1), 5, 3)[:4] == (fdb_key(mac(1), 5), ADD, 3 | STATIC, 0)
    assert add_request(mac(1), 5, 3, sticky=True)[WHERE] == 3 | STATIC | STICKY
    assert delete_request(mac(1), 5)[:2] == (fdb_key(mac(1), 5), 2)
    learned = flush_request()
    assert (learned[MASK], learned[WHERE], learned[VID_MASK]) == (OWNED | LOCAL | STATIC, 0, 0)
    also_permanent = flush_request(slot=3, vid=9, static=True)
    assert (also_permanent[MASK], also_permanent[WHERE]) == (OWNED | LOCAL | 0xFFFF, 3)
    assert (also_permanent[VID_MASK], also_permanent[VID]) == (0xFFFF, 9)
    assert add_request(mac(1), 5, 3, remote=True)[WHERE] == 3 | STATIC | REMOTE
    vtep, port = flush_request(slot=3, remote=True), flush_request(slot=3, remote=False)
    assert vtep[MASK] == port[MASK] == OWNED | LOCAL | STATIC | REMOTE | 0xFFFF
    assert (vtep[WHERE], port[WHERE]) == (3 | REMOTE, 3)
