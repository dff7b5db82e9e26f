# SPDX-License-Identifier: Apache-2.0
"""Options declared once: values from the command line and from TOML, and errors that name the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pydp.errors import UsageError
from pydp.modes import MODES
from pydp.options import option, options_of, parse_options


@dataclass(frozen=True, slots=True)
class Sample:
    size: int = option(8, "int", "how many", low=1, high=100)
    wait: float = option(1.5, "seconds", "how long", low=0)
    fast: bool = option(False, "flag", "be quick")
    colour: str = option("red", "choice", "which", choices=("red", "blue"))
    port: tuple[str, ...] = option((), "names", "ports")
    rule_text: tuple[str, ...] = option((), "texts", "rules")
    plain: int = 3  # no option


def test_the_declaration_gives_keys_flags_and_bounds() -> None:
    found = {one.key: one for one in options_of(Sample)}
    assert list(found) == ["size", "wait", "fast", "colour", "port", "rule_text"]
    assert found["rule_text"].flag == "--rule-text"
    assert (found["size"].low, found["size"].high) == (1, 100)


def test_what_is_not_given_keeps_its_default() -> None:
    assert parse_options(Sample, {}) == Sample()
    assert parse_options(Sample, {"size": None, "wait": "2"}) == Sample(wait=2.0)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("size", "42", 42),
        ("size", 42, 42),
        ("size", 42.0, 42),
        ("wait", "0.25", 0.25),
        ("wait", 3, 3.0),
        ("fast", True, True),
        ("colour", "blue", "blue"),
        ("port", "eth1", ("eth1",)),
        ("port", ["eth1", "eth2"], ("eth1", "eth2")),
        ("rule_text", ["a=1"], ("a=1",)),
    ],
)
def test_values_from_the_command_line_and_from_toml(key: str, value: Any, wanted: Any) -> None:
    found = getattr(parse_options(Sample, {key: value}), key)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "many"),
        ("size", "0"),
        ("size", 101),
        ("size", 2.5),
        ("size", True),
        ("size", [1]),
        ("size", "9" * 400),
        ("wait", "nan"),
        ("wait", -1),
        ("wait", "soon"),
        ("fast", "yes"),
        ("fast", 1),
        ("colour", "green"),
        ("colour", ["red"]),
        ("port", 7),
        ("port", ["eth1", 7]),
    ],
)
def test_a_wrong_value_names_the_key(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^--{key}: "):
        parse_options(Sample, {key: value})
    with pytest.raises(UsageError, match=rf"^a\.toml: sample\.{key}: "):
        parse_options(Sample, {key: value}, where="a.toml: sample.")


@pytest.mark.parametrize("value", ["inf", float("inf")])
def test_infinity_is_no_whole_number(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^--size: "):
        parse_options(Sample, {"size": value})


def test_an_unknown_key_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"^a\.toml: sizes: ") as caught:
        parse_options(Sample, {"sizes": 1}, where="a.toml: ")
    assert "size, wait" in caught.value.hint


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda mode: mode.name)
def test_the_defaults_of_a_mode_pass_its_own_checks(mode: Any) -> None:
    defaults = mode.Options()
    given = {one.key: getattr(defaults, one.key) for one in options_of(mode.Options)}
    assert parse_options(mode.Options, given) == defaults
