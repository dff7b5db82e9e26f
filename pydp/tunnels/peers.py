# SPDX-License-Identifier: Apache-2.0
"""The peers of an instance of mode ipip: what is behind them, what went each way, and changing them.

Reading goes by the layouts that the instance notes, so that a process without rights can do it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from pydp.datapath.api import Datapath
from pydp.datapath.planning import Request
from pydp.datapath.reader import Reader, coarse_clock
from pydp.datapath.specs import dict_options
from pydp.datapath.state import Instance
from pydp.errors import PydpError, UsageError
from pydp.modes.base import Role
from pydp.modes.ipip import IpipOptions
from pydp.modes.peers import PATH_KEPT, Address, Network, parse_peers, peer_text

_COUNTS = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")  # struct tunnel_count
_PREFIX = struct.Struct("=I16s")  # struct ipip_prefix
_INDEX = struct.Struct("=I")
_TICKS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer. ``index``: its place in the maps; ``networks`` are behind it; ``path_mtu`` is what routers said, 0 for
    nothing. Counters are of inner packets as they were at the hook, so that a GSO frame counts once.
    """

    index: int
    remote: str
    networks: tuple[str, ...] = ()
    path_mtu: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0


def has_peers(instance: Instance) -> bool:
    """Whether the instance is of mode ipip."""
    return "ipip_peers" in instance.maps


def rows(reader: Reader, instance: Instance, *, networks: bool = True) -> list[Peer]:
    """All peers in the order of their addresses; without NETWORKS those are left out, which is quicker.

    Raises EbpfError.
    """
    size = 16 if instance.constants["PYDP_TUNNEL_IPV6"] else 4
    owners: dict[int, int] = {}
    addresses: dict[int, str] = {}
    for index, (address, owner) in enumerate(_records(reader, instance, "ipip_peers", ("address", "owner"))):
        if any(owner):
            owners[index] = int.from_bytes(owner, "little")
            addresses[index] = str(ip_address(address[:size]))
    behind = _networks(reader, instance) if networks else {}
    paths = _paths(reader, instance)
    found = [
        Peer(index, addresses[index], behind.get(index, ()), paths.get(index, 0), *count)
        for index, count in _counts(reader, instance, owners).items()
    ]
    return sorted(found, key=lambda one: int(ip_address(one.remote)))


def add(datapath: Datapath, name: str, texts: Sequence[str], *, dry_run: bool = False) -> Instance:
    """Have networks behind peers, as ADDR=PREFIX[,PREFIX...]. Raises UsageError, NothingAttached, EbpfError."""
    instance = datapath.of_mode("ipip", name)
    there = parse_peers(_options(instance).peer)
    parse_peers([*_texts(there), *texts])  # raises for what is there already
    return _change(datapath, instance, [*_options(instance).peer, *texts], dry_run)


def delete(datapath: Datapath, name: str, text: str, *, dry_run: bool = False) -> Instance:
    """Take away a peer (ADDR), or networks behind it (ADDR=PREFIX[,...]). Raises as `add`."""
    instance = datapath.of_mode("ipip", name)
    there = parse_peers(_options(instance).peer)
    left, equals, _ = text.partition("=")
    wanted = parse_peers([text]) if equals else {_address(left): ()}
    for address, networks in wanted.items():
        if address not in there:
            some = ", ".join(str(one) for one in list(there)[:8])
            raise UsageError(f"{address}: no peer of {instance.name}", hint=f"peers: {some}")
        if missing := [one for one in networks if one not in there[address]]:
            behind = ", ".join(str(one) for one in there[address][:8])
            raise UsageError(f"{missing[0]}: not behind the peer {address}", hint=f"behind it: {behind}")
        rest = tuple(one for one in there[address] if networks and one not in networks)
        there = {**there, address: rest}
    remains = [text for text in _texts(there) if not text.endswith("=")]
    if not remains:
        raise UsageError(f"{text}: it is all that {instance.name} has", hint=f"pydp detach {instance.name}")
    return _change(datapath, instance, remains, dry_run)


def _options(instance: Instance) -> IpipOptions:
    options: IpipOptions = dict_options(instance)
    return options


def _texts(there: Mapping[Address, Iterable[Network]]) -> list[str]:
    return [peer_text(address, networks) for address, networks in there.items()]


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise UsageError(f"{text}: not an IP address") from None


def _change(datapath: Datapath, instance: Instance, peer: Sequence[str], dry_run: bool) -> Instance:
    """Attach the instance anew with these peers, on its ports by the names that they have now."""
    if instance.adopted:
        raise PydpError(f"{instance.name} has the peers of the kernel's tunnel devices", hint="ip tunnel help")
    names = {ifindex: _name_now(ifindex, name) for ifindex, name in instance.names.items()}
    ports = tuple(name for ifindex, name in names.items() if instance.roles.get(ifindex, Role.PORT) == Role.PORT)
    options = {**instance.options, "peer": tuple(peer), **({"port": ports} if ports else {})}
    underlay = next(ifindex for ifindex, role in instance.roles.items() if role == Role.UNDERLAY)
    request = Request(
        "ipip", (names[underlay],), instance.name, instance.asked, options, counters=instance.counters
    )  # fmt: skip
    return datapath.plan(request)[0] if dry_run else datapath.attach(request)


def _name_now(ifindex: int, before: str) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(ifindex)
    return before


def _records(reader: Reader, instance: Instance, name: str, members: Sequence[str]) -> list[tuple[bytes, ...]]:
    """These members of every record of an array, as bytes."""
    layout = {one: (offset, size) for one, offset, size in instance.maps[name]["layout"]}
    keys, values = reader.raw(instance, name)
    step = len(values) // max(len(keys) // _INDEX.size, 1)
    places = [layout[member] for member in members]
    return [
        tuple(values[at + offset : at + offset + size] for offset, size in places)
        for at in range(0, len(values), step)
    ]  # fmt: skip


def _networks(reader: Reader, instance: Instance) -> dict[int, tuple[str, ...]]:
    """Networks by the index of the peer that they are behind."""
    size = 16 if instance.constants["PYDP_IPIP_INNER6"] else 4
    keys, values = reader.raw(instance, "ipip_prefixes")
    found: dict[int, list[Network]] = {}
    for (length, address), (index,) in zip(_PREFIX.iter_unpack(keys), _INDEX.iter_unpack(values), strict=True):
        found.setdefault(index, []).append(ip_network((address[:size], length)))
    order = {index: sorted(each, key=lambda one: (int(one[0]), one.prefixlen)) for index, each in found.items()}
    return {index: tuple(str(one) for one in each) for index, each in order.items()}


def _paths(reader: Reader, instance: Instance) -> dict[int, int]:
    """MTU of the paths that routers spoke about, by index, as long as it holds."""
    if "ipip_paths" not in instance.maps:
        return {}
    now = coarse_clock() >> 24
    found = {}
    for index, (mtu, told) in enumerate(_records(reader, instance, "ipip_paths", ("mtu", "told"))):
        idle = now - int.from_bytes(told, "little") & _TICKS
        if any(mtu) and idle <= PATH_KEPT:
            found[index] = int.from_bytes(mtu, "little")
    return found


def _counts(reader: Reader, instance: Instance, owners: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Counters by index, summed over the CPUs; what was counted for another peer at the same place is left out."""
    keys, values = reader.raw(instance, "ipip_counts")
    layout = {one: (offset // 8, size) for one, offset, size in instance.maps["ipip_counts"]["layout"]}
    fields = len(layout)
    words = memoryview(values).cast("Q")
    cpus = len(words) // fields // max(len(keys) // _INDEX.size, 1)
    found = {}
    for index, owner in owners.items():
        starts = [(index * cpus + cpu) * fields for cpu in range(cpus)]
        mine = [at for at in starts if words[at + layout["owner"][0]] == owner]
        found[index] = tuple(sum(words[at + layout[member][0]] for at in mine) for member in _COUNTS)
    return found
