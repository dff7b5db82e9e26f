# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON documents: what scalars mean, what is refused, and where an error says that it is."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from pydp.errors import UsageError
from pydp.services import documents
from pydp.services.tables import Table


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def composer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything with PyYAML's two parsers."""
    if request.param == "python":
        monkeypatch.setattr(documents, "_COMPOSER", type("_Python", (documents._Shallow, yaml.SafeLoader), {}))


def values(text: str) -> list[Any]:
    return [one.value for one in documents.read(text, "f.yaml")]


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        documents.read(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("-5", -5),
        ("'80'", "80"),
        ("0080", "0080"),
        ("1:20", "1:20"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("2001-01-01T00:00:00Z", "2001-01-01T00:00:00Z"),
        ("1.5", "1.5"),
        ("10.0.0.1", "10.0.0.1"),
        ("true", True),
        ("off", False),
        ("'off'", "off"),
        ("!!str off", "off"),
        ("!!int 7", 7),
        ("~", None),
        ("null", None),
        ("", None),
        ("None", "None"),
        ("|\n a\n b\n", "a\nb\n"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = values(f"key: {text}\n")
    assert found == [{"key": value}]
    assert type(found[0]["key"]) is type(value)


def test_documents_are_counted_also_when_they_are_empty() -> None:
    found = documents.read("# nothing\n---\n---\na: [1, {b: c}]\n...\n---\n[]\n", "f")
    assert [(one.number, one.value) for one in found] == [(1, None), (2, {"a": [1, {"b": "c"}]}), (3, [])]


def test_nothing_is_no_document() -> None:
    assert values("") == values("# only a comment\n") == []


def test_aliases_share_what_they_refer_to() -> None:
    (found,) = values("a: &x {b: [1]}\nc: *x\n")
    assert found["a"] is found["c"]


def test_aliases_of_aliases_take_no_room() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 50)]
    (found,) = values("\n".join(lines))
    assert len(found) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: document 1: the key 'a' is there twice"),
        ("a: 1\n---\nb:\n  c: 1\n  c: 2\n", "f.yaml:5: document 2: the key 'c' is there twice"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "f.yaml:3: document 1: merge keys are not supported"),
        ("? [a]\n: 1\n", "f.yaml:1: document 1: a key is not a text"),
        ("a: !vault b\n", "f.yaml:1: document 1: the tag !vault is not known here"),
        ("a: !vault [b]\n", "f.yaml:1: document 1: the tag !vault is not known here"),
        ("a: !!binary aGk=\n", "f.yaml:1: document 1: the tag tag:yaml.org,2002:binary is not known here"),
        ("[" * 5000 + "]" * 5000, "f.yaml:1: document 1: nested more than 64 levels deep"),
        ('{"a": 1,\n "a": 2}', "f.yaml:2: document 1: the key 'a' is there twice"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "f.yaml:1: document 1: nested more than 64 levels deep"),
    ],
)
def test_what_is_yaml_but_refused(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [\nb: 1\n", ":"), ("a: b: c\n", ":1:"), ("a: 1\n\tb: 2\n", ":2:"), ("a: *x\n", ":1:"), ("a: \x00\n", ":")],
)
def test_what_is_no_yaml(text: str, line: str) -> None:
    message = refusal(text)
    assert message.startswith(f"f.yaml{line}")
    assert ": not YAML: " in message
    assert "\n" not in message


def test_json_gives_the_same() -> None:
    value = {"a": [1, -2, True, None, "80"], "b": {"c": "x"}}
    assert values(json.dumps(value)) == values(yaml.dump(value)) == [value]


def test_yaml_that_begins_with_a_brace() -> None:
    assert values("{a: 1}\n---\n{b: 2}") == [{"a": 1}, {"b": 2}]


def test_much_made_leaves_the_collector_as_it_was() -> None:
    with documents.much_made(), documents.much_made():
        assert not gc.isenabled()
    assert gc.isenabled()


TEXT = """\
ready: 1
---
spec:
  ports:
  - port: 80
    name: web
  - port: 70000
    name: 5
  other: text
  "a.b/c": 7
"""


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (lambda spec: spec.tables("ports")[1].number("port", 1, 65535), 7,
         "spec.ports[1].port: 70000 is not between 1 and 65535"),
        (lambda spec: spec.tables("ports")[1].text("name"), 8, "spec.ports[1].name: 5 is not a text"),
        (lambda spec: spec.tables("ports")[0].number("nodePort", 1, 65535), 5, "spec.ports[0].nodePort: is missing"),
        (lambda spec: spec.number("other", 0, 9), 9, "spec.other: 'text' is not a whole number"),
        (lambda spec: spec.table("other"), 9, "spec.other: 'text' is not a mapping"),
        (lambda spec: spec.tables("other"), 9, "spec.other: 'text' is not a list"),
        (lambda spec: spec.texts("ports"), 5, 'spec.ports[0]: {"port": 80, "name": "web"} is not a text'),
        (lambda spec: spec.flag("other"), 9, "spec.other: 'text' is neither true nor false"),
        (lambda spec: spec.choice("other", ("a", "b"), "a"), 9, "spec.other: 'text' is not one of a, b"),
        (lambda spec: spec.text("a.b/c"), 10, 'spec["a.b/c"]: 7 is not a text'),
    ],
)  # fmt: skip
def test_errors_say_where(read: Callable[[Table], object], line: int, message: str) -> None:
    document = documents.read(TEXT, "f.yaml")[1]
    spec = Table(document, document.value, (), "Service a/b").table("spec")
    with pytest.raises(UsageError) as caught:
        read(spec)
    assert str(caught.value) == f"f.yaml:{line}: document 2 (Service a/b): {message}"


def test_what_is_absent_or_null() -> None:
    document = documents.read("a: null\n", "f")[0]
    one = Table(document, document.value)
    for key in ("a", "b"):
        assert not one.has(key)
        assert (one.text(key), one.text(key, "x")) == ("", "x")
        assert (one.flag(key), one.flag(key, True)) == (False, True)
        assert one.number(key, 1, 2, 2) == 2
        assert (one.texts(key), one.tables(key)) == ([], [])
        assert one.table(key).texts("c") == []


def test_a_document_that_is_no_mapping() -> None:
    document = documents.read("---\n- 1\n", "f")[0]
    with pytest.raises(UsageError, match=r"^f:2: document 1: \[1\] is not a mapping$"):
        Table(document, document.value)
