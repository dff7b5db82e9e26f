# SPDX-License-Identifier: Apache-2.0
"""The FDB as the datapath writes it: learning, ageing, moves, requests, a table too small, two CPUs at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from ebpf import testrun
from pydp.modes import MODES
from pydp.modes.fdb import STATIC, STICKY, TICK, add_request, delete_request, flush_request
from tests.datapath.conftest import MakeRig
from tests.datapath.frames import BROADCAST, eth, mac, tagged
from tests.datapath.harness import DROP, PASS, Rig, ticks_now

STANDING = {(bytes([2, 0, 0, 0, 1, port]), 0) for port in range(4)}  # the ports' own addresses
FLOODED = {"xdp": ("PUNT_FLOOD", PASS), "tc": ("FLOOD_PORTS", DROP)}
FILTERING = {"options": {"vlan_filtering": True, "vlan": ("p0=2-9", "p1=2-9", "p2=2-9")}}


def station(number: int, vid: int = 0) -> tuple[bytes, int]:
    return bytes.fromhex(mac(number).replace(":", "")), vid


def learned(rig: Rig) -> dict[tuple[bytes, int], int]:
    """Slot by address, the ports' own left out."""
    return {name: entry.slot for name, entry in rig.fdb().items() if name[0][4] != 1}


def verdict(rig: Rig, frame: bytes, port: int = 0) -> str:
    return rig.send(frame, port).verdict


# Learning and moving


def test_sources_are_learned_once(rig: MakeRig) -> None:
    made = rig()
    for _ in range(3):
        made.tell((0, eth(BROADCAST, 1)), (1, eth(1, 2)))
    assert learned(made) == {station(1): 0, station(2): 1}
    assert made.events() == {"learned": 2}


def test_a_station_moves_with_its_first_frame(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2)))
    assert verdict(made, eth(1, 2), 1) == "FORWARD_PORT"
    made.tell((1, eth(BROADCAST, 1)))
    assert verdict(made, eth(1, 2), 1) == "DROP_SAME_PORT"
    assert learned(made) == {station(1): 1, station(2): 1}
    assert made.events() == {"learned": 2, "moved": 1}


def test_what_enters_but_is_not_forwarded_teaches_too(rig: MakeRig) -> None:
    """As in br_handle_frame_finish: learning comes before the way out is looked for."""
    made = rig()
    made.tell((0, eth(1, 1)))
    assert verdict(made, eth(1, 1)) == "DROP_SAME_PORT"
    assert learned(made) == {station(1): 0}


def test_bad_sources_teach_nothing(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, "00:00:00:00:00:00")), (0, eth(1, BROADCAST)))
    assert learned(made) == {}


def test_link_local_groups_teach_but_for_pause_frames(rig: MakeRig) -> None:
    """As __br_handle_local_finish."""
    made = rig()
    made.tell(*((0, eth(f"01:80:c2:00:00:{i:02x}", i)) for i in range(16)))
    assert learned(made) == {station(i): 0 for i in range(16) if i != 1}


def test_a_ports_own_address_as_source_moves_nothing(rig: MakeRig) -> None:
    made = rig()
    before = made.fdb()
    made.tell((2, eth(BROADCAST, "02:00:00:00:01:00")))
    assert made.fdb() == before
    assert verdict(made, eth("02:00:00:00:01:00", 1)) == "PUNT_LOCAL"


# Ageing


def test_only_the_source_keeps_an_entry_alive(rig: MakeRig, hook: str) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2)))
    made.age(180)
    made.tell((1, eth(BROADCAST, 2)))
    assert verdict(made, eth(1, 2), 1) == "FORWARD_PORT"  # sent to, but not heard from
    made.age(180)
    assert verdict(made, eth(2, 3), 2) == "FORWARD_PORT"
    assert verdict(made, eth(1, 3), 2) == FLOODED[hook][0]


def test_an_entry_expires_with_time(rig: MakeRig, hook: str) -> None:
    made = rig(options={"ageing": 0.1})
    for _ in range(100):
        start = time.monotonic()
        made.tell((0, eth(BROADCAST, 1)))
        seen = verdict(made, eth(1, 2), 1)
        if time.monotonic() - start < 0.08:  # nobody held us up
            break
    assert seen == "FORWARD_PORT"
    time.sleep(0.16)
    assert verdict(made, eth(1, 2), 1) == FLOODED[hook][0]


def test_an_entry_younger_than_the_clock_is_young(rig: MakeRig) -> None:
    """Each CPU reads the clock once a jiffy: another one's stamp may lie a tick ahead."""
    made = rig()
    made.tell((1, eth(BROADCAST, 2)))
    made.age(-0.05)
    assert verdict(made, eth(2, 1)) == "FORWARD_PORT"
    made.tell((1, eth(1, 2)))
    assert made.events()["learned"] == 2
    assert not made.events().get("aged")


def test_an_aged_entry_is_learned_again(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)))
    made.age(301)
    made.tell((0, eth(BROADCAST, 1)))
    assert verdict(made, eth(1, 2), 1) == "FORWARD_PORT"
    assert made.events() == {"learned": 3, "aged": 1}


def test_the_default_is_300_seconds(rig: MakeRig, hook: str) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)))
    made.age(299)
    assert verdict(made, eth(1, 2), 1) == "FORWARD_PORT"
    made.age(2, [station(1)])
    assert verdict(made, eth(1, 2), 1) == FLOODED[hook][0]


def test_ageing_0_learns_nothing(rig: MakeRig, hook: str) -> None:
    """As the kernel: "some users want to always flood" (br_fdb_update)."""
    made = rig(options={"ageing": 0})
    made.tell((0, eth(BROADCAST, 1)))
    assert learned(made) == {}
    assert verdict(made, eth(1, 2), 1) == FLOODED[hook][0]


# Requests


def test_add_show_delete(rig: MakeRig, hook: str) -> None:
    made = rig()
    assert made.control(add_request(station(7)[0], 0, 2))[0].result == 1
    assert verdict(made, eth(7, 1)) == "FORWARD_PORT"
    assert made.fdb()[station(7)].where & STATIC
    made.age(10_000)
    assert verdict(made, eth(7, 1)) == "FORWARD_PORT"
    twice = made.control(delete_request(station(7)[0], 0), delete_request(station(7)[0], 0))
    assert [one.result for one in twice] == [1, 0]
    assert verdict(made, eth(7, 1)) == FLOODED[hook][0]


@pytest.mark.parametrize("sticky", [False, True])
def test_what_a_person_entered_does_not_move(rig: MakeRig, sticky: bool) -> None:
    made = rig()
    made.control(add_request(station(7)[0], 0, 2, sticky=sticky))
    made.tell((1, eth(BROADCAST, 7)))
    assert learned(made) == {station(7): 2}
    assert made.events() == {}
    assert bool(made.fdb()[station(7)].where & STICKY) == sticky


def test_add_takes_a_learned_entry_over(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)))
    made.control(add_request(station(1)[0], 0, 3))
    assert learned(made) == {station(1): 3}


def test_flush_takes_what_was_learned(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2)))
    made.control(add_request(station(7)[0], 0, 2))
    assert made.control(flush_request())[0].result == 2
    assert learned(made) == {station(7): 2}
    assert set(made.fdb()) == STANDING | {station(7)}


def test_flush_of_one_port(rig: MakeRig) -> None:
    made = rig()
    made.tell((0, eth(BROADCAST, 1)), (1, eth(BROADCAST, 2)), (1, eth(BROADCAST, 3)))
    assert made.control(flush_request(slot=1))[0].result == 2
    assert learned(made) == {station(1): 0}


def test_flush_of_one_vlan(rig: MakeRig, hook: str) -> None:
    made = rig(**FILTERING)
    made.tell(*((port, eth(BROADCAST, 1, tagged(2 + port))) for port in range(3)))
    assert made.control(flush_request(vid=3))[0].result == 1
    assert learned(made) == {station(1, 2): 0, station(1, 4): 2}


def test_flush_with_permanent_entries_spares_this_host(rig: MakeRig) -> None:
    made = rig()
    made.control(add_request(station(7)[0], 0, 2))
    made.tell((0, eth(BROADCAST, 1)))
    assert made.control(flush_request(static=True))[0].result == 2
    assert set(made.fdb()) == STANDING


def test_many_requests_at_once(rig: MakeRig) -> None:
    """More than the map of requests has room for."""
    made = rig(options={"fdb_size": 4096})
    wanted = {(bytes([2, 0, 0, 9, i >> 8, i & 255]), 0): i % 4 for i in range(4200)}
    made.control(*(add_request(address, 0, slot) for (address, _), slot in wanted.items()))
    assert {name: entry.slot for name, entry in made.fdb().items() if name not in STANDING} == wanted


def test_an_attach_forgets_what_an_earlier_one_wrote(rig: MakeRig) -> None:
    """The first request takes out what the attach owns, what was learned or entered stays."""
    made = rig()
    made.tell((0, eth(BROADCAST, 1)))
    made.control(add_request(station(7)[0], 0, 2))
    context = made.contexts["bridge"]
    first = MODES["bridge"].requests(made.options["bridge"], context)[0]
    made.control(first)
    assert set(made.fdb()) == {station(1), station(7)}


# A table that is too small


def test_a_full_table_goes_on(rig: MakeRig, hook: str) -> None:
    made = rig(options={"fdb_size": 16})
    permanent = [station(200 + i)[0] for i in range(3)]
    made.control(*(add_request(address, 0, 3) for address in permanent))
    source = bytearray(eth(200, 0))
    program = made.program(1)
    for number in range(20_000):
        source[6:12] = bytes([0x02, 1, 0, number >> 16, number >> 8 & 255, number & 255])
        testrun.run(program, bytes(source))
    newest = bytes(source[6:12]).hex(":")
    assert made.counts()["bridge", "FORWARD_PORT"][0] == 20_000
    assert verdict(made, eth(newest, 9), 0) == "FORWARD_PORT"
    assert {(address, 0) for address in permanent} | STANDING <= set(made.fdb())
    events = made.events()
    assert events["learned"] == 20_000 + 1
    assert events["evicted"] == events["learned"] - (len(made.fdb()) - len(permanent) - len(STANDING))


LIVE, ENTERED = 0x10000, 0x10000 | STATIC


@pytest.mark.parametrize(
    ("idle", "where", "victim", "event"),
    [
        ((10, 40, 30, 20), (LIVE,) * 4, 1, "evicted"),
        ((10, 40, 30, 20), (LIVE, ENTERED, LIVE, LIVE), 2, "evicted"),
        ((10, 40, 301, 20), (LIVE,) * 4, 2, "aged"),
        ((400, 40, 301, 20), (ENTERED, LIVE, LIVE, LIVE), 2, "aged"),
    ],
    ids=["the oldest", "but for permanent ones", "an aged one", "an aged one beside a permanent one"],
)
@pytest.mark.parametrize("past", [0, 200], ids=["learned", "heard of by the kernel bridge 200 s ago"])
def test_who_gives_way(
    rig: MakeRig, idle: tuple[int, ...], where: tuple[int, ...], victim: int, event: str, past: int
) -> None:
    """All places taken, the same in every bucket; the second byte of an address tells its place."""
    made = rig(options={"fdb_size": 16})
    now = ticks_now()
    seen = tuple(now - round(seconds / TICK) for seconds in idle)
    for index in range(8):
        keys = tuple(way << 8 | index << 16 | 2 for way in range(4))
        made.maps["fdb"].set(index, (keys, where, seen))
    before = set(made.fdb())
    if past:
        key = int.from_bytes(station(1)[0], "little")
        assert made.control((key, 1, 2, 0, 0, 0, round(past / TICK), 0, 0))[0].result == 1  # FDB_ADD
    else:
        made.tell((2, eth(BROADCAST, 1)))
        assert made.events() == {"learned": 1, event: 1}
    ((gone, _),) = before - set(made.fdb())
    assert gone[1] == victim
    assert learned(made)[station(1)] == 2


def test_the_table_holds_what_it_was_made_for(rig: MakeRig) -> None:
    made = rig(options={"fdb_size": 4096})
    source = bytearray(eth(BROADCAST, 0))
    random = Random(1)
    for _ in range(4096 - len(STANDING)):
        source[6:12] = b"\2" + random.randbytes(5)
        testrun.run(made.program(0), bytes(source))
    assert made.events().get("evicted", 0) <= 4


def test_no_place_among_permanent_ones_is_said(rig: MakeRig) -> None:
    made = rig(options={"fdb_size": 16})
    results = [made.control(add_request(bytes([2, 5, 0, 0, 0, number]), 0, 1))[0].result for number in range(64)]
    assert 0 in results
    assert sum(results) == len(made.fdb()) - len(STANDING)
    for number in range(256):
        made.tell((2, eth(BROADCAST, number)))
    assert made.events()["full"] > 0
    assert len([name for name in made.fdb() if name[0][1] == 5]) == sum(results)


# Two CPUs at once


def at_once(*works: Callable[[], object]) -> None:
    """Run each on a CPU of its own; a test run lets go of Python's lock."""
    cpus = sorted(os.sched_getaffinity(0))

    def run(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number % len(cpus)]})
        works[number]()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(run, number) for number in range(len(works))]:
            done.result()


def hammer(rig: Rig, port: int, group: int, times: int = 300_000) -> Callable[[], object]:
    """Frames from random ones of the 64 addresses of a group."""
    program, _ = rig.prelude("hammer", port)
    return lambda: testrun.run(program, eth(BROADCAST, f"02:00:00:00:{group:02x}:00"), repeat=times)


def assert_whole(rig: Rig) -> None:
    """Every place is empty, or holds an address that was heard, with a port that it was heard on."""
    allowed = {0x11: {1}, 0x12: {2}, 0x13: {1, 2}, 0x14: {3}}
    for _, bucket in rig.maps["fdb"]:
        for key, where in zip(bucket.key, bucket.where, strict=True):
            assert bool(key) == bool(where), f"half an entry: {key:#x} {where:#x}"
            group, number = key >> 32 & 0xFF, key >> 40 & 0xFF
            if key:
                assert where & LIVE, f"an entry that nobody can use: {key:#x} {where:#x}"
                assert where & 0xFFFF in allowed.get(group, {number}), f"{key:#x} is behind {where & 0xFFFF}"


@pytest.mark.parametrize("size", [16, 64])
def test_two_cpus_learn_without_a_lock(rig_on: Callable[..., Rig], size: int) -> None:
    """Each CPU's addresses are on a port of their own. All of them fight for few places, yet none may ever seem to have
    moved: that would be an entry with another's port."""
    made = rig_on("xdp", options={"fdb_size": size})
    for _ in range(4):
        at_once(hammer(made, 1, 0x11), hammer(made, 2, 0x12))
        assert_whole(made)
    events = made.events()
    assert events["evicted"] > 10_000
    assert "moved" not in events
    assert "full" not in events
    made.tell((1, eth(BROADCAST, 1)))
    assert verdict(made, eth(1, 2)) == "FORWARD_PORT"


@pytest.mark.parametrize("size", [16, 256])
def test_stations_that_move_and_requests_at_the_same_time(rig_on: Callable[..., Rig], size: int) -> None:
    """Both CPUs hear the same addresses, while others are entered, deleted and flushed."""
    made = rig_on("xdp", options={"fdb_size": size})
    wanted = [bytes([2, 0, 0, 0, 0x14, number]) for number in range(4)]
    made.program(0, "fdb_control")

    def requests() -> None:
        for _ in range(15):
            made.control(*(add_request(address, 0, 3) for address in wanted))
            made.control(*(delete_request(address, 0) for address in wanted[::2]), flush_request(slot=2))

    for _ in range(2):
        at_once(hammer(made, 1, 0x13), hammer(made, 2, 0x13), requests)
        assert_whole(made)
    assert made.events()["moved"] > 0  # even when one CPU ran after the other
    assert all(verdict(made, eth(address.hex(":"), 9)) == "FORWARD_PORT" for address in wanted[1::2])
    assert not [name for name in made.fdb() if name[0] in wanted[::2]]
