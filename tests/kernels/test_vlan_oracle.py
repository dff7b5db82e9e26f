# SPDX-License-Identifier: Apache-2.0
"""The kernel's VLAN-filtering bridge as oracle: twin segments see the same frames and send the same ones out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pydp.lab import Segment, Stations
from tests.kernels.needs import examples, need_device
from tests.net.bridging import EXPERIMENT, OFFLOADS, SegmentFactory, attached, count, flush, kernel_flush, mac
from tests.net.test_bridge_oracle import MTUS, OPTIONS, PORTS, Send, Twins

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(600)]

# Access ports and trunks of the VLANs that the frames are tagged with; every port stays a member of VLAN 1, too.
MEMBERS = {"p0": ("5:pvid:untagged",), "p1": ("5", "6-7"), "p2": ("5:untagged", "7:pvid:untagged"), "p3": ("7:pvid",)}
CONTENT = 2  # bytes that the kernel wants behind a tag when it takes it off (skb_vlan_untag): it may get one on the way
PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}
WITHIN_A_VLAN = Send(3, (mac(2) + mac(3) + EXPERIMENT).hex(), 46)  # of few random ones none may be forwarded


def options(protocol: str) -> dict[str, object]:
    vlans = tuple(f"{port}={one}" for port, many in MEMBERS.items() for one in many)
    return {**OPTIONS, "vlan_filtering": True, "vlan_protocol": protocol, "vlan": vlans}


def set_vlans(segment: Segment) -> None:
    for port, many in MEMBERS.items():
        for one in many:
            vid, *flags = one.split(":")
            segment.sw.run(["bridge", "vlan", "add", "dev", port, "vid", vid, *flags])


@contextlib.contextmanager
def twins(make: SegmentFactory, hook: str, protocol: str, *, adopt: bool) -> Iterator[Twins]:
    need_device("type bridge vlan_filtering 1")
    filtering = {"br_vlan_filtering": 1, "br_vlan_protocol": PROTOCOLS[protocol]}
    common = {"mtu": MTUS, "offloads": OFFLOADS[hook]}
    theirs = make(PORTS, kernel_bridge=True, bridge_options=filtering, **common)
    ours = make(PORTS, kernel_bridge=adopt, bridge_options=filtering, **common)
    for segment in (theirs, ours) if adopt else (theirs,):
        set_vlans(segment)
    interfaces, given = ((ours.bridge,), OPTIONS) if adopt else (ours.ports, options(protocol))
    with (
        attached(ours.sw, *interfaces, hook=hook, options=given) as instance,
        Stations(theirs) as one,
        Stations(ours) as other,
    ):

        def forget() -> None:
            flush(ours.sw, instance)
            if adopt:
                kernel_flush(ours)

        yield Twins(theirs, ours, forget, (one, other))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("adopt", [False, True], ids=["standalone", "adopting"])
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_random_frames_come_out_as_from_the_kernel(
    segment: SegmentFactory, hook: str, adopt: bool, protocol: str
) -> None:
    with twins(segment, hook, protocol, adopt=adopt) as pair:
        pair.compare(True, [WITHIN_A_VLAN])
        pair.compare_random(examples(96), least=CONTENT)
        assert count(pair.ours.sw, "forward_port") > 0  # else the comparison is of the kernel with itself
