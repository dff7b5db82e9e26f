# SPDX-License-Identifier: Apache-2.0
"""Which hook a set of ports gets, and why.

XDP wins packets per second between NICs; on anything that hands frames to a local stack or a container tc wins, since a
frame keeps its GSO size and checksum state there. On a veth XDP is three to four times slower for TCP than tc, and
wrong for it while the other end leaves checksums to be filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydp.errors import Unsupported, UsageError
from pydp.kernel import Device, XdpFeature

ASKED = ("auto", "xdp", "xdp-generic", "tc")
# Largest MTU that a veth takes with an XDP program that cannot see frames of several buffers: a page less headroom,
# skb_shared_info and Ethernet header (veth_xdp_set, drivers/net/veth.c).
SINGLE_BUFFER_MTU = 3498
_CHECKSUMS = "sends with checksums to be filled in, which XDP_REDIRECT loses (TCP would break)"
# Generic XDP keeps the checksum state, but frames are segmented only after their checksums are left to the device.
_SEGMENTS = "sends frames longer than the MTU to be cut up later, which XDP_REDIRECT drops (TCP would break)"
_NEEDED = XdpFeature.BASIC | XdpFeature.REDIRECT | XdpFeature.NDO_XMIT


@dataclass(frozen=True, slots=True)
class Choice:
    """A hook, and the reason in words. ``frags``: frames may come in several buffers."""

    hook: str
    why: str
    frags: bool = False


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What would break on a port, and the command that mends it ("" for nothing)."""

    port: str
    what: str
    mend: str = ""


def choose(devices: Sequence[Device], asked: str) -> Choice:
    """The hook for these ports. Raises Unsupported with the commands that mend it if ASKED cannot work, UsageError."""
    if asked not in ASKED:
        raise UsageError(f"--hook {asked}: not one of {', '.join(ASKED)}")
    if asked == "tc":
        return Choice("tc", "asked for")
    if asked == "auto":
        reason = next((why for device in devices if (why := _not_for_xdp(device))), "")
        if reason:
            return Choice("tc", reason)
        return Choice("xdp", "every port is a NIC whose driver does XDP and takes redirected frames", _frags(devices))
    found = [one for device in devices for one in obstacles(device, asked)]
    if found:
        raise Unsupported(
            f"--hook {asked}: " + "; ".join(f"{one.port}: {one.what}" for one in found),
            hint=" && ".join(dict.fromkeys(one.mend for one in found if one.mend)) or "use --hook tc",
        )
    return Choice(asked, "asked for", asked == "xdp" and _frags(devices))


def together(choices: Sequence[tuple[str, Choice]]) -> Choice:
    """The choices of an instance's ports, by their names, as one: XDP if any of them has it, and all reasons."""
    found = [one for _, one in choices]
    hooks = {one.hook for one in found}
    if len(hooks) == 1:
        return Choice(found[0].hook, found[0].why, any(one.frags for one in found))
    words = "; ".join(f"{name} {one.hook}: {one.why}" for name, one in choices)
    return Choice(next(one.hook for one in found if one.hook != "tc"), words, any(one.frags for one in found))


def _frags(devices: Sequence[Device]) -> bool:
    return any(device.link.mtu > SINGLE_BUFFER_MTU for device in devices)


def is_nic(device: Device) -> bool:
    """Hardware, or what a hypervisor shows as hardware: a driver of its own, and no kind of virtual link."""
    return not device.link.kind and not device.link.loopback and bool(device.driver)


def _not_for_xdp(device: Device) -> str:
    """Why a port makes `auto` take tc, or ""."""
    name = device.link.name
    if not is_nic(device):
        return f"{name} is a {device.link.kind or 'virtual device'}: on tc frames keep GSO size and checksum state"
    if device.xdp is None:
        return f"{name}: this kernel does not tell what its driver can do (6.3 and later do)"
    if _NEEDED & ~device.xdp:
        missing = ", ".join(XdpFeature(_NEEDED & ~device.xdp).names())
        return f"{name}: its driver {device.driver} lacks XDP {missing}"
    found = obstacles(device, "xdp")
    return f"{name}: {found[0].what} (to have XDP: {found[0].mend})" if found else ""


def obstacles(device: Device, hook: str) -> list[Obstacle]:
    """What would break in silence if XDP took this port's frames."""
    link = device.link
    if hook == "xdp" and device.xdp is not None and not device.xdp & XdpFeature.BASIC:
        return [Obstacle(link.name, f"its driver {device.driver or link.kind} has no native XDP")]
    found = _veth_obstacles(device, hook) if link.kind == "veth" else []
    if link.kind != "veth" and device.features.rx_vlan:
        what = "it takes VLAN tags out of frames before XDP sees them"
        found.append(Obstacle(link.name, what, f"ethtool -K {link.name} rxvlan off"))
    if hook == "xdp-generic" and device.features.gro:
        what = "it merges frames before generic XDP sees them, and XDP_REDIRECT drops what exceeds the MTU"
        found.append(Obstacle(link.name, what, f"ethtool -K {link.name} gro off"))
    return found


def _veth_obstacles(device: Device, hook: str) -> list[Obstacle]:
    link, peer = device.link, device.peer
    if peer is None:
        return [
            Obstacle(
                link.name, "its other end is in a namespace that cannot be looked into, so its offloads are unknown"
            )
        ]
    inside = f"ip netns exec {peer.namespace} " if peer.namespace else ""
    where = f"its other end {peer.link.name}" + (f" in {peer.namespace}" if peer.namespace else "")
    command = f"{inside}ethtool -K {peer.link.name} "
    found = []
    if peer.features.tx_checksum or peer.features.tx_sctp_checksum:
        found.append((_CHECKSUMS if hook == "xdp" else _SEGMENTS, "tx off"))
    if peer.features.tx_vlan:
        found.append(("sends VLAN tags outside the frame, where XDP does not see them", "txvlan off"))
    deaf = hook == "xdp" and peer.polls and device.xdp is not None and not device.xdp & XdpFeature.NDO_XMIT
    if hook == "xdp" and not peer.polls:
        found.append(("does not poll with NAPI, so that frames redirected to it vanish", "gro on"))
    if deaf:  # veth_set_features() tells the other end only while the device is up
        found.append(("was set to poll while it was down, so that frames redirected to it vanish", "gro on"))
    if not found:
        return []
    again = f"{command}gro off && " if deaf else ""
    return [
        Obstacle(
            link.name,
            f"{where} " + ", and ".join(what for what, _ in found),
            again + command + " ".join(flag for _, flag in found),
        )
    ]


def takes_peer(device: Device, egress_programs: Mapping[int, Sequence[str]]) -> bool:
    """Whether frames for this port may be handed to its other end at once (bpf_redirect_peer).

    That needs a veth whose peer is in another namespace (the kernel drops otherwise), and skips what lies on the port's
    way out: so nothing may lie there, no queueing discipline, no egress program; nor may a native XDP program
    wait in the peer's driver.
    """
    peer = device.peer
    return (
        device.link.kind == "veth"
        and peer is not None
        and device.link.peer is not None
        and device.link.peer.netnsid is not None
        and device.link.qdisc in ("", "noqueue")
        and not egress_programs.get(device.link.ifindex)
        and (peer.link.xdp is None or peer.link.xdp.mode != "native")
    )
