# SPDX-License-Identifier: Apache-2.0
"""The end of the supply that has no rights: what it makes of what it is sent."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pydp.datapath import Datapath, Reader, State
from pydp.errors import PydpError
from pydp.kernel.natrules import ChainRules, NatRules, RuleCounters
from pydp.metrics import supply
from pydp.metrics.supply import Supplied, Supplier, pair

ANSWER = struct.Struct("=qI")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Supplied]]:
    far, near = pair()
    supplied = Supplied(near)
    with far, near:
        yield far, supplied


def send(channel: socket.socket, stamp: int, document: dict[str, Any], number: int) -> None:
    """A set of NUMBER descriptors as the other end would send it."""
    text = os.memfd_create("test")
    os.write(text, json.dumps(document).encode())
    nothing = os.open(os.devnull, os.O_RDONLY)
    together = [text] + [nothing] * number
    channel.send(ANSWER.pack(stamp, len(together)))
    for at in range(0, len(together), 200):
        socket.send_fds(channel, [b"+"], together[at : at + 200])
    os.close(text)
    os.close(nothing)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ask(supplied: Supplied, channel: socket.socket, *answer: Any) -> Reader:
    """One question, answered by a thread: the buffer of a socket holds only so many messages with descriptors."""
    thread = threading.Thread(target=send, args=(channel, *answer))
    thread.start()
    try:
        return supplied()
    finally:
        thread.join()


def document(number: int) -> dict[str, Any]:
    return {"state": State(generation=3).document(), "names": [f"maps/{i}" for i in range(number)]}


def test_a_set_of_any_size_arrives_and_replaces_the_last(ends: tuple[socket.socket, Supplied]) -> None:
    far, supplied = ends
    before = descriptors()
    for number in (0, 1, 199, 200, 450):
        reader = ask(supplied, far, 77, document(number), number)
        assert (reader.stamp, reader.state.generation, len(reader.descriptors)) == (77, 3, number)
        assert descriptors() == before + number
        assert all(os.fstat(one) for one in reader.descriptors.values())
        far.recv(8)
    reader.close()
    assert descriptors() == before


def test_it_says_which_set_it_has_and_keeps_it(ends: tuple[socket.socket, Supplied]) -> None:
    far, supplied = ends
    first = ask(supplied, far, 77, document(2), 2)
    assert struct.unpack("=q", far.recv(8)) == (0,)
    far.send(ANSWER.pack(77, 0))
    assert supplied() is first
    assert struct.unpack("=q", far.recv(8)) == (77,)
    first.close()


def test_an_error_over_there_is_one_here_and_the_old_set_is_gone(ends: tuple[socket.socket, Supplied]) -> None:
    far, supplied = ends
    before = descriptors()
    ask(supplied, far, 77, document(5), 5)
    with pytest.raises(PydpError, match="another version"):
        ask(supplied, far, -1, {"error": "written by another version"}, 0)
    assert descriptors() == before
    reader = ask(supplied, far, 78, document(1), 1)  # and it goes on when the error has gone
    assert reader.stamp == 78
    reader.close()


def test_too_few_descriptors_allowed(ends: tuple[socket.socket, Supplied]) -> None:
    far, supplied = ends
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 100, limits[1]))
    try:
        with pytest.raises(PydpError, match="451 descriptors were sent"):
            ask(supplied, far, 77, document(450), 450)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert descriptors() == before
    ask(supplied, far, 77, document(450), 450).close()


def test_the_other_end_is_gone(ends: tuple[socket.socket, Supplied]) -> None:
    far, supplied = ends
    far.close()
    with pytest.raises(ConnectionError):
        supplied()


@pytest.fixture
def both(ends: tuple[socket.socket, Supplied]) -> Iterator[tuple[Supplied, Supplier]]:
    """Both ends, of which the one with rights answers in a thread of its own."""
    far, supplied = ends
    supplier = Supplier(far, Datapath())
    thread = threading.Thread(target=supplier.run)
    thread.start()
    yield supplied, supplier
    far.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_rules_are_read_by_the_end_with_rights(
    both: tuple[Supplied, Supplier], monkeypatch: pytest.MonkeyPatch
) -> None:
    nat = (NatRules("iptables", "dnat", 3, 1 << 40), NatRules("nftables", "redirect", 1, 0))
    found = RuleCounters(nat, (ChainRules("nftables", "ip", "t", "c", 1, 2, 3),))
    monkeypatch.setattr(supply, "read_rule_counters", lambda: found)
    before = descriptors()
    for _ in range(20):
        assert both[0].rules() == found
    until = time.monotonic() + 10
    while descriptors() != before and time.monotonic() < until:
        time.sleep(0.01)  # the other end closes what it sent when it was received
    assert descriptors() == before


def test_reading_rules_takes_a_bounded_part_of_the_time(
    both: tuple[Supplied, Supplier], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def read() -> RuleCounters:
        clock[0] += 2
        return RuleCounters((NatRules("iptables", "dnat", 1, int(clock[0])),))

    monkeypatch.setattr(supply, "read_rule_counters", read)
    monkeypatch.setattr("pydp.metrics.supply.time.monotonic", lambda: clock[0])
    seen = []
    for now in (100.0, 110.0, 139.9, 140.1):
        clock[0] = now
        seen.append(both[0].rules().nat[0].packets)
    assert seen == [102, 102, 102, 142]


def test_rules_that_cannot_be_read_are_an_error_here(
    both: tuple[Supplied, Supplier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("no netlink today")

    monkeypatch.setattr(supply, "read_rule_counters", refuse)
    with pytest.raises(PydpError, match="no netlink today"):
        both[0].rules()
