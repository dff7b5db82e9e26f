# SPDX-License-Identifier: Apache-2.0
"""Mode macvlan without a kernel: options and a hand-made view in, map entries out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pydp.errors import UsageError
from pydp.model import Link
from pydp.modes.base import Context, Role
from pydp.modes.macvlan import MacvlanMode, MacvlanOptions
from pydp.options import parse_options
from tests.unit.test_mode_ipip import View

MODE = MacvlanMode()
ETH0, V1, V2, BR = 10, 11, 12, 20


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def number(last: int) -> int:
    """An address as the maps have it."""
    return int.from_bytes(mac(last), "little")


def view(**port: Any) -> View:
    links = {index: Link(index, name, mac=mac(index), mtu=1500) for index, name in ((ETH0, "eth0"), (V1, "v1"))}
    links[V2] = replace(Link(V2, "v2", mac=mac(V2), mtu=1400), **port)
    links[BR] = Link(BR, "br0", kind="bridge")
    links[1] = Link(1, "lo", loopback=True)
    return View(links)


def made(*, seen: View | None = None, ends: bool = True, **options: Any) -> tuple[MacvlanOptions, Context]:
    given = parse_options(MacvlanOptions, {"child": ("v1", "v2"), **options})
    seen = seen or view()
    target = MODE.target(given, ["eth0"], seen)
    slots = {ifindex: slot for slot, ifindex in enumerate(target.ports)}
    found = {V1: mac(0x51), V2: mac(0x52)} if ends else {}
    return given, Context(seen, target, slots, "tc", frozenset({V2}), ends=found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"child": ()}, "mode macvlan needs --child"),
        ({"child": ("=02:00:00:00:00:01",)}, "which device?"),
        ({"child": ("v1", "v1")}, "--child v1: it is named twice"),
        ({"child": ("v1=02:00",)}, "02:00 is not a MAC address"),
        ({"child": ("v1=03:00:00:00:00:01",)}, "not the address of one device"),
        ({"child": ("v1=00:00:00:00:00:00",)}, "not the address of one device"),
        ({"child": ("eth0",)}, "--child eth0: it is the parent"),
        ({"child": ("lo",)}, "--child lo: the loopback device cannot be a port"),
        ({"type": "passthru"}, "--type passthru: it has one child"),
        ({"type": "source"}, "--type: 'source'"),
        ({"child": tuple(f"v{number}" for number in range(256))}, "255 children at most, not 256"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert message in str(caught.value)


def test_a_port_of_a_bridge_is_refused() -> None:
    with pytest.raises(UsageError, match="it is a port of br0") as caught:
        made(seen=view(master=BR))
    assert caught.value.hint == "ip link set v2 nomaster"


def test_there_is_one_parent() -> None:
    given = parse_options(MacvlanOptions, {"child": ("v1",)})
    with pytest.raises(UsageError, match="one parent"):
        MODE.target(given, ["eth0", "v2"], view())


def test_the_parent_comes_first_and_has_its_role() -> None:
    _, context = made()
    assert context.target.ports == (ETH0, V1, V2)
    assert context.target.role(ETH0) == Role.PARENT
    assert context.target.role(V1) == Role.PORT


def test_entries() -> None:
    given, context = made(child=("v1", "v2=02:00:00:00:00:99"))
    ports = MODE.entries(given, context)["child_ports"]
    assert ports == {
        0: (number(ETH0), number(ETH0), ETH0, 1518, 1),
        1: (number(0x51), number(V1), V1, 1518, 1),
        2: (number(0x99), number(V2), V2, 1418, 3),
    }
    (bucket,) = MODE.entries(given, context)["macvlan_known"].values()
    known = {key.to_bytes(8, "little")[:6]: slot for key, slot in zip(*bucket[:2], strict=True) if key}
    assert known == {mac(0x51): 1, mac(0x99): 2}


@pytest.mark.parametrize(("kind", "number"), [("private", 1), ("vepa", 2), ("bridge", 4)])
def test_constants(kind: str, number: int) -> None:
    assert MODE.constants(*made(type=kind)) == {
        "PYDP_MACVLAN_TYPE": number,
        "PYDP_CHILD_PARENT": 0,
        "PYDP_MACVLAN_FIRST": 1,
        "PYDP_CHILD_SLOTS": 3,
        "PYDP_MACVLAN_KNOWN": 1,
    }


def test_an_address_that_cannot_be_seen_has_to_be_given() -> None:
    with pytest.raises(UsageError, match="not to be seen") as caught:
        MODE.constants(*made(ends=False))
    assert caught.value.hint == "--child v1=MAC"
    assert MODE.constants(*made(ends=False, child=("v1=02:00:00:00:00:01",)))


def test_passthru_has_the_parents_address_where_none_is_known() -> None:
    given, context = made(ends=False, child=("v1",), type="passthru")
    assert MODE.entries(given, context)["child_ports"][1][0] == int.from_bytes(mac(ETH0), "little")


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("v1=02:00:00:00:00:0a", "02:00:00:00:00:0a is the address of eth0"),
        ("v1=02:00:00:00:00:52", "another child has its address"),
    ],
)
def test_addresses_are_each_ones_own(child: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MODE.entries(*made(child=(child, "v2")))


def test_xdp_has_tc_beside_it() -> None:
    given, context = made()
    assert MODE.hooks(given, context.target, ETH0, "xdp") == ("xdp", "tc")
    assert MODE.hooks(given, context.target, V1, "tc") == ("tc",)
