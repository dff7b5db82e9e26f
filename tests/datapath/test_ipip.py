# SPDX-License-Identifier: Apache-2.0
"""Mode ipip by test run: what goes into the tunnel and what comes out of it, whole frames as scapy has them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from scapy.layers.inet6 import in6_chksum
from scapy.utils import checksum

from pydp.model import Route, Tunnel
from tests.datapath.frames import ICMP, IP, Dot1Q, Ether, IPOption_NOP, IPv6, IPv6ExtHdrFragment, Packet, Raw
from tests.datapath.harness import BASE, DROP, PASS, REDIRECT, ticks_now
from tests.datapath.ipip_rig import HERE, KINDS, PORT, STATION, THERE, IpipRig, Net
from tests.kernels.needs import any_kernel

pytestmark = pytest.mark.usefixtures("requires_root")

MakeIpip = Callable[..., IpipRig]
EVERY = tuple(KINDS)
SOME = ("ipip", "ip6ip6", "gre-key")
FIXED, INHERITED = {"ttl": "9", "tos": "0x10"}, {"tos": "inherit", "pmtudisc": False}
PAIRS = [("tc", name) for name in EVERY] + [("xdp", name) for name in SOME]


@pytest.fixture(scope="module")
def rigs(requires_root: None) -> Iterator[dict[str, IpipRig]]:
    made: dict[str, IpipRig] = {}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def make(rigs: dict[str, IpipRig]) -> MakeIpip:
    """Gives the rig of a kind and its hook, as if just made."""

    def get(net: Net) -> IpipRig:
        key = f"{net.name} {net.hook}"
        if key not in rigs:
            rigs[key] = IpipRig(net.hook, net.options)
        rigs[key].forget()
        return rigs[key]

    return get


@pytest.fixture(params=PAIRS, ids="-".join)
def net(request: pytest.FixtureRequest) -> Net:
    """Every kind on tc; on XDP, where less code differs, some."""
    hook, name = request.param
    return Net(name, hook)


def aged(packet: Packet) -> Packet:
    """As a router sends it on."""
    packet = packet.copy()
    if packet.version == 6:
        packet.hlim -= 1
    else:
        packet.ttl -= 1
        del packet.chksum
    return packet


def carried(packet: Any, packets: int, size: int) -> bool:
    """Are these counts of PACKET sent twice, or more often if the way was forgotten in between?"""
    return packets >= 2 and size == packets * len(packet)


# What goes where


def test_from_a_port_into_the_tunnel(make: MakeIpip, net: Net) -> None:
    rig, packet = make(net), net.outgoing()
    result = rig.sent("port", net.frame(packet, PORT, STATION), net.ends[1])
    assert (result.verdict, result.action) == ("FORWARD_ENCAP", REDIRECT)
    assert result.frame == net.sent(aged(packet), ttl=63)
    assert carried(packet, *rig.counts(net.ends[1])[:2])
    assert rig.counts(net.ends[1])[2:] == (0, 0)
    assert rig.counts(net.ends[2]) == (0, 0, 0, 0)


def test_on_the_way_out_into_the_tunnel(make: MakeIpip, net: Net) -> None:
    rig, packet = make(net), net.outgoing()
    frame = net.frame(packet, "02:00:00:00:0c:01", HERE)
    result = rig.sent("leaving", frame, net.ends[1])
    assert (result.verdict, result.action) == ("PASS_ENCAP", PASS)
    assert result.frame == net.sent(packet)
    assert carried(packet, *rig.counts(net.ends[1])[:2])
    assert rig.counts(net.ends[1])[2:] == (0, 0)


def test_the_stacks_next_hop_will_do(make: MakeIpip, net: Net) -> None:
    """Without a device that forwards there is no other; to an IPv6 packet in IPv4 the stack knows none."""
    rig, packet = make(net), net.outgoing()
    result = rig.send("leaving", net.frame(packet, THERE, HERE))
    mapped = net.inner6 and not net.outer6
    assert (result.verdict, result.action) == (("FORWARD_ENCAP", REDIRECT) if mapped else ("PASS_ENCAP", PASS))
    assert result.frame == net.sent(packet)


def test_a_peer_behind_another_device(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    result = rig.sent("leaving", net.frame(net.outgoing(), THERE, HERE), net.ends[1], ifindex=BASE + 2)
    assert (result.verdict, result.action) == ("FORWARD_ENCAP", REDIRECT)


def test_out_of_the_tunnel_to_the_stack(make: MakeIpip, net: Net) -> None:
    rig, packet = make(net), net.inner()
    result = rig.send("arriving", net.received(packet))
    assert (result.verdict, result.action) == ("PASS_DECAP", PASS)
    assert result.frame == net.frame(packet, HERE, THERE)
    assert rig.counts(net.ends[1]) == (0, 0, 1, len(packet))


def test_out_of_the_tunnel_to_a_port(make: MakeIpip, net: Net) -> None:
    rig, packet = make(net), net.inner()
    result = rig.delivered(net.received(packet), net.near)
    assert (result.verdict, result.action) == ("FORWARD_DECAP", REDIRECT)
    assert result.frame == net.frame(aged(packet), STATION, PORT)
    assert rig.counts(net.ends[1])[:2] == (0, 0)
    assert carried(packet, *rig.counts(net.ends[1])[2:])


def test_from_one_peer_to_another(make: MakeIpip, net: Net) -> None:
    rig, (_, peer, other) = make(net), net.ends
    packet = net.inner(dst=net.farther, tos=0x2A)
    result = rig.sent("arriving", net.received(packet, tos=3), other)
    assert (result.verdict, result.action) == ("FORWARD_ENCAP", REDIRECT)
    marked = aged(net.inner(dst=net.farther, tos=0x2B))
    assert result.frame == net.sent(marked, dst=other, ttl=63, tos=2)
    assert rig.counts(peer)[:2] == rig.counts(other)[2:] == (0, 0)
    assert carried(packet, *rig.counts(peer)[2:])
    assert carried(packet, *rig.counts(other)[:2])
    rig.forget()
    result = rig.send("arriving", net.received(packet))  # no way known: the stack tries
    assert (result.verdict, result.frame) == ("PASS_DECAP", net.frame(packet, HERE, THERE))


@pytest.mark.parametrize("why", ["another device", "too long", "last hop"])
def test_what_the_routing_has_to_deliver(make: MakeIpip, net: Net, why: str) -> None:
    rig, packet = make(net), net.inner(ttl=1 if why == "last hop" else 64)
    way = {"another device": {"ifindex": BASE + 2}, "too long": {"mtu": len(packet) - 1}}.get(why, {})
    for _ in range(3):
        rig.resolve_inner(net.near, **way)
        result = rig.send("arriving", net.received(packet))
        assert (result.verdict, result.frame) == ("PASS_DECAP", net.frame(packet, HERE, THERE))


def test_the_longest_prefix_decides(make: MakeIpip, net: Net) -> None:
    rig, packet = make(net), net.inner(net.near, net.part)
    result = rig.sent("leaving", net.frame(packet, THERE, HERE), net.ends[2])
    assert result.frame == net.sent(packet, dst=net.ends[2])
    assert rig.send("arriving", net.received(net.inner(net.part))).verdict == "DROP_SPOOFED"
    assert rig.send("arriving", net.received(net.inner(net.part), src=net.ends[2])).verdict == "PASS_DECAP"


def test_what_is_for_nobody_is_left_alone(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    other = net.inner(net.near, "fd09::1" if net.inner6 else "10.9.0.1")
    ours = net.sent(net.outgoing())
    tagged = bytes(Ether(dst=PORT, src=STATION) / Dot1Q(vlan=5, type=0x86DD if net.inner6 else 0x0800) / net.outgoing())
    for place, frame in (
        ("port", net.frame(other, PORT, STATION)),
        ("port", net.frame(net.outgoing(), "02:00:00:00:0a:09", STATION)),  # not for this router
        ("port", tagged),
        ("leaving", net.frame(other, THERE, HERE)),
        ("leaving", ours),  # what a port's program encapsulated: not once more
        ("arriving", net.frame(net.inner(), HERE, THERE)),  # not in a tunnel
        ("arriving", net.received(net.inner(), dst="2001:db8::9" if net.outer6 else "192.0.2.9")),
    ):
        result = rig.send(place, frame)
        assert (result.verdict, result.action, result.frame) == ("PASS_UNCLAIMED", PASS, frame), place


def test_the_padding_of_short_frames_stays_outside(make: MakeIpip, hook: str) -> None:
    net = Net("ipip", hook)
    rig, packet = make(net), net.outgoing(size=0)
    result = rig.sent("port", net.frame(packet, PORT, STATION) + bytes(18), net.ends[1])
    assert result.frame == net.sent(aged(packet), ttl=63) + bytes(18)
    short = net.inner(size=0)
    result = rig.delivered(net.received(short) + bytes(7), net.near)
    assert result.frame == net.frame(aged(short), STATION, PORT) + bytes(7)


# Policies


@pytest.mark.parametrize(
    ("name", "options"), [("ipip", FIXED), ("ipip", INHERITED), ("sit", FIXED), ("ip4ip6", INHERITED)]
)
def test_ttl_tos_and_df(requires_root: None, name: str, options: dict[str, Any]) -> None:
    """ECN by RFC 6040 4.1: what was met inside is not told outside."""
    net = Net(name)
    with IpipRig("tc", {**net.options, **options}, places=("leaving",)) as rig:
        _compare_policies(rig, net, options)


def _compare_policies(rig: IpipRig, net: Net, options: Mapping[str, Any]) -> None:
    for tos in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xBB):
        for flags in ("", "DF") if not net.inner6 else ("",):
            packet = net.outgoing(ttl=17, tos=tos, **({"flags": flags} if flags else {}))
            result = rig.sent("leaving", net.frame(packet, THERE, HERE), net.ends[1])
            ecn = 2 if tos & 3 == 3 else tos & 3
            expected: dict[str, Any] = {"ttl": 9, "tos": 0x10 | ecn}
            if options["tos"] == "inherit":
                expected = {"ttl": 17, "tos": tos & 0xFC | ecn, **({} if net.outer6 else {"flags": flags})}
            assert result.frame == net.sent(packet, **expected)


@pytest.mark.parametrize("name", SOME)
def test_congestion_marked_outside(make: MakeIpip, name: str, hook: str) -> None:
    """RFC 6040 4.2 as INET_ECN_decapsulate() has it, with every pair of marks and DSCP bits that stay."""
    net = Net(name, hook)
    rig = make(net)
    after = {(3, 1): 3, (3, 2): 3, (3, 3): 3, (1, 2): 1}
    for outside in range(4):
        for inside in range(4):
            frame = net.received(net.inner(tos=0x28 | inside), tos=0x40 | outside)
            result = rig.send("arriving", frame)
            if (outside, inside) == (3, 0):
                assert (result.verdict, result.action) == ("DROP_ECN", DROP)
                continue
            expected = net.inner(tos=0x28 | after.get((outside, inside), inside))
            assert (result.verdict, result.frame) == ("PASS_DECAP", net.frame(expected, HERE, THERE))


# What must not come out


def untouched(rig: IpipRig, frame: bytes, verdict: str, place: str = "arriving") -> None:
    result = rig.send(place, frame)
    action = DROP if verdict.startswith("DROP") else PASS
    assert (result.verdict, result.action, result.frame) == (verdict, action, frame)


def test_only_peers_are_heard(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    for source in ("2001:db8::99", "2001:db8:0:1::1") if net.outer6 else ("192.0.2.99", "192.0.3.2"):
        untouched(rig, net.received(net.inner(), src=source), "PUNT_VTEP")


def test_inner_sources_outside_of_the_peers_networks(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    outside = ("fd09::1", net.farther, net.near) if net.inner6 else ("10.9.0.1", net.farther, "127.0.0.1", "0.0.0.0")
    for source in outside:
        untouched(rig, net.received(net.inner(source)), "DROP_SPOOFED")
    if net.inner6 == net.outer6:  # the peer itself
        packet = net.inner(net.ends[1])
        assert rig.send("arriving", net.received(packet)).verdict == "PASS_DECAP"
        untouched(rig, net.received(net.inner(net.ends[2])), "DROP_SPOOFED")


def test_punts_and_drops_count_for_their_peer(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    before = rig.fates()
    rig.sent("leaving", net.frame(net.outgoing(), THERE, HERE), net.ends[1])
    assert rig.send("arriving", net.received(net.inner())).verdict == "PASS_DECAP"
    assert rig.fates() == before  # carried
    rig.send("arriving", net.received(net.inner(net.farther)))
    rig.send("arriving", net.received(net.inner(net.farther), src=net.ends[2]))
    seen = rig.fates() - before
    assert seen == {(rig.index(net.ends[1]), "DROP_SPOOFED"): 1}


@pytest.mark.parametrize("name", ["ipip", "sit"])
def test_sources_are_not_looked_at_if_told_so(requires_root: None, name: str) -> None:
    net = Net(name)
    packet = net.inner("fd09::1" if net.inner6 else "10.9.0.1")
    with IpipRig("tc", {**net.options, "source_check": False}, places=("arriving",)) as rig:
        assert rig.send("arriving", net.received(packet)).frame == net.frame(packet, HERE, THERE)


def test_nothing_is_reflected_or_unwrapped_twice(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    untouched(rig, net.received(net.inner(dst=net.far)), "DROP_LOOP")
    if net.inner6 != net.outer6:
        return
    untouched(rig, net.received(net.inner(dst=net.ends[1])), "DROP_LOOP")
    nested = net.wrap(net.inner(), src=net.far, dst=net.ends[0])
    untouched(rig, net.received(nested), "DROP_INNER")
    through = net.wrap(net.inner(), src=net.far, dst=net.near)  # a tunnel of somebody else's is a packet like any other
    assert rig.send("arriving", net.received(through)).frame == net.frame(through, HERE, THERE)


def test_frames_for_others_stay_theirs(make: MakeIpip, net: Net) -> None:
    untouched(make(net), net.received(net.inner(), dest="02:00:00:00:01:77"), "PUNT_ADDRESS")


@pytest.mark.parametrize("name", ["ipip", "sit", "gre"])
def test_outer_headers_that_are_not_plain(make: MakeIpip, name: str) -> None:
    net = Net(name)
    rig, inner = make(net), net.inner()
    untouched(rig, net.received(inner, flags="MF"), "PUNT_FRAGMENT")
    untouched(rig, net.received(inner, flags="", frag=5), "PUNT_FRAGMENT")
    untouched(rig, net.received(inner, chksum=0x1234), "PUNT_HEADER")
    untouched(rig, net.received(inner, options=[IPOption_NOP()] * 4), "PUNT_HEADER")
    untouched(rig, net.received(inner, len=1000), "PUNT_TRUNCATED")
    untouched(rig, net.received(inner, proto=97), "PASS_UNCLAIMED")


@pytest.mark.parametrize("name", ["ip6ip6", "ip4ip6", "gre-4in6"])
def test_extension_headers_outside(make: MakeIpip, name: str) -> None:
    """The tunnel encapsulation limit, which the kernel's ip6tnl sends, is understood (RFC 2473 4.1.1)."""
    net = Net(name)
    rig, inner = make(net), net.inner()
    plain = net.wrap(inner)
    number = plain.nh
    limit = bytes([number, 0, 4, 1, 4, 1, 1, 0])
    behind = bytes(plain)[40:]
    header = {"src": net.ends[1], "dst": net.ends[0], "hlim": 64}
    frame = bytes(Ether(dst=HERE, src=THERE) / IPv6(nh=60, **header) / Raw(limit + behind))
    result = rig.send("arriving", frame)
    assert (result.verdict, result.frame) == ("PASS_DECAP", net.frame(inner, HERE, THERE))
    result = rig.delivered(frame, net.near)
    assert result.frame == net.frame(aged(inner), STATION, PORT)
    longer = bytes(Ether(dst=HERE, src=THERE) / IPv6(nh=60, **header) / Raw(bytes([number, 1]) + bytes(14) + behind))
    untouched(rig, longer, "PASS_UNCLAIMED")
    fragment = Ether(dst=HERE, src=THERE) / IPv6(**header) / IPv6ExtHdrFragment(nh=number, m=1) / Raw(behind)
    untouched(rig, bytes(fragment), "PUNT_FRAGMENT")
    untouched(rig, net.received(inner, plen=1000), "PUNT_TRUNCATED")


@pytest.mark.parametrize(
    ("name", "header", "verdict"),
    [
        ("gre", {"key_present": 1, "key": 5}, "PUNT_VTEP"),
        ("gre-key", {"key_present": 0, "key": None}, "PUNT_VTEP"),
        ("gre-key", {"key": 0x01020305}, "PUNT_VTEP"),
        ("gre-4in6", {"key": 8}, "PUNT_VTEP"),
        ("gre", {"chksum_present": 1}, "PUNT_HEADER"),
        ("gre-key", {"seqnum_present": 1}, "PUNT_HEADER"),
        ("gre", {"version": 1}, "PUNT_HEADER"),
        ("gre", {"proto": 0x6558}, "PUNT_HEADER"),
        ("gre", {"proto": 0x86DD}, "PUNT_HEADER"),
    ],
)
def test_other_gre(make: MakeIpip, name: str, header: Mapping[str, Any], verdict: str) -> None:
    net = Net(name)
    untouched(make(net), net.received(net.inner(), gre=header), verdict)


@pytest.mark.parametrize("name", EVERY)
def test_inner_packets_that_are_none(make: MakeIpip, name: str) -> None:
    net = Net(name)
    rig, whole = make(net), bytes(net.inner())
    untouched(rig, net.received(b""), "DROP_INNER")
    untouched(rig, net.received(b"\0" * 60), "DROP_INNER")
    untouched(rig, net.received(bytes([0x45 if net.inner6 else 0x65]) + whole[1:]), "DROP_INNER")
    for length in range(1, len(whole)):
        untouched(rig, net.received(whole[:length]), "DROP_INNER")
    if not net.inner6:
        untouched(rig, net.received(bytes([0x44]) + whole[1:]), "DROP_INNER")
        untouched(rig, net.received(whole[:2] + b"\0\x13" + whole[4:]), "DROP_INNER")


def test_frames_cut_anywhere(make: MakeIpip, net: Net) -> None:
    """Nothing comes out that is not all there; XDP sees every length, tc those with the outer IP header."""
    rig, frame = make(net), net.received(net.inner())
    first = 14 if rig.hook == "xdp" else 54 if net.outer6 else 34
    for length in range(first, len(frame)):
        for dest in ("arriving", "port"):
            result = rig.send(dest, frame[:length])
            assert result.action == PASS
            assert result.frame == frame[:length]
            assert result.verdict in ("PASS_UNCLAIMED", "PUNT_TRUNCATED"), (length, result)


def test_frames_cut_on_the_way_in(make: MakeIpip, net: Net) -> None:
    rig, frame = make(net), net.frame(net.outgoing(), PORT, STATION)
    first = 14 if rig.hook == "xdp" else 54 if net.inner6 else 34
    for length in range(first, len(frame)):
        result = rig.sent("port", frame[:length], net.ends[1])
        assert (result.action, result.frame) == (PASS, frame[:length])
        assert result.verdict in ("PASS_UNCLAIMED", "PUNT_HEADER"), (length, result)


# In by a port


def test_what_a_port_leaves_to_the_stack(make: MakeIpip, net: Net) -> None:
    rig = make(net)
    peer = net.ends[1]

    def left(packet: Packet, verdict: str) -> None:
        frame = net.frame(packet, PORT, STATION)
        result = rig.sent("port", frame, peer)
        assert (result.verdict, result.action, result.frame) == (verdict, PASS, frame)

    for ttl in (0, 1):
        left(net.outgoing(ttl=ttl), "PUNT_TTL")
    room = 1500 - net.overhead - len(net.outgoing(size=0))
    left(net.outgoing(size=room + 1), "PUNT_TOO_BIG")
    fits = net.frame(net.outgoing(size=room), PORT, STATION)
    assert rig.sent("port", fits, peer).verdict == "FORWARD_ENCAP"
    rig.forget()
    assert rig.sent("port", fits, peer, mtu=1499).verdict == "PUNT_TOO_BIG"
    for source in ("fe80::1", "ff02::1", "::1") if net.inner6 else ("127.0.0.1", "224.0.0.1", "0.0.0.0"):
        left(net.inner(source, net.far), "PUNT_HEADER")
    if not net.inner6:
        left(net.outgoing(chksum=0x1234), "PUNT_HEADER")
        left(net.outgoing(options=[IPOption_NOP()] * 4), "PUNT_HEADER")
    rig.forget()
    untouched(rig, net.frame(net.outgoing(), PORT, STATION), "PUNT_NEIGHBOUR", "port")


# The MTU of the path


def told(net: Net, mtu: int, *, quoted: Packet | None = None, source: str = "", **ip: Any) -> bytes:
    """A router's message about a packet to the first peer."""
    local, peer, _ = net.ends
    packet = quoted if quoted is not None else net.wrap(net.outgoing(), src=local, dst=peer)
    quote = Raw(bytes(packet)[:1000])
    if net.outer6:
        from scapy.layers.inet6 import ICMPv6PacketTooBig

        header: Packet = IPv6(src=source or "2001:db8::fe", dst=local, **ip) / ICMPv6PacketTooBig(mtu=mtu)
    else:
        header = IP(src=source or "192.0.2.254", dst=local, **ip) / ICMP(type=3, code=4, nexthopmtu=mtu)
    return bytes(Ether(dst=HERE, src=THERE) / header / quote)


def test_the_path_is_narrower_than_the_device(make: MakeIpip, net: Net) -> None:
    """The sender of a packet that is too big is told: by ICMP from where it was going."""
    rig, peer = make(net), net.ends[1]
    big = net.outgoing(
        size=1400 - net.overhead - len(net.outgoing(size=0)) + 1, **({} if net.inner6 else {"flags": "DF"})
    )
    fits = net.outgoing(size=len(big[Raw].load) - 1, **({} if net.inner6 else {"flags": "DF"}))
    assert rig.sent("leaving", net.frame(big, THERE, HERE), peer).verdict == "PASS_ENCAP"
    untouched(rig, told(net, 1400), "PASS_UNCLAIMED")  # the stack may know of a socket that it concerns
    assert rig.sent("leaving", net.frame(fits, THERE, HERE), peer).verdict == "PASS_ENCAP"
    result = rig.sent("leaving", net.frame(big, THERE, HERE), peer)
    assert (result.verdict, result.action) == ("FORWARD_REPLY", REDIRECT)
    reply = Ether(result.frame)
    assert (reply.dst, reply.src) == (HERE, THERE)
    ip = reply[IPv6 if net.inner6 else IP]
    assert (ip.src, ip.dst) == (net.far, net.near)
    sums = (
        [in6_chksum(58, ip, bytes(ip.payload))] if net.inner6 else [checksum(bytes(ip)[:20]), checksum(bytes(ip)[20:])]
    )
    assert not any(sums)
    kind = (ip.payload.type, ip.payload.code)
    assert kind == ((2, 0) if net.inner6 else (3, 4))
    assert (ip.payload.mtu if net.inner6 else ip.payload.nexthopmtu) == 1400 - net.overhead
    assert bytes(ip.payload)[8:] == bytes(big)[: 1232 if net.inner6 else 548]
    assert rig.sent("port", net.frame(big, PORT, STATION), peer).verdict == "PUNT_TOO_BIG"
    rig.maps["ipip_paths"].set(rig.index(peer), (1400, ticks_now() - 35763 - 2 & 0xFFFFFFFF))  # ten minutes later
    assert rig.sent("leaving", net.frame(big, THERE, HERE), peer).verdict == "PASS_ENCAP"


@pytest.mark.parametrize(
    ("flags", "frag", "verdict"), [("", 0, "FORWARD_REPLY"), ("MF", 0, "FORWARD_REPLY"), ("", 8, "DROP_MTU")]
)
def test_the_sender_of_what_may_be_cut_up_is_told_too(make: MakeIpip, flags: str, frag: int, verdict: str) -> None:
    """At the other end nobody would put it together; later fragments have no ports to tell the sender by."""
    net = Net("ipip")
    rig, packet = make(net), net.outgoing(size=1400, flags=flags, frag=frag)
    rig.send("arriving", told(net, 1400))
    assert rig.sent("leaving", net.frame(packet, THERE, HERE), net.ends[1]).verdict == verdict


def test_messages_that_concern_nobody(make: MakeIpip, net: Net) -> None:
    rig, (local, peer, _) = make(net), net.ends
    stranger = "2001:db8::99" if net.outer6 else "192.0.2.99"
    inner = net.outgoing()
    for frame in (
        told(net, 1400, quoted=net.wrap(inner, src=local, dst=stranger)),
        told(net, 1400, quoted=net.wrap(inner, src=stranger, dst=peer)),
        told(net, 1400, quoted=net.wrap(inner, src=local, dst=peer, **{"nh" if net.outer6 else "proto": 17})),
        told(net, 0),
    ):
        rig.send("arriving", frame)
        assert all(not path.mtu for _, path in rig.maps["ipip_paths"])
    rig.send("arriving", told(net, 100))
    assert rig.maps["ipip_paths"].get(rig.index(peer)).mtu == (1280 if net.outer6 else 552)


# Neighbours that stand for peers


@pytest.mark.parametrize("name", EVERY)
def test_a_neighbour_that_stands_for_a_peer(make: MakeIpip, name: str) -> None:
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr

    net = Net(name)
    rig = make(net)

    def asks(target: str) -> bytes:
        ends = {"src": "fe80::1", "dst": "ff02::1:ff00:202"}
        question = IPv6(hlim=255, **ends) / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=HERE)
        return bytes(Ether(dst="33:33:ff:00:02:02", src=HERE) / question)

    untouched(rig, asks("fe80::2"), "PASS_UNCLAIMED", "leaving")
    frame = asks("fe80::5efe:c000:202")
    result = rig.send("leaving", frame)
    if not net.inner6 or net.outer6:
        assert (result.verdict, result.frame) == ("PASS_UNCLAIMED", frame)
        return
    assert (result.verdict, result.action) == ("FORWARD_REPLY", REDIRECT)
    ends = {"src": "fe80::5efe:c000:202", "dst": "fe80::1"}
    option = ICMPv6NDOptDstLLAddr(lladdr="fe:70:79:64:70:00")
    answer = IPv6(hlim=255, **ends) / ICMPv6ND_NA(R=0, S=1, O=1, tgt="fe80::5efe:c000:202") / option
    assert result.frame == bytes(Ether(dst=HERE, src="fe:70:79:64:70:00") / answer)


# Many peers


@any_kernel
def test_ten_thousand_peers(requires_root: None) -> None:
    """Random networks of every length: the one that ipaddress finds is taken, and its peer is the one heard."""
    draw = random.Random(3)
    networks: dict[Any, str] = {}
    while len(networks) < 10_000:
        address = ip_address((10 << 24) + draw.getrandbits(24))
        networks.setdefault(ip_network((address, draw.randint(12, 32)), strict=False), "")
    for number, network in enumerate(networks):
        networks[network] = str(ip_address("198.18.0.2") + number)
    net = Net("ipip")
    peers = tuple(f"{peer}={network}" for network, peer in networks.items())
    with IpipRig("tc", {**net.options, "peer": peers}, places=("leaving", "arriving")) as rig:
        _compare_lookups(rig, net, networks, draw)


def _compare_lookups(rig: IpipRig, net: Net, networks: Mapping[Any, str], draw: random.Random) -> None:
    by_length = sorted(networks, key=lambda one: -one.prefixlen)
    for _ in range(300):
        target = ip_address((10 << 24) + draw.getrandbits(24))
        owner = next((networks[one] for one in by_length if target in one), "")
        frame = net.frame(net.inner("172.16.0.1", str(target)), THERE, HERE)
        result = rig.send("leaving", frame)
        if owner:
            assert (result.verdict, Ether(result.frame)[IP].dst) == ("PASS_ENCAP", owner)
            assert rig.send("arriving", net.received(net.inner(str(target)), src=owner)).verdict == "PASS_DECAP"
            other = "198.18.0.2" if owner != "198.18.0.2" else "198.18.0.3"
            assert rig.send("arriving", net.received(net.inner(str(target)), src=other)).verdict == "DROP_SPOOFED"
        else:
            assert (result.verdict, result.frame) == ("PASS_UNCLAIMED", frame)


# The kernel's tunnel devices


def adopting(hook: str, *, more: Mapping[str, int] | None = None, **device: Any) -> IpipRig:
    kernel = Tunnel(
        **{"ifindex": BASE + 9, "name": "tun0", "kind": "ipip", "local": "192.0.2.1", "remote": "192.0.2.2",
           "lower": BASE, "up": True, **device}
    )  # fmt: skip
    route = Route("10.2.0.0/16", BASE + 9, protocol=3)
    return IpipRig(hook, {"port": ("p1",)}, tunnels=[kernel], routes=[route], more=more)


def test_the_kernels_device_keeps_what_is_not_for_ports(hook: str) -> None:
    net = Net("ipip")
    with adopting(hook, ttl=5) as rig:
        packet = net.inner()
        untouched(rig, net.received(packet), "PUNT_ROUTE")
        untouched(rig, net.received(net.inner("10.9.0.1")), "PUNT_ROUTE")
        untouched(rig, net.received(b"\0" * 40), "PUNT_ROUTE")
        untouched(rig, net.received(packet, src="192.0.2.9"), "PUNT_VTEP")
        result = rig.delivered(net.received(packet), net.near)
        assert result.frame == net.frame(aged(packet), STATION, PORT)
        out = net.outgoing()
        result = rig.sent("port", net.frame(out, PORT, STATION), "192.0.2.2")
        assert (result.verdict, result.frame) == ("FORWARD_ENCAP", net.sent(aged(out), ttl=5))


def test_the_kernels_device_is_compared(hook: str) -> None:
    """In a turn of the kernel's also what was just carried, and would take the short way."""
    net = Net("ipip")
    with adopting(hook, more={"PYDP_COMPARE": 1, "PYDP_COMPARE_REST": 1000}) as rig:
        packet, out = net.inner(), net.frame(net.outgoing(), PORT, STATION)
        assert rig.delivered(net.received(packet), net.near).verdict == "FORWARD_DECAP"
        assert rig.sent("port", out, "192.0.2.2").verdict == "FORWARD_ENCAP"
        rig.maps["compare_turns"].set(0, (ticks_now() + 1000 & 0xFFFFFFFF, 0))
        untouched(rig, net.received(packet), "PUNT_COMPARE")
        result = rig.send("port", out)
        assert (result.verdict, result.action, result.frame) == ("PUNT_COMPARE", PASS, out)
