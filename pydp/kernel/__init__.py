# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state, read by netlink into frozen records: `View`, and what is needed to choose a hook.

Everything reads the network namespace of the calling thread. pyroute2 takes a quarter of a second to import and is
imported when a View or XDP features are read. Errors are those of pydp.errors where a user can do something, OSError
elsewhere.
"""

from ebpf.filters import Filter, read_filters
from pydp.kernel.device import Device, PeerDevice, read_device, read_devices
from pydp.kernel.ethtool import Features
from pydp.kernel.fdb import read_fdb
from pydp.kernel.host import has_tcx, is_bpffs, kernel_version
from pydp.kernel.namespace import Namespace, find_namespaces, inside, namespace_cookie
from pydp.kernel.netfilter import Ruleset, bridge_netfilter_active, read_ruleset
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
    "bridge_netfilter_active",
    "find_namespaces",
    "has_tcx",
    "inside",
    "is_bpffs",
    "kernel_version",
    "namespace_cookie",
    "read_device",
    "read_devices",
    "read_fdb",
    "read_filters",
    "read_ruleset",
    "read_xdp_features",
]
