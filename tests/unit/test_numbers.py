# SPDX-License-Identifier: Apache-2.0
"""Numbers that Python needs before any C text is read are those of the C text."""

from __future__ import annotations

import pytest

from ebpf.abi import Abi
from ebpf.compiler import CONSTANT_MAGIC
from ebpf.source import flatten
from pydp import conntrack
from pydp import fdb as reading
from pydp.datapath import compose, specs
from pydp.modes import bridge, count, ipip, nat, nat_rules, outer, peers, vxlan, vxlan_maps
from pydp.modes import fdb as table
from pydp.modes.base import Role
from pydp.services import records
from pydp.sources import bpf_src


@pytest.fixture(scope="module")
def abi() -> Abi:
    stages = sorted(path.name for path in bpf_src().glob("*.c"))
    main = "".join(f'#include "{name}"\n' for name in ["abi.h", *stages])
    return Abi(flatten(main, include_dirs=[bpf_src()], virtual={"config.h": ""}).text)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("limit", {"VERDICTS": specs.VERDICTS, "STAGES": specs.STAGES, "STAGE_CONSTANTS": compose.STAGE_CONSTANTS}),
        (
            "constant",
            {
                "CONSTANT_SLOT": compose._SLOT,
                "CONSTANT_SEED": compose._SEED,
                "CONSTANT_ROLE": compose._ROLE,
                "CONSTANT_CPUS": compose._CPUS,
                "CONSTANT_OPTIONS": compose._OPTIONS,
            },
        ),
        ("count_kind", {"COUNT_KINDS": count.KINDS}),
        ("bridge_limit", {"BRIDGE_PORTS": bridge.MAX_PORTS}),
        ("fdb_operation", {f"FDB_{name}": getattr(table, name) for name in ("ADD", "DELETE", "FLUSH")}),
        ("fdb_limit", {"FDB_WAYS": table.WAYS, "FDB_TICK_SHIFT": (round(table.TICK * 1e9)).bit_length() - 1}),
        (
            "fdb_flag",
            {
                f"FDB_{name}": getattr(table, name)
                for name in ("SLOT_MASK", "VALID", "STATIC", "LOCAL", "STICKY", "OWNED", "REMOTE")
            },
        ),
        (
            "bridge_port_flag",
            {
                f"PORT_{name}": getattr(bridge, name)
                for name in ("PRESENT", "FORWARDING", "LEARNING", "HAIRPIN", "ISOLATED", "PUNT", "PEER")
            },
        ),
        ("role", {f"ROLE_{role.name}": role.value for role in Role}),
        (
            "vxlan_limit",
            {
                "VXLAN_PORTS": vxlan.MAX_PORTS,
                "VXLAN_SEGMENTS": vxlan.MAX_SEGMENTS,
                "VXLAN_VTEPS": vxlan.MAX_VTEPS,
            },
        ),
        (
            "vxlan_port_flag",
            {
                "VXLAN_PRESENT": vxlan_maps.PRESENT,
                "VXLAN_PEER": vxlan_maps.PEER,
                "VXLAN_PUNT": vxlan_maps.PUNT,
                "VXLAN_LOCAL_LEARNING": vxlan_maps.LEARNING,
            },
        ),
        (
            "vxlan_vtep_flag",
            {name: getattr(vxlan_maps, name) for name in ("VTEP_PRESENT", "VTEP_GROUP", "VTEP_LEARNING")},
        ),
        (
            "tunnel_flag",
            {
                f"TUNNEL_{name}": getattr(outer, name)
                for name in ("TTL_INHERIT", "TOS_INHERIT", "DF_SET", "DF_INHERIT", "CHECKSUM")
            },
        ),
        (
            "ipip_limit",
            {
                "IPIP_PORTS": ipip.MAX_PORTS,
                "IPIP_PLACES": ipip.MAX_PLACES,
                "IPIP_PEERS": 2 * peers.MAX_PEERS,
                "IPIP_PREFIXES": peers.MAX_PREFIXES,
            },
        ),
        ("ipip_port_flag", {"IPIP_VETH_PEER": ipip.VETH_PEER}),
        ("path_limit", {"PATH_KEPT": peers.PATH_KEPT}),
        (
            "nat_limit",
            {
                "NAT_PORTS": nat.MAX_PORTS,
                "NAT_PLACES": nat.MAX_PLACES,
                "NAT_RULES": nat_rules.MAX_RULES,
                "NAT_WAYS": nat.WAYS,
                "NAT_HINT_BITS": records.HINT_BITS,
            },
        ),
        ("nat_port_flag", {"NAT_PORT_PRESENT": nat.PORT_PRESENT, "NAT_PORT_BRIDGE": nat.PORT_BRIDGE}),
        (
            "nat_device_flag",
            {f"NAT_DEVICE_{name}": getattr(nat, f"DEVICE_{name}") for name in ("PORT", "PEER", "XDP")},
        ),
        ("nat_class", {f"NAT_CLASS_{name}": getattr(conntrack, f"_{name}") for name in ("NEW", "ASSURED", "CLOSING")}),
        ("nat_flow_flag", {"NAT_FLOW_REPLIED": conntrack._REPLIED}),
        ("nat_state", {f"NAT_STATE_{name}": number for number, name in enumerate(conntrack.STATES)}),
        ("nat_event", {f"NAT_EVENT_{name.upper()}": number for number, name in enumerate(conntrack.EVENTS)}),
        ("fdb_event", {f"FDB_{name.upper()}": number for number, name in enumerate(reading.EVENTS)}),
    ],
)
def test_equal_those_of_c(abi: Abi, name: str, numbers: dict[str, int]) -> None:
    members = abi.enum(name).members
    assert {one: members[one] for one in numbers} == numbers


def test_every_verdict_has_its_class_and_its_words(abi: Abi) -> None:
    verdicts, classes = abi.enum("verdict"), abi.enum("verdict_class").members
    for name, number in verdicts.members.items():
        kind = name.split("_")[0]
        expected = "DROP" if number >= classes["CLASS_DROP"] else "PUNT" if number >= classes["CLASS_PUNT"] else kind
        assert kind == expected, name
        assert kind in ("PASS", "FORWARD", "FLOOD", "PUNT", "DROP"), name
        assert verdicts.comments[name], name


def test_the_magic_of_constants_is_in_the_text() -> None:
    assert f"0x{CONSTANT_MAGIC:08x}00000000ULL" in (bpf_src() / "abi.h").read_text()
