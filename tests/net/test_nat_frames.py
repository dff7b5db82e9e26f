# SPDX-License-Identifier: Apache-2.0
"""Whole frames through twin routers, one with rules of iptables, the other with mode nat: what comes out of either is
the same, also of what is not translated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit, SCTPChunkInitAck
from scapy.packet import Packet, Raw

from pydp.lab import Capture
from tests.net.bridging import count
from tests.net.natting import KINDS, VIP, VIP6, Site, make_site
from tests.net.tunnelling import NodesFactory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

HOOKS = ("tc", "xdp")
_MOMENT, _PATIENCE = 0.03, 1.0  # seconds for frames to come
Came = tuple[list[str], list[str]]  # frames in hex, at the host outside and at the container
ROUTER, CLIENT = "02:00:00:03:00:01", "02:00:00:03:00:02"
HERE, HERE6, BACKEND, BACKEND6 = "192.0.2.2", "2001:db8::2", "10.20.0.1", "fd01:1::1"


@dataclass(frozen=True, slots=True)
class Twin:
    """A site, with captures of what comes in at the host outside and at the container."""

    site: Site
    outside: Capture
    inside: Capture

    def exchange(self, sent: Sequence[Packet], replies: Sequence[Packet], expected: Came | None = None) -> Came:
        """Send from outside, then from the container; gives what arrived at either: EXPECTED, if nothing is wrong."""
        for capture, frames in ((self.outside, sent), (self.inside, replies)):
            for one in frames:
                capture.send(bytes(one))
            time.sleep(_MOMENT / 2)
        until = time.monotonic() + (_PATIENCE if expected else 0)
        came: Came = ([], [])
        while True:
            for capture, found in zip((self.outside, self.inside), came, strict=True):
                found += [one.hex() for one in capture.frames(50, timeout=_MOMENT) if _ours(one)]
            if came == expected or time.monotonic() > until:
                return came


def _ours(frame: bytes) -> bool:
    """Neither ARP, nor neighbour discovery, nor reports of multicast listeners, which come when they like."""
    if frame[12:14] != b"\x86\xdd":
        return frame[12:14] != b"\x08\x06"
    return frame[20] != 0 and not (frame[20] == 58 and 133 <= frame[54] <= 137)


@pytest.fixture(scope="module")
def twins(module_nodes: NodesFactory) -> Iterator[dict[str, Twin]]:
    """By who translates. Nobody answers but who sends frames here."""
    with contextlib.ExitStack() as stack:
        found = {}
        for kind in KINDS:
            site = make_site(module_nodes, kind, n=2, containers=1)
            container = site.inside[0]
            ports = [f"{proto}:{one}" for proto in ("tcp", "udp", "sctp") for one in
                     (f"{VIP}:80={BACKEND}:8080", f"[{VIP6}]:80=[{BACKEND6}]:8080")]  # fmt: skip
            stack.enter_context(site.nat(service=tuple(ports)))
            quiet(site)
            outside = stack.enter_context(Capture(site.outside, "eth0"))
            inside = stack.enter_context(Capture(container.ns, container.dev))
            found[kind] = Twin(site, outside, inside)
        yield found


def quiet(site: Site) -> None:
    """Have both ends say nothing of their own, and the router know their neighbours."""
    container = site.inside[0]
    for ns, v4, v6, dev in (
        (site.outside, HERE, HERE6, site.node.dev),
        (container.ns, BACKEND, BACKEND6, container.port),
    ):
        mac = CLIENT if ns is site.outside else container.mac
        for addr in (v4, v6):
            site.router.run(["ip", "neigh", "replace", addr, "lladdr", mac, "dev", dev, "nud", "permanent"])
        rules = "table inet quiet { chain in { type filter hook input priority 0; policy drop; }; }"
        ns.run(["nft", "-f", "-"], stdin=rules)


def both(twins: dict[str, Twin], hook: str, sent: Sequence[Packet], replies: Sequence[Packet] = ()) -> list[str]:
    """Send through either; gives what came out of ours, which is what came out of the other."""
    theirs = twins["kernel"].exchange(sent, replies)
    ours = twins[hook].exchange(sent, replies, theirs)
    assert ours == theirs
    return [*ours[0], *ours[1]]


def out(ip: Packet, **ether: str) -> Packet:
    """From outside to the router."""
    return Ether(**{"src": CLIENT, "dst": ROUTER, **ether}) / ip


def back(site: Site, ip: Packet) -> Packet:
    """From the container to the router."""
    return Ether(src=site.inside[0].mac, dst="02:00:00:01:01:01") / ip


def there(sport: int, **ip: int) -> Packet:
    return IP(src=HERE, dst=VIP, id=7, **ip) / UDP(sport=sport, dport=80) / Raw(b"there")


def here(sport: int, **ip: int) -> Packet:
    return IP(src=BACKEND, dst=HERE, id=8, **ip) / UDP(sport=8080, dport=sport) / Raw(b"here")


@pytest.mark.parametrize("hook", HOOKS)
def test_packets_of_flows(twins: dict[str, Twin], hook: str) -> None:
    """There, and what answers it, with every field that a router leaves as it is."""
    site, first = twins[hook].site, 31000 + 100 * HOOKS.index(hook)
    v6 = {"src": HERE6, "dst": VIP6}
    v6_back = {"src": BACKEND6, "dst": HERE6}
    tcp = {"sport": first, "dport": 80, "seq": 1000}
    tcp_back = {"sport": 8080, "dport": first, "seq": 5000, "ack": 1001}
    cases: dict[str, tuple[list[Packet], list[Packet]]] = {
        "udp": ([there(first)], [here(first)]),
        "no checksum": (
            [IP(src=HERE, dst=VIP, id=7) / UDP(sport=first + 1, dport=80, chksum=0) / Raw(b"x")],
            [IP(src=BACKEND, dst=HERE, id=8) / UDP(sport=8080, dport=first + 1, chksum=0) / Raw(b"y")],
        ),
        "tos and ttl": ([there(first + 2, tos=0xB9, ttl=3)], [here(first + 2, tos=3, ttl=2)]),
        "options": (
            [IP(src=HERE, dst=VIP, id=7, options=[IPOption_Router_Alert()]) / UDP(sport=first + 3, dport=80) / b"xyz"],
            [],
        ),
        "tcp": (
            [
                IP(src=HERE, dst=VIP, id=7, flags="DF") / TCP(flags="S", options=[("MSS", 1460), ("WScale", 7)], **tcp),
            ],
            [IP(src=BACKEND, dst=HERE, flags="DF") / TCP(flags="SA", options=[("MSS", 1460)], **tcp_back)],
        ),
        "sctp": (
            [IP(src=HERE, dst=VIP, id=7) / SCTP(sport=first + 5, dport=80, tag=0) / SCTPChunkInit(init_tag=0x1111)],
            [
                IP(src=BACKEND, dst=HERE, id=8)
                / SCTP(sport=8080, dport=first + 5, tag=0x1111)
                / SCTPChunkInitAck(init_tag=0x2222)
            ],
        ),
        "sctp over IPv6": (
            [IPv6(**v6) / SCTP(sport=first + 5, dport=80, tag=0) / SCTPChunkInit(init_tag=0x1111)],
            [IPv6(**v6_back) / SCTP(sport=8080, dport=first + 5, tag=0x1111) / SCTPChunkInitAck(init_tag=0x2222)],
        ),
        "udp over IPv6": (
            [IPv6(**v6, fl=0x12345, tc=0xB9) / UDP(sport=first, dport=80) / Raw(b"there")],
            [IPv6(**v6_back, hlim=9) / UDP(sport=8080, dport=first) / Raw(b"here")],
        ),
        "tcp over IPv6": (
            [IPv6(**v6) / TCP(flags="S", **tcp)],
            [IPv6(**v6_back) / TCP(flags="SA", **tcp_back)],
        ),
        "fragments": (
            fragment(IP(src=HERE, dst=VIP, id=77) / UDP(sport=first + 4, dport=80) / Raw(bytes(range(250)) * 8), 800),
            fragment(IP(src=BACKEND, dst=HERE, id=78) / UDP(sport=8080, dport=first + 4) / Raw(b"a" * 2000), 800),
        ),
    }
    for name, (sent, answers) in cases.items():
        found = both(twins, hook, [out(one) for one in sent], [back(site, one) for one in answers])
        assert len(found) == len(sent) + len(answers), name


@pytest.mark.parametrize("hook", HOOKS)
def test_errors_on_the_way(twins: dict[str, Twin], hook: str) -> None:
    """What a router behind us says of a packet that we translated, and one before us of an answer."""
    site, first = twins[hook].site, 32000 + 100 * HOOKS.index(hook)
    given = IP(src=HERE, dst=BACKEND, id=7, ttl=63) / UDP(sport=first, dport=8080) / Raw(b"there")
    answered = IP(src=VIP, dst=HERE, id=8, ttl=63) / UDP(sport=80, dport=first) / Raw(b"here")
    narrow = ICMP(type=3, code=4, nexthopmtu=1300)
    both(twins, hook, [out(there(first))], [back(site, here(first))])
    inner, outer = IP(src="10.20.0.99", dst=HERE, id=9) / narrow / given, IP(src="198.51.100.9", dst=VIP, id=9) / narrow
    found = both(twins, hook, [out(outer / answered)], [back(site, inner)])
    assert len(found) == 2
    given6 = IPv6(src=HERE6, dst=BACKEND6, hlim=63) / UDP(sport=first, dport=8080) / Raw(b"there")
    both(twins, hook, [out(IPv6(src=HERE6, dst=VIP6) / UDP(sport=first, dport=80) / Raw(b"there"))])
    too_big = IPv6(src="fd01:1::99", dst=HERE6) / ICMPv6PacketTooBig(mtu=1300) / given6
    found = both(twins, hook, [], [back(site, too_big)])
    assert len(found) == 1


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_no_business_of_ours(twins: dict[str, Twin], hook: str) -> None:
    """Other stations' frames, groups, tags, other ports and protocols: as if we were not there."""
    first = 33000 + 100 * HOOKS.index(hook)
    before = count(twins[hook].site.router, "forward_nat")
    others = [
        out(there(first), dst="02:00:00:99:00:01"),
        out(there(first), dst="ff:ff:ff:ff:ff:ff"),
        out(IP(src=HERE, dst="224.0.0.251", ttl=1) / UDP(sport=first, dport=80), dst="01:00:5e:00:00:fb"),
        Ether(src=CLIENT, dst=ROUTER) / Dot1Q(vlan=5) / there(first),
        out(IP(src=HERE, dst=VIP, id=7) / UDP(sport=first, dport=81) / b"another port"),
        out(IP(src=HERE, dst=VIP, id=7, proto=47) / Raw(bytes(20))),
        out(IP(src=HERE, dst=VIP, id=7) / TCP(sport=first, dport=80, flags="R")),
        out(IP(src=HERE, dst=VIP, id=7) / TCP(sport=first, dport=80, flags="SF")),
        out(IP(src=HERE, dst=VIP, id=7) / TCP(sport=first, dport=80, flags="")),
    ]
    for one in others:
        both(twins, hook, [one])
    assert count(twins[hook].site.router, "forward_nat") == before
