# SPDX-License-Identifier: Apache-2.0
"""Mode ipvlan: what the maps of bpf_src/ipvlan.c should hold.

A child's IP addresses are given, as nobody can see them from here; its MAC address, which does not leave the host, is
that of the container's end of its veth, taken from there when attaching, or given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pydp.errors import UsageError
from pydp.model import Route
from pydp.modes import table
from pydp.modes.base import Context, Entries, Mode, Role, Target, Traits, View
from pydp.modes.children import (
    MAPS,
    TAILS,
    child_indices,
    constants_of,
    is_mac,
    parent_index,
    parent_of,
    parse_children,
    records,
    station_mac,
    target_of,
)
from pydp.options import option

Address = IPv4Address | IPv6Address

TYPES = {"l2": 0, "l3": 1, "l3s": 2}  # enum ipvlan_type
FLAGS = {"bridge": 0, "private": 1, "vepa": 2}  # enum ipvlan_flag
MAX_ADDRESSES = 4096
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class IpvlanOptions:
    """Options of --mode ipvlan. The interface named is the parent."""

    child: tuple[str, ...] = option(
        (), "texts", "device that leads to a container, the container's IP addresses, and the MAC address of its end "
        "where that cannot be seen", metavar="DEV=ADDR,...",
    )  # fmt: skip
    type: str = option("l3", "choice", "as with ip link add type ipvlan mode TYPE", choices=tuple(TYPES))
    flag: str = option("bridge", "choice", "as with ip link add type ipvlan mode TYPE FLAG", choices=tuple(FLAGS))


@dataclass(frozen=True, slots=True)
class Child:
    """What was said of a child."""

    addresses: tuple[Address, ...]
    mac: bytes = b""


class IpvlanMode(Mode):
    """See bpf_src/ipvlan.c."""

    name = "ipvlan"
    traits = Traits(
        order=40,
        depth=2,
        maps=MAPS | {"ipvlan_known", "ipvlan_addresses", "ipvlan_ways", "ipvlan_clock"},
        tails=TAILS,
        finishes=True,
        promiscuous=frozenset({Role.PORT, Role.PARENT}),
        written=("PYDP_CHILD_PARENT", "PYDP_IPVLAN_KNOWN"),
    )
    Options = IpvlanOptions

    def target(self, options: IpvlanOptions, names: Sequence[str], view: View) -> Target:
        texts = _texts(options)
        for name, text in texts.items():
            parse_child(name, text)
        return target_of(texts, names, view, self.name)

    def hooks(self, options: IpvlanOptions, target: Target, ifindex: int, hook: str) -> tuple[str, ...]:
        """XDP can neither copy a frame nor ask for a next hop: a tc program beside it does."""
        return (hook,) if hook == "tc" else (hook, "tc")

    def constants(self, options: IpvlanOptions, context: Context) -> Mapping[str, int]:
        return {
            **constants_of(context),
            "PYDP_IPVLAN_TYPE": TYPES[options.type],
            "PYDP_IPVLAN_FLAG": FLAGS[options.flag],
            "PYDP_IPVLAN_KNOWN": len(_known(_owners(options, context))),
        }

    def sizes(self, options: IpvlanOptions, context: Context) -> Mapping[str, int]:
        owners = _owners(options, context)
        return {"ipvlan_known": len(_known(owners)), "ipvlan_addresses": len(owners)}

    def entries(self, options: IpvlanOptions, context: Context) -> Entries:
        macs = {**_macs(options, context), parent_index(context): parent_of(context).mac}
        owners = _owners(options, context)
        return {
            "child_ports": records(context, macs),
            "ipvlan_known": dict(enumerate(_known(owners))),
            "ipvlan_addresses": {
                index: (table.address_words(address), context.slots[ifindex], address.version)
                for index, (address, ifindex) in enumerate(owners.items())
            },
        }

    def routes(self, options: IpvlanOptions, context: Context) -> Sequence[Route]:
        """Type l3s: to each child by its port."""
        if options.type != "l3s":
            return ()
        return [
            Route(f"{address}/{address.max_prefixlen}", ifindex)
            for address, ifindex in _owners(options, context).items()
            if not address.is_link_local
        ]


def parse_child(name: str, text: str) -> Child:
    """Addresses with commas between them, and perhaps a MAC address. Raises UsageError."""
    found: list[Address] = []
    mac = b""
    for word in filter(None, text.split(",")):
        if is_mac(word) and not mac:
            mac = station_mac(word)
            if not mac:
                raise UsageError(f"--child {name}: {word} is not the address of one device")
            continue
        found.append(_address(name, word))
    if not found:
        raise UsageError(f"--child {name}: it needs an IP address", hint=f"--child {name}=10.0.0.2")
    return Child(tuple(found), mac)


def _address(name: str, word: str) -> Address:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        hint = f"--child {name}=10.0.0.2,fd00::2"
        raise UsageError(f"--child {name}: {word} is not an IP address", hint=hint) from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise UsageError(f"--child {name}: {word}: it needs no %{address.scope_id}, since there is only one parent")
    if address.is_multicast or address.is_unspecified or address.is_loopback or address == _BROADCAST:
        raise UsageError(f"--child {name}: {word} is not the address of one host")
    return address


def _texts(options: IpvlanOptions) -> dict[str, str]:
    return parse_children(options.child, "ipvlan")


def _children(options: IpvlanOptions, context: Context) -> dict[int, Child]:
    """What was said of each child by ifindex."""
    texts = _texts(options)
    names = {ifindex: context.view.name(ifindex) for ifindex in child_indices(context)}
    return {ifindex: parse_child(name, texts[name]) for ifindex, name in names.items()}


def _owners(options: IpvlanOptions, context: Context) -> dict[Address, int]:
    """Which child has an address, the link-local ones that follow from MAC addresses included. Raises UsageError."""
    macs = _macs(options, context)
    ours = {one.ip for interfaces in context.addresses.values() for one in interfaces}
    found: dict[Address, int] = {}
    for ifindex, child in _children(options, context).items():
        name = context.view.name(ifindex)
        for address in child.addresses:
            if address in found:
                raise UsageError(f"--child {name}: {context.view.name(found[address])} has {address} already")
            if address in ours:
                raise UsageError(f"--child {name}: {address} is an address of this host")
            found[address] = ifindex
    for ifindex, mac in macs.items():
        found.setdefault(link_local(mac), ifindex)
    if len(found) > MAX_ADDRESSES:
        raise UsageError(f"--child: {MAX_ADDRESSES} addresses at most, not {len(found)}")
    return found


def link_local(mac: bytes) -> IPv6Address:
    """The address that a stack makes of a MAC address (RFC 4291, appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def _macs(options: IpvlanOptions, context: Context) -> dict[int, bytes]:
    """The MAC address of each child by ifindex. Raises UsageError where one is not known."""
    found: dict[int, bytes] = {}
    for ifindex, child in _children(options, context).items():
        mac = child.mac or context.ends.get(ifindex, b"")
        if not mac:
            name = context.view.name(ifindex)
            raise UsageError(
                f"--child {name}: the MAC address of its other end is not to be seen from here",
                hint=f"--child {name}={','.join(map(str, child.addresses))},MAC",
            )
        found[ifindex] = mac
    return found


def _known(owners: Mapping[Address, int]) -> list[tuple[Any, ...]]:
    """struct table_bucket: the place of each address among the records of addresses."""
    return table.buckets({table.table_key(address, 0): index for index, address in enumerate(owners)})
