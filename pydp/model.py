# SPDX-License-Identifier: Apache-2.0
"""The network as pydp speaks of it: frozen records, without sockets and without eBPF.

Hardware addresses are 6 bytes (empty where a device has none), times are seconds, interface indices are the kernel's
and hold in one network namespace. 0 stands for "none" where an index is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


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
    promiscuous mode.
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
