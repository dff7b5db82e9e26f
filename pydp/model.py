# SPDX-License-Identifier: Apache-2.0
"""The network as pydp speaks of it: frozen records, without sockets and without eBPF.

Hardware addresses are 6 bytes (empty where a device has none), times are seconds, interface indices are the kernel's
and hold in one network namespace. 0 stands for "none" where an index is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple


class XdpMode(StrEnum):
    """Where an XDP program runs: in the driver, after the driver on an skb, or on the card."""

    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


@dataclass(frozen=True, slots=True)
class XdpState:
    """The XDP program of a device. Where a device runs several (native and offload), the one nearest to native."""

    prog_id: int
    mode: XdpMode


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a veth: its index in its own namespace, and that namespace's id (None: the same namespace)."""

    ifindex: int
    netnsid: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One network device.

    ``kind`` is the kernel's link kind (veth, tun, bridge, vxlan, ...), "" for a device that has none: hardware,
    loopback. ``mtu`` counts bytes above the Ethernet header; ``max_mtu`` 0 means that the driver names no limit.
    ``qdisc`` is the root queueing discipline ("noqueue", "fq_codel"). ``promiscuity`` counts how many users want
    promiscuous mode. ``alias`` is free text (`ip link set alias`).
    """

    ifindex: int
    name: str
    kind: str = ""
    mac: bytes = b""
    mtu: int = 0
    max_mtu: int = 0
    up: bool = False
    carrier: bool = False
    loopback: bool = False
    master: int = 0
    xdp: XdpState | None = None
    peer: Peer | None = None
    num_tx_queues: int = 1
    num_rx_queues: int = 1
    promiscuity: int = 0
    qdisc: str = ""
    alias: str = ""


class PortState(IntEnum):
    """State of a bridge port (BR_STATE_*): learning ports learn but do not forward, blocking ones do neither."""

    DISABLED = 0
    LISTENING = 1
    LEARNING = 2
    FORWARDING = 3
    BLOCKING = 4


@dataclass(frozen=True, slots=True)
class Vlan:
    """Membership of a port (or of the bridge itself) in a VLAN; ``untagged``: frames leave without the tag."""

    vid: int
    untagged: bool = False


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port of a kernel bridge; the flags are those of `bridge -d link`, the defaults those of the kernel.

    ``guard`` drops BPDUs and disables the port, ``root_block`` refuses a root behind it; ``backup_port`` is the index
    that takes the traffic when carrier goes. ``pvid`` None: untagged frames are not admitted (where the bridge filters
    VLANs at all).
    """

    ifindex: int
    bridge: int
    state: PortState = PortState.DISABLED
    hairpin: bool = False
    isolated: bool = False
    learning: bool = True
    flood: bool = True
    mcast_flood: bool = True
    bcast_flood: bool = True
    mcast_to_unicast: bool = False
    locked: bool = False
    mab: bool = False
    neigh_suppress: bool = False
    proxy_arp: bool = False
    vlan_tunnel: bool = False
    guard: bool = False
    root_block: bool = False
    group_fwd_mask: int = 0
    backup_port: int = 0
    pvid: int | None = None
    vlans: tuple[Vlan, ...] = ()


@dataclass(frozen=True, slots=True)
class NfCall:
    """Whether bridged frames are shown to the netfilter hooks of IPv4, IPv6 and ARP (module br_netfilter)."""

    iptables: bool = False
    ip6tables: bool = False
    arptables: bool = False

    def __or__(self, other: NfCall) -> NfCall:
        return NfCall(
            self.iptables or other.iptables, self.ip6tables or other.ip6tables, self.arptables or other.arptables
        )


@dataclass(frozen=True, slots=True)
class Bridge:
    """A kernel bridge with its ports in order of index.

    ``ageing`` is in seconds; ``vlan_protocol`` is an ethertype; ``default_pvid`` 0 means none; ``group_fwd_mask`` has
    bit N set where 01:80:c2:00:00:0N is forwarded; ``nf_call`` holds the bridge's own attributes (the sysctls are on
    the View). ``pvid`` and ``vlans`` are those of the bridge device itself.
    """

    ifindex: int
    name: str
    mac: bytes = b""
    vlan_filtering: bool = False
    vlan_protocol: int = 0x8100
    default_pvid: int = 0
    ageing: float = 300.0
    stp: bool = False
    mcast_snooping: bool = False
    group_fwd_mask: int = 0
    nf_call: NfCall = NfCall()
    pvid: int | None = None
    vlans: tuple[Vlan, ...] = ()
    ports: tuple[BridgePort, ...] = ()


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """An entry of a kernel bridge's FDB.

    ``ifindex`` is the port, or the bridge itself for its own addresses. ``local``: an address of this host
    (`permanent` in `bridge fdb`). ``static``: set by an administrator, neither ages nor moves. ``extern_learn``: owned
    by another program. ``updated``: seconds since a frame from this address last came in; ``used``: since one last
    went to it or came from it.
    """

    mac: bytes
    vid: int
    ifindex: int
    bridge: int
    local: bool = False
    static: bool = False
    extern_learn: bool = False
    sticky: bool = False
    updated: float = 0.0
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A vxlan device of the kernel, with the options of `ip link add type vxlan`.

    Addresses are text, "" where there is none: ``remote`` is the unicast VTEP of frames without an FDB entry, ``group``
    the multicast group in its place. ``lower`` is the device it is bound to. ``port_range`` (low, high) of source
    ports, (0, 0) for the kernel's default. ``ttl`` 0 lets the kernel choose unless ``ttl_inherit``; ``tos`` 1 inherits.
    ``df`` is "unset", "set" or "inherit". ``ageing`` is in seconds, ``limit`` 0 means no limit of FDB entries.
    ``udp_csum`` is for sending over IPv4, ``udp6_zero_*`` send and take checksum 0 over IPv6. ``external``: no VNI of
    its own, tunnel metadata decides, so that ``vni`` is 0. ``label`` is the IPv6 flow label. ``remcsum``: remote
    checksum offload in either direction.
    """

    ifindex: int
    name: str
    vni: int = 0
    lower: int = 0
    local: str = ""
    remote: str = ""
    group: str = ""
    port: int = 8472
    port_range: tuple[int, int] = (0, 0)
    ttl: int = 0
    ttl_inherit: bool = False
    tos: int = 0
    df: str = "unset"
    label: int = 0
    learning: bool = True
    ageing: float = 300.0
    limit: int = 0
    udp_csum: bool = True
    udp6_zero_tx: bool = False
    udp6_zero_rx: bool = False
    remcsum: bool = False
    proxy: bool = False
    rsc: bool = False
    l2miss: bool = False
    l3miss: bool = False
    external: bool = False
    gbp: bool = False
    gpe: bool = False
    vnifilter: bool = False
    localbypass: bool = True
    master: int = 0
    mtu: int = 0
    up: bool = False
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An IP tunnel device of the kernel: ``kind`` is ipip, sit, gre, gretap, ip6tnl, ip6gre or ip6gretap.

    Addresses are text, "" for any. ``protocol`` is the IP protocol number that it carries, 0 for all its kind can (gre
    has none). ``ttl`` 0 inherits; ``tos`` 1 inherits, over IPv6 it is the traffic class. Keys are None where there is
    none. ``checksum`` and ``sequence`` are those of GRE, in either direction. ``external``: metadata decides about
    addresses. ``encap``: wrapped in UDP (fou, gue). ``encap_limit``: IPv6 only, None where no such option is sent.
    """

    ifindex: int
    name: str
    kind: str
    local: str = ""
    remote: str = ""
    protocol: int = 0
    ttl: int = 0
    tos: int = 0
    pmtudisc: bool = True
    ignore_df: bool = False
    key_in: int | None = None
    key_out: int | None = None
    checksum: bool = False
    sequence: bool = False
    encap_limit: int | None = None
    external: bool = False
    encap: bool = False
    lower: int = 0
    mtu: int = 0
    up: bool = False


@dataclass(frozen=True, slots=True)
class VxlanFdbEntry:
    """One destination of a MAC address in the FDB of a vxlan device; an address may have several.

    Those of the address 00:00:00:00:00:00 are where frames go that no entry is for. ``dst`` is the VTEP as text, ""
    where a nexthop group ``nhid`` stands in its place. ``vni``, ``port`` and ``lower`` are 0 where those of the device
    hold; ``src_vni`` is the segment of the entry on an external device. ``permanent`` and ``static`` entries do not age
    and neither do those of another program (``extern_learn``). ``updated``: seconds since the entry was last written,
    ``used``: since a frame last went to it or came from it.
    """

    mac: bytes
    ifindex: int
    dst: str = ""
    vni: int = 0
    port: int = 0
    lower: int = 0
    src_vni: int = 0
    nhid: int = 0
    permanent: bool = False
    static: bool = False
    extern_learn: bool = False
    updated: float = 0.0
    used: float = 0.0


ROUTE_PROTOCOL = 219  # of the routes that pydp makes: none of those in linux/rtnetlink.h (`ip route show proto 219`)
MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route with one next hop.

    ``prefix`` is text such as "1.2.4.0/24", ``dev`` an ifindex, ``via`` the gateway ("" for none; it may be of the
    other family), ``src`` the preferred source address, ``mtu`` 0 for none. ``onlink``: the gateway counts as a
    neighbour though no route says so. ``metric`` 0 is the kernel's default, which for IPv6 is 1024.
    """

    prefix: str
    dev: int
    via: str = ""
    src: str = ""
    mtu: int = 0
    onlink: bool = False
    metric: int = 0
    table: int = MAIN_TABLE
    protocol: int = ROUTE_PROTOCOL


class NextHop(NamedTuple):
    """Where a packet of this host goes: the device, the gateway ("" for a neighbour), the source address ("" for
    none).
    """

    ifindex: int
    via: str
    src: str


@dataclass(frozen=True, slots=True)
class Group:
    """Membership of a device in a multicast group: its ifindex and the address as text."""

    dev: int
    address: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the system has where nothing else is said: net.ipv4.ip_default_ttl, net.ipv6.conf.all.hop_limit,
    net.ipv4.ip_local_port_range, the names of the devices that take packets only from where they would send to
    (rp_filter), and for how many CPUs the machine has room.
    """

    ttl: int = 64
    hop_limit: int = 64
    port_range: tuple[int, int] = (32768, 60999)
    strict: frozenset[str] = frozenset()
    cpus: int = 1
