# SPDX-License-Identifier: Apache-2.0
"""One instance whose ports take frames at different hooks: what it is said to have."""

from __future__ import annotations

from pydp.datapath.hooks import Choice, together

XDP, TC = Choice("xdp", "it is a NIC"), Choice("tc", "it is a veth")


def test_ports_that_agree_are_one() -> None:
    assert together([("eth0", XDP), ("eth1", XDP)]) == XDP
    assert together([("veth0", TC)]) == TC


def test_ports_that_differ_are_told_apart() -> None:
    found = together([("veth0", TC), ("eth0", XDP), ("veth1", TC)])
    assert found.hook == "xdp"
    assert found.why == "veth0 tc: it is a veth; eth0 xdp: it is a NIC; veth1 tc: it is a veth"


def test_frames_in_several_buffers_on_any_port() -> None:
    jumbo = Choice("xdp", "it is a NIC", frags=True)
    assert together([("eth0", XDP), ("eth1", jumbo)]).frags
    assert together([("veth0", TC), ("eth1", jumbo)]).frags
    assert not together([("eth0", XDP), ("veth0", TC)]).frags
