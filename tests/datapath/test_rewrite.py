# SPDX-License-Identifier: Apache-2.0
"""Reading tuples (lib/tuple.h) and giving packets other ones (lib/rewrite.h): whole frames as scapy builds them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datapath.frames import (
    ARP,
    ICMP,
    IP,
    SCTP,
    TCP,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    Raw,
)
from tests.datapath.rewrite_packets import (
    IDENT,
    IPV4,
    IPV6,
    MACS,
    PORTLESS,
    TO4,
    TO6,
    V4,
    V6,
    Build,
    echo,
    echo6,
    sctp,
    tcp,
    udp,
    v4,
    v6,
)
from tests.datapath.rewrite_rig import FLOW, LATER, OTHER, Ends, Rewriter
from tests.kernels.needs import examples


def cases() -> Iterator[Any]:
    for version, table, before, after in ((4, IPV4, V4, TO4), (6, IPV6, V6, TO6)):
        for name, build in table.items():
            yield pytest.param(build, before, after, id=f"IPv{version} {name}")


every_packet = pytest.mark.parametrize(("build", "before", "after"), list(cases()))


def aged(frame: bytes) -> bytes:
    """By scapy: one less, and the IPv4 checksum anew."""
    packet = Ether(frame)
    if IPv6 in packet:
        packet[IPv6].hlim -= 1
    else:
        packet[IP].ttl -= 1
        packet[IP].chksum = None
    return bytes(packet)


@every_packet
@pytest.mark.parametrize("age", [False, True], ids=["", "aged"])
def test_rewritten(rewriter: Rewriter, build: Build, before: Ends, after: Ends, age: bool) -> None:
    frame, wanted = bytes(build(before)), bytes(build(after))
    assert frame != wanted
    done = rewriter.rewrite(frame, after, age=age)
    assert done.done
    assert done.frame == (aged(wanted) if age else wanted)
    back = rewriter.rewrite(done.frame, before)
    assert back.frame == (aged(frame) if age else frame)


@every_packet
def test_what_is_read(rewriter: Rewriter, build: Build, before: Ends, after: Ends, request: Any) -> None:
    packet, name = build(before), request.node.callspec.id
    done = rewriter.read(bytes(packet))
    view, ip = done.view, packet.payload
    portless = any(one in name for one in PORTLESS)
    later = portless and "fragment" in name
    assert done.read
    echoes = "ICMP" in name
    ends = replace(before, dport=before.sport) if echoes else before
    assert view.tuple == view.tuple._make((replace(ends, sport=0, dport=0) if portless else ends).words())
    assert view.kind == (LATER if later else FLOW)
    assert view.version == ip.version
    assert view.length == len(packet) - 14
    assert view.network == 14
    assert view.ttl == 17
    assert view.tos == (0x68 if ip.version == 6 else ip.tos)
    assert view.df == (ip.version == 6 or "DF" in str(ip.flags))
    assert view.first == ("first" in name)
    assert view.id == (int.from_bytes(IDENT.to_bytes(2 if ip.version == 4 else 4, "big"), "little")
                       if ip.version == 4 or "fragment" in name else 0)  # fmt: skip
    assert view.checksum_zero == ("without checksum" in name)
    if not later:
        headers = packet.payload.payload
        while type(headers).__name__.startswith(("IPv6Ext", "AH")):
            headers = headers.payload
        assert view.transport == len(packet) - len(headers)
    if TCP in packet:
        assert view.tcp_flags == int(packet[TCP].flags)
    if SCTP in packet:
        assert (view.protocol, view.chunk) == (132, 0)
    if echoes:
        assert (view.icmp_type, view.icmp_code) == (packet.lastlayer().underlayer.type if ICMP not in packet
                                                    else packet[ICMP].type, 0)  # fmt: skip


NOT_OURS = {
    "ARP": lambda: Ether(**MACS) / ARP(),
    "not IPv4 by its own account": lambda: v4(V4, version=5) / tcp(V4),
    "a header that is too short by its own account": lambda: v4(V4, ihl=4) / tcp(V4),
    "not IPv6 by its own account": lambda: v6(V6, version=4) / tcp(V6),
    "longer than the frame": lambda: v4(V4, len=100) / tcp(V4),
    "IPv6 longer than the frame": lambda: v6(V6, plen=100) / tcp(V6),
    "shorter than its header": lambda: v4(V4, len=24, ihl=7) / Raw(bytes(60)),
    "five headers": lambda: v6(V6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / udp(V6),
    "headers that lead too far": lambda: v6(V6, nh=60) / Raw(b"\x11\x2f" + bytes(382)) / udp(V6),
    "an ICMP error in fragments": lambda: v4(V4, flags="MF") / ICMP(type=3) / Raw(bytes(64)),
    "ICMP router discovery": lambda: v4(V4) / ICMP(type=10),
    "neighbour discovery": lambda: v6(V6, nh=58) / Raw(b"\x87" + bytes(23)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_not_read(rewriter: Rewriter, name: str) -> None:
    frame = bytes(NOT_OURS[name]())
    done = rewriter.rewrite(frame, TO6 if b"\x86\xdd" in frame[12:14] else TO4)
    assert not done.read
    assert done.view.kind == OTHER
    assert done.frame == frame


def test_behind_a_tag(requires_root: None) -> None:
    """XDP only: on tc the kernel takes it out of the frame."""
    rewriter = Rewriter("xdp")
    frames = [bytes(Ether(**MACS) / Dot1Q(vlan=5) / (v4(e) / tcp(e)).payload) for e in (V4, TO4)]
    assert rewriter.rewrite(frames[0], TO4).frame == frames[1]
    assert rewriter.read(frames[0]).view.network == 18
    rewriter.close()


@every_packet
@pytest.mark.parametrize("fits", [False, True], ids=["cut off", "short by its own account"])
def test_every_length(plain: Rewriter, build: Build, before: Ends, after: Ends, fits: bool) -> None:
    """What ends early is left alone; what is there in full is rewritten, and nothing behind it."""
    frame = bytes(build(before))
    view = plain.read(frame).view
    least = {6: 20, 17: 8, 1: 8, 58: 8, 132: 12}.get(view.protocol, 0)
    needed = view.transport + (0 if view.kind == LATER else least)
    headers, length_at, counted_from = (54, 18, 54) if view.version == 6 else (34, 16, 14)
    for length in range(22 if plain.hook == "tc" else 14, min(len(frame), 150)):
        given = bytearray(frame[:length])
        if fits and length >= headers:
            struct.pack_into(">H", given, length_at, length - counted_from)
        done = plain.rewrite(bytes(given) + frame[length:], after, cut=length)
        assert done.done == (fits and length >= needed), length
        assert len(done.frame) == length
        assert done.done or done.frame == given, length


addresses4 = st.integers(1, 2**32 - 1).map(lambda n: ".".join(str(n >> s & 255) for s in (24, 16, 8, 0)))
addresses6 = st.binary(min_size=16, max_size=16).map(lambda b: ":".join(b.hex()[i : i + 4] for i in range(0, 32, 4)))
ports = st.integers(0, 65535)
quick = settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ends_of(addresses: Any) -> Any:
    return st.builds(Ends, addresses, ports, addresses, ports)


def normal(frame: bytes, at: int) -> bytes:
    """A checksum of 0xffff is the same as one of 0."""
    return frame[:at] + frame[at : at + 2].replace(b"\xff\xff", b"\0\0") + frame[at + 2 :]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "ICMP", "SCTP"])
def test_there_and_back(rewriter: Rewriter, version: int, protocol: str) -> None:
    """The inverse brings back every bit, and a wrong checksum stays as wrong as it was, as the difference to the right
    one shows."""
    kinds: dict[str, tuple[Any, int]] = {
        "TCP": (tcp, 16), "UDP": (udp, 6), "ICMP": (echo if version == 4 else echo6, 2), "SCTP": (sctp, 8),
    }  # fmt: skip
    build, offset = kinds[protocol]
    ends = ends_of(addresses4 if version == 4 else addresses6)

    @quick
    @given(before=ends, after=ends, wrong=st.integers(0, 65535), payload=st.binary(max_size=90))
    def run(before: Ends, after: Ends, wrong: int, payload: bytes) -> None:
        if protocol == "ICMP":
            before, after = (replace(one, dport=one.sport) for one in (before, after))
        frames = [bytearray(bytes((v4 if version == 4 else v6)(e) / build(e) / Raw(payload))) for e in (before, after)]
        at = (34 if version == 4 else 54) + offset
        for frame in frames:
            if protocol == "SCTP":
                frame[at : at + 4] = (int.from_bytes(frame[at : at + 4], "little") ^ wrong << 7).to_bytes(4, "little")
                if not any(frame[at : at + 4]):
                    return
            else:
                total = struct.unpack_from(">H", frame, at)[0] + wrong
                total = (total & 0xFFFF) + (total >> 16)
                struct.pack_into(">H", frame, at, total)
                if protocol == "UDP" and not total:
                    return
        there = rewriter.rewrite(bytes(frames[0]), after)
        assert there.done
        assert normal(there.frame, at) == normal(bytes(frames[1]), at)
        assert normal(rewriter.rewrite(there.frame, before).frame, at) == normal(bytes(frames[0]), at)

    run()


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_checksum_that_comes_out_as_zero(rewriter: Rewriter, version: int) -> None:
    """It is written as 0xffff (RFC 768), since 0 says that there is none."""
    make, before, after = (v4, V4, TO4) if version == 4 else (v6, V6, TO6)
    at = (34 if version == 4 else 54) + 6
    plain = bytes(make(after) / udp(after) / Raw(b"\0\0"))
    payload = plain[at : at + 2]  # with which the words add up to 0xffff
    frame, wanted = (bytes(make(e) / udp(e) / Raw(payload)) for e in (before, after))
    assert wanted[at : at + 2] == b"\xff\xff"
    assert rewriter.rewrite(frame, after).frame == wanted


@pytest.mark.parametrize("version", [4, 6])
def test_an_sctp_checksum_that_is_yet_to_be_filled_in(rewriter: Rewriter, version: int) -> None:
    make, before, after = (v4, V4, TO4) if version == 4 else (v6, V6, TO6)
    frames = []
    for ends in (before, after):
        frame = bytearray(bytes(make(ends) / sctp(ends)))
        at = (34 if version == 4 else 54) + 8
        frame[at : at + 4] = bytes(4)
        frames.append(bytes(frame))
    assert rewriter.rewrite(frames[0], after).frame == frames[1]


def test_an_sctp_packet_in_fragments(rewriter: Rewriter) -> None:
    """The first fragment has the checksum of all of them: it can get other addresses, but no other ports."""
    first = [bytes(v4(e, flags="MF") / sctp(V4)) for e in (V4, TO4)]
    assert rewriter.rewrite(first[0], replace(TO4, sport=V4.sport, dport=V4.dport)).frame == first[1]
    assert not rewriter.rewrite(first[0], TO4).done


def test_a_frame_that_is_to_be_cut_up(requires_root: None) -> None:
    """It may be longer than its header can say (tc only): where it ends then, the kernel knows."""
    rewriter = Rewriter("tc")
    filler = Raw(bytes(range(250)) * 12)
    frames = [bytes(v4(e, len=0) / tcp(e) / filler) for e in (V4, TO4)]
    assert not rewriter.rewrite(frames[0], TO4).read
    assert rewriter.rewrite(frames[0], TO4, gso_size=1000).frame == frames[1]
    rewriter.close()
