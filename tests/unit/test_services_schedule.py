# SPDX-License-Identifier: Apache-2.0
"""From weights to slots."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydp.services.model import TABLE_SIZE, is_prime
from pydp.services.schedule import MAX_PLACES, maglev, random_slots

SIZE = 1021  # small enough for many examples


def keys(count: int, first: int = 0) -> list[bytes]:
    return [bytes([10, 0, number >> 8, number & 255]) + b"\x1f\x90" for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([], []),
        ([7], [1]),
        ([1, 1, 1], [1, 1, 1]),
        ([500, 500], [1, 1]),
        ([30, 10], [3, 1]),
        ([4, 6, 10], [2, 3, 5]),
        ([65535, 1], [4095, 1]),
        ([65535, 65534], [2048, 2048]),
        ([1] * 8 + [3, 5203], [1] * 8 + [2, 4086]),
    ],
)
def test_shares(weights: list[int], shares: list[int]) -> None:
    slots = random_slots(weights)
    assert [slots.count(index) for index in range(len(weights))] == shares


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=60))
def test_shares_are_in_proportion(weights: list[int]) -> None:
    """Within one place of what is due, and nobody gets nothing."""
    counts = Counter(random_slots(weights))
    places = counts.total()
    assert places <= MAX_PLACES
    for index, weight in enumerate(weights):
        due = places * weight / sum(weights)
        assert counts[index] >= 1
        assert abs(counts[index] - due) <= len(weights) * weight / sum(weights) + 1


def test_more_backends_than_places() -> None:
    many = [1, 2] * MAX_PLACES
    counts = Counter(random_slots(many))
    assert set(counts) == set(range(len(many)))


# Maglev


def moved(before: Sequence[bytes], after: Sequence[bytes]) -> float:
    return sum(one != other for one, other in zip(before, after, strict=True)) / len(before)


def table(names: Sequence[bytes], weights: Sequence[int] | None = None, size: int = SIZE) -> list[bytes]:
    return [names[place] for place in maglev(names, weights or [1] * len(names), size)]


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_every_machine_has_the_same_table(count: int, shuffle: random.Random) -> None:
    names = keys(count)
    weights = {name: 1 + number % 3 for number, name in enumerate(names)}
    other = names[:]
    shuffle.shuffle(other)
    assert table(names, [weights[one] for one in names]) == table(other, [weights[one] for one in other])


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_one_that_goes_moves_little_more_than_its_share(count: int) -> None:
    names = keys(count)
    before = table(names, size=TABLE_SIZE)
    for gone in random.Random(count).sample(names, min(count, 5)):
        after = table([one for one in names if one != gone], size=TABLE_SIZE)
        assert moved(before, after) <= 2 / count + 0.01
        assert gone not in after


def test_shares_are_equal() -> None:
    counts = Counter(table(keys(100), size=TABLE_SIZE))
    assert len(counts) == 100
    assert max(counts.values()) - min(counts.values()) <= 1


def test_weights_are_kept_to() -> None:
    names = keys(4)
    counts = Counter(table(names, [1, 2, 3, 4], size=TABLE_SIZE))
    for name, weight in zip(names, (1, 2, 3, 4), strict=True):
        assert counts[name] == pytest.approx(TABLE_SIZE * weight / 10, rel=0.01)


def test_nobody_and_one() -> None:
    assert maglev([], [], SIZE) == []
    assert maglev(keys(1), [9], SIZE) == [0] * SIZE


def test_primes() -> None:
    assert [number for number in range(30) if is_prime(number)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert is_prime(TABLE_SIZE)
    assert not is_prime(TABLE_SIZE - 1)
