# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan without a kernel: options and a hand-made view in, map entries and requests out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest

from pydp.errors import UsageError
from pydp.model import Bridge, BridgePort, Defaults, FdbEntry, Group, Link, PortState, Vxlan, VxlanFdbEntry
from pydp.modes import table
from pydp.modes.base import Context, Role, Target
from pydp.modes.fdb import LOCAL, OWNED, REMOTE, STATIC, fdb_key, ticks
from pydp.modes.outer import CHECKSUM, DF_INHERIT, DF_SET, TOS_INHERIT, TTL_INHERIT
from pydp.modes.segments import MAX_COPIES, adopted, standalone
from pydp.modes.vxlan import MAX_GUESTS, MAX_VTEPS, VxlanMode, VxlanOptions
from pydp.modes.vxlan_maps import (
    LEARNING,
    PEER,
    PRESENT,
    PUNT,
    VTEP_GROUP,
    VTEP_LEARNING,
    VTEP_PRESENT,
)
from pydp.options import parse_options

MODE = VxlanMode()
UNDERLAY, PORT, BRIDGE, DEVICE = 10, 11, 50, 60
BASIC: dict[str, Any] = {"vni": 100, "local": "192.0.2.1", "remote": ("192.0.2.2", "192.0.2.3"), "port": ("p0", "p1")}
KEY, OPERATION, WHERE, MASK = range(4)  # struct fdb_request


@dataclass(frozen=True, slots=True)
class View:
    """A picture of a kernel that is not there."""

    links: Mapping[int, Link]
    bridges: Mapping[int, Bridge] = field(default_factory=dict)
    vxlans: Mapping[int, Vxlan] = field(default_factory=dict)

    def name(self, ifindex: int) -> str:
        return self.links[ifindex].name

    def link(self, name: str) -> Link:
        return next(one for one in self.links.values() if one.name == name)


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0]) + number.to_bytes(2, "big")


def view(ports: int = 4, **more: Any) -> View:
    """eth0 with index 10, and p0 ... from 11 on."""
    made = {UNDERLAY: Link(UNDERLAY, "eth0", mac=mac(9), mtu=1500)}
    made |= {PORT + i: Link(PORT + i, f"p{i}", mac=mac(0x10 + i), mtu=1450) for i in range(ports)}
    return View({**made, **more.pop("links", {})}, **more)


def made(picture: View | None = None, /, *, peers: Sequence[int] = (), **options: Any) -> tuple[VxlanOptions, Context]:
    """Options and the context of an attach, the companion, with ifindex 99, last."""
    picture = picture or view()
    given = VxlanOptions(**{**BASIC, **options})
    target = MODE.target(given, ["eth0"], picture)
    target = Target((*target.ports, 99), target.adopted, {**target.roles, 99: Role.COMPANION})
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    return given, numbered(given, Context(picture, target, slots, "tc", frozenset(peers), companion=99))


def numbered(options: VxlanOptions, context: Context, released: Mapping[str, frozenset[int]] | None = None) -> Context:
    """With the numbers that a first attach gives."""
    numbers = {
        kind: {name: number for number, name in enumerate(names)}
        for kind, names in MODE.members(options, context).items()
    }
    return replace(context, numbers=numbers, released={**dict.fromkeys(numbers, frozenset()), **(released or {})})


def segment(**options: Any) -> Any:
    (found,) = standalone(VxlanOptions(**{**BASIC, **options}), view())
    return found


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vni": 0}, "--vni: 0 is not between 1 and 16777215"),
        ({"vni": 1 << 24}, "--vni: 16777216"),
        ({"dstport": "0"}, "--dstport: 0 is not between"),
        ({"df": "maybe"}, "--df: 'maybe' is not one of unset, set, inherit"),
        ({"remote": 5}, "--remote: 5 is not a list of texts"),
        ({"udp_csum": "yes"}, "--udp-csum: 'yes' is neither"),
        ({"fdb_size": "15"}, "--fdb-size: 15 is not between"),
        ({"vlan": 3}, "vlan: there is no such option"),
    ],
)
def test_options_that_cannot_be(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(VxlanOptions, options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local": ""}, "--local: which address?"),
        ({"local": "192.0.2"}, "--local 192.0.2: not an IP address"),
        ({"local": "239.1.1.1"}, "--local 239.1.1.1: not an address of a host"),
        ({"local": "::"}, "--local ::: not an address of a host"),
        ({"remote": ("host",)}, "--remote host: not an IP address"),
        ({"remote": ("0.0.0.0",)}, "--remote 0.0.0.0: not an address of a host"),
        ({"remote": ("239.1.1.1",)}, "--remote 239.1.1.1: a multicast group is given with --group"),
        ({"remote": ("192.0.2.1",)}, "--remote 192.0.2.1: that is this end"),
        ({"remote": ("2001:db8::2",)}, "--remote 2001:db8::2: an instance has one underlay"),
        ({"group": "192.0.2.9"}, "--group 192.0.2.9: not a multicast address"),
        ({"group": "ff02::1:5"}, "ff02::1:5: an instance has one underlay"),
        ({"ttl": "0"}, "--ttl 0: auto, inherit, or 1 to 255"),
        ({"ttl": "256"}, "--ttl 256"),
        ({"ttl": "-1"}, "--ttl -1"),
        ({"tos": "256"}, "--tos 256: inherit, or 0 to 255"),
        ({"tos": "low"}, "--tos low"),
        ({"srcport": "5000"}, "--srcport 5000: not LOW-HIGH with two ports"),
        ({"srcport": "5000-5000"}, "--srcport 5000-5000"),
        ({"srcport": "5000-70000"}, "--srcport 5000-70000"),
        ({"remote": tuple(f"10.0.{i >> 8}.{i & 255}" for i in range(MAX_COPIES + 1))}, "--remote: 1025 VTEPs"),
        ({"more": ({"remote": ("192.0.2.2",)},)}, "vxlan[1].vni: which?"),
        ({"more": ({"vni": 100},)}, "vni 100: it is there twice"),
        ({"more": ({"vni": 7, "port": ("p1",)},)}, "p1: a port belongs to one segment"),
        ({"more": ({"vni": 7, "remote": ("nowhere",)},)}, "vxlan[1].remote nowhere: not an IP address"),
        ({"more": ({"vni": 7}, {"vni": 8, "ttl": "many"})}, "vxlan[2].ttl many"),
        ({"more": ({"vni": 7, "dstport": 8472},)}, "vxlan[1].dstport: an instance has one"),
        ({"more": ({"vni": 7, "local": "192.0.2.8"},)}, "vxlan[1].local: an instance has one"),
        ({"port": ("eth0",)}, "--port eth0: it is the underlay"),
        ({"port": ("lo",)}, "--port lo: the loopback device cannot be a port"),
        ({"port": ("b0",)}, "--port b0: it is a port of br0"),
    ],
)
def test_what_does_not_fit(options: Mapping[str, Any], message: str) -> None:
    more = {1: Link(1, "lo", loopback=True), 40: Link(40, "b0", master=BRIDGE), BRIDGE: Link(BRIDGE, "br0")}
    with pytest.raises(UsageError) as caught:
        MODE.target(VxlanOptions(**{**BASIC, **options}), ["eth0"], view(links=more))
    assert message in str(caught.value)


def test_there_is_one_underlay() -> None:
    for names in ([], ["eth0", "p3"]):
        with pytest.raises(UsageError, match="one underlay") as caught:
            MODE.target(VxlanOptions(**BASIC), names, view())
        assert "--port" in caught.value.hint


def test_as_many_ports_and_vteps_as_there_is_room_for() -> None:
    many = tuple(f"p{i}" for i in range(254))
    assert len(MODE.target(VxlanOptions(**{**BASIC, "port": many}), ["eth0"], view(260)).ports) == 255
    with pytest.raises(UsageError, match="255 local ports: 254 at most"):
        MODE.target(VxlanOptions(**{**BASIC, "port": (*many, "p254")}), ["eth0"], view(260))
    remote = tuple(f"10.0.{i >> 8}.{i & 255}" for i in range(MAX_COPIES))
    tables = tuple({"vni": 200 + i, "remote": remote} for i in range(MAX_VTEPS // MAX_COPIES))
    with pytest.raises(UsageError, match="VTEPs in all segments: 32768 at most"):
        MODE.target(VxlanOptions(**{**BASIC, "more": tables}), ["eth0"], view())


# Target


def test_the_target_of_the_standalone_form() -> None:
    target = MODE.target(VxlanOptions(**BASIC, dstport=8472), ["eth0"], view())
    assert target.ports == (UNDERLAY, PORT, PORT + 1)
    assert (target.role(UNDERLAY), target.role(PORT)) == (Role.UNDERLAY, Role.PORT)
    assert target.companion is not None
    assert (target.companion.name, target.companion.port) == ("pydp-vx8472", 8472)
    assert target.adopted == 0


def test_source_ports_of_the_companion_are_those_of_the_system_unless_told() -> None:
    companion = MODE.target(VxlanOptions(**BASIC), ["eth0"], view()).companion
    assert companion is not None
    assert companion.port_range == (0, 0)
    companion = MODE.target(VxlanOptions(**BASIC, srcport="5000-6000"), ["eth0"], view()).companion
    assert companion is not None
    assert companion.port_range == (5000, 6000)


def test_hooks() -> None:
    """XDP leaves to a tc program on the same port what it cannot do; the underlay's rest goes to the stack."""
    target = Target((UNDERLAY, PORT, 99), roles={UNDERLAY: Role.UNDERLAY, 99: Role.COMPANION})
    options = VxlanOptions(**BASIC)
    found = {hook: [MODE.hooks(options, target, one, hook) for one in target.ports] for hook in ("tc", "xdp")}
    assert found == {"tc": [("tc",)] * 3, "xdp": [("xdp",), ("xdp", "tc"), ("tc",)]}


# Segments


@pytest.mark.parametrize(
    ("options", "flags", "ttl", "tos"),
    [
        ({}, 0, 0, 0),
        ({"ttl": "9", "tos": "0x40"}, 0, 9, 0x40),
        ({"ttl": "inherit"}, TTL_INHERIT, 0, 0),
        ({"tos": "inherit"}, TOS_INHERIT, 0, 0),
        ({"df": "set"}, DF_SET, 0, 0),
        ({"df": "inherit"}, DF_INHERIT, 0, 0),
        ({"udp_csum": True, "ttl": "255", "tos": "255"}, CHECKSUM, 255, 255),
        ({"local": "2001:db8::1", "remote": ("2001:db8::2",)}, CHECKSUM, 0, 0),
        ({"local": "2001:db8::1", "remote": ("2001:db8::2",), "udp_csum": False}, 0, 0, 0),
    ],
)
def test_policies(options: Mapping[str, Any], flags: int, ttl: int, tos: int) -> None:
    """Checksums: without a word from the user those that the kernel's device sends over IPv6, which its other end
    insists on, and none over IPv4."""
    found = segment(**options)
    assert (found.flags, found.ttl, found.tos) == (flags, ttl, tos)


def test_source_ports_are_those_of_the_system_unless_told() -> None:
    assert segment().port_range == Defaults().port_range
    assert segment(srcport="5000-6000").port_range == (5000, 6000)
    (found,) = standalone(VxlanOptions(**BASIC), view(), Defaults(port_range=(1024, 2048)))
    assert found.port_range == (1024, 2048)


def test_a_group_gets_what_is_for_several_and_the_vteps_are_known_besides() -> None:
    found = segment(group="239.1.1.1")
    assert [str(one) for one in found.copies] == ["239.1.1.1"]
    assert [str(one) for one in found.vteps] == ["239.1.1.1", "192.0.2.2", "192.0.2.3"]
    assert str(found.group) == "239.1.1.1"
    assert MODE.groups(*made(group="239.1.1.1")) == [Group(UNDERLAY, "239.1.1.1")]
    assert MODE.groups(*made()) == []


def test_what_is_given_twice_is_there_once() -> None:
    found = segment(remote=("192.0.2.2", "192.0.2.3", "192.0.2.2"), port=("p0", "p0"))
    assert (len(found.vteps), found.ports) == (2, (PORT,))


# What the maps hold


def test_constants() -> None:
    options, context = made(fdb_size=1000, ageing=60.0)
    found = MODE.constants(options, context)
    wanted = {
        "PYDP_VXLAN_ADOPTED": 0,
        "PYDP_VXLAN_PORT": 4789,
        "PYDP_VXLAN_COMPANION": 99,
        "PYDP_VXLAN_ZERO_CHECKSUM": 1,
        "PYDP_VXLAN_SLOTS": 4,
        "PYDP_VXLAN_COPIES": 2,
        "PYDP_VXLAN_KNOWN": 1,
        "PYDP_VXLAN_ANY_SOURCE": 0,
        "PYDP_VXLAN_VTEPS": 2,
        "PYDP_TUNNEL_IPV6": 0,
        "PYDP_TUNNEL_VIEWPOINT": 99,
        "PYDP_TUNNEL_MTU": 1500,
        "PYDP_TUNNEL_TTL": 64,
        "PYDP_TUNNEL_LOCAL0": 0x010200C0,
        "PYDP_TUNNEL_LOCAL1": 0,
        "PYDP_TUNNEL_LOCAL2": 0,
        "PYDP_TUNNEL_LOCAL3": 0,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert (found["PYDP_FDB_BUCKETS"], found["PYDP_FDB_AGEING"]) == (512, ticks(60))
    assert MODE.sizes(options, context)["fdb"] == 512
    options, context = made(local="2001:db8::1", remote=("2001:db8::2",))
    assert MODE.constants(options, context)["PYDP_TUNNEL_IPV6"] == 1


def test_ports() -> None:
    picture = view(links={PORT + 1: Link(PORT + 1, "p1", mac=mac(0x11), mtu=9000)})
    ports = MODE.entries(*made(picture, peers=[PORT]))["vxlan_ports"]
    own = [int.from_bytes(mac(number), "little") for number in (9, 0x10, 0x11)]
    assert ports == {
        0: (UNDERLAY, 1518, 0, 0, own[0]),
        1: (PORT, 1468, 0, PRESENT | PEER | LEARNING, own[1]),
        2: (PORT + 1, 9018, 0, PRESENT | LEARNING, own[2]),
    }


def test_segments_and_their_vteps() -> None:
    further = {"vni": 7, "remote": ("192.0.2.2",), "port": ("p2",), "ttl": "5", "learning": False}
    options, context = made(more=(further,), srcport="5000-6000")
    found = MODE.entries(options, context)
    low, high = Defaults().port_range
    assert found["vxlan_segments"] == {
        0: (100, 0, 0, 0, 5000, 6000, 0, 0, 2, (0b0110, 0, 0, 0)),
        1: (7, 0, 0, 5, low, high, 0, 2, 1, (0b1000, 0, 0, 0)),
    }
    words = table.address_words(ip_address("192.0.2.2")), table.address_words(ip_address("192.0.2.3"))
    key = {
        (host, vni): table.table_key(ip_address(f"192.0.2.{host}"), vni) for host, vni in ((2, 100), (3, 100), (2, 7))
    }
    assert found["vxlan_vteps"] == {
        0: (words[0], key[2, 100], 0, 100, 0, 0, 0, 5000, 6000, VTEP_PRESENT | VTEP_LEARNING),
        1: (words[1], key[3, 100], 0, 100, 0, 0, 0, 5000, 6000, VTEP_PRESENT | VTEP_LEARNING),
        2: (words[0], key[2, 7], 1, 7, 0, 0, 5, low, high, VTEP_PRESENT),
    }
    assert found["vxlan_replicas"] == {0: 0, 1: 1, 2: 2}
    assert {one for bucket in found["vxlan_known"].values() for one in bucket[0] if one} == set(key.values())
    assert MODE.entries(options, context)["vxlan_ports"][3][2] == 1


def test_a_group_is_no_source() -> None:
    found = MODE.entries(*made(group="239.1.1.1"))
    assert found["vxlan_vteps"][0][-1] == VTEP_PRESENT | VTEP_GROUP | VTEP_LEARNING
    assert found["vxlan_segments"][0][7:9] == (0, 1)
    group = table.table_key(ip_address("239.1.1.1"), 100)
    assert group not in [key for one in found["vxlan_known"].values() for key in one[0]]


def test_requests_enter_this_hosts_addresses_by_segment() -> None:
    found = MODE.requests(*made(more=({"vni": 7, "port": ("p2",)},)))
    entered = {request[KEY]: request[WHERE] for request in found if request[OPERATION] == 1}
    own = LOCAL | STATIC | OWNED
    assert entered == {
        fdb_key(mac(0x10), 0): 1 | own,
        fdb_key(mac(0x11), 0): 2 | own,
        fdb_key(mac(0x12), 1): 3 | own,
    }


@pytest.mark.parametrize(
    ("where", "forgotten"),
    [
        (REMOTE | 7, True), (REMOTE | 7 | STATIC, True), (REMOTE | 1, False), (REMOTE | 1 | STATIC, False), (7, False),
        (1 | OWNED | STATIC, True),
    ],
)  # fmt: skip
def test_what_is_behind_vteps_that_are_gone_is_forgotten(where: int, forgotten: bool) -> None:
    options, context = made()
    context = numbered(options, context, {"vtep": frozenset({7})})
    flushes = [request for request in MODE.requests(options, context) if request[OPERATION] == 3]
    assert any(where & request[MASK] == request[WHERE] for request in flushes) == forgotten


def test_members_keep_their_numbers() -> None:
    options, context = made(remote=("192.0.2.3", "192.0.2.2"))
    assert MODE.members(options, context) == {"segment": ["100"], "vtep": ["100 192.0.2.3", "100 192.0.2.2"]}
    before = {"segment": {"100": 4}, "vtep": {"100 192.0.2.3": 1, "100 192.0.2.2": 0}}
    found = MODE.entries(options, replace(context, numbers=before))
    assert {number: entry[0][0] >> 24 for number, entry in found["vxlan_vteps"].items()} == {0: 2, 1: 3}
    assert found["vxlan_replicas"] == {0: 1, 1: 0}
    assert set(found["vxlan_segments"]) == {4}
    assert MODE.sizes(options, replace(context, numbers=before))["vxlan_segments"] == 8


def test_segments_that_believe_anybody_are_known_by_their_vni() -> None:
    options, context = made(any_source=True)
    nobody = table.table_key(ip_address("0.0.0.0"), 100)
    found = MODE.entries(options, context)
    assert nobody in [key for bucket in found["vxlan_known"].values() for key in bucket[0]]
    assert found["vxlan_segments"][0][6] == VTEP_PRESENT | VTEP_LEARNING
    assert MODE.constants(options, context)["PYDP_VXLAN_ANY_SOURCE"] == 1
    assert MODE.sizes(options, context)["vxlan_hops"] == 2 + MAX_GUESTS
    flushes = [request for request in MODE.requests(options, context) if request[OPERATION] == 3]
    assert any((REMOTE | 5) & request[MASK] == request[WHERE] for request in flushes)  # guests are new each time


# Adopting


def adopting(
    *, device: Mapping[str, Any] | None = None, ports: Sequence[Mapping[str, Any]] = ({},),
    fdb: Sequence[FdbEntry] = (), remote_fdb: Sequence[VxlanFdbEntry] = (), bridge: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[VxlanOptions, Context]:  # fmt: skip
    given = {"ifindex": DEVICE, "name": "vx100", "vni": 100, "lower": UNDERLAY, "local": "192.0.2.1", "port": 4789}
    own = tuple(
        BridgePort(**{"ifindex": PORT + i, "bridge": BRIDGE, "state": PortState.FORWARDING, **one})
        for i, one in enumerate(ports)
    )
    all_ports = (*own, BridgePort(DEVICE, BRIDGE, state=PortState.FORWARDING))
    picture = view(
        links={BRIDGE: Link(BRIDGE, "br0", mac=mac(100)), DEVICE: Link(DEVICE, "vx100", kind="vxlan", master=BRIDGE)},
        bridges={BRIDGE: Bridge(BRIDGE, "br0", ports=all_ports, **(bridge or {}))},
        vxlans={DEVICE: Vxlan(**{**given, "master": BRIDGE, **(device or {})})},
    )
    made_options = VxlanOptions(**options)
    target = MODE.target(made_options, ["eth0"], picture)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    context = Context(picture, target, slots, "tc", fdb=fdb, vxlan_fdb=remote_fdb)
    return made_options, numbered(made_options, context)


def adopted_segment(**about: Any) -> Any:
    options, context = adopting(**about)
    (found,) = adopted(options, UNDERLAY, context.view, context.defaults, context.fdb, context.vxlan_fdb)
    return found


def test_without_a_device_there_is_nothing_to_adopt() -> None:
    with pytest.raises(UsageError, match="carries no vxlan device of the kernel") as caught:
        MODE.target(VxlanOptions(), ["eth0"], view())
    assert "--vni" in caught.value.hint
    assert "ip link add" in caught.value.hint


@pytest.mark.parametrize(
    "device",
    [
        {"external": True}, {"gbp": True}, {"gpe": True}, {"remcsum": True}, {"vnifilter": True}, {"rsc": True},
        {"lower": 77}, {"master": 0}, {"local": ""},
    ],
)  # fmt: skip
def test_devices_that_are_left_to_the_kernel(device: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="carries no vxlan device"):
        adopting(device=device)


def test_a_bridge_that_filters_vlans_is_left_to_the_kernel() -> None:
    with pytest.raises(UsageError, match="carries no vxlan device"):
        adopting(bridge={"vlan_filtering": True})


def test_policies_of_an_adopted_device() -> None:
    found = adopted_segment(device={"ttl_inherit": True, "tos": 1, "df": "inherit", "port_range": (5000, 6000)})
    assert found.flags == TTL_INHERIT | TOS_INHERIT | DF_INHERIT | CHECKSUM
    assert (found.ttl, found.tos, found.port_range) == (0, 0, (5000, 6000))
    found = adopted_segment(device={"ttl": 5, "tos": 0x40, "df": "set", "udp_csum": False, "learning": False})
    assert (found.flags, found.ttl, found.tos, found.learning) == (DF_SET, 5, 0x40, False)
    assert found.copies == ()
    six = {"local": "2001:db8::1", "udp_csum": False}
    assert adopted_segment(device=six).flags == CHECKSUM
    assert adopted_segment(device={**six, "udp6_zero_tx": True}).flags == 0
    assert adopted_segment(udp_csum=False).flags == 0


def test_packets_without_a_checksum_are_taken_as_the_device_takes_them() -> None:
    six = {"local": "2001:db8::1"}
    for device, taken in (({}, 1), (six, 0), ({**six, "udp6_zero_rx": True}, 1)):
        assert MODE.constants(*adopting(device=device))["PYDP_VXLAN_ZERO_CHECKSUM"] == taken


def test_ports_of_an_adopted_bridge() -> None:
    ports = ({}, {"learning": False}, {"state": PortState.BLOCKING})
    entries = MODE.entries(*adopting(ports=ports))["vxlan_ports"]
    flags = [entries[slot][3] for slot in (1, 2, 3)]
    assert flags[:2] == [PRESENT | LEARNING, PRESENT]
    assert flags[2] & PUNT


def test_what_the_kernel_knows_is_entered() -> None:
    far, near, fixed = mac(0x60), mac(0x61), mac(0x62)
    options, context = adopting(
        fdb=[
            FdbEntry(near, 0, PORT, BRIDGE, updated=5.0),
            FdbEntry(far, 0, DEVICE, BRIDGE),
            FdbEntry(mac(100), 0, BRIDGE, BRIDGE, local=True),
        ],
        remote_fdb=[
            VxlanFdbEntry(bytes(6), DEVICE, "192.0.2.2", permanent=True),
            VxlanFdbEntry(far, DEVICE, "192.0.2.2", updated=7.0),
            VxlanFdbEntry(fixed, DEVICE, "192.0.2.3", static=True),
            VxlanFdbEntry(mac(0x63), DEVICE + 1, "192.0.2.9"),
        ],
    )
    found = {request[KEY]: request for request in MODE.requests(options, context) if request[OPERATION] == 1}
    assert context.numbers["vtep"] == {"100 192.0.2.2": 0, "100 192.0.2.3": 1}
    assert found[fdb_key(far, 0)][WHERE] == REMOTE
    assert found[fdb_key(far, 0)][6] == ticks(7.0)
    assert found[fdb_key(fixed, 0)][WHERE] == REMOTE | STATIC | OWNED | 1
    assert found[fdb_key(near, 0)][WHERE] == 1
    assert found[fdb_key(mac(100), 0)][WHERE] & LOCAL
    assert fdb_key(mac(0x63), 0) not in found


def test_no_group_is_joined_for_a_device_that_has_done_so() -> None:
    assert MODE.groups(*adopting(device={"group": "239.1.1.1"})) == ()


def test_the_ageing_of_an_adopted_device() -> None:
    options, context = adopting(device={"ageing": 60.0}, bridge={"ageing": 300.0})
    assert MODE.constants(options, context)["PYDP_FDB_AGEING"] == ticks(60)
    options, context = adopting(device={"ageing": 60.0}, ageing=5.0)
    assert MODE.constants(options, context)["PYDP_FDB_AGEING"] == ticks(5)
