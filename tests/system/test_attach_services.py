# SPDX-License-Identifier: Apache-2.0
"""Services at an attach: the database and the maps change with the programs, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf import libbpf
from ebpf.errors import EbpfError
from pydp.datapath import Datapath, Instance, Request
from pydp.datapath.sweep import sweep
from pydp.errors import NothingAttached, UsageError
from pydp.kernel.defaults import possible_cpus
from pydp.lab import Namespace, Segment, poll
from pydp.modes.nat import DEVICE_PEER, DEVICE_PORT
from tests.system.served import add, answers, attach, databases, numbers, place
from tests.system.whole import check

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

WEB = "tcp:10.96.0.1:80=10.0.1.2:8080,10.0.1.3:8080"
DNS = "udp:10.96.0.2:53=10.0.1.2:53"


@pytest.fixture
def switch(segment: Callable[..., Segment]) -> Iterator[Namespace]:
    """A namespace with the ports p0 and p1."""
    made = segment(2)
    yield made.sw
    with contextlib.suppress(NothingAttached):
        made.sw.call(detach)


def detach() -> None:
    Datapath().detach()


def test_all_kinds_of_services(switch: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text('[[service]]\nname = "six"\nfrontends = ["tcp:[fd00::1]:80"]\nbackends = ["[fd00::2]:80*2"]\n')
    instance = switch.call(
        attach, "p0", "p1", service=(WEB,), forward=("tcp:8080=10.0.1.2:80",), redirect=("udp:53=5353",),
        services=str(file), masquerade=("10.0.0.0/16",),
    )  # fmt: skip
    assert instance.options == {"masquerade": ("10.0.0.0/16",)}
    assert switch.call(answers) == {
        "tcp:10.96.0.1:80": ["10.0.1.2:8080", "10.0.1.3:8080"],
        "tcp:any:8080": ["10.0.1.2:80"],
        "udp:any:53": ["5353"],
        "six": ["[fd00::2]:80*2"],
    }
    assert switch.call(databases) == {"nat-0.db"}
    switch.call(check)


def test_services_stay_unless_others_are_named(switch: Namespace) -> None:
    switch.call(attach, "p0", service=(WEB,))
    switch.call(add, DNS)
    before = switch.call(numbers)
    switch.call(attach, "p0", "p1")
    assert switch.call(answers).keys() == {"tcp:10.96.0.1:80", "udp:10.96.0.2:53"}
    assert switch.call(numbers) == before
    assert switch.call(databases) == {"nat-1.db"}
    # What stays keeps its numbers, and with them flows and counters.
    switch.call(attach, "p0", service=("tcp:10.96.0.9:80=10.0.1.9:80", WEB.replace("10.0.1.3", "10.0.1.4")))
    after = switch.call(numbers)
    assert after["10.0.1.2:8080"] == before["10.0.1.2:8080"]
    assert len(set(after.values()) | set(before.values())) == len(after.keys() | before.keys())
    assert switch.call(answers) == {
        "tcp:10.96.0.9:80": ["10.0.1.9:80"],
        "tcp:10.96.0.1:80": ["10.0.1.2:8080", "10.0.1.4:8080"],
    }


def test_none_are_named_by_an_empty_file(switch: Namespace, tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text("")
    switch.call(attach, "p0", service=(WEB,))
    switch.call(attach, "p0", services=str(tmp_path / "none.toml"))
    assert switch.call(answers) == {}


def test_maps_grow_with_what_is_wanted(switch: Namespace) -> None:
    many = [f"tcp:10.96.{n >> 8}.{n & 255}:80=10.0.1.2:{n + 1}" for n in range(300)]
    small = {"max_services": 1, "max_backends": 1, "max_slots": 1}
    first = switch.call(attach, "p0", service=(WEB,), **small)
    assert (first.sizes["nat_backends"], first.sizes["nat_slots"]) == (4, 4)
    instance = switch.call(attach, "p0", service=tuple(many), **small)
    assert instance.sizes["nat_backends"] == 1024
    assert instance.sizes["nat_counts"] == 1024 * possible_cpus()
    assert instance.sizes["nat_frontends"] == 1024
    assert len(switch.call(answers)) == 300
    assert switch.call(attach, "p0", **small).sizes == instance.sizes
    assert len(switch.call(answers)) == 300


def test_a_refused_attach_changes_nothing(switch: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "again.toml"
    file.write_text('[[service]]\nname = "again"\nfrontends = ["tcp:10.96.0.1:80"]\n')
    switch.call(attach, "p0", service=(WEB,))
    before = switch.call(answers)
    with pytest.raises(UsageError, match=r"frontend tcp:10.96.0.1:80 belongs to"):
        switch.call(attach, "p0", service=(WEB,), services=str(file))

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    for name in ("link_update", "map_update_batch"):
        with monkeypatch.context() as patch:
            patch.setattr(libbpf, name, refuse)
            with pytest.raises(EbpfError, match="Cannot allocate memory"):
                switch.call(attach, "p0", service=(DNS,))
        assert switch.call(answers) == before
        assert switch.call(databases) == {"nat-0.db"}
    switch.call(check)


def test_a_database_that_is_gone_is_made_anew(switch: Namespace) -> None:
    switch.call(attach, "p0", service=(WEB,))
    for one in switch.call(place).iterdir():
        one.unlink()
    switch.call(attach, "p0")
    assert switch.call(answers) == {}


def test_what_others_left_is_removed(switch: Namespace) -> None:
    """By a change that was killed, and by an instance of the same name before."""
    switch.call(attach, "p0", service=(WEB,))
    folder = switch.call(place)
    for name in ("nat-7.db", "nat-1.db", "nat-1.db-journal", "lan-0.db"):
        (folder / name).write_text("not a database")
    switch.call(attach, "p0")
    assert switch.call(databases) == {"nat-1.db"}
    assert switch.call(answers).keys() == {"tcp:10.96.0.1:80"}
    switch.call(detach)
    assert not folder.exists()


def test_others_may_read_but_not_list(switch: Namespace) -> None:
    switch.call(attach, "p0", service=(WEB,))
    folder = switch.call(place)
    assert folder.stat().st_mode & 0o777 == 0o711
    assert (folder / "nat-0.db").stat().st_mode & 0o777 == 0o644


def test_another_mode_on_the_port_leaves_services_alone(switch: Namespace) -> None:
    switch.call(attach, "p0", service=(WEB,))

    def count(*names: str) -> Instance:
        return Datapath().attach(Request("count", names, name="count", hook="tc"))

    switch.call(count, "p0", "p1")
    switch.call(check)
    assert switch.call(answers).keys() == {"tcp:10.96.0.1:80"}
    assert switch.call(databases) == {"nat-0.db"}
    switch.call(add, DNS)
    switch.call(lambda: Datapath().detach(["count"]))
    switch.call(check)
    assert len(switch.call(answers)) == 2


def test_our_own_program_on_the_way_out_keeps_no_frame_from_the_other_end(switch: Namespace) -> None:
    def flags() -> dict[int, int]:
        datapath = Datapath()
        with datapath.open_maps(datapath.instance("nat"), ["nat_devices"]) as maps:
            return {one.ifindex: one.flags for _, one in maps["nat_devices"] if one.flags & DEVICE_PORT}

    ports = {switch.ifindex(name) for name in ("p0", "p1")}
    switch.call(attach, "p0", "p1")
    assert switch.call(flags) == dict.fromkeys(ports, DEVICE_PORT | DEVICE_PEER)
    switch.call(attach, "p0", "p1")
    assert switch.call(flags) == dict.fromkeys(ports, DEVICE_PORT | DEVICE_PEER)


def test_files_go_with_the_namespace(namespace: Callable[..., Namespace], switch: Namespace) -> None:
    gone = namespace()
    gone.run(["ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1"])
    gone.call(attach, "p0", service=(WEB,))
    folder = gone.call(place)
    gone.close()
    assert folder.exists()
    own = switch.call(Datapath).store
    # Devices go some time after their namespace.
    poll("the files are gone", lambda: switch.call(sweep, own) is not None and not folder.exists(), timeout=10)


def test_files_without_a_store_are_removed(switch: Namespace) -> None:
    switch.call(attach, "p0", service=(WEB,))
    folder = switch.call(place)
    orphan = folder.parent / "1"
    orphan.mkdir(exist_ok=True)
    (orphan / "nat-0.db").write_text("")
    switch.call(lambda: sweep(Datapath().store))
    assert not orphan.exists()
    assert folder.exists()
