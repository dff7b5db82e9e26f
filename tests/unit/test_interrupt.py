# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command, at once or after what must not be cut short."""

from __future__ import annotations

import os
import signal

import pytest

from pydp.bench.interrupt import postponed, terminable

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING)
def test_each_interrupts(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), number)


def test_a_second_one_does_not_cut_short_what_the_first_began() -> None:
    done = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)

    with pytest.raises(KeyboardInterrupt), terminable():
        work()
    assert done


@pytest.mark.parametrize("number", ENDING)
def test_one_that_is_postponed_comes_at_the_end(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with postponed():
            os.kill(os.getpid(), number)
            done.append("the block")
        done.append("what comes after it")

    with pytest.raises(KeyboardInterrupt), terminable():
        work()
    assert done == ["the block"]


def test_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with terminable(), postponed():
        pass
    assert [signal.getsignal(number) for number in ENDING] == before
