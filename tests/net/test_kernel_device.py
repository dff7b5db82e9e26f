# SPDX-License-Identifier: Apache-2.0
"""Facts of devices, tc filters and the machine against the kernel, with ethtool as second opinion."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydp.errors import NoSuchLink
from pydp.kernel import (
    View,
    XdpFeature,
    find_namespaces,
    has_tcx,
    inside,
    is_bpffs,
    read_device,
    read_devices,
    read_filters,
    read_xdp_features,
)
from pydp.lab import Namespace

SCHED_CLS, XDP = 3, 6
INODE = Path("/proc/thread-self/ns/net")
Make = Callable[..., Namespace]
Load = Callable[[int], tuple[int, int]]


def set_xdp(ipr: Any, ifindex: int, fd: int, flags: int) -> None:
    ipr.link("set", index=ifindex, xdp={"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]})


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


class TestDevices:
    def test_driver_and_offloads_as_ethtool_says(self, bridged: Namespace) -> None:
        shell(bridged, "ip tuntap add t0 mode tap; ethtool -K w0 gro on tx off; ethtool -K w1 txvlan off")
        view = bridged.call(View.read)
        devices = bridged.call(read_devices, view, list(view.links))
        for device in devices.values():
            if device.driver:
                assert f"driver: {device.driver}\n" in shell(bridged, f"ethtool -i {device.link.name}")
            compared = 0
            for line in shell(bridged, f"ethtool -k {device.link.name}").splitlines():
                name, _, state = line.strip().partition(": ")
                if name in device.features.active | device.features.fixed:
                    compared += 1
                    assert (name in device.features.active) == state.startswith("on"), line
                    assert (name in device.features.fixed) == state.endswith("[fixed]"), line
            assert compared > 20
        assert {d.link.name: d.driver for d in devices.values() if d.driver} == {
            "br0": "bridge", "t0": "tun", **{f"{side}{i}": "veth" for side in "vw" for i in range(3)},
        }  # fmt: skip
        w0, w1 = devices[view.link("w0").ifindex].features, devices[view.link("w1").ifindex].features
        assert (w0.gro, w0.tx_checksum, w0.tx_vlan) == (True, False, True)
        assert (w1.gro, w1.tx_checksum, w1.tx_vlan, w1.tso, w1.tx_sctp_checksum) == (False, True, False, True, True)

    def test_peer_in_the_same_namespace(self, bridged: Namespace) -> None:
        view = bridged.call(View.read)
        peer = bridged.call(read_device, view, view.link("v2").ifindex).peer
        assert peer is not None
        assert (peer.namespace, peer.link) == ("", view.link("w2"))

    def test_peer_in_a_named_namespace(self, namespace: Make) -> None:
        ns, container = namespace(), namespace()
        shell(ns, f"ip link add v0 type veth peer name eth0 netns {container.name}; ip link add d0 type bridge")
        view = ns.call(View.read)
        index = view.link("v0").ifindex
        before = ns.call(read_device, view, index).peer
        assert before is not None
        assert (before.namespace, before.link.name) == (container.name, "eth0")
        assert (before.features.tx_checksum, before.polls) == (True, False)
        shell(container, "ethtool -K eth0 gro on tx off")
        after = ns.call(read_device, view, index).peer
        assert after is not None
        assert (after.features.tx_checksum, after.polls) == (False, True)
        assert ns.call(read_device, view, view.link("d0").ifindex).peer is None

    def test_peer_polls_by_its_xdp_program(self, namespace: Make, program: Load) -> None:
        ns, container = namespace(), namespace()
        shell(ns, f"ip link add v0 type veth peer name eth0 netns {container.name}")
        view = ns.call(View.read)
        fd, prog_id = program(XDP)
        with container.netlink() as ipr:
            set_xdp(ipr, container.ifindex("eth0"), fd, 1 << 2)
        peer = ns.call(read_device, view, view.link("v0").ifindex).peer
        assert peer is not None
        assert peer.link.xdp is not None
        assert (peer.link.xdp.prog_id, peer.polls) == (prog_id, True)

    def test_peer_in_a_namespace_that_only_a_process_holds(self, namespace: Make) -> None:
        ns = namespace()
        holder = ns.popen(["unshare", "--net", "sh", "-c", "echo in; exec sleep 60"], stdout=-1)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        shell(ns, f"ip link add v0 type veth peer name eth0 netns {holder.pid}")
        view = ns.call(View.read)
        peer = ns.call(read_device, view, view.link("v0").ifindex).peer
        assert peer is not None
        assert (peer.namespace, peer.link.name) == (f"pid {holder.pid}", "eth0")
        ns.end(holder)

    def test_namespaces_by_id(self, namespace: Make) -> None:
        ns, container = namespace(), namespace()
        shell(ns, f"ip netns set {container.name} 17")
        found = ns.call(find_namespaces)
        assert (found[17].name, found[17].path) == (container.name, container.path)

    def test_the_caller_stays_in_its_namespace(self, namespace: Make) -> None:
        container, here = namespace(), INODE.stat().st_ino
        there = inside(container.path, lambda: INODE.stat().st_ino)
        assert there == Path(container.path).stat().st_ino != here
        assert INODE.stat().st_ino == here
        with pytest.raises(OSError, match="Invalid argument"):
            inside("/proc/version", lambda: None)

    def test_device_that_vanishes_after_the_view(self, bridged: Namespace) -> None:
        view = bridged.call(View.read)
        shell(bridged, "ip link del v0")
        with pytest.raises(NoSuchLink, match="no interface v0"):
            bridged.call(read_device, view, view.link("v0").ifindex)

    def test_xdp_features(self, bridged: Namespace) -> None:
        features = bridged.call(read_xdp_features)
        if features is None:
            pytest.skip("this kernel does not declare XDP features (Linux 6.3)")
        assert features[bridged.ifindex("w0")] == XdpFeature.BASIC | XdpFeature.REDIRECT | XdpFeature.RX_SG
        assert features[bridged.ifindex("br0")] == XdpFeature(0)
        shell(bridged, "ethtool -K w0 gro on")  # it polls now, so its peer takes redirected frames
        changed = bridged.call(read_xdp_features)
        assert changed is not None
        taking = {name for name in ("v0", "w0", "v1", "w1") if XdpFeature.NDO_XMIT in changed[bridged.ifindex(name)]}
        assert taking == {"v0"}


class TestFilters:
    def test_bpf_filters_by_direction(self, bridged: Namespace, program: Load) -> None:
        index = bridged.ifindex("v0")
        assert bridged.call(read_filters, index) == ()
        fd, prog_id = program(SCHED_CLS)
        with bridged.netlink() as ipr:
            ipr.tc("add", "clsact", index)
            assert bridged.call(read_filters, index) == ()
            for parent, pref, name in (("ffff:fff2", 9, "guard"), ("ffff:fff2", 3, "first"), ("ffff:fff3", 1, "out")):
                ipr.tc(
                    "add-filter",
                    "bpf",
                    index,
                    parent=parent,
                    prio=pref,
                    fd=fd,
                    name=name,
                    classid=1,
                    direct_action=True,
                )
        found = bridged.call(read_filters, index)
        assert [(one.direction, one.pref, one.name) for one in found] == [
            ("ingress", 3, "first"), ("ingress", 9, "guard"), ("egress", 1, "out"),
        ]  # fmt: skip
        assert {(one.kind, one.prog_id, one.handle) for one in found} == {("bpf", prog_id, 1)}

    def test_other_kinds_on_the_ingress_qdisc(self, bridged: Namespace) -> None:
        shell(bridged, "tc qdisc add dev v1 ingress; tc filter add dev v1 ingress prio 5 u32 match u32 0 0 classid 1:1")
        found = bridged.call(read_filters, bridged.ifindex("v1"))
        assert {(one.direction, one.kind, one.pref, one.prog_id) for one in found} == {("ingress", "u32", 5, 0)}

    def test_device_that_is_gone(self, bridged: Namespace) -> None:
        with pytest.raises(OSError, match="No such device"):
            bridged.call(read_filters, 9999)


class TestHost:
    def test_bpffs(self, bpffs: Path) -> None:
        assert is_bpffs(str(bpffs))
        assert not is_bpffs("/proc")
        assert not is_bpffs("/no/such/path")

    def test_tcx_as_the_kernel_has_it(self, bridged: Namespace, bpf: Callable[[int, bytes], int]) -> None:
        """BPF_PROG_QUERY of BPF_TCX_INGRESS on a device answers where tcx exists."""
        query = struct.pack("=II", bridged.ifindex("v0"), 46)

        def answers() -> bool:
            try:
                return bridged.call(bpf, 16, query) == 0
            except OSError:
                return False

        assert answers() is has_tcx()
