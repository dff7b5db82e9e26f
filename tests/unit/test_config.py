# SPDX-License-Identifier: Apache-2.0
"""TOML and flags into one record: what overrides what, and errors that name file and key."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydp.cli import attach
from pydp.cli.main import Parser
from pydp.config import HOOKS, AttachConfig, all_options, merge, read_config
from pydp.datapath.hooks import ASKED
from pydp.errors import UsageError
from pydp.modes import MODES
from pydp.options import options_of

FULL = """
mode = "bridge"
name = "lan"
hook = "tc"
interfaces = ["eth1", "eth2"]
counters = false

[bridge]
ageing = 60
vlan_filtering = true
vlan = ["eth1=10:pvid:untagged"]
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> str:
        path = tmp_path / "pydp.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


def parsed(*words: str) -> AttachConfig:
    """What a command line gives."""
    parser = Parser(prog="pydp attach")
    attach.configure(parser)
    return attach.settings(parser.parse_args(words))


def test_a_file_says_everything(write: Write) -> None:
    assert parsed("--config", write(FULL)) == AttachConfig(
        mode="bridge",
        interfaces=("eth1", "eth2"),
        name="lan",
        hook="tc",
        counters=False,
        options={"ageing": 60.0, "vlan_filtering": True, "vlan": ("eth1=10:pvid:untagged",)},
    )


def test_services_are_tables_that_are_looked_into_later(write: Write) -> None:
    text = 'mode = "nat"\ninterfaces = ["eth0"]\n[[service]]\nname = "web"\n[[service]]\nname = "dns"\n'
    path = write(text)
    found = parsed("--config", path)
    assert found.services == ({"name": "web"}, {"name": "dns"})
    assert found.source == path
    assert parsed("--mode", "nat", "eth0").services == ()
    for wrong in ("service = 3", "[service]\nname = 'web'"):
        with pytest.raises(UsageError, match=r"pydp.toml: service: not a list of tables"):
            read_config(write(wrong))


def test_flags_say_everything() -> None:
    words = (
        "--mode bridge --name lan --hook tc --no-counters --ageing 60 --vlan-filtering --vlan eth1=10 --vlan eth2=20"
    )
    assert parsed(*words.split(), "eth1", "eth2") == AttachConfig(
        mode="bridge",
        interfaces=("eth1", "eth2"),
        name="lan",
        hook="tc",
        counters=False,
        options={"ageing": 60.0, "vlan_filtering": True, "vlan": ("eth1=10", "eth2=20")},
    )


def test_what_nobody_gave_is_left_to_the_defaults() -> None:
    assert parsed("--mode", "bridge", "br0") == AttachConfig("bridge", ("br0",), "", "auto", True, {})


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("--name", "dmz"), {"name": "dmz"}),
        (("--hook", "xdp"), {"hook": "xdp"}),
        (("eth9",), {"interfaces": ("eth9",)}),
        (("--ageing", "5"), {"ageing": 5.0}),
        (("--ageing", "0"), {"ageing": 0.0}),
        (("--no-vlan-filtering",), {"vlan_filtering": False}),
        (("--vlan", "eth2=7"), {"vlan": ("eth2=7",)}),
        (("--fdb-size", "100"), {"fdb_size": 100}),
    ],
)
def test_flags_override_the_file(write: Write, words: tuple[str, ...], changed: dict[str, Any]) -> None:
    before, after = parsed("--config", write(FULL)), parsed("--config", write(FULL), *words)
    top = ("mode", "name", "hook", "interfaces", "counters")
    for key in top:
        assert getattr(after, key) == changed.get(key, getattr(before, key))
    options = {key: value for key, value in changed.items() if key not in top}
    assert after.options == {**before.options, **options}


def test_no_counters_overrides_the_file(write: Write) -> None:
    assert parsed("--config", write('mode = "count"\ncounters = true'), "--no-counters").counters is False


def test_the_table_of_another_mode_is_checked_and_left_aside(write: Write) -> None:
    assert parsed("--config", write(FULL), "--mode", "count").options == {}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("mod = 'bridge'", "mod"),
        ("mode = 'switch'", "mode"),
        ("mode = 1", "mode"),
        ("mode = ['bridge']", "mode"),
        ("name = ''", "name"),
        ("name = 5", "name"),
        ("hook = 'tcx'", "hook"),
        ("interfaces = 'eth1'", "interfaces"),
        ("interfaces = [1]", "interfaces"),
        ("counters = 'no'", "counters"),
        ("bridge = 3", "bridge"),
        ("[bridge]\nageing = -1", "bridge.ageing"),
        ("[bridge]\nageing = 'long'", "bridge.ageing"),
        ("[bridge]\nfdb_size = 2.5", "bridge.fdb_size"),
        ("[bridge]\nvlan_filtering = 1", "bridge.vlan_filtering"),
        ("[bridge]\nvlan_protocol = 'qinq'", "bridge.vlan_protocol"),
        ("[bridge]\nfdb = 5", "bridge.fdb"),
        ("[switch]\nageing = 5", "switch"),
    ],
)
def test_an_error_in_a_file_names_file_and_key(write: Write, text: str, key: str) -> None:
    path = write(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert caught.value.status == 2


@pytest.mark.parametrize("text", ["mode = bridge", "mode = 'bridge'\nmode = 'bridge'", "[bridge"])
def test_a_file_that_is_no_toml_is_named_with_the_place(write: Write, text: str) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=r"not TOML: .*at (line 1|end)") as caught:
        read_config(path)
    assert path in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"mode = '\xff'")
    for path, what in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin", "not TOML"),
    ):
        with pytest.raises(UsageError, match=what) as caught:
            read_config(str(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("eth1",), "--mode"),
        (("--mode", "switch", "eth1"), "--mode switch"),
        (("--mode", "bridge", "--ageing", "-1"), "--ageing"),
        (("--mode", "bridge", "--fdb-size", "big"), "--fdb-size"),
        (("--mode", "bridge", "--vlan-protocol", "qinq"), "--vlan-protocol"),
        (("--mode", "bridge", "--hook", "tcx"), "--hook"),
        (("--mode", "bridge", "--age", "5"), "--age"),  # no abbreviations: they break when an option is added
        (("--mode", "count", "--ageing", "5", "eth1"), "--ageing"),
    ],
)
def test_an_error_in_a_flag_names_the_flag(words: tuple[str, ...], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    assert flag in str(caught.value)


def test_the_hooks_are_those_of_the_datapath() -> None:
    assert HOOKS == ASKED


def test_options_of_modes_can_be_flags_of_one_command() -> None:
    """No key that attach has a flag of its own for; modes that share a key share its kind."""
    own = {"mode", "name", "hook", "config", "counters", "no_counters", "dry_run", "verbose", "json", "interfaces"}
    kinds: dict[str, str] = {}
    for mode in MODES.values():
        for one in options_of(mode.Options):
            assert one.key not in own
            assert kinds.setdefault(one.key, one.kind) == one.kind
    assert set(all_options()) == set(kinds)


def test_every_option_has_its_flag_and_help() -> None:
    parser = argparse.ArgumentParser()
    attach.configure(parser)
    text = " ".join(parser.format_help().split())
    for one in all_options().values():
        if one.kind == "tables":  # a file has them
            continue
        assert one.flag in text
        assert one.help.split(" (")[0] in text


def test_merge_wants_a_mode() -> None:
    with pytest.raises(UsageError, match="--mode"):
        merge({"interfaces": ("eth1",)}, {})
