# SPDX-License-Identifier: Apache-2.0
"""Whether netfilter has a say in what a bridge forwards: rulesets made by nft, iptables (both kinds) and ebtables."""

from __future__ import annotations

import ctypes
import struct

import pytest

from pydp.errors import NotAllowed
from pydp.kernel import (
    View,
    bridge_netfilter_active,
    read_ruleset,
)
from pydp.lab import Namespace


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


NFT_FORWARD = "nft add table {0} t; nft add chain {0} t c '{{ type filter hook forward priority 0; policy {1}; }}'"
NETDEV = (
    "nft add table netdev t;"
    "nft add chain netdev t c '{{ type filter hook ingress device {0} priority 0; policy drop; }}'"
)


class TestNetfilter:
    @pytest.mark.parametrize(
        ("setup", "reason"),
        [
            ("true", None),
            ("iptables -L; iptables-legacy -L; iptables-legacy -t nat -L; ebtables -L", None),
            (NFT_FORWARD.format("inet", "accept"), None),
            (NFT_FORWARD.format("inet", "drop"), "inet t c (policy drop)"),
            (NFT_FORWARD.format("bridge", "accept"), None),
            (NFT_FORWARD.format("bridge", "accept") + "; nft add rule bridge t c counter", "bridge t c (1 rule)"),
            (
                NFT_FORWARD.format("ip6", "accept") + "; nft add rule ip6 t c counter; nft add rule ip6 t c drop",
                "c (2 rules)",
            ),
            ("nft add table ip t; nft add chain ip t unused; nft add rule ip t unused drop", None),
            (NETDEV.format("v1"), "netdev t c"),
            (NETDEV.format("w1"), None),
            ("iptables -A FORWARD -j ACCEPT", "ip filter FORWARD (1 rule)"),
            ("iptables -A INPUT -j DROP", None),
            ("iptables -t nat -A POSTROUTING -j MASQUERADE", "ip nat POSTROUTING"),
            ("ebtables -A FORWARD -j DROP", "bridge filter FORWARD"),
            ("iptables-legacy -A FORWARD -j ACCEPT", "iptables-legacy table filter"),
            ("iptables-legacy -P FORWARD DROP", "iptables-legacy table filter"),
            ("iptables-legacy -A INPUT -j DROP", None),
            ("ip6tables-legacy -t mangle -A PREROUTING -j ACCEPT", "ip6tables-legacy table mangle"),
            ("ip6tables-legacy -P FORWARD DROP", "ip6tables-legacy table filter"),
        ],
    )
    def test_reason(self, bridged: Namespace, setup: str, reason: str | None) -> None:
        """Bridged IPv4 and IPv6 frames are shown to netfilter by the bridge's own attributes."""
        shell(bridged, "ip link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 1")
        shell(bridged, setup)
        view = bridged.call(View.read)
        found = bridged.call(bridge_netfilter_active, view, view.bridge("br0"))
        if reason is None:
            assert found is None
        else:
            assert found is not None
            assert reason in found

    def test_without_br_netfilter_only_the_bridge_family_counts(self, bridged: Namespace) -> None:
        shell(bridged, "iptables -A FORWARD -j DROP; iptables-legacy -A FORWARD -j DROP")
        view = bridged.call(View.read)
        assert bridged.call(bridge_netfilter_active, view, view.bridge("br0")) is None
        assert bridged.call(read_ruleset).legacy != ()
        shell(bridged, "ebtables -A FORWARD -j DROP")
        assert "bridge filter" in (bridged.call(bridge_netfilter_active, view, view.bridge("br0")) or "")

    def test_without_rights(self, bridged: Namespace) -> None:
        def drop_and_read() -> None:
            libc = ctypes.CDLL(None, use_errno=True)  # capabilities belong to the thread: only this one loses them
            header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
            assert libc.capset(header, none) == 0
            read_ruleset()

        with pytest.raises(NotAllowed, match="CAP_NET_ADMIN"):
            bridged.call(drop_and_read)
