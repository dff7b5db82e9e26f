# SPDX-License-Identifier: Apache-2.0
"""The parts of pydp.kernel that need no kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.netlink import attribute, attributes
from pydp.errors import NotAllowed, NothingAttached, PydpError, Unsupported, UsageError
from pydp.kernel import Features, Ruleset, View, XdpFeature, bridge_netfilter_active, has_tcx
from pydp.kernel.fdb import decode_fdb
from pydp.kernel.host import parse_version
from pydp.kernel.netfilter import Chain
from pydp.kernel.xtables import LegacyTable
from pydp.model import Bridge, BridgePort, FdbEntry, Link, NfCall

# `bridge fdb add 02:00:00:01:86:00 dev v0 master static`, as Linux 6.18 dumps it (v0 is 4, its bridge 2), payload only.
STATIC = (
    "0700000004000000400000000a00020002000001860000000800090002000000"
    "08000f000000000014000300000000008b1200008b12000000000000"
)  # fmt: skip


def test_fdb_entry_from_the_wire() -> None:
    data = bytes.fromhex(STATIC)
    assert decode_fdb([(data, 0, len(data))], 2) == (
        FdbEntry(bytes.fromhex("020000018600"), 0, 4, 2, static=True, updated=47.47, used=47.47),
    )
    assert decode_fdb([(data, 0, len(data))], 3) == ()


@pytest.mark.parametrize(
    ("state", "flags", "expected"),
    [
        (0x80, 0, {"local": True}),
        (0x40, 0, {"static": True}),
        (0x02, 0x10, {"extern_learn": True}),
        (0x02, 0x40, {"sticky": True}),
        (0x02, 0, {}),
        (0x04, 0, {}),  # NUD_STALE: aged, not yet collected
    ],
)
def test_fdb_states(state: int, flags: int, expected: dict[str, bool]) -> None:
    data = bytearray(bytes.fromhex(STATIC) + attribute(5, (4094).to_bytes(2, sys.byteorder)))
    data[8:10], data[10] = state.to_bytes(2, sys.byteorder), flags
    (entry,) = decode_fdb([(bytes(data), 0, len(data))], 2)
    assert entry == FdbEntry(bytes.fromhex("020000018600"), 4094, 4, 2, updated=47.47, used=47.47, **expected)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_walked(data: bytes) -> None:
    for kind, value in attributes(data, 0, len(data)).items():
        assert 0 <= kind < 0x4000
        assert value in data


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=20)))
def test_attributes_round_trip(wanted: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in wanted.items())
    assert attributes(data, 0, len(data)) == wanted


@pytest.mark.parametrize(
    ("release", "version", "tcx"),
    [
        ("6.18.44-fc-v657", (6, 18, 44), True),
        ("6.6.0", (6, 6, 0), True),
        ("6.5.13-amd64", (6, 5, 13), False),
        ("5.10-rc7", (5, 10, 0), False),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int, int], tcx: bool) -> None:
    assert parse_version(release) == version
    assert has_tcx(version) is tcx


def test_no_version() -> None:
    with pytest.raises(ValueError, match="not a kernel release"):
        parse_version("next")


def test_xdp_feature_names() -> None:
    assert XdpFeature(0x7F).names() == (
        "basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg",
    )  # fmt: skip
    assert XdpFeature(0).names() == ()


@pytest.mark.parametrize(
    ("feature", "field"),
    [
        ("tx-checksum-ip-generic", "tx_checksum"),
        ("tx-checksum-ipv6", "tx_checksum"),
        ("tx-checksum-sctp", "tx_sctp_checksum"),
        ("tx-tcp-segmentation", "tso"),
        ("tx-tcp6-segmentation", "tso"),
        ("rx-gro", "gro"),
        ("tx-vlan-hw-insert", "tx_vlan"),
        ("rx-vlan-hw-parse", "rx_vlan"),
    ],
)
def test_features(feature: str, field: str) -> None:
    fields = ("tx_checksum", "tx_sctp_checksum", "tso", "gro", "tx_vlan", "rx_vlan")
    assert [name for name in fields if getattr(Features(frozenset({feature})), name)] == [field]


def chain(family: str, hook: int, devices: tuple[str, ...] = ()) -> Chain:
    return Chain(family, "t", "c", hook, devices, 1, drops=False)


IPV4, IPV6, ARP, NONE = NfCall(iptables=True), NfCall(ip6tables=True), NfCall(arptables=True), NfCall()


@pytest.mark.parametrize(
    ("rule", "calls", "active"),
    [
        (chain("ip", 2), IPV4, True),
        (chain("ip", 0), IPV4, True),
        (chain("ip", 4), IPV4, True),
        (chain("ip", 1), IPV4, False),  # input: frames for the host, which the kernel still gets
        (chain("ip", 2), NONE, False),
        (chain("ip", 2), IPV6, False),
        (chain("ip6", 2), IPV6, True),
        (chain("inet", 2), IPV4, True),
        (chain("inet", 2), IPV6, True),
        (chain("inet", 2), ARP, False),
        (chain("arp", 2), ARP, True),
        (chain("arp", 1), ARP, False),
        (chain("arp", 2), IPV4, False),
        (chain("bridge", 2), NONE, True),
        (chain("bridge", 1), NONE, False),
        (chain("netdev", 0, ("p1",)), NONE, True),
        (chain("inet", 5, ("other", "p1")), NONE, True),
        (chain("netdev", 0, ("other",)), IPV4, False),
        (LegacyTable("iptables", "nat", frozenset({0})), IPV4, True),
        (LegacyTable("iptables", "nat", frozenset({1, 3})), IPV4, False),
        (LegacyTable("iptables", "nat", frozenset({0})), NONE, False),
        (LegacyTable("ip6tables", "filter", frozenset({2})), IPV6, True),
        (LegacyTable("arptables", "filter", frozenset({0, 1, 2})), ARP, True),
        (LegacyTable("ebtables", "filter", frozenset(range(6))), NONE, True),
    ],
)
@pytest.mark.parametrize("by_sysctl", [True, False])
def test_what_netfilter_sees(rule: Chain | LegacyTable, calls: NfCall, active: bool, by_sysctl: bool) -> None:
    """The sysctl and the bridge's own attribute each suffice."""
    bridge = Bridge(1, "br0", nf_call=NONE if by_sysctl else calls, ports=(BridgePort(2, 1),))
    view = View({1: Link(1, "br0"), 2: Link(2, "p1")}, {1: bridge}, calls if by_sysctl else NONE)
    ruleset = Ruleset(chains=(rule,)) if isinstance(rule, Chain) else Ruleset(legacy=(rule,))
    reason = bridge_netfilter_active(view, bridge, ruleset)
    assert (reason is not None) is active
    assert reason is None or "br0" in reason


@pytest.mark.parametrize(
    ("error", "status"), [(PydpError, 1), (UsageError, 2), (NothingAttached, 3), (Unsupported, 4), (NotAllowed, 5)]
)
def test_exit_statuses(error: type[PydpError], status: int) -> None:
    caught = error("what", hint="how")
    assert (caught.status, str(caught), caught.hint) == (status, "what", "how")


def test_import_is_light() -> None:
    """pyroute2 takes a quarter of a second: only reading may import it."""
    code = "import sys, pydp.kernel; sys.exit(any(name.split('.')[0] in ('pyroute2', 'bcc') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
