# SPDX-License-Identifier: Apache-2.0
"""When backends are up and down, with probes that say what the test wants."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Any

import pytest

from pydp.errors import NothingAttached, PydpError
from pydp.services import health
from pydp.services.health import Checker, Judge, Picture
from pydp.services.model import BackendHealth, Health
from pydp.services.probes import Failed, Target, Unable

INTERVAL = 0.02


@pytest.mark.parametrize(
    ("up", "probes", "states"),
    [
        (None, "+", "U"),
        (None, "-", "D"),
        (None, "-++", "DDU"),
        (True, "--+---", "UUUUUD"),
        (True, "---", "UUD"),
        (True, "-+-+-+-+", "UUUUUUUU"),
        (False, "+-++", "DDDU"),
        (False, "-+-+", "DDDD"),
        (True, "---++--", "UUDDUUU"),
    ],
)
def test_thresholds(up: bool | None, probes: str, states: str) -> None:
    """Rise 2, fall 3."""
    judge, found, before = Judge(up), "", up
    for each in probes:
        turned = judge.take(each == "+", rise=2, fall=3)
        assert turned == (judge.up != before)
        before = judge.up
        found += "U" if judge.up else "D"
    assert found == states


def target(address: str = "10.0.0.2", service: str = "web", **options: Any) -> Target:
    spec = Health("tcp", **{"interval": INTERVAL, "rise": 2, "fall": 3, **options})
    return Target(service, ip_address(address), 80, address, spec)


class World:
    """What a Checker sees, and what it says of it."""

    def __init__(self, *targets: Target, known: Iterable[BackendHealth] = ()) -> None:
        self.targets = targets
        self.known = {(each.service, each.address, each.port): each for each in known}
        self.quiet = False  # nothing has changed, it says
        self.bad: set[str] = set()  # hosts whose probes fail
        self.unable: set[str] = set()
        self.hanging: set[str] = set()
        self.look_error: PydpError | None = None
        self.keep_error: PydpError | None = None
        self.probed: list[str] = []
        self.kept: list[BackendHealth] = []
        self.changes: list[str] = []
        self.complaints: list[str] = []
        self.checker = Checker(self.look, self.keep, self._changed, self.complaints.append)

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def look(self) -> Picture | None:
        if self.look_error:
            raise self.look_error
        return None if self.quiet else Picture(self.targets, dict(self.known))

    async def keep(self, found: list[BackendHealth]) -> None:
        if self.keep_error:
            raise self.keep_error
        self.kept += found
        self.known |= {(each.service, each.address, each.port): each for each in found}

    def _changed(self, found: BackendHealth) -> None:
        self.changes.append(f"{found.address} {'up' if found.up else 'down'} {found.reason}".strip())

    async def probe(self, one: Target) -> None:
        self.probed.append(one.host)
        if one.host in self.hanging:
            await asyncio.sleep(3600)
        if one.host in self.unable:
            raise Unable("too many open files")
        if one.host in self.bad:
            raise Failed("connection refused")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Runs a checker in a world beside a story about it."""
    monkeypatch.setattr(health, "_LOOK", 0.01)
    monkeypatch.setattr(health, "_SOON", 0.001)

    def run(world: World, story: Callable[[World], Awaitable[None]]) -> World:
        monkeypatch.setattr(health, "Prober", lambda: world)

        async def both() -> None:
            checker = asyncio.create_task(world.checker.run())
            try:
                await story(world)
            finally:
                checker.cancel()
                await asyncio.gather(checker, return_exceptions=True)
            assert checker.cancelled()

        asyncio.run(both())
        return world

    return run


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def test_down_and_up_again(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        await until(lambda: len(world.kept) == 2)
        world.bad.add("10.0.0.2")
        await until(lambda: len(world.kept) == 3)
        world.bad.clear()
        await until(lambda: len(world.kept) == 4)

    world = play(World(target("10.0.0.2"), target("10.0.0.3")), story)
    assert sorted(world.changes[:2]) == ["10.0.0.2 up", "10.0.0.3 up"]
    assert world.changes[2:] == ["10.0.0.2 down connection refused", "10.0.0.2 up"]
    down, up = world.kept[2:4]
    assert (down.up, down.reason, down.failures) == (False, "connection refused", 3)
    assert (up.up, up.reason, up.checks) == (True, "", down.checks + 2)
    assert up.since > down.since > time.time() - 60


def test_counts_are_kept_at_the_end(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        await until(lambda: len(world.probed) == 5)

    world = play(World(target()), story)
    assert [each.checks for each in world.kept] == [1, 5]


def test_counts_are_kept_now_and_then(play: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_COUNTS", 0.03)

    async def story(world: World) -> None:
        await until(lambda: len(world.kept) >= 3)

    world = play(World(target()), story)
    assert [each.up for each in world.kept[:3]] == [True] * 3
    assert all(one.checks < two.checks for one, two in itertools.pairwise(world.kept[:3]))


@pytest.mark.parametrize("up", [True, False])
def test_what_was_known_stays_until_the_thresholds(up: bool, play: Callable[..., World]) -> None:
    known = BackendHealth("web", ip_address("10.0.0.2"), 80, up=up, since=5.0, reason="before", checks=10, failures=4)

    async def story(world: World) -> None:
        await until(lambda: world.kept)

    world = World(target(), known=[known])
    world.bad = {"10.0.0.2"} if up else set()
    turned = play(world, story).kept[0]
    probes = 3 if up else 2
    assert (turned.up, turned.checks, turned.failures) == (not up, 10 + probes, 4 + 3 * up)


def test_services_come_and_go(play: Callable[..., World]) -> None:
    one, two = target("10.0.0.2"), target("10.0.0.3")

    async def story(world: World) -> None:
        await until(lambda: "10.0.0.2" in world.probed)
        world.targets = (two,)
        await until(lambda: "10.0.0.3" in world.probed)
        await asyncio.sleep(0.03)
        world.probed.clear()
        await until(lambda: len(world.probed) == 3)
        assert set(world.probed) == {"10.0.0.3"}
        world.quiet = True
        world.probed.clear()
        await until(lambda: len(world.probed) == 3)

    play(World(one), story)


def test_another_way_of_probing_keeps_the_state(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        world.bad.add("10.0.0.2")
        await until(lambda: world.kept)
        world.targets = (target(rise=1),)
        await asyncio.sleep(0.05)
        world.bad.clear()
        await until(lambda: len(world.kept) == 2)

    world = play(World(target()), story)
    assert world.changes == ["10.0.0.2 down connection refused", "10.0.0.2 up"]
    assert world.kept[1].checks > world.kept[0].checks


def test_what_others_forgot_is_said_again(play: Callable[..., World]) -> None:
    """As when a service was deleted and made anew between two looks."""

    async def story(world: World) -> None:
        world.bad.add("10.0.0.2")
        await until(lambda: world.kept)
        world.known.clear()
        await until(lambda: len(world.kept) == 2)
        await asyncio.sleep(0.05)
        assert len(world.kept) == 2

    world = play(World(target()), story)
    assert world.changes == ["10.0.0.2 down connection refused"]
    assert not any(each.up for each in world.kept)


def test_a_probe_that_cannot_be_made_says_nothing(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        await until(lambda: len(world.kept) == 1)
        world.unable.add("10.0.0.2")
        await until(lambda: len(world.probed) > 8)

    world = play(World(target()), story)
    assert world.changes == ["10.0.0.2 up"]
    assert world.complaints == ["web 10.0.0.2:80: cannot be probed: too many open files"]


def test_one_that_hangs_holds_nobody_up(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        world.hanging.add("10.0.0.2")
        await until(lambda: world.probed.count("10.0.0.3") == 5)
        assert world.probed.count("10.0.0.2") <= 1

    play(World(target("10.0.0.2"), target("10.0.0.3")), story)


def test_errors_of_the_database_are_outlived(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        world.keep_error = PydpError("busy")
        await until(lambda: world.complaints)
        world.look_error = PydpError("gone")
        await until(lambda: len(world.complaints) == 2)
        world.keep_error = world.look_error = None
        await until(lambda: world.kept)

    world = play(World(target()), story)
    assert world.complaints == ["busy", "gone"]
    assert world.kept[0].up


def test_nobody_is_probed_while_nothing_is_attached(play: Callable[..., World]) -> None:
    async def story(world: World) -> None:
        await until(lambda: world.kept)
        world.look_error = NothingAttached("there is no instance nat")
        await until(lambda: world.complaints)
        await asyncio.sleep(0.02)
        world.probed.clear()
        await asyncio.sleep(0.1)
        assert world.probed == []
        world.look_error = None
        world.known.clear()
        await until(lambda: len(world.kept) == 2)

    world = play(World(target()), story)
    assert world.changes == ["10.0.0.2 up"] * 2


def test_a_fault_of_ours_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_LOOK", 0.01)
    world = World(target())

    async def probe(_: Target) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world, "probe", probe)
    monkeypatch.setattr(health, "Prober", lambda: world)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(world.checker.run(), 5))


def test_probes_are_spread_over_the_interval_and_never_late(play: Callable[..., World]) -> None:
    times: list[float] = []

    async def story(world: World) -> None:
        world.probed = _Clock(times)
        await asyncio.sleep(0.5)

    play(World(target(interval=0.05)), story)
    gaps = [two - one for one, two in itertools.pairwise(times)]
    assert len(gaps) >= 8
    assert 0.044 < sum(gaps) / len(gaps) < 0.053


class _Clock(list[str]):
    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times

    def append(self, host: str) -> None:
        self.times.append(time.monotonic())


def test_once_says_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        BackendHealth("web", ip_address(f"10.0.0.{n}"), 80, up=True, since=5.0, reason="", checks=7) for n in (2, 3, 4)
    ]
    world = World(*(target(f"10.0.0.{n}") for n in (2, 3, 4, 5)), known=known)
    world.bad, world.unable = {"10.0.0.2", "10.0.0.5"}, {"10.0.0.4"}
    monkeypatch.setattr(health, "Prober", lambda: world)
    found = asyncio.run(world.checker.once())
    assert {str(each.address): (each.up, each.checks) for each in found} == {
        "10.0.0.2": (False, 8), "10.0.0.3": (True, 8), "10.0.0.5": (False, 1)
    }  # fmt: skip
    assert found == world.kept
    assert world.complaints == ["web 10.0.0.4:80: cannot be probed: too many open files"]


def test_once_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(health, "Prober", lambda: world)
    assert asyncio.run(world.checker.once()) == []
