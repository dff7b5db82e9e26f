# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state, read by netlink into frozen records: `View`, and what is needed to choose a hook; routes,
addresses and devices that are made and taken away again.

Everything reads the network namespace of the calling thread. pyroute2 takes a quarter of a second to import and is
imported when a View or XDP features are read. Errors are those of pydp.errors where a user can do something, OSError
elsewhere.
"""

from ebpf.filters import Filter, read_filters
from pydp.kernel.addresses import add_address, read_addresses, remove_address
from pydp.kernel.defaults import read_defaults
from pydp.kernel.device import Device, PeerDevice, read_device, read_devices
from pydp.kernel.ethtool import Features
from pydp.kernel.fdb import read_fdb, read_vxlan_fdb
from pydp.kernel.host import has_tcx, is_bpffs, kernel_version
from pydp.kernel.made import make_vxlan, remove_made
from pydp.kernel.namespace import Namespace, find_namespaces, inside, namespace_cookie
from pydp.kernel.netfilter import Ruleset, bridge_netfilter_active, read_ruleset
from pydp.kernel.routes import add_routes, join, leave, next_hop, read_routes, remove_routes, resolved
from pydp.kernel.view import View
from pydp.kernel.xdpfeatures import XdpFeature, read_xdp_features

__all__ = [
    "Device",
    "Features",
    "Filter",
    "Namespace",
    "PeerDevice",
    "Ruleset",
    "View",
    "XdpFeature",
    "add_address",
    "add_routes",
    "bridge_netfilter_active",
    "find_namespaces",
    "has_tcx",
    "inside",
    "is_bpffs",
    "join",
    "kernel_version",
    "leave",
    "make_vxlan",
    "namespace_cookie",
    "next_hop",
    "read_addresses",
    "read_defaults",
    "read_device",
    "read_devices",
    "read_fdb",
    "read_filters",
    "read_routes",
    "read_ruleset",
    "read_vxlan_fdb",
    "read_xdp_features",
    "remove_address",
    "remove_made",
    "remove_routes",
    "resolved",
]
