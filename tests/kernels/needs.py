# SPDX-License-Identifier: Apache-2.0
"""What tests for other kernels ask of the one that runs, and where they note what they have seen."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from pydp.lab import LabError, Namespace

RESULTS = "PYDP_LAB_RESULTS"  # a folder that a guest brings back
_SAMPLED, _RANDOM = 4, 8  # how many times as few of these a guest does, which is emulated
One = TypeVar("One")


at_full_speed = pytest.mark.skipif(RESULTS in os.environ, reason="takes several packets within 17 ms: not in emulation")
any_kernel = pytest.mark.skipif(RESULTS in os.environ, reason="large, and all of it our own: the host's kernel will do")


def examples(many: int) -> int:
    """How many random ones to try: so MANY, and fewer in a guest."""
    return many // _RANDOM if RESULTS in os.environ else many


def sampled(many: Sequence[One]) -> Sequence[One]:
    """All of them, and some in a guest."""
    return many[::_SAMPLED] if RESULTS in os.environ else many


@functools.cache
def _makes(words: str) -> str:
    """What `ip link add` has against a device of that kind; "" for nothing. It may have one below it: under0."""
    with Namespace("pt") as ns:
        ns.run(["ip", "link", "add", "under0", "type", "veth"])
        try:
            ns.run(["ip", "link", "add", "needed0", *words.split()])
        except LabError as error:
            return str(error).rpartition(": ")[2]
    return ""


def need_device(words: str) -> None:
    """Skip unless the kernel makes devices of that kind, in the words of `ip link add`."""
    if reason := _makes(words):
        pytest.skip(f"no {words} on this kernel ({reason}): `make test-kernels` runs this on one that has it")


def note(name: str, row: Mapping[str, object]) -> None:
    """Add a row to a file of results, if somebody wants them."""
    if folder := os.environ.get(RESULTS):
        with (Path(folder) / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({"kernel": os.uname().release, **row}) + "\n")
