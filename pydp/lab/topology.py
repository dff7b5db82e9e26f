# SPDX-License-Identifier: Apache-2.0
"""veth pairs, and segments: a switch namespace with the ports of n containers, bridged by the kernel or not."""

from __future__ import annotations

import contextlib
import errno
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.offload import set_offloads

GROUP = 0x7064  # link group of ports and bridges: one request takes them all down
_OPER_UP = "UP"
_FORWARDING = 3
# A veth whose peer has the same index in its own namespace looks to the kernel like a device without a lower one, and
# its carrier is then reported up to a second late (linkwatch_urgent_event). Indices of our own choice, far from those
# of new namespaces, avoid it.
_index = itertools.count(1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a veth pair: ``addresses`` like 10.0.0.1/24, ``offloads`` for `set_offloads`, ``master`` an index."""

    ns: Namespace
    name: str
    mac: str = ""
    mtu: int = 1500
    addresses: tuple[str, ...] = ()
    offloads: Mapping[str, bool] = field(default_factory=dict)
    up: bool = True
    master: int = 0


class Veth:
    """A veth pair for the length of a ``with`` block, which starts when a pair with both ends up has its carrier."""

    def __init__(self, a: End, b: End) -> None:
        self.a = a
        self.b = b
        self._index = 0

    def __enter__(self) -> Self:
        try:
            self._index = create_veth(self.a, self.b)
            if self.a.up and self.b.up:
                wait_up(self.a.ns.ipr(), [self._index])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the pair; fine when a test or the end of a namespace did so before."""
        if self._index:
            delete_links(self.a.ns, index=self._index)
            self._index = 0


@dataclass(frozen=True, slots=True)
class Container:
    """A namespace with one device, ``eth0``, whose other end is the port ``port`` of the switch namespace."""

    number: int
    ns: Namespace
    dev: str
    mac: str
    mtu: int
    address4: str
    address6: str  # empty without IPv6
    port: str
    port_index: int


class Segment:
    """A switch namespace ``sw`` with ports p0 .. p<n-1>, each the other end of eth0 in a container of its own.

    With ``kernel_bridge`` the ports belong to the bridge br0 (STP off, no forward delay, ``ageing`` seconds,
    multicast snooping only when asked, ``bridge_options`` by pyroute2's names such as ``br_group_fwd_mask``); without
    it they are left loose. Container i has the address 10.0.0.0/16 + i + 1 (and fd00::/64 + i + 1 with ``ipv6``) and
    the MAC 02:00:00:00:hh:ll of i + 1 or ``macs[i]``: the same in every segment, so that two segments see the same
    frames. ``mtu`` is one number or one per container; ``offloads`` are those of eth0, ``port_offloads`` those of the
    ports. ``bridge_netfilter`` as in Namespace.
    """

    def __init__(
        self,
        n: int,
        *,
        prefix: str = "pydp",
        mtu: int | Sequence[int] = 1500,
        kernel_bridge: bool = False,
        ipv6: bool = False,
        macs: Sequence[str] | None = None,
        ageing: float = 300,
        snooping: bool = False,
        bridge_options: Mapping[str, int] | None = None,
        offloads: Mapping[str, bool] | None = None,
        port_offloads: Mapping[str, bool] | None = None,
        bridge_netfilter: bool = False,
    ) -> None:
        if not 1 <= n <= 256:
            raise LabError(f"a segment has 1 to 256 ports, not {n}")
        self.n = n
        self.bridge = "br0" if kernel_bridge else ""
        self.bridge_index = 0
        self.containers: tuple[Container, ...] = ()
        self.sw = Namespace(prefix, label="-sw", bridge_netfilter=bridge_netfilter)
        self._namespaces = [Namespace(prefix, label=f"-c{i}", ipv6=ipv6) for i in range(n)]
        self._mtus = [mtu] * n if isinstance(mtu, int) else list(mtu)
        self._macs = [make_mac(0, i) for i in range(n)] if macs is None else list(macs)
        if len(self._mtus) != n or len(self._macs) != n:
            raise LabError(f"{n} ports need as many macs and mtus")
        self._ipv6 = ipv6
        self._options = {
            "br_stp_state": 0,
            "br_forward_delay": 0,
            "br_ageing_time": round(ageing * 100),
            "br_mcast_snooping": int(snooping),
            **(bridge_options or {}),
        }
        self._offloads = offloads or {}
        self._port_offloads = port_offloads or {}
        self._stack = contextlib.ExitStack()

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the ports, in order."""
        return tuple(f"p{i}" for i in range(self.n))

    def __getitem__(self, number: int) -> Container:
        return self.containers[number]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for ns in (self.sw, *self._namespaces):
                stack.enter_context(ns)
            stack.callback(
                delete_links, self.sw, group=GROUP
            )  # before the namespaces, which the kernel takes down in its own time
            if self.bridge:
                self._make_bridge()
            self.containers = tuple(self._make_container(i, ns) for i, ns in enumerate(self._namespaces))
            wait_up(self.sw.ipr(), [c.port_index for c in self.containers], forwarding=bool(self.bridge))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_bridge(self) -> None:
        self.bridge_index = next(_index)
        own = {
            "ifname": self.bridge,
            "index": self.bridge_index,
            "group": GROUP,
            "address": make_mac(2, 0),
            "state": "up",
        }
        self.sw.ipr().link("add", kind="bridge", **own, **self._options)

    def _make_container(self, i: int, ns: Namespace) -> Container:
        address4 = f"10.0.{(i + 1) >> 8}.{(i + 1) & 255}"
        address6 = f"fd00::{i + 1:x}" if self._ipv6 else ""
        addresses = (f"{address4}/16", f"{address6}/64") if self._ipv6 else (f"{address4}/16",)
        mac, mtu, port = self._macs[i], self._mtus[i], f"p{i}"
        inner = End(ns=ns, name="eth0", mac=mac, mtu=mtu, addresses=addresses, offloads=self._offloads)
        outer = End(
            ns=self.sw, name=port, mac=make_mac(1, i), mtu=mtu, offloads=self._port_offloads, master=self.bridge_index
        )
        index = create_veth(outer, inner, group=GROUP)
        return Container(i, ns, inner.name, mac, mtu, address4, address6, port, index)


def create_veth(a: End, b: End, *, group: int = 0) -> int:
    """Create a pair in one request, each end born in its namespace, and return the index of ``a``.

    Raises pyroute2's NetlinkError (a name taken, an MTU the driver refuses) and LabError for offloads; nothing stays
    in that case.
    """
    index = next(_index)
    peer: dict[str, Any] = {"ifname": b.name, "mtu": b.mtu, "net_ns_fd": b.ns.path}
    if b.mac:
        peer["address"] = b.mac
    own: dict[str, Any] = {"ifname": a.name, "mtu": a.mtu, "index": index, "group": group}
    if a.mac:
        own["address"] = a.mac
    a.ns.ipr().link("add", kind="veth", **own, peer=peer)
    try:
        with b.ns.netlink() as ipr:
            _configure(ipr, b, b.ns.ifindex(b.name))
        _configure(a.ns.ipr(), a, index)
    except BaseException:
        delete_links(a.ns, index=index)
        raise
    return index


def wait_up(ipr: Any, indices: Iterable[int], *, forwarding: bool = False, timeout: float = 5) -> None:
    """Wait until the devices are operationally up and, if asked, forwarding as ports of a bridge.

    LabError after ``timeout`` seconds.
    A bridge ignores a port until the carrier has been reported to it, which a kernel worker does after the change.
    """
    waiting = set(indices)
    deadline = time.monotonic() + timeout
    while True:
        waiting -= {link["index"] for link in ipr.link("dump") if link["index"] in waiting and _ready(link, forwarding)}
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise LabError(f"devices with index {sorted(waiting)} are not up after {timeout} s")
        time.sleep(0.005)


def poll(what: str, condition: Callable[[], bool], *, timeout: float = 5, interval: float = 0.005) -> None:
    """Wait for a condition; LabError naming ``what`` when it does not hold after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not so after {timeout} s")
        time.sleep(interval)


def make_mac(kind: int, i: int) -> str:
    """Locally administered, the same for the i-th container (kind 0), port (1) or bridge (2) of every segment.

    `pydp.lab.nodes` has kinds of its own.
    """
    return f"02:00:00:{kind:02x}:{(i + 1) >> 8:02x}:{(i + 1) & 255:02x}"


def _ready(link: Any, forwarding: bool) -> bool:
    if link.get("operstate") != _OPER_UP:
        return False
    return not forwarding or link.get(("linkinfo", "slave_data", "IFLA_BRPORT_STATE")) == _FORWARDING


def _configure(ipr: Any, end: End, index: int) -> None:
    set_offloads(end.ns, end.name, end.offloads)
    for address in end.addresses:
        value, _, length = address.partition("/")
        ipr.addr("add", index=index, address=value, prefixlen=int(length))
    if end.up or end.master:
        change: dict[str, Any] = {"master": end.master} if end.master else {}
        if end.up:
            change["state"] = "up"
        ipr.link("set", index=index, **change)


def delete_links(ns: Namespace, **which: int) -> None:
    """Delete links, by ``index`` or ``group``, and not mind when they are gone."""
    from pyroute2 import NetlinkError

    try:
        ns.ipr().link("del", **which)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
