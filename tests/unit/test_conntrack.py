# SPDX-License-Identifier: Apache-2.0
"""The conntrack table from records made by the C text's layout: what is read, what is left out, what filters find."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ebpf.abi import Abi
from ebpf.errors import LayoutMismatch
from ebpf.source import flatten
from pydp import conntrack
from pydp.conntrack import Census, Filter, census, flows, parse_network, parse_protocol
from pydp.datapath import Instance
from pydp.errors import UsageError
from pydp.modes.fdb import TICK
from pydp.modes.table import address_words
from pydp.sources import bpf_src

NOW = 1_000_000
NEW, ASSURED = 2, 3


@pytest.fixture(scope="module")
def abi() -> Abi:
    text = flatten('#include "abi.h"\n#include "nat.c"\n', include_dirs=[bpf_src()], virtual={"config.h": ""}).text
    return Abi(text)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "coarse_clock", lambda: NOW << 24)


class Table:
    """A reader of one table."""

    def __init__(self, abi: Abi, records: Sequence[bytes], run: int = 4) -> None:
        layout = [[one.name, one.offset, one.size] for one in abi.record("nat_flow").fields]
        self.instance = Instance(
            "nat", "nat", {}, "tc", "tc", "", {}, {}, {}, maps={"nat_flows": {"layout": layout}},
            constants={"PYDP_NAT_FLOWS": len(records)},
        )  # fmt: skip
        self._records = records
        self._run = run

    def chunks(self, _: Instance, name: str) -> Iterator[tuple[memoryview, memoryview]]:
        assert name == "nat_flows"
        for at in range(0, len(self._records), self._run):
            yield memoryview(b""), memoryview(b"".join(self._records[at : at + self._run]))

    def flows(self, **wanted: Any) -> list[conntrack.Flow]:
        return list(flows(self, self.instance, Filter(**wanted)))  # type: ignore[arg-type]

    def census(self) -> Census:
        return census(self, self.instance)  # type: ignore[arg-type]


def ends(source: str, dest: str, sport: int, dport: int) -> tuple[Any, ...]:
    """A struct nat_tuple."""
    ports = (int.from_bytes(port.to_bytes(2, "big"), "little") for port in (sport, dport))
    return (*(address_words(ip_address(one)) for one in (source, dest)), *ports)


def record(abi: Abi, *, kind: int = ASSURED, left: int = 100, **fields: Any) -> bytes:
    """A struct nat_flow: by default a client at a service of two."""
    given = {
        "life": kind << 32 | NOW + left & 0xFFFFFFFF,
        "original": ends("192.0.2.9", "10.96.0.1", 40000, 80),
        "reply": ends("10.0.1.2", "192.0.2.9", 8080, 40000),
        "protocol": 6, "version": 4, "state": 3, "flags": 5, "backend": 8, "packets": (10, 20), "bytes": (30, 40),
    }  # fmt: skip
    return abi.record("nat_flow").pack(**{**given, **fields})


def test_a_flow_as_it_stands(abi: Abi) -> None:
    (flow,) = Table(abi, [record(abi)]).flows()
    assert (flow.protocol_name, flow.version, flow.state, flow.assured, flow.replied) == (
        "tcp", 4, "ESTABLISHED", True, True,
    )  # fmt: skip
    assert flow.left == pytest.approx(100 * TICK)
    original, reply = flow.original, flow.reply
    assert (original.source, original.dest, original.sport, original.dport) == ("192.0.2.9", "10.96.0.1", 40000, 80)
    assert (reply.source, reply.dest, reply.sport, reply.dport) == ("10.0.1.2", "192.0.2.9", 8080, 40000)
    assert (flow.backend, flow.packets, flow.bytes) == (7, (10, 20), (30, 40))


def test_other_protocols_and_ipv6(abi: Abi) -> None:
    echo = record(
        abi, protocol=58, version=6, state=0, flags=0, backend=0, kind=NEW,
        original=ends("2001:db8::9", "fd00::1", 7, 7), reply=ends("fd00::1", "2001:db8::1", 7, 7),
    )  # fmt: skip
    gre = record(abi, protocol=47, state=0, backend=0, original=ends("192.0.2.9", "10.0.0.1", 0, 0))
    one, other = Table(abi, [echo, gre]).flows()
    assert (one.protocol_name, one.state, one.assured, one.replied, one.backend) == (
        "icmpv6",
        "NONE",
        False,
        False,
        None,
    )
    assert one.is_echo
    assert (one.original.source, one.reply.dest, one.original.sport) == ("2001:db8::9", "2001:db8::1", 7)
    assert (other.protocol_name, other.is_echo) == ("47", False)


@pytest.mark.parametrize("state", [0, 1, 128, 255])
def test_flows_of_udp_have_no_state(abi: Abi, state: int) -> None:
    """They have a stamp in its place (enum nat_udp)."""
    assert [flow.state for flow in Table(abi, [record(abi, protocol=17, state=state)]).flows()] == ["NONE"]


def test_connections_that_end_are_assured(abi: Abi) -> None:
    table = Table(abi, [record(abi, kind=4, state=7), record(abi), record(abi, kind=NEW)])
    assert [(flow.state, flow.assured) for flow in table.flows()] == [
        ("TIME_WAIT", True), ("ESTABLISHED", True), ("ESTABLISHED", False),
    ]  # fmt: skip
    assert table.census() == Census(new=1, assured=2) == Census.of(table.flows())


def test_what_does_not_live_is_left_out(abi: Abi) -> None:
    """Free records, such that a CPU is writing, and such whose time is over; ticks wrap around."""
    records = [
        record(abi, life=0),
        record(abi, kind=1),
        record(abi, left=-1),
        record(abi, left=0, backend=1),
        record(abi, kind=NEW, backend=2),
        record(abi, left=(1 << 31) - 1, backend=3),
        record(abi, left=1 << 31),
    ]
    table = Table(abi, records, run=3)
    found = table.flows()
    assert [(flow.number, flow.backend, flow.assured) for flow in found] == [(3, 0, True), (4, 1, False), (5, 2, True)]
    assert table.census() == Census(new=1, assured=2) == Census.of(found)
    assert table.census().entries == 3


def test_the_clock_wraps_around(abi: Abi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "coarse_clock", lambda: 0xFFFFFFF0 << 24)
    records = [record(abi, life=ASSURED << 32 | 5), record(abi, life=ASSURED << 32 | 0xFFFFFFEF)]
    table = Table(abi, records)
    assert [round(flow.left / TICK) for flow in table.flows()] == [21]
    assert table.census() == Census(0, 1)


FILTERED: tuple[tuple[dict[str, Any], list[int]], ...] = (
    ({}, [0, 1, 2]),
    ({"protocol": 6}, [0]),
    ({"protocol": 17}, [1, 2]),
    ({"state": "ESTABLISHED"}, [0]),
    ({"source": ip_network("192.0.2.0/24")}, [0, 1]),
    ({"source": ip_network("192.0.2.10")}, [1]),
    ({"source": ip_network("0.0.0.0/0")}, [0, 1]),
    ({"source": ip_network("::/0")}, [2]),
    ({"dest": ip_network("fd00::/16")}, [2]),
    ({"sport": 40000}, [0]),
    ({"dport": 53}, [1, 2]),
    ({"reply_source": ip_network("10.0.1.2")}, [0]),
    ({"reply_dest": ip_network("192.0.2.9")}, [0]),
    ({"backends": frozenset({7, 9})}, [0]),
    ({"backends": frozenset({9})}, []),
    ({"dport": 53, "source": ip_network("192.0.2.0/24")}, [1]),
)


@pytest.mark.parametrize(("wanted", "numbers"), FILTERED, ids=lambda value: str(value))
def test_filters(abi: Abi, wanted: dict[str, Any], numbers: list[int]) -> None:
    table = Table(
        abi,
        [
            record(abi),
            record(abi, protocol=17, state=0, backend=0, original=ends("192.0.2.10", "10.96.0.9", 5, 53),
                   reply=ends("10.0.1.3", "192.0.2.1", 53, 5)),
            record(abi, protocol=17, version=6, state=0, backend=0, original=ends("2001:db8::9", "fd00::1", 6, 53),
                   reply=ends("fd00::2", "2001:db8::9", 53, 6)),
        ],
    )  # fmt: skip
    assert [flow.number for flow in table.flows(**wanted)] == numbers


def test_a_request_names_the_flow_as_it_stands(abi: Abi) -> None:
    given: tuple[dict[str, Any], ...] = ({}, {"version": 6, "original": ends("2001:db8::9", "fd00::1", 6, 53)})
    for fields in given:
        packed = record(abi, **fields)
        (flow,) = Table(abi, [packed]).flows()
        layout = [[one.name, one.offset, one.size] for one in abi.record("nat_request").fields]
        assert layout == conntrack._REQUEST
        request = abi.record("nat_request").unpack(conntrack._request(flow))
        stands = abi.record("nat_flow").unpack(packed)
        assert (request.original, request.number, request.protocol, request.version, request.result) == (
            stands.original, 0, stands.protocol, stands.version, 0,
        )  # fmt: skip


def test_a_table_of_another_version_is_not_read(abi: Abi) -> None:
    table = Table(abi, [record(abi)])
    layout = [[name, offset + 8, size] for name, offset, size in table.instance.maps["nat_flows"]["layout"]]
    table.instance = dataclasses.replace(table.instance, maps={"nat_flows": {"layout": layout}})
    with pytest.raises(LayoutMismatch, match="nat-nat_flows"):
        table.flows()
    with pytest.raises(LayoutMismatch):
        table.census()


def test_words_of_filters() -> None:
    assert parse_network("10.0.0.1", "--source") == ip_network("10.0.0.1/32")
    assert parse_protocol("TCP", "--protocol") == 6
    assert parse_protocol("47", "--protocol") == 47
    with pytest.raises(UsageError, match=r"--source 10.0.0.1/8: 10.0.0.1/8 has host bits set"):
        parse_network("10.0.0.1/8", "--source")
    for text in ("gre", "256", "-1"):
        with pytest.raises(UsageError, match=f"--protocol {text}: no protocol"):
            parse_protocol(text, "--protocol")
