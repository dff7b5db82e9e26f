# SPDX-License-Identifier: Apache-2.0
"""Results as files: read back as they were, described by a schema, refused with the key that is at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pydp.bench import document, machine
from pydp.bench.results import LOSS
from pydp.bench.scenario import Point
from tests.unit.bench_results import result, results

CURVE = Point("bridge-fdb", "addresses", "FDB entries", 1000, "zipf")
WHOLE = results(result(), result("bridge-fdb-1000", point=CURVE, less=True), cost=3)


def test_a_file_holds_all_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    document.save(WHOLE, file)
    assert document.load(file) == WHOLE
    jsonschema.validate(json.loads(file.read_text()), document.schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(document.schema())


def drop(found: dict[str, Any]) -> None:
    del found["scenarios"][0]["paths"]["kernel"]["median"]["low"]


def rename(found: dict[str, Any]) -> None:
    found["scenarios"][1]["speed"] = 1


def retype(found: dict[str, Any]) -> None:
    found["scenarios"][0]["kept"] = "many"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (drop, "scenarios[0].paths.kernel.median.low: no such key"),
        (rename, "scenarios[1].speed: an unknown key"),
        (retype, "scenarios[0].kept: 'many' is of another type"),
    ],
)
def test_a_spoilt_file_is_refused_by_key(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], told: str) -> None:
    found = json.loads(document.dumps(WHOLE))
    spoil(found)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(found))
    with pytest.raises(document.Unreadable) as caught:
        document.load(file)
    assert told in str(caught.value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, document.schema())


def test_what_pydp_loses_is_a_fault() -> None:
    assert result(lost=LOSS).fault == ""
    assert result(lost=0.001).fault == "0.1 % of the frames that were sent through pydp --hook xdp did not arrive"


def test_the_machine_is_told_of() -> None:
    found = machine.machine()
    assert found["cpus"] >= 1
    assert found["memory_bytes"] > 1 << 20
    assert "Not affected" not in found["mitigations"].values()
    assert machine.versions()["pydp"]
