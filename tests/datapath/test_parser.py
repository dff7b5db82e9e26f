# SPDX-License-Identifier: Apache-2.0
"""The parser (lib/packet.h) against scapy's dissection of the same bytes, on both hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from socket import AF_INET6, inet_pton
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ebpf import testrun
from ebpf.loader import load
from ebpf.maps import Map
from tests.datapath.frames import (
    AH,
    ARP,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Packet,
    Raw,
    SCTPChunkData,
)
from tests.datapath.harness import HOOKS, prelude_of, probe_of
from tests.kernels.needs import examples

FRAGMENT, LATER, TRUNCATED = 1, 2, 4  # enum packet_flag
EXTENSIONS = (IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, IPv6ExtHdrFragment, IPv6ExtHdrDestOpt, AH)
BEHIND_AUTH = {6: TCP, 17: UDP, 132: SCTP, 58: ICMPv6EchoRequest}
XDP_PASS, TC_PASS = 2, 0xFFFFFFFF
ROOM = 192  # HEADER_ROOM


class Parser:
    """The parser on a hook. ``metadata``: frames have their outermost tag in metadata, as on tc behind a device."""

    def __init__(self, hook: str, metadata: bool) -> None:
        self.metadata = metadata
        self._stack = contextlib.ExitStack()
        compiled = probe_of(hook)
        self._results = self._stack.enter_context(Map.create(compiled.maps["probe_results"]))
        self._program = self._stack.enter_context(load(compiled, "probe", hook, {"probe_results": self._results}))
        self._prelude = hook == "tc"
        if self._prelude:
            prelude = prelude_of(hook)
            maps = {name: self._stack.enter_context(Map.create(spec)) for name, spec in prelude.maps.items()}
            maps["prelude_next"].set(0, self._program.fd)
            self._runs = maps["prelude_runs"]
            name = "prelude_untag" if metadata else "prelude_cut"
            self._program = self._stack.enter_context(load(prelude, name, hook, maps))

    def __call__(self, frame: bytes) -> dict[str, Any]:
        """What the parser makes of a frame, by the names of struct probe_result."""
        if self._prelude:
            self._runs.set(0, 0)
            padded = frame + bytes(max(0, 60 - len(frame)))
            outcome = testrun.run(self._program, padded, skb={"mark": len(frame)})
            assert outcome.action == TC_PASS
        else:
            assert testrun.run(self._program, frame).action == XDP_PASS
        found: dict[str, Any] = self._results.get(0)._asdict()
        return found

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module", params=[*HOOKS, "tc, tag in metadata"])
def parse(requires_root: None, request: pytest.FixtureRequest) -> Iterator[Parser]:
    hook, _, metadata = request.param.partition(",")
    one = Parser(hook, bool(metadata))
    yield one
    one.close()


def expected(frame: bytes, metadata: bool) -> dict[str, Any]:
    """The same facts from scapy. Offsets are those in the frame that the program sees."""
    packet = Ether(frame)
    facts: dict[str, Any] = dict.fromkeys(
        ("tags", "tci", "tag_protocol", "inner_tci", "network", "transport", "sport", "dport", "flags", "protocol",
         "tcp_flags", "icmp_type", "icmp_code"), 0,
    )  # fmt: skip
    facts |= {"parsed": 1, "saddr": bytes(16), "daddr": bytes(16)}
    facts["dest"] = int.from_bytes(frame[:6], "little")
    facts["source"] = int.from_bytes(frame[6:12], "little")
    ethertype, layer = packet.type, packet.payload
    while isinstance(layer, Dot1Q) and facts["tags"] < 2:  # Dot1AD is a Dot1Q too
        tci = layer.prio << 13 | layer.dei << 12 | layer.vlan
        facts |= {"inner_tci": tci} if facts["tags"] else {"tci": tci, "tag_protocol": ethertype}
        facts["tags"] += 1
        ethertype, layer = layer.type, layer.payload
    facts["ethertype"] = ethertype
    gone = 4 if metadata and facts["tags"] else 0
    facts["length"] = len(frame) - gone
    facts["network"] = 14 + 4 * facts["tags"] - gone
    if isinstance(layer, IP):
        _ipv4(facts, layer)
    elif isinstance(layer, IPv6):
        _ipv6(facts, layer)
    return facts


def _ipv4(facts: dict[str, Any], ip: Any) -> None:
    facts |= {"saddr": _octets(ip.src), "daddr": _octets(ip.dst), "protocol": ip.proto}
    if ip.flags.MF or ip.frag:
        facts["flags"] |= FRAGMENT
    if ip.frag:
        facts["flags"] |= LATER
        return
    facts["transport"] = facts["network"] + ip.ihl * 4
    _transport(facts, ip.payload)


def _ipv6(facts: dict[str, Any], ip: Any) -> None:
    facts |= {"saddr": inet_pton(AF_INET6, ip.src), "daddr": inet_pton(AF_INET6, ip.dst), "protocol": ip.nh}
    at, layer = facts["network"] + 40, ip.payload
    while isinstance(layer, EXTENSIONS):
        facts["protocol"] = layer.nh
        if isinstance(layer, IPv6ExtHdrFragment):
            facts["flags"] |= FRAGMENT if layer.m or layer.offset else 0
            if layer.offset:
                facts["flags"] |= LATER
                return
        at += len(layer) - len(layer.payload)
        # scapy does not look for every transport header behind an authentication header
        layer = BEHIND_AUTH[layer.nh](bytes(layer.payload)) if isinstance(layer, AH) else layer.payload
    facts["transport"] = at
    if at > ROOM:
        facts["flags"] |= TRUNCATED
    else:
        _transport(facts, layer)


def _transport(facts: dict[str, Any], layer: Any) -> None:
    if isinstance(layer, TCP):
        facts |= {"sport": layer.sport, "dport": layer.dport, "tcp_flags": int(layer.flags) & 0xFF}
    elif isinstance(layer, UDP | SCTP):
        facts |= {"sport": layer.sport, "dport": layer.dport}
    elif isinstance(layer, ICMP):
        facts |= {"icmp_type": layer.type, "icmp_code": layer.code}
        if layer.type in (0, 8):
            facts |= {"sport": layer.id, "dport": layer.id}
    elif isinstance(layer, ICMPv6EchoRequest):
        facts |= {"icmp_type": layer.type, "icmp_code": layer.code, "sport": layer.id, "dport": layer.id}


def _octets(address: str) -> bytes:
    return bytes(map(int, address.split("."))) + bytes(12)


# Packets

_port = st.integers(0, 65535)
_mac = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
_tag = st.builds(
    lambda kind, vlan, prio, dei: kind(vlan=vlan, prio=prio, dei=dei),
    st.sampled_from([Dot1Q, Dot1AD]), st.integers(0, 4095), st.integers(0, 7), st.integers(0, 1),
)  # fmt: skip
_udp = st.builds(lambda a, b: UDP(sport=a, dport=b), _port, _port)
_tcp = st.builds(lambda a, b, flags: TCP(sport=a, dport=b, flags=flags), _port, _port, st.integers(0, 255))
_sctp = st.builds(lambda a, b: SCTP(sport=a, dport=b) / SCTPChunkData(data=b"x"), _port, _port)
_icmp = st.builds(lambda kind, code, n: ICMP(type=kind, code=code, id=n), st.sampled_from([0, 3, 8, 11]), _port.map(
    lambda n: n & 255), _port)  # fmt: skip
_icmp6 = st.builds(lambda n: ICMPv6EchoRequest(id=n), _port)
_raw = st.builds(lambda raw: Raw(raw), st.binary(min_size=40, max_size=60))
_fragments = st.sampled_from(
    [(0, 0), (0, 1), (10, 1), (185, 0)]
)  # (offset in 8 bytes, more): none, first, middle, last


@st.composite
def _ipv4_packets(draw: st.DrawFn) -> Packet:
    offset, more = draw(_fragments)
    options = draw(st.sampled_from([[], [IPOption_NOP()] * 4, [IPOption_NOP()] * 12, [IPOption_NOP()] * 40]))
    ip = IP(src="10.1.2.3", dst="172.16.5.6", frag=offset, flags="MF" if more else 0, options=options)
    if offset:
        ip.proto = draw(st.sampled_from([6, 17, 132, 1]))
        return ip / draw(_raw)
    return ip / draw(st.one_of(_udp, _tcp, _sctp, _icmp)) / draw(_raw)


@st.composite
def _ipv6_packets(draw: st.DrawFn) -> Packet:
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2:3")
    kinds = draw(st.lists(st.sampled_from(["hop", "route", "options", "long options", "fragment"]), max_size=4))
    kinds += draw(st.sampled_from([[], ["auth"]])) if "long options" not in kinds else []
    later = False
    for kind in kinds:
        if kind == "fragment":
            offset, more = draw(_fragments)
            packet /= IPv6ExtHdrFragment(offset=offset, m=more, id=7)
            later = bool(offset)
        else:
            packet /= {
                "hop": lambda: IPv6ExtHdrHopByHop(),
                "route": lambda: IPv6ExtHdrRouting(addresses=["2001:db8::9"]),
                "options": lambda: IPv6ExtHdrDestOpt(),
                "long options": lambda: IPv6ExtHdrDestOpt(len=5, options=[], autopad=0) / Raw(bytes(46)),
                "auth": lambda: AH(spi=1, seq=1, payloadlen=4, icv=bytes(12)),
            }[kind]()
        if later or kind == "long options":
            break
    if later:
        packet.lastlayer().nh = draw(st.sampled_from([6, 17, 132, 58]))
        return packet / draw(_raw)
    if kinds and kinds[-1] == "long options":
        return packet
    transport = draw(st.one_of(_udp, _tcp, _sctp, _icmp6))
    if kinds and kinds[-1] == "auth":
        packet.lastlayer().nh = next(number for number, kind in BEHIND_AUTH.items() if isinstance(transport, kind))
    return packet / transport / draw(_raw)


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    packet = Ether(dst=draw(_mac), src=draw(_mac))
    for tag in draw(st.lists(_tag, max_size=2)):
        packet /= tag
    inner = draw(st.one_of(_ipv4_packets(), _ipv6_packets(), st.just(ARP() / Raw(bytes(18)))))
    return bytes(packet / inner)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=_frames())
def test_parser_agrees_with_scapy(parse: Parser, frame: bytes) -> None:
    assert parse(frame) == expected(frame, parse.metadata)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["0800", "86dd", "8100", "88a8", "8100000108004500", "86dd60"]), rest=st.binary(max_size=300)
)
def test_random_bytes_are_parsed_to_an_end(parse: Parser, kind: str, rest: bytes) -> None:
    frame = bytes(range(1, 13)) + bytes.fromhex(kind) + rest
    assume(
        not parse.metadata or kind not in ("8100", "88a8", "8100000108004500") or len(frame) >= 20
    )  # the kernel drops such a frame before tc
    found = parse(frame)
    assert found["dest"] == int.from_bytes(frame[:6], "little")
    assert found["tags"] <= 2
    assert found["network"] <= found["length"]
    if found["transport"] > len(frame):
        assert found["flags"] & TRUNCATED
        assert (found["sport"], found["dport"]) == (0, 0)


SAMPLES = {
    "two tags, IPv4 with options, TCP": Dot1AD(vlan=3) / Dot1Q(vlan=4, prio=5)
    / IP(src="1.2.3.4", dst="5.6.7.8", options=[IPOption_NOP()] * 8) / TCP(sport=0x1234, dport=0x5678, flags="SA"),
    "IPv6, four extension headers, UDP": IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / IPv6ExtHdrFragment(offset=0, m=1) / IPv6ExtHdrDestOpt()
    / UDP(sport=0x1234, dport=0x5678),
    "SCTP": IP() / SCTP(sport=0x1234, dport=0x5678),
    "ICMP": IP() / ICMP(id=0x1234),
    "ICMPv6": IPv6() / ICMPv6EchoRequest(id=0x1234),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_every_length(parse: Parser, name: str) -> None:
    """A frame that ends early is parsed as far as it goes: what is found is right or zero, and it is said."""
    whole = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / SAMPLES[name])
    full = parse(whole)
    assert full == expected(whole, parse.metadata)
    for length in range(14, len(whole)):
        if parse.metadata and length < 22 and "tags" in name:
            continue  # the kernel drops a frame below 20 before tc; below 22 the helper that moves tags gives up
        found = parse(whole[:length])
        for field in ("tci", "inner_tci", "sport", "dport", "tcp_flags", "icmp_type", "protocol"):
            behind_an_extension = field == "protocol" and "extension" in name
            assert behind_an_extension or found[field] in (0, full[field]), f"{field} at {length}"
        assert not found["parsed"] or found["flags"] & TRUNCATED, f"not said at {length}"


@pytest.mark.parametrize(
    ("sentence", "layers"),
    [
        ("an IPv4 header that is too short by its own account", IP(ihl=4) / UDP()),
        ("not IPv4 by its own account", IP(version=5) / UDP()),
        ("not IPv6 by its own account", IPv6(version=4) / UDP()),
        ("an extension header that ends beyond what is read", IPv6() / IPv6ExtHdrDestOpt(len=20, autopad=0, options=[])
         / Raw(bytes(166)) / UDP(sport=1, dport=2)),
        ("an extension header longer than the frame", IPv6(nh=60) / Raw(b"\x11\xff" + bytes(30))),
    ],
)  # fmt: skip
def test_what_is_called_truncated(parse: Parser, sentence: str, layers: Packet) -> None:
    found = parse(bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / layers))
    assert found["flags"] & TRUNCATED
    assert (found["sport"], found["dport"]) == (0, 0)


def test_more_extension_headers_than_are_walked(parse: Parser) -> None:
    packet = IPv6()
    for _ in range(9):
        packet /= IPv6ExtHdrDestOpt()
    found = parse(bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / packet / UDP(sport=1, dport=2)))
    assert found["protocol"] == 60
    assert (found["sport"], found["dport"]) == (0, 0)
