# SPDX-License-Identifier: Apache-2.0
"""Mode ipvlan without a kernel: options and a hand-made view in, map entries out."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from pydp.errors import UsageError
from pydp.modes import table
from pydp.modes.base import Context, Role
from pydp.modes.ipvlan import IpvlanMode, IpvlanOptions, link_local
from pydp.options import parse_options
from tests.unit.test_mode_ipip import View
from tests.unit.test_mode_macvlan import BR, ETH0, V1, V2, mac, number, view

MODE = IpvlanMode()
CHILDREN = ("v1=10.0.0.1", "v2=10.0.0.2,fd00::2")
HOST = "10.0.0.254"


def made(*, seen: View | None = None, ends: bool = True, **options: Any) -> tuple[IpvlanOptions, Context]:
    given = parse_options(IpvlanOptions, {"child": CHILDREN, **options})
    seen = seen or view()
    target = MODE.target(given, ["eth0"], seen)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    found = {V1: mac(0x51), V2: mac(0x52)} if ends else {}
    addresses = {ETH0: (ip_interface(f"{HOST}/24"),)}
    return given, Context(seen, target, slots, "tc", frozenset({V2}), ends=found, addresses=addresses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"child": ()}, "mode ipvlan needs --child"),
        ({"child": ("v1",)}, "--child v1: it needs an IP address"),
        ({"child": ("v1=",)}, "--child v1: it needs an IP address"),
        ({"child": ("v1=02:00:00:00:00:01",)}, "--child v1: it needs an IP address"),
        ({"child": ("=10.0.0.1",)}, "which device?"),
        ({"child": ("v1=10.0.0.1", "v1=10.0.0.2")}, "--child v1: it is named twice"),
        ({"child": ("v1=10.0.0",)}, "--child v1: 10.0.0 is not an IP address"),
        ({"child": ("v1=10.0.0.0/24",)}, "--child v1: 10.0.0.0/24 is not an IP address"),
        ({"child": ("v1=10.0.0.1,03:00:00:00:00:01",)}, "03:00:00:00:00:01 is not the address of one device"),
        ({"child": ("v1=10.0.0.1,00:00:00:00:00:00",)}, "not the address of one device"),
        ({"child": ("v1=02:00:00:00:00:01,02:00:00:00:00:02",)}, "02:00:00:00:00:02 is not an IP address"),
        ({"child": ("v1=224.0.0.1",)}, "--child v1: 224.0.0.1 is not the address of one host"),
        ({"child": ("v1=255.255.255.255",)}, "not the address of one host"),
        ({"child": ("v1=::",)}, "not the address of one host"),
        ({"child": ("v1=127.0.0.1",)}, "not the address of one host"),
        ({"child": ("v1=fe80::1%eth0",)}, "it needs no %eth0"),
        ({"child": ("eth0=10.0.0.1",)}, "--child eth0: it is the parent"),
        ({"child": ("lo=10.0.0.1",)}, "--child lo: the loopback device cannot be a port"),
        ({"type": "l4"}, "--type: 'l4'"),
        ({"flag": "passthru"}, "--flag: 'passthru'"),
        ({"child": tuple(f"v{one}=10.0.0.1" for one in range(256))}, "255 children at most, not 256"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (("v1=10.0.0.1,10.0.0.1",), "--child v1: v1 has 10.0.0.1 already"),
        (("v1=10.0.0.1", "v2=fd00::2,10.0.0.1"), "--child v2: v1 has 10.0.0.1 already"),
        ((f"v1={HOST}",), f"--child v1: {HOST} is an address of this host"),
        (
            ("v1=" + ",".join(f"10.1.{one >> 8}.{one & 255}" for one in range(4096)),),
            "4096 addresses at most, not 4097",
        ),
    ],
)
def test_addresses_are_each_ones_own(child: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        MODE.entries(*made(child=child))
    assert message in str(caught.value)


def test_a_port_of_a_bridge_is_refused() -> None:
    with pytest.raises(UsageError, match="it is a port of br0"):
        made(seen=view(master=BR))


def test_the_parent_comes_first_and_has_its_role() -> None:
    _, context = made()
    assert context.target.ports == (ETH0, V1, V2)
    assert context.target.role(ETH0) == Role.PARENT
    assert context.target.role(V1) == Role.PORT


def test_entries() -> None:
    entries = MODE.entries(*made(child=(CHILDREN[0], CHILDREN[1] + ",02:00:00:00:00:99")))
    assert entries["child_ports"] == {
        0: (number(ETH0), number(ETH0), ETH0, 1518, 1),
        1: (number(0x51), number(V1), V1, 1518, 1),
        2: (number(0x99), number(V2), V2, 1418, 3),
    }
    owners = {
        "10.0.0.1": (1, 4), "10.0.0.2": (2, 4), "fd00::2": (2, 6), "fe80::ff:fe00:51": (1, 6),
        "fe80::ff:fe00:99": (2, 6),
    }  # fmt: skip
    records = entries["ipvlan_addresses"]
    assert sorted(records.values()) == sorted(
        (table.address_words(ip_address(text)), *owner) for text, owner in owners.items()
    )
    for bucket in entries["ipvlan_known"].values():
        for key, index in zip(*bucket[:2], strict=True):
            if key:
                words, _, version = records[index]
                packed = b"".join(word.to_bytes(4, "little") for word in words)[: 4 if version == 4 else 16]
                assert table.table_key(ip_address(packed), 0) == key


def test_a_link_local_address_follows_from_the_mac_address() -> None:
    assert link_local(mac(0x51)) == ip_address("fe80::ff:fe00:51")


def test_an_address_that_was_given_is_not_taken_by_one_that_follows() -> None:
    given, context = made(child=("v1=fe80::ff:fe00:52", "v2=10.0.0.2"))
    records = MODE.entries(given, context)["ipvlan_addresses"].values()
    slots = {slot for words, slot, _ in records if words == table.address_words(ip_address("fe80::ff:fe00:52"))}
    assert slots == {1}


@pytest.mark.parametrize(("kind", "number"), [("l2", 0), ("l3", 1), ("l3s", 2)])
@pytest.mark.parametrize(("flag", "bits"), [("bridge", 0), ("private", 1), ("vepa", 2)])
def test_constants(kind: str, number: int, flag: str, bits: int) -> None:
    assert MODE.constants(*made(type=kind, flag=flag)) == {
        "PYDP_CHILD_PARENT": 0,
        "PYDP_CHILD_SLOTS": 3,
        "PYDP_IPVLAN_TYPE": number,
        "PYDP_IPVLAN_FLAG": bits,
        "PYDP_IPVLAN_KNOWN": 2,
    }


def test_the_kernels_defaults() -> None:
    assert (IpvlanOptions().type, IpvlanOptions().flag) == ("l3", "bridge")


def test_a_mac_address_that_cannot_be_seen_has_to_be_given() -> None:
    with pytest.raises(UsageError, match="not to be seen") as caught:
        MODE.constants(*made(ends=False))
    assert caught.value.hint == "--child v1=10.0.0.1,MAC"
    assert MODE.constants(*made(ends=False, child=("v1=10.0.0.1,02:00:00:00:00:01",)))


def test_what_the_stack_carries_has_routes() -> None:
    assert not MODE.routes(*made(type="l3"))
    routes = {(one.prefix, one.dev, one.via) for one in MODE.routes(*made(type="l3s"))}
    assert routes == {("10.0.0.1/32", V1, ""), ("10.0.0.2/32", V2, ""), ("fd00::2/128", V2, "")}


def test_xdp_has_tc_beside_it() -> None:
    given, context = made()
    assert MODE.hooks(given, context.target, ETH0, "xdp") == ("xdp", "tc")
    assert MODE.hooks(given, context.target, V1, "tc") == ("tc",)
