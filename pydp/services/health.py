# SPDX-License-Identifier: Apache-2.0
"""Which backends are up, by probes at intervals and thresholds: a schedule on asyncio, without files and eBPF.

What is probed and what becomes of the findings is handed in. A library that does all of this was not found: those on
PyPI are the other side, an application's own page of health (async-healthcheck, aio-tiny-healthcheck, py-healthcheck),
or belong to a routing daemon and know commands alone (anycast-healthchecker, exabgp). So the parts are asyncio's, and
aiohttp's for HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydp.errors import NothingAttached, PydpError
from pydp.services.model import BackendHealth
from pydp.services.probed import Key
from pydp.services.probes import Failed, Prober, Target, Unable

Complain = Callable[[str], None]

_LOOK = 1.0  # seconds from one look for services that came, went or changed to the next
_COUNTS = 30.0  # seconds after which counts are handed on, too
_SOON = 0.02  # seconds for findings to be handed on together
_SILENCE = 60.0  # seconds before a complaint is repeated
_JITTER = 0.1  # of an interval, by which probes come early, so that not all come at once


@dataclass(slots=True)
class Judge:
    """Whether a backend is up. One that nothing is known of is what its first probe says."""

    up: bool | None = None
    against: int = 0  # probes in a row that say otherwise

    def take(self, good: bool, rise: int, fall: int) -> bool:
        """Weigh one probe; whether the state has changed."""
        if good == self.up:
            self.against = 0
            return False
        self.against += 1
        if self.up is not None and self.against < (rise if good else fall):
            return False
        self.up, self.against = good, 0
        return True


@dataclass(slots=True)
class _Watched:
    """A target with what is known of it."""

    target: Target
    judge: Judge
    found: BackendHealth
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be probed, and what was found before."""

    targets: tuple[Target, ...]
    known: Mapping[Key, BackendHealth]


class Checker:
    """Probes what ``look`` tells (None: as before) and hands findings to ``keep``; both may raise PydpError, and are
    then asked again. ``changed`` is told of each backend that goes up or down, ``complain`` of what went wrong.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[Picture | None]],
        keep: Callable[[list[BackendHealth]], Awaitable[None]],
        changed: Callable[[BackendHealth], None],
        complain: Complain,
    ) -> None:
        self._look, self._keep = look, keep
        self._changed, self._complain = changed, _Seldom(complain)
        self._watched: dict[Key, _Watched] = {}
        self._findings: dict[Key, BackendHealth] = {}
        self._counted: set[Key] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; what was found by then is kept."""
        async with Prober() as prober:
            keeping = asyncio.create_task(self._keep_findings())
            try:
                while True:
                    await self._take_picture(prober)
                    await asyncio.sleep(_LOOK)
                    self._raise_faults(keeping)
            finally:
                await ended(keeping, *(one.task for one in self._watched.values() if one.task))
                self._findings |= {key: self._watched[key].found for key in self._counted & self._watched.keys()}
                await self._hand_on()

    async def once(self) -> list[BackendHealth]:
        """Probe each backend once; what it says counts at once. Raises PydpError."""
        picture = await self._look()
        targets = picture.targets if picture else ()
        async with Prober() as prober:
            for target in targets:
                before = picture.known.get(target.key) if picture else None
                self._watched[target.key] = _watched(
                    replace(target, health=replace(target.health, rise=1, fall=1)), before
                )
            watched = list(self._watched.values())
            made = await asyncio.gather(*(self._probe(prober, one) for one in watched))
        found = [one.found for one, was_made in zip(watched, made, strict=True) if was_made]
        await self._keep(found)
        return found

    async def _take_picture(self, prober: Prober) -> None:
        """Probe what came, leave what went, and begin anew with what has changed."""
        try:
            picture = await self._look()
        except NothingAttached as error:
            self._complain(str(error))
            picture = Picture((), {})
        except PydpError as error:
            self._complain(str(error))
            return
        if picture is None:
            return
        targets = {one.key: one for one in picture.targets}
        leaving = [one for key, one in self._watched.items() if targets.get(key) != one.target]
        await ended(*(one.task for one in leaving if one.task))
        before = {one.target.key: self._watched.pop(one.target.key) for one in leaving}
        for key, target in targets.items():
            if key not in self._watched:
                old = before.get(key)
                one = _watched(target, old.found if old else picture.known.get(key))
                one.task = asyncio.create_task(self._watch(prober, one))
                self._watched[key] = one
            elif _differs(self._watched[key], picture.known.get(key)):
                self._findings.setdefault(key, self._watched[key].found)
                self._news.set()
        self._counted &= self._watched.keys()
        self._findings = {key: one for key, one in self._findings.items() if key in self._watched}

    def _raise_faults(self, keeping: asyncio.Task[None]) -> None:
        """No task ends by itself but by a fault of ours."""
        for task in (keeping, *(one.task for one in self._watched.values())):
            if task and task.done():
                task.result()

    async def _watch(self, prober: Prober, one: _Watched) -> None:
        """Probe one backend for good, first at some time within its interval."""
        interval = one.target.health.interval
        due = time.monotonic() + interval * random.random()
        while True:
            await asyncio.sleep(due - time.monotonic())
            await self._probe(prober, one)
            due = max(due + interval * (1 - _JITTER * random.random()), time.monotonic())

    async def _probe(self, prober: Prober, one: _Watched) -> bool:
        """Whether it could be made."""
        health, reason = one.target.health, ""
        try:
            await prober.probe(one.target)
        except Failed as error:
            reason = str(error)
        except Unable as error:
            self._complain(f"{one.target}: cannot be probed: {error}")
            return False
        found = one.found
        found = replace(found, checks=found.checks + 1, failures=found.failures + bool(reason))
        turned = one.judge.take(not reason, health.rise, health.fall)
        if turned:
            found = replace(found, up=not reason, since=time.time(), reason=reason)
        one.found = found
        if turned:
            self._findings[one.target.key] = found
            self._counted.discard(one.target.key)
            self._news.set()
            self._changed(found)
        else:
            self._counted.add(one.target.key)
        return True

    async def _keep_findings(self) -> None:
        counts_due = time.monotonic() + _COUNTS
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(counts_due - time.monotonic(), _SOON))
                await asyncio.sleep(_SOON)
            self._news.clear()
            if time.monotonic() >= counts_due:
                self._findings |= {key: self._watched[key].found for key in self._counted & self._watched.keys()}
                self._counted.clear()
                counts_due = time.monotonic() + _COUNTS
            if not await self._hand_on():
                self._news.set()
                await asyncio.sleep(_LOOK)

    async def _hand_on(self) -> bool:
        """Whether all findings are kept."""
        findings, self._findings = self._findings, {}
        try:
            if findings:
                await self._keep(list(findings.values()))
                findings = {}
        except PydpError as error:
            self._complain(str(error))
        finally:
            self._findings = findings | self._findings
        return not findings


class _Seldom:
    """Passes on complaints, the same one once a minute: what goes wrong at every probe is not said at every probe."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self._said: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        self._said = {what: when for what, when in self._said.items() if now - when < _SILENCE}
        if text not in self._said:
            self._said[text] = now
            self._complain(text)


def _watched(target: Target, known: BackendHealth | None) -> _Watched:
    if known is None:
        return _Watched(target, Judge(), BackendHealth(*target.key, up=True, since=time.time()))
    return _Watched(target, Judge(known.up), known)


def _differs(one: _Watched, known: BackendHealth | None) -> bool:
    """Whether what is KNOWN elsewhere is not what was found: a service may have been made anew meanwhile."""
    return one.judge.up is not None and (known is None or known.up) != one.judge.up


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
