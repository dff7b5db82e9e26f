# SPDX-License-Identifier: Apache-2.0
"""All stages under frames that nobody should send: cut off anywhere, random, with whatever is left in the headroom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, IP, TCP, Dot1AD, Ether, IPv6, IPv6ExtHdrHopByHop, eth, mac, tagged
from tests.datapath.harness import DROP, PASS, REDIRECT, Rig
from tests.datapath.test_bridge import adopting
from tests.kernels.needs import examples

CHILDREN = {"child": ("p1=10.0.0.1", "p2=10.0.0.2,fd00::2")}
VLANS = {"vlan_filtering": True, "vlan": ("p0=10:pvid:untagged", "p1=10", "p2=10:untagged")}
RIGS: Mapping[str, Mapping[str, Any]] = {
    "bridge": {},
    "bridge with VLANs": {"options": VLANS},
    "bridge adopting": adopting(),
    "count": {"modes": ("count",)},
    "count and bridge with VLANs": {"modes": ("count", "bridge"), "options": VLANS},
    **{f"ipvlan {kind}": {"modes": ("ipvlan",), "options": {"type": kind, **CHILDREN}} for kind in ("l2", "l3", "l3s")},
    "macvlan": {"modes": ("macvlan",), "options": {"child": ("p1", "p2", "p3")}},
}
HEADERS = {"dst": mac(2), "src": mac(1)}
FRAMES = {
    "to a known station": eth(2, 1),
    "tagged": eth(2, 1, tagged(10)),
    "two tags": eth(2, 1, tagged(10), tagged(20)),
    "service tag": eth(2, 1, Dot1AD(vlan=10), tagged(20)),
    "broadcast": eth(BROADCAST, 1),
    "IPv4 with options": bytes(Ether(**HEADERS) / IP(ihl=8) / (b"\1" * 12) / TCP()),
    "IPv6 with an extension header": bytes(Ether(**HEADERS) / IPv6() / IPv6ExtHdrHopByHop() / TCP()),
    "an ethertype of VLANs and nothing behind it": eth(2, 1)[:12] + b"\x81\x00" * 24,
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("which", RIGS)
def test_every_length(rig: MakeRig, which: str, name: str) -> None:
    """Never ABORTED, and counted once: `send` fails otherwise."""
    made = rig(**RIGS[which])
    made.tell((1, eth(BROADCAST, 2)), (1, eth(BROADCAST, 2, tagged(10))))
    for length in range(14, len(FRAMES[name])):
        seen = made.send_cut(FRAMES[name], length)
        assert seen.action in (PASS, DROP, REDIRECT), f"{length}: {seen}"
        assert seen.verdict, f"{length}: {seen}"
        assert seen.length == length
        if made.hook == "xdp" and FRAMES[name][12:14] in (b"\x81\x00", b"\x88\xa8") and length < 20:
            assert seen.verdict == "PUNT_TRUNCATED"  # skb_vlan_untag drops what has no two bytes behind its tag


@pytest.mark.parametrize("tags", [(), (tagged(0, prio=3),), (tagged(10, prio=5), tagged(77))])
def test_headroom_of_others(rig_on: Callable[..., Rig], tags: tuple[Any, ...]) -> None:
    """What another packet left before the frame must not show. XDP only: on tc a tag goes into metadata."""
    made = rig_on("xdp", options=VLANS)
    made.tell((1, eth(BROADCAST, 2, tagged(10))))
    wanted = made.send(eth(2, 1, *tags))
    assert wanted.verdict == "FORWARD_PORT"
    expected = (tagged(10, prio=tags[0].prio), *tags[1:]) if tags else (tagged(10),)
    assert wanted.frame == eth(2, 1, *expected)
    assert made.send_through("dirty", eth(2, 1, *tags)) == wanted


_known = st.sampled_from([eth(2, 1)[:12], eth(1, 2)[:12], eth(BROADCAST, 1)[:12], eth("01:80:c2:00:00:03", 3)[:12]])
_types = st.sampled_from(["", "0800", "86dd", "8100000a0800", "8100600a", "88a8000a8100000a86dd", "0806"])


@pytest.mark.parametrize("which", RIGS)
def test_random_frames(rig: MakeRig, which: str) -> None:
    made = rig(**RIGS[which])  # what one example taught stays for the next

    @settings(max_examples=examples(60), deadline=None)
    @given(
        addresses=st.one_of(_known, st.binary(min_size=12, max_size=12)),
        kind=_types.map(bytes.fromhex),
        rest=st.binary(min_size=2, max_size=120),
        port=st.integers(0, 3),
    )
    def run(addresses: bytes, kind: bytes, rest: bytes, port: int) -> None:
        frame = addresses + kind + rest
        seen = made.send_cut(frame + bytes(64), len(frame), port)
        assert seen.verdict
        assert seen.action in (PASS, DROP, REDIRECT)
        if seen.action == PASS and made.hook == "xdp":
            assert seen.frame == frame, "what goes to the kernel must be as it came"
        if "fdb" in made.maps:
            made.fdb()  # fails on half an entry

    run()
