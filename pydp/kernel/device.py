# SPDX-License-Identifier: Apache-2.0
"""What must be known of a device to choose a hook for it: driver, offloads, XDP features, and the same of a veth's
other end.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydp.errors import NoSuchLink, PydpError
from pydp.kernel.ethtool import Features, read_driver, read_features
from pydp.kernel.namespace import find_namespaces, inside
from pydp.kernel.view import View
from pydp.kernel.xdpfeatures import XdpFeature, read_xdp_features
from pydp.model import Link


@dataclass(frozen=True, slots=True)
class PeerDevice:
    """The other end of a veth. ``namespace`` is for people: "c1" of `ip netns`, "pid 123", "" for the device's own."""

    namespace: str
    link: Link
    features: Features

    @property
    def polls(self) -> bool:
        """Whether this end receives with NAPI: only then does it accept frames that XDP redirects to its peer (else
        they vanish silently). An XDP program of its own in the driver or GRO makes it do so.
        """
        return self.features.gro or (self.link.xdp is not None and self.link.xdp.mode == "native")


@dataclass(frozen=True, slots=True)
class Device:
    """A device with its facts. ``xdp`` is None where the kernel does not tell; ``peer`` where there is none or it was
    not found.
    """

    link: Link
    driver: str
    features: Features
    xdp: XdpFeature | None
    peer: PeerDevice | None = None


def read_devices(view: View, ifindexes: Iterable[int]) -> Mapping[int, Device]:
    """Facts of these devices of the current namespace, by ifindex.

    Every foreign namespace is entered once, in a thread, however many peers it has. A peer whose namespace has neither
    a mount nor a process in sight, or may not be entered, is None. Raises NoSuchLink for a device that is not in the
    view or vanishes meanwhile.
    """
    xdp = read_xdp_features()
    links = [_link(view, ifindex) for ifindex in ifindexes]
    peers = _read_peers(view, links)
    return {link.ifindex: _device(link, xdp, peers.get(link.ifindex)) for link in links}


def read_device(view: View, ifindex: int) -> Device:
    """Facts of one device; see `read_devices`."""
    return read_devices(view, [ifindex])[ifindex]


def _link(view: View, ifindex: int) -> Link:
    if ifindex not in view.links:
        raise NoSuchLink(f"with index {ifindex}")
    return view.links[ifindex]


def _device(link: Link, xdp: Mapping[int, XdpFeature] | None, peer: PeerDevice | None) -> Device:
    try:
        features = read_features(link.name)
        driver = read_driver(link.name)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise NoSuchLink(link.name) from error
        raise PydpError(f"{link.name}: cannot read its driver: {os.strerror(error.errno or 0)}") from error
    return Device(link, driver, features, xdp.get(link.ifindex, XdpFeature(0)) if xdp is not None else None, peer)


def _read_peers(view: View, links: list[Link]) -> dict[int, PeerDevice]:
    """The peers of these links by the links' ifindex."""
    here: dict[int, Link] = {}
    away: defaultdict[int, dict[int, int]] = defaultdict(dict)  # nsid -> {link: index of its peer there}
    for link in links:
        if link.peer and link.peer.netnsid is not None:
            away[link.peer.netnsid][link.ifindex] = link.peer.ifindex
        elif link.peer and link.peer.ifindex in view.links:
            here[link.ifindex] = view.links[link.peer.ifindex]
    found = _peers_of("", view, {ifindex: peer.ifindex for ifindex, peer in here.items()})
    namespaces = find_namespaces() if away else {}
    for nsid, wanted in away.items():
        if namespace := namespaces.get(nsid):
            found |= _peers_inside(namespace.path, namespace.name, wanted)
    return found


def _peers_inside(path: str, name: str, wanted: dict[int, int]) -> dict[int, PeerDevice]:
    try:
        return inside(path, lambda: _peers_of(name, View.read(), wanted))
    except (OSError, PydpError):  # gone, or not ours to enter: then nothing is known of these peers
        return {}


def _peers_of(namespace: str, view: View, wanted: dict[int, int]) -> dict[int, PeerDevice]:
    """Runs in the peers' namespace, of which ``view`` is the picture."""
    found = {}
    for ifindex, peer in wanted.items():
        link = view.links.get(peer)
        if link is None:
            continue
        try:
            found[ifindex] = PeerDevice(namespace, link, read_features(link.name))
        except OSError:  # it vanished
            continue
    return found
