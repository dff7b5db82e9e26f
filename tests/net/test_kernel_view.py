# SPDX-License-Identifier: Apache-2.0
"""pydp.kernel against the kernel, with iproute2, ethtool and nft as second opinion."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydp.errors import NoSuchLink
from pydp.kernel import (
    View,
    read_fdb,
)
from pydp.lab import Namespace
from pydp.model import FdbEntry, XdpMode

XDP = 6  # BPF_PROG_TYPE_XDP
Make = Callable[..., Namespace]
Load = Callable[[int], tuple[int, int]]


def set_xdp(ipr: Any, ifindex: int, fd: int, flags: int) -> None:
    ipr.link("set", index=ifindex, xdp={"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]})


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


def shown(ns: Namespace, command: str) -> Any:
    return json.loads(shell(ns, command))


def mac(entry: bytes) -> str:
    return entry.hex(":")


class TestLinks:
    def test_same_as_ip_link(self, bridged: Namespace) -> None:
        shell(
            bridged,
            "ip tuntap add t0 mode tap; ip link add vx0 type vxlan id 7 dstport 4789; ip link set w1 mtu 1400 down",
        )
        shell(bridged, "ip link add link w2 name m0 type macvlan")
        wanted = shown(bridged, "ip -d -j link")
        view = bridged.call(View.read)
        assert len(view.links) == len(wanted) == 11
        for other in wanted:
            link = view.links[other["ifindex"]]
            assert link.name == other["ifname"]
            assert link.kind == other.get("linkinfo", {}).get("info_kind", "")
            assert mac(link.mac) == other["address"]
            assert (link.mtu, link.max_mtu) == (other["mtu"], other["max_mtu"])
            assert link.up == ("UP" in other["flags"])
            assert link.loopback == ("LOOPBACK" in other["flags"])
            assert (view.name(link.master) if link.master else None) == other.get("master")
            assert (link.num_tx_queues, link.num_rx_queues) == (other["num_tx_queues"], other["num_rx_queues"])
            assert link.promiscuity == other["promiscuity"]
            assert link.qdisc == other["qdisc"]
            assert (view.name(link.peer.ifindex) if link.peer else None) == (
                other["link"] if link.kind == "veth" else None
            )
        assert view.link("v0").carrier
        assert not view.link("v1").carrier

    def test_peer_in_another_namespace(self, namespace: Make) -> None:
        ns, container = namespace(), namespace()
        shell(ns, f"ip link add v0 type veth peer name eth0 netns {container.name}")
        peer = ns.call(View.read).link("v0").peer
        assert peer is not None
        assert peer.netnsid is not None
        assert peer.ifindex == container.ifindex("eth0")

    @pytest.mark.parametrize(("flags", "mode"), [(1 << 2, XdpMode.NATIVE), (1 << 1, XdpMode.GENERIC)])
    def test_xdp_program(self, bridged: Namespace, program: Load, flags: int, mode: XdpMode) -> None:
        fd, prog_id = program(XDP)
        with bridged.netlink() as ipr:
            index = bridged.ifindex("w0")
            set_xdp(ipr, index, fd, flags)
            xdp = bridged.call(View.read).links[index].xdp
            set_xdp(ipr, index, -1, flags)
        assert xdp is not None
        assert (xdp.prog_id, xdp.mode) == (prog_id, mode)
        assert bridged.call(View.read).links[index].xdp is None

    def test_unknown_interface(self, bridged: Namespace) -> None:
        with pytest.raises(NoSuchLink, match="no interface v9"):
            bridged.call(View.read).link("v9")


class TestBridges:
    @pytest.mark.parametrize(
        ("option", "field"),
        [
            ("hairpin", "hairpin"),
            ("isolated", "isolated"),
            ("learning", "learning"),
            ("flood", "flood"),
            ("mcast_flood", "mcast_flood"),
            ("bcast_flood", "bcast_flood"),
            ("mcast_to_unicast", "mcast_to_unicast"),
            ("locked", "locked"),
            ("neigh_suppress", "neigh_suppress"),
            ("vlan_tunnel", "vlan_tunnel"),
            ("guard", "guard"),
            ("root_block", "root_block"),
        ],
    )
    def test_port_flags(self, bridged: Namespace, option: str, field: str) -> None:
        before = bridged.call(View.read).bridge("br0").ports[1]
        shell(bridged, f"bridge link set dev v1 {option} {'off' if getattr(before, field) else 'on'}")
        first, second, third = bridged.call(View.read).bridge("br0").ports
        assert getattr(second, field) is not getattr(before, field)
        assert getattr(first, field) is getattr(third, field)

    def test_port_states(self, bridged: Namespace) -> None:
        shell(bridged, "bridge link set dev v1 state 4; ip link set v2 down; ip link set v0 nomaster")
        shell(bridged, "ip link set br0 type bridge stp_state 1; ip link set v0 master br0")
        states = {link["ifname"]: link["state"] for link in shown(bridged, "bridge -j link")}
        view = bridged.call(View.read)
        assert {view.name(port.ifindex): port.state.name.lower() for port in view.bridge("br0").ports} == states
        assert len(set(states.values())) == 3  # listening, blocking, disabled

    def test_options(self, bridged: Namespace) -> None:
        shell(
            bridged, "ip link set br0 type bridge ageing_time 4300 stp_state 1 mcast_snooping 0 group_fwd_mask 0x4008"
        )
        shell(bridged, "ip link set br0 type bridge nf_call_ip6tables 1; bridge link set dev v2 backup_port v0")
        view = bridged.call(View.read)
        br0 = view.bridge("br0")
        assert (br0.ageing, br0.stp, br0.mcast_snooping, br0.group_fwd_mask) == (43.0, True, False, 0x4008)
        assert (br0.nf_call.iptables, br0.nf_call.ip6tables, br0.nf_call.arptables) == (False, True, False)
        assert br0.ports[2].backup_port == bridged.ifindex("v0")
        assert br0.mac == view.link("br0").mac

    def test_sysctls(self, bridged: Namespace) -> None:
        if not Path("/proc/sys/net/bridge").exists():
            pytest.skip("this kernel has no br_netfilter")
        for name in ("iptables", "ip6tables", "arptables"):
            for other in ("iptables", "ip6tables", "arptables"):
                bridged.sysctl(f"bridge.bridge-nf-call-{other}", int(other == name))
            found = bridged.call(View.read).nf_call
            assert [field for field in ("iptables", "ip6tables", "arptables") if getattr(found, field)] == [name]

    def test_two_hundred_and_fifty_six_ports(self, namespace: Make) -> None:
        ns = namespace()
        pairs = "".join(f"link add v{i} type veth peer name w{i}\nlink set v{i} master br0\n" for i in range(256))
        ns.run(["ip", "-batch", "-"], stdin=f"link add br0 type bridge\n{pairs}")
        view = ns.call(View.read)
        assert [view.name(port.ifindex) for port in view.bridge("br0").ports] == [f"v{i}" for i in range(256)]


class TestFollowing:
    """The events of a change, applied to the View before it, give the View after it."""

    CHANGES = (
        "ip link add v7 type veth peer name w7; ip link set v7 master br0 up; ip link set w7 up",
        "bridge link set dev v0 isolated on; bridge link set dev v1 learning off",
        "ip link set v0 nomaster",
        "ip link add br1 type bridge; ip link set v0 nomaster; ip link set v0 master br1",
        "ip link del v2",
        "ip link del br0",
        "ip link set w0 name other; ip link set v1 mtu 1400",
        "ip link set br0 type bridge ageing_time 777 stp_state 1",
        "ip link set v0 down; ip link set v1 promisc on",
    )

    @pytest.mark.parametrize("change", CHANGES)
    def test_events(self, bridged: Namespace, change: str) -> None:
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        with bridged.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.bind((0, 1))  # RTMGRP_LINK
            sock.settimeout(0.3)
            view = before = bridged.call(View.read)
            shell(bridged, change)
            deadline = time.monotonic() + 20
            # Carrier and the state of ports follow a little later, so the picture may need several looks.
            while view == before or view != bridged.call(View.read):
                assert time.monotonic() < deadline, f"{view}\n{bridged.call(View.read)}"
                with contextlib.suppress(TimeoutError):
                    while True:
                        view = view.applied(list(MarshalRtnl().parse(sock.recv(65536))))


class TestFdb:
    def test_same_as_bridge_fdb(self, bridged: Namespace) -> None:
        shell(
            bridged,
            "bridge fdb add 02:00:00:00:00:01 dev v0 master static;"
            "bridge fdb add 02:00:00:00:00:02 dev v1 master dynamic;"
            "bridge fdb add 02:00:00:00:00:03 dev v2 master permanent;"
            "bridge fdb add 02:00:00:00:00:04 dev br0 self permanent;"
            "bridge fdb add 02:00:00:00:00:05 dev v1 master dynamic extern_learn;"
            "bridge fdb add 02:00:00:00:00:06 dev v2 master static sticky;"
            "ip link add br1 type bridge; ip link set br1 up",
        )
        view = bridged.call(View.read)
        found = bridged.call(read_fdb, view.bridge("br0").ifindex)
        assert self.shown(view, found) == sorted(
            (
                entry["mac"],
                entry["ifname"],
                entry["state"],
                tuple(sorted({*entry["flags"]} & {"extern_learn", "sticky"})),
            )
            for entry in shown(bridged, "bridge -j fdb show br br0")
            if entry.get("master") == "br0"
        )
        assert {entry.bridge for entry in found} == {view.bridge("br0").ifindex}
        assert all(entry.vid == 0 for entry in found)
        one = bridged.call(lambda: read_fdb(view.bridge("br0").ifindex, port=view.link("v0").ifindex))
        assert {entry.mac for entry in one} == {
            entry.mac for entry in found if entry.ifindex == view.link("v0").ifindex
        }
        assert {view.name(entry.ifindex) for entry in one} == {"v0"}
        assert bytes.fromhex("020000000001") in {entry.mac for entry in one}

    def shown(self, view: View, entries: tuple[FdbEntry, ...]) -> list[tuple[str, str, str, tuple[str, ...]]]:
        def state(entry: FdbEntry) -> str:
            return "permanent" if entry.local else "static" if entry.static else ""

        return sorted(
            (
                mac(entry.mac),
                view.name(entry.ifindex),
                state(entry),
                tuple(name for name in ("extern_learn", "sticky") if getattr(entry, name)),
            )
            for entry in entries
        )

    def test_ages_in_seconds(self, bridged: Namespace) -> None:
        shell(bridged, "bridge fdb add 02:00:00:00:00:02 dev v1 master dynamic")
        index = bridged.ifindex("br0")
        time.sleep(1.1)
        (entry,) = (entry for entry in bridged.call(read_fdb, index) if entry.mac == bytes.fromhex("020000000002"))
        (other,) = (e for e in shown(bridged, "bridge -s -j fdb show br br0") if e["mac"] == "02:00:00:00:00:02")
        assert 1 <= entry.updated < 30
        assert other["updated"] - 1 <= entry.updated <= other["updated"] + 1
        assert other["used"] - 1 <= entry.used <= other["used"] + 1

    def test_several_datagrams(self, bridged: Namespace) -> None:
        macs = [f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}" for i in range(3000)]
        lines = "".join(f"fdb add {mac} dev v{i % 3} master static\n" for i, mac in enumerate(macs))
        bridged.run(["bridge", "-batch", "-"], stdin=lines)
        found = bridged.call(read_fdb, bridged.ifindex("br0"))
        view = bridged.call(View.read)
        wanted = {mac: f"v{i % 3}" for i, mac in enumerate(macs)}
        assert {mac(entry.mac): view.name(entry.ifindex) for entry in found if entry.static} == wanted

    def test_no_such_bridge(self, bridged: Namespace) -> None:
        with pytest.raises(OSError, match="No such device"):
            bridged.call(read_fdb, 9999)
