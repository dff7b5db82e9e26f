# SPDX-License-Identifier: Apache-2.0
"""Services in maps: what a packet would find there, after every change, in the middle of one, and after a kill."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from ebpf import compiler, libbpf, loader, testrun
from ebpf.abi import Abi, codec
from ebpf.errors import EbpfError, MapFull
from ebpf.maps import Map, MapSpec
from ebpf.source import flatten
from pydp.errors import UsageError
from pydp.services import numbers, stored
from pydp.services.database import Database
from pydp.services.model import Backend, BackendHealth, BackendState, Frontend, Health, Service, eligible
from pydp.services.program import Programmer
from pydp.services.records import FRONTEND, hints, name_key
from pydp.services.stored import load
from pydp.services.text import parse_service
from pydp.sources import bpf_src
from tests.kernels.needs import any_kernel

pytestmark = pytest.mark.usefixtures("requires_root")

PRESENT, DRAINING, MOVE, RESET = 1, 2, 4, 8  # enum nat_backend_flag
AFFINITY, CONSISTENT, MASQUERADE, DSR, REDIRECT = 1, 2, 4, 8, 16  # enum nat_frontend_flag
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
KINDS = {
    "nat_frontends": ("hash", "struct nat_name", "struct nat_frontend", libbpf.F_NO_PREALLOC),
    "nat_hints": ("array", "__u32", "__u32", 0),
    "nat_wild": ("array", "__u32", "__u32", 0),
    "nat_slots": ("array", "__u32", "__u32", 0),
    "nat_backends": ("array", "__u32", "struct nat_backend", 0),
    "nat_failures": ("percpu_array", "__u32", "struct nat_failed", 0),
}
HINTS = 1 << 18
SIZES = {
    "nat_frontends": 256, "nat_hints": HINTS, "nat_wild": 65536, "nat_slots": 4096, "nat_backends": 256,
    "nat_failures": 64,
}  # fmt: skip
WRITES = ("map_update_batch", "map_delete_batch", "map_update", "map_delete")

Share = tuple[str, int]
Answers = dict[str, Counter[Share]]


@pytest.fixture(scope="module")
def abi() -> Abi:
    text = "\n".join(
        (bpf_src() / name).read_text() for name in ("lib/tuple.h", "nat/maps.h") if (bpf_src() / name).exists()
    )
    return Abi(text)


@dataclass
class Datapath:
    """The maps as the datapath reads them, independent of what wrote them."""

    maps: Mapping[str, Map]

    def answers(self) -> Answers:
        """Who answers at each frontend, with the number of its slots. Fails for a slot that points to nobody."""
        found: Answers = {}
        for name, frontend in self.maps["nat_frontends"].items():
            counts = found[self.name(name)] = Counter()
            for place in range(frontend.first, frontend.first + frontend.count):
                record = self.maps["nat_backends"].get(self.maps["nat_slots"].get(place))
                assert record.flags & PRESENT
                assert not record.flags & DRAINING
                assert record.version == name.version
                assert record.service == frontend.service
                counts[self.address(record.address, record.version), swapped(record.port)] += 1
        return found

    def name(self, name: Any) -> str:
        end = self.address(name.address, name.version)
        return f"{PROTOCOLS[name.protocol]} {end or f'any{name.version}'} {swapped(name.port)}"

    def address(self, words: tuple[int, ...], version: int) -> str:
        """ "" for zeros."""
        packed = b"".join(word.to_bytes(4, "little") for word in words)[: 4 if version == 4 else 16]
        return str(ip_address(packed)) if any(packed) else ""

    def frontend(self, name: str) -> Any:
        return next(value for key, value in self.maps["nat_frontends"].items() if self.name(key) == name)

    def records(self) -> dict[str, Any]:
        """Records of backends by address and port, with those that are gone; the number is in `number`."""
        found = {}
        for number, one in self.maps["nat_backends"].items():
            if one.generation:
                found[f"{self.address(one.address, one.version)}:{swapped(one.port)}"] = (number, one)
        return found

    def wild(self) -> dict[int, int]:
        return {port: count for port, count in self.maps["nat_wild"].items() if count}


def swapped(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, "little"), "big")


def make_maps(abi: Abi, stack: contextlib.ExitStack, **sizes: int) -> dict[str, Map]:
    return {
        name: stack.enter_context(
            Map.create(MapSpec(name, kind, codec(abi, key), codec(abi, value), {**SIZES, **sizes}[name], flags))
        )
        for name, (kind, key, value, flags) in KINDS.items()
    }


@dataclass
class Rig:
    programmer: Programmer
    datapath: Datapath
    maps: dict[str, Map]
    path: Path

    def apply(self, *services: Service, **options: Any) -> Any:
        return self.programmer.apply({one.name: one for one in services}, **options)

    def delete(self, *names: str) -> Any:
        return self.programmer.apply(dict.fromkeys(names))

    def again(self) -> Programmer:
        """As another process sees it."""
        self.programmer.database.close()
        self.programmer = Programmer(Database.open(self.path, write=True), self.maps)
        return self.programmer


@pytest.fixture
def make(abi: Abi, tmp_path: Path, requires_root: None) -> Iterator[Callable[..., Rig]]:
    with contextlib.ExitStack() as stack:

        def create(**sizes: int) -> Rig:
            maps = make_maps(abi, stack, **sizes)
            tmp_path.chmod(0o711)
            path = tmp_path / "1" / "nat-0.db"
            programmer = Programmer(Database.create(path), maps)
            programmer.reprogram()
            rig = Rig(programmer, Datapath(maps), maps, path)
            stack.callback(lambda: rig.programmer.database.close())
            return rig

        yield create


@pytest.fixture(params=[500, 0], ids=["few", "many"])
def rig(request: pytest.FixtureRequest, make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """So that a few services are few, and so that they are many (pydp.services.bulk)."""
    monkeypatch.setattr(stored, "_FEW", request.param)
    return make()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and slots are given out again at once: no packets are looked at meanwhile."""
    monkeypatch.setattr(numbers, "QUARANTINE", 0.0)


def expected(*services: Service, down: frozenset[tuple[str, str]] = frozenset()) -> Answers:
    """The same as `Datapath.answers`, from the services alone; weights have to be small."""
    found: Answers = {}
    for service in services:
        backends = [one for one in service.backends if (service.name, str(replace(one, weight=1))) not in down]
        given = {one.address.version for one in service.backends if one.address} or {4, 6}
        for front in service.frontends:
            versions = front.versions if front.address or front.version else given
            for version in versions:
                end = str(front.address) if front.address else f"any{version}"
                chosen = eligible(front, version, backends)
                alike = len({one.weight for one in chosen}) == 1
                found[f"{front.protocol} {end} {front.port}"] = Counter(
                    {(str(one.address or ""), one.port): 1 if alike else one.weight for one in chosen}
                )
    return found


def web(**more: Any) -> Service:
    return replace(parse_service("tcp:10.96.0.1:80=10.0.1.2:8080*3,10.0.1.3:8080*2"), name="web", **more)


SIX = replace(parse_service("udp:[fd00::1]:53=[fd00::2]:53"), name="six")
ANY = replace(parse_service("tcp:8080=10.0.1.2:80"), name="any")
HOST = replace(parse_service("tcp:80=8080"), name="host")
DUAL = Service(
    "dual",
    (
        Frontend("tcp", ip_address("10.96.0.9"), 1),
        Frontend("tcp", ip_address("fd00::9"), 1),
        Frontend("tcp", None, 30080),
        Frontend("tcp", ip_address("192.0.2.9"), 1, local_only=True, masquerade=True),
    ),
    (
        Backend(ip_address("10.0.1.1"), 1, local=True),
        Backend(ip_address("10.0.1.2"), 1),
        Backend(ip_address("fd00::2"), 1),
    ),
)
ALL = (web(), SIX, ANY, HOST, DUAL)


def test_all_kinds_of_services(rig: Rig) -> None:
    outcome = rig.apply(*ALL)
    assert outcome.added == ["web", "six", "any", "host", "dual"]
    assert rig.datapath.answers() == expected(*ALL)
    assert rig.datapath.answers()["tcp 10.96.0.1 80"] == Counter({("10.0.1.2", 8080): 3, ("10.0.1.3", 8080): 2})
    assert rig.datapath.answers()["tcp 192.0.2.9 1"] == Counter({("10.0.1.1", 1): 1})
    assert rig.datapath.wild() == {80: 2, 8080: 1, 30080: 2}
    assert rig.datapath.frontend("tcp any6 80").flags == REDIRECT
    assert rig.datapath.frontend("tcp 192.0.2.9 1").flags == MASQUERADE
    assert rig.datapath.frontend("tcp 10.96.0.9 1").first == rig.datapath.frontend("tcp any4 30080").first
    services = {one.service for _, one in rig.maps["nat_frontends"].items()}
    assert services == set(range(len(ALL)))


def test_what_is_told_of_a_service(rig: Rig) -> None:
    rig.apply(web(scheduler="maglev", table_size=251, affinity=10800.0, masquerade=True), replace(SIX, dsr=True))
    found = rig.datapath.frontend("tcp 10.96.0.1 80")
    assert found.flags == CONSISTENT | AFFINITY | MASQUERADE
    assert found.affinity == pytest.approx(10800 / 0.016777216, abs=1)
    assert found.count == 251
    assert rig.datapath.answers()["tcp 10.96.0.1 80"].total() == 251
    assert rig.datapath.frontend("udp fd00::1 53").flags == DSR


def test_maglev_is_the_same_whatever_came_before(make: Callable[..., Rig]) -> None:
    """Slots by address and port, in their places, on two machines."""
    names = []
    for order in (1, -1):
        rig = make()
        rig.apply(SIX)
        one = web(scheduler="maglev", table_size=251)
        rig.apply(replace(one, backends=one.backends[::order]))
        first = rig.datapath.frontend("tcp 10.96.0.1 80").first
        places = [rig.maps["nat_slots"].get(first + place) for place in range(251)]
        records = [rig.maps["nat_backends"].get(number) for number in places]
        names.append([(one.address, one.port) for one in records])
    assert names[0] == names[1]


def test_a_change_keeps_numbers(rig: Rig) -> None:
    rig.apply(*ALL)
    before = rig.datapath.records()
    outcome = rig.apply(web(affinity=1.0), SIX)
    assert (outcome.added, outcome.changed, outcome.deleted) == ([], ["web"], [])
    more = web(backends=(*web().backends, Backend(ip_address("10.0.1.9"), 1)))
    rig.apply(more, *ALL[1:], every=True)
    after = rig.datapath.records()
    assert {key: (number, one.generation) for key, (number, one) in after.items() if key in before} == {
        key: (number, one.generation) for key, (number, one) in before.items()
    }
    assert after.keys() - before.keys() == {"10.0.1.9:1"}
    assert rig.datapath.answers() == expected(more, *ALL[1:])


def test_one_that_is_gone_keeps_its_record(rig: Rig, hasty: None) -> None:
    """It says what becomes of its connections; the number is given to another one last, with another generation."""
    first, second = web().backends
    rig.apply(web(backends=(first, replace(second, on_end="move"))), SIX)
    before = rig.datapath.records()
    rig.apply(web(backends=(first,)))
    rig.delete("six")
    after = rig.datapath.records()
    for key, flags in (("10.0.1.3:8080", MOVE), ("fd00::2:53", RESET)):
        number, one = after[key]
        assert (number, one.generation, one.flags) == (before[key][0], before[key][1].generation, flags)
    rig.apply(web(backends=(first, replace(second, port=9))))
    rig.apply(web(backends=(first,)), ending="move")
    assert rig.datapath.records()["10.0.1.3:9"][1].flags == MOVE


def test_who_gets_no_connections_is_draining(rig: Rig) -> None:
    rig.apply(web(health=Health("tcp")))
    first, second = web().backends
    quiet = (
        replace(first, state=BackendState.DRAINING, serving=False, deadline=time.time() + 100, on_end="move"),
        second,
    )
    rig.apply(web(backends=quiet, health=Health("tcp")))
    assert rig.datapath.answers() == {"tcp 10.96.0.1 80": Counter({("10.0.1.3", 8080): 1})}
    _, one = rig.datapath.records()["10.0.1.2:8080"]
    assert one.flags == PRESENT | DRAINING | MOVE
    assert one.deadline * 0.016777216 == pytest.approx(time.monotonic() + 100, abs=0.5)
    down = BackendHealth("web", second.address, second.port, up=False, since=1.0, reason="refused")
    assert rig.programmer.set_health([down]).changed == ["web"]
    assert rig.datapath.answers() == {"tcp 10.96.0.1 80": Counter()}
    _, one = rig.datapath.records()["10.0.1.3:8080"]
    assert (one.flags, one.deadline) == (PRESENT | DRAINING | RESET, 0)
    assert rig.programmer.set_health([replace(down, checks=7)]).changed == []
    rig.apply(web(backends=(replace(quiet[0], serving=True), second), health=Health("tcp")))
    _, one = rig.datapath.records()["10.0.1.2:8080"]
    assert (one.flags, one.deadline) == (PRESENT | MOVE, 0)  # nobody is ready, so that it is asked all the same
    assert rig.programmer.set_health([replace(down, up=True)]).changed == ["web"]
    assert rig.datapath.answers() == {"tcp 10.96.0.1 80": Counter({("10.0.1.3", 8080): 1})}


def test_what_probes_said_is_forgotten(rig: Rig) -> None:
    """Of backends that went, and of services that are not probed any more."""
    first, second = web().backends
    probed = web(health=Health("tcp"))
    down = [BackendHealth("web", one.address, one.port, up=False, since=1.0) for one in (first, second)]
    nobody = BackendHealth("nobody", first.address, 1, up=False, since=1.0)
    rig.apply(probed, SIX)
    assert rig.programmer.set_health([*down, nobody, replace(down[0], port=1)]).changed == ["web"]
    rig.apply(replace(probed, backends=(first,)))
    rig.apply(probed)
    assert rig.datapath.answers()["tcp 10.96.0.1 80"] == Counter({("10.0.1.3", 8080): 1})
    rig.apply(web())
    assert rig.datapath.answers()["tcp 10.96.0.1 80"] == expected(web())["tcp 10.96.0.1 80"]
    assert rig.programmer.database.connection.execute("select count(*) from health").fetchone() == (0,)
    assert rig.programmer.set_health(down).changed == []


def test_a_frontend_that_another_service_has(rig: Rig) -> None:
    rig.apply(*ALL)
    thief = replace(SIX, name="thief", frontends=web().frontends, backends=web().backends)
    with pytest.raises(UsageError, match=r"frontend tcp:10\.96\.0\.1:80 belongs to the services web and thief"):
        rig.apply(thief)
    assert rig.datapath.answers() == expected(*ALL)
    rig.programmer.apply({"web": None, "thief": thief})
    assert rig.datapath.answers() == expected(thief, *ALL[1:])


def test_a_dry_run_changes_nothing(rig: Rig) -> None:
    rig.apply(web())
    before = rig.path.read_bytes()
    outcome = rig.apply(SIX, every=True, dry_run=True)
    assert (outcome.added, outcome.deleted) == (["six"], ["web"])
    assert rig.datapath.answers() == expected(web())
    assert rig.path.read_bytes() == before


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"nat_backends": 2}, "no room for one more backend: 2 are taken"),
        ({"nat_slots": 8}, "no room for 5 more slots"),
        ({"nat_frontends": 2}, "no room for 6 frontends beside 1: there are 2 places"),
    ],
)
def test_no_room(make: Callable[..., Rig], sizes: dict[str, int], complaint: str) -> None:
    """Nothing is half done, and what there is stays."""
    rig = make(**sizes)
    rig.apply(SIX)
    with pytest.raises((MapFull, UsageError), match=complaint) as caught:
        rig.apply(web(), DUAL)
    assert "--max-" in getattr(caught.value, "hint", "")
    assert rig.datapath.answers() == expected(SIX)
    assert rig.again().apply({"six": None}).deleted == ["six"]


def test_fresh_maps(abi: Abi, rig: Rig) -> None:
    """As at an attach: of other sizes, too. Numbers stay as far as there is a place for them, else those that were
    free for longest are taken.
    """
    rig.apply(SIX, *(replace(ANY, name=f"s{port}", frontends=(Frontend("tcp", None, port),)) for port in range(1, 40)))
    rig.delete("six")
    rig.apply(web(), every=True)
    before = rig.datapath.records()
    number, gone = before["fd00::2:53"]
    with contextlib.ExitStack() as stack:
        for backends in (256, 32):
            maps = make_maps(abi, stack, nat_slots=64, nat_backends=backends)
            Programmer(rig.programmer.database, maps).reprogram()
            fresh = Datapath(maps)
            assert fresh.answers() == expected(web())
            assert (fresh.records().get("fd00::2:53") == (number, gone)) == (backends == 256)
            same = {key: value for key, value in before.items() if key in ("10.0.1.2:8080", "10.0.1.3:8080")}
            assert (same.items() <= fresh.records().items()) == (backends == 256)
            assert fresh.wild() == {}


def test_maps_that_hold_something_else(rig: Rig) -> None:
    """All is put right: frontends, ports and records that nobody has, and slots that point elsewhere."""
    rig.apply(*ALL)
    wanted = rig.datapath.answers()
    name = next(iter(rig.maps["nat_frontends"].items()))[0]
    rig.maps["nat_frontends"].set(name._replace(port=7), (9, 9, 9, 9, 9, 9))
    rig.maps["nat_wild"].set(7, 7)
    rig.maps["nat_backends"].set(99, ((1, 2, 3, 4), 5, 4, 1, 6, 7, 8))
    rig.maps["nat_slots"].update(dict.fromkeys(range(64), 77))
    rig.programmer.reprogram()
    assert rig.datapath.answers() == wanted
    assert rig.datapath.wild() == {80: 2, 8080: 1, 30080: 2}
    assert rig.maps["nat_backends"].get(99).generation == 0


# In the middle of a change


def nothing() -> None:
    """Is called before and after."""


def watch(
    monkeypatch: pytest.MonkeyPatch, *, before: Callable[[], None] = nothing, after: Callable[[], None] = nothing
) -> None:
    """Have these called with every write to a map."""
    for name in WRITES:
        original = getattr(libbpf, name)

        def call(*arguments: Any, original: Any = original) -> Any:
            before()
            done = original(*arguments)
            after()
            return done

        monkeypatch.setattr(libbpf, name, call)


def test_each_service_is_as_it_was_or_as_it_is_to_be(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frontend that moves to another service, one that comes, one that goes, backends of all kinds."""
    rig.apply(*ALL)
    quiet = tuple(replace(one, state=BackendState.DRAINING, serving=False) for one in web().backends[:1])
    after = (
        web(backends=(*quiet, *web().backends[1:], Backend(ip_address("10.0.1.99"), 7)), scheduler="maglev",
            table_size=251),
        replace(SIX, name="other"),
        replace(ANY, frontends=(Frontend("tcp", None, 8081),)),
        DUAL,
    )  # fmt: skip
    old, new, steps = expected(*ALL), {}, []
    with monkeypatch.context() as patch:
        watch(patch, after=lambda: steps.append((rig.datapath.answers(), rig.datapath.wild())))
        rig.apply(*after, every=True)
        new = rig.datapath.answers()
    assert len(steps) >= 5
    for answers, wild in steps:
        for name in answers.keys() | old.keys() | new.keys():
            assert answers.get(name) in (old.get(name), new.get(name))
            if name in answers and " any" in name:
                assert wild[int(name.split()[-1])]
    assert new["udp fd00::1 53"] == old["udp fd00::1 53"]
    assert rig.datapath.wild() == {8081: 1, 30080: 2}


def test_slots_that_packets_may_read_are_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a second nobody writes what a frontend has pointed to: some CPU may be looking at it."""
    used: list[tuple[float, set[int]]] = []
    written: list[tuple[float, set[int]]] = []
    original = Map.update_raw

    def update_raw(self: Map, keys: bytes, values: bytes) -> None:
        original(self, keys, values)
        places = set(memoryview(keys).cast("I").tolist()) if self is rig.maps["nat_slots"] else set()
        written.append((time.time(), places))

    monkeypatch.setattr(Map, "update_raw", update_raw)
    begun = time.time()
    for turn in range(40):
        found = rig.maps["nat_frontends"].items()
        used.append((time.time(), {at for _, one in found for at in range(one.first, one.first + one.count)}))
        written.clear()
        rig.apply(web(affinity=float(turn)), *((SIX,) if turn % 2 else ()), every=True)
        now, places = time.time(), set[int]().union(*(some for _, some in written))
        for when, there in used:
            assert now - when >= 1 or not places & there
        time.sleep(0.05)
    assert time.time() - begun < 30


# Any sequence of changes


def test_any_sequence_of_changes(rig: Rig, hasty: None) -> None:
    """Three hundred changes of all sorts; what a packet finds is always what follows from the services."""
    dice, there, down = random.Random(11), dict[str, Service](), set[tuple[str, str]]()
    address = [ip_address(f"10.0.{one}.1") for one in range(6)] + [ip_address(f"fd00::{one}") for one in range(1, 4)]

    def service(number: int) -> Service:
        fronts = [Frontend("tcp", ip_address(f"10.96.0.{number}"), 80), Frontend("udp", ip_address("fd00::99"), number)]
        wild = Frontend("tcp", None, 1000 + number, dice.choice([0, 4, 6]), local_only=dice.random() < 0.3)
        backends = [
            Backend(
                one, dice.choice([80, 81]), dice.choice([1, 1, 2, 3, 0]), dice.choice([*BackendState]),
                dice.random() < 0.5, dice.random() < 0.5, None, dice.choice(["reset", "move"]),
            )
            for one in dice.sample(address, dice.randint(0, 5))
        ]  # fmt: skip
        if backends and dice.random() < 0.3:  # as most services are
            version = backends[0].address.version if backends[0].address else 4
            plain = [replace(one, weight=7, state=BackendState.READY) for one in backends]
            own = Frontend("tcp", ip_address(f"10.97.0.{number}" if version == 4 else f"fd97::{number}"), 80)
            wild = replace(wild, version=version, local_only=False)
            alike = tuple(one for one in plain if one.address and one.address.version == version)
            return Service(f"s{number}", (own, wild), alike, health=Health("tcp"))
        return Service(f"s{number}", (*fronts, wild), tuple(backends), health=Health("tcp"))

    for turn in range(300):
        match dice.randint(0, 4):
            case 0:
                gone = dice.sample(sorted(there), min(len(there), 2))
                rig.delete(*gone)
                there = {name: one for name, one in there.items() if name not in gone}
            case 1:
                some = [service(number) for number in dice.sample(range(1, 9), 3)]
                there = {one.name: one for one in some}
                rig.apply(*some, every=True)
            case 2:
                told = [
                    BackendHealth(one.name, back.address, back.port, up=dice.random() < 0.5, since=1.0)
                    for one in there.values()
                    for back in one.backends
                ]
                rig.programmer.set_health(told)
                for each in told:
                    key = each.service, str(Backend(each.address, each.port))
                    (down.discard if each.up else down.add)(key)
            case _:
                one = service(dice.randint(1, 8))
                there[one.name] = one
                rig.apply(one)
        known = {(name, str(replace(back, weight=1))) for name, one in there.items() for back in one.backends}
        down &= known
        if turn % 50 == 49:
            rig.again().reprogram()
        assert _reduced(rig.datapath.answers()) == _reduced(expected(*there.values(), down=frozenset(down)))
        check_numbers(rig)


def _reduced(answers: Answers) -> dict[str, dict[Share, float]]:
    """Shares, as weights may have had something in common."""
    return {
        name: {share: round(count / counts.total(), 6) for share, count in counts.items()}
        for name, counts in answers.items()
    }


def check_numbers(rig: Rig) -> None:
    """No slot and no number is lost, and none is had twice."""
    connection = rig.programmer.database.connection
    kept = load(connection).values()
    runs = [run for one in kept for run in one.runs.values()]
    runs += [(first, size) for size, first in connection.execute("select size, first from room")]
    places = [place for first, size in runs for place in range(first, first + size)]
    assert sorted(places) == list(range(SIZES["nat_slots"]))
    given = [row.number for one in kept for row in one.backends]
    given += [number for (number,) in connection.execute("select number from spare where kind = 'backend'")]
    assert sorted(given) == list(range(rig.programmer.database.fact("next_backend")))
    services = [one.row.number for one in kept]
    services += [number for (number,) in connection.execute("select number from spare where kind = 'service'")]
    assert sorted(services) == list(range(rig.programmer.database.fact("next_service")))
    for table in ("pending", "leaving_run", "leaving_name", "leaving_backend", "leaving_service"):
        assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)


# Killed


def many(count: int, second: int) -> list[Service]:
    return [
        Service(
            f"s{number}",
            (Frontend("tcp", IPv4Address(0x0A600000 + number), 80),),
            tuple(Backend(IPv4Address(0x0A000000 + number + other), 80) for other in (0, second)),
        )
        for number in range(count)
    ]


def in_child(work: Callable[[], None]) -> int:
    """Run WORK in a child; gives the signal that it died of, or 0."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@any_kernel
def test_killed_at_every_write(rig: Rig, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    """Whoever comes next finishes it: before each write to a map, and before each statement of SQL."""
    before, after = many(6, 1), [*many(4, 2), replace(ANY, name="any")]
    deaths = 0
    for number in range(1000):
        rig.apply(*before, every=True)

        def work(number: int = number) -> None:
            left = number

            def count() -> None:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

            watch(monkeypatch, before=count)
            programmer = Programmer(Database.open(rig.path, write=True), rig.maps)
            programmer.database.connection.set_trace_callback(lambda _: count())
            programmer.apply({one.name: one for one in after}, every=True)

        rig.programmer.database.close()
        died = in_child(work)
        deaths += bool(died)
        rig.again().finish()
        answers = rig.datapath.answers()
        assert answers in (expected(*before), expected(*after))
        check_numbers(rig)
        if not died:
            assert answers == expected(*after)
            break
    assert deaths > 30


def test_killed_at_any_moment(rig: Rig, hasty: None) -> None:
    """Changes one after the other, killed after a time that dice tell: what is there is whole."""
    sets = [many(20, 1), many(30, 2), many(10, 3)]
    wanted = [expected(*services) for services in sets]
    dice, deaths = random.Random(3), 0
    for _ in range(25):
        rig.programmer.database.close()
        child = os.fork()
        if not child:
            try:
                programmer = Programmer(Database.open(rig.path, write=True), rig.maps)
                for turn in range(100_000):
                    programmer.apply({one.name: one for one in sets[turn % 3]}, every=True)
            finally:
                os._exit(1)
        time.sleep(dice.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        deaths += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        rig.again().finish()
        assert rig.datapath.answers() in [{}, *wanted]
        check_numbers(rig)
    assert deaths == 25


def test_a_map_that_fails_leaves_the_change_noted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next command says what is in its way, or finishes."""
    rig.apply(web())

    def fail(*_: Any) -> int:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(libbpf, "map_update_batch", fail)
        for _ in range(2):
            with pytest.raises(EbpfError, match="Cannot allocate memory"):
                rig.apply(SIX)
    rig.apply(ANY)
    assert rig.datapath.answers() == expected(web(), SIX, ANY)


# Many


@any_kernel
def test_twenty_thousand_services(
    make: Callable[..., Rig], record_testsuite_property: Callable[[str, object], None]
) -> None:
    """How long it takes is told by the report; a timing does not fail a test."""
    rig = make(nat_frontends=1 << 16, nat_slots=1 << 18, nat_backends=1 << 18, nat_failures=1 << 15)
    services = [
        Service(
            f"s{number}",
            (Frontend("tcp", IPv4Address(0x0A600000 + number), 80),),
            tuple(Backend(IPv4Address(0x0A000000 + 4 * number + other), 80) for other in range(4)),
        )
        for number in range(20_000)
    ]
    begun = time.perf_counter()
    rig.apply(*services, every=True)
    record_testsuite_property("20000 services with 4 backends each written, s", time.perf_counter() - begun)
    changed = replace(services[777], backends=services[777].backends[:2])
    begun = time.perf_counter()
    rig.apply(changed)
    record_testsuite_property("one of 20000 services changed, ms", 1000 * (time.perf_counter() - begun))
    services[777] = changed
    _, values = rig.maps["nat_frontends"].raw()
    assert len(values) // 24 == len(services)
    for number in (0, 776, 777, 778, 19_999):
        found = rig.datapath.frontend(f"tcp {IPv4Address(0x0A600000 + number)} 80")
        places = [rig.maps["nat_slots"].get(found.first + place) for place in range(found.count)]
        records = [rig.maps["nat_backends"].get(place) for place in places]
        assert [rig.datapath.address(one.address, 4) for one in records] == [
            str(one.address) for one in services[number].backends
        ]
    assert rig.apply(*services[:-1], every=True).deleted == ["s19999"]


# Hints

PLACES = """#include "config.h"
#include "abi.h"
#include "hook/xdp.h"
#include "lib/packet.h"
#include "lib/clock.h"
#include "lib/lines.h"
#include "lib/tuple.h"
#include "nat/maps.h"
#include "nat/hint.h"
int place(struct xdp_md *ctx)
{
	struct nat_name *name = (void *)(long)ctx->data;
	__u32 *answer = (void *)(name + 1);
	if ((void *)(answer + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*answer = nat_hint_place(name->address, name->port, name->protocol, name->version);
	return XDP_PASS;
}
"""


def test_the_datapath_looks_for_hints_where_they_are() -> None:
    macros = {"COMPARE": 0, "DEPTH": 2, "FRAGS": 0, "NAT_HINT_SHIFT": 46}
    config = "#define STAGE_NAT 0\n" + "".join(f"#define PYDP_{name} {value}\n" for name, value in macros.items())
    text = flatten(PLACES, include_dirs=[bpf_src()], virtual={"config.h": config})
    draw, names = random.Random(3), []
    with loader.load(compiler.compile_source(text), "place", "xdp", {}) as program:
        for number in range(200):
            address = draw.randbytes(4) + bytes(12) if number % 2 else draw.randbytes(16)
            names.append(name_key(address, draw.randrange(65536), (6, 17, 132)[number % 3], 4 if number % 2 else 6))
            places = array("I", hints(names[-1], bytes(FRONTEND.size), HINTS)[0])
            assert testrun.run(program, names[-1] + bytes(44)).frame[20:24] == places.tobytes()
    assert len(set(names)) == 200


def test_who_answers_is_hinted(rig: Rig) -> None:
    many = replace(parse_service("tcp:10.96.0.1:80=10.0.1.1:80,10.0.1.2:80,10.0.1.3:80"), name="many")
    uneven = replace(parse_service("tcp:10.96.0.2:80=10.0.1.4:80*1,10.0.1.5:80*3"), name="uneven")
    rig.apply(many, uneven)
    numbers = [rig.datapath.records()[f"10.0.1.{number}:80"][0] for number in (1, 2, 3)]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert {one for one in memoryview(rig.maps["nat_hints"].raw()[1]).cast("I") if one} == {3 << 24 | numbers[0]}


def test_hints_of_addresses_in_a_row_have_places_of_their_own() -> None:
    """As many as chance gives each its own: of n names in m places m * (1 - e ** (-n / m))."""
    first, count = int(IPv4Address("10.96.0.1")), HINTS // 2
    names = (name_key((first + number).to_bytes(4, "big") + bytes(12), 80, 6, 4) for number in range(count))
    places = array("I", hints(b"".join(names), bytes(FRONTEND.size * count), HINTS)[0])
    assert len(set(places)) > 0.98 * HINTS * (1 - math.exp(-0.5))
