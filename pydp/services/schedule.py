# SPDX-License-Identifier: Apache-2.0
"""From backends with weights to slots: a place for each share of the connections. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

MAX_PLACES = 4096  # of a frontend whose backends have weights that differ


def random_slots(weights: Sequence[int]) -> list[int]:
    """Indices of backends, each as often as its weight asks for. Weights are above 0.

    Weights are divided by what they have in common. Where that still takes more than MAX_PLACES they are rounded by
    largest remainder, and nobody gets nothing.
    """
    if len(set(weights)) <= 1:
        return list(range(len(weights)))
    common = math.gcd(*weights)
    shares = [weight // common for weight in weights]
    if sum(shares) > MAX_PLACES:
        shares = _rounded(weights, max(MAX_PLACES, len(weights)))
    return [index for index, share in enumerate(shares) for _ in range(share)]


def _rounded(weights: Sequence[int], places: int) -> list[int]:
    """PLACES in proportion to the weights, by largest remainder, but one for each at the least.

    Those due less than one are given theirs first and the others share what is left, so that the heavy pay for the
    light and nobody in between does.
    """
    sharing = list(range(len(weights)))
    while True:
        left = places - (len(weights) - len(sharing))
        total = sum(weights[at] for at in sharing)
        due_one = [at for at in sharing if weights[at] * left >= total]
        if len(due_one) == len(sharing):
            break
        sharing = due_one
    shares = [1] * len(weights)
    for at in sharing:
        shares[at] = weights[at] * left // total
    sharing.sort(key=lambda at: weights[at] * left % total, reverse=True)
    for at in sharing[: places - sum(shares)]:
        shares[at] += 1
    return shares


def maglev(keys: Sequence[bytes], weights: Sequence[int], size: int) -> list[int]:
    """The table of Maglev (Eisenbud et al., NSDI 2016, section 3.4): SIZE indices of backends.

    It depends on the keys and not on their order, so that every machine has the same table; a backend that comes or
    goes moves little more than its share. A backend takes its turns in proportion to its weight. SIZE is a prime.
    """
    if not keys:
        return []
    order = sorted(range(len(keys)), key=lambda at: keys[at])
    heaviest = max(weights)
    places, steps = {}, {}
    for at in order:
        digest = blake2b(keys[at], digest_size=16).digest()
        places[at] = int.from_bytes(digest[:8], "little") % size
        steps[at] = int.from_bytes(digest[8:], "little") % (size - 1) + 1
    table = [-1] * size
    credit = dict.fromkeys(order, 0)
    left = size
    while True:
        for at in order:
            credit[at] += weights[at]
            if credit[at] < heaviest:
                continue
            credit[at] -= heaviest
            place, step = places[at], steps[at]
            while table[place] >= 0:
                place = (place + step) % size
            table[place] = at
            places[at] = (place + step) % size
            left -= 1
            if not left:
                return table
