# SPDX-License-Identifier: Apache-2.0
"""What is pinned, when it is not what this version of pydp would write, and when many processes write it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebpf import libbpf
from ebpf.errors import LayoutMismatch, PinError
from ebpf.pins import STATE
from pydp.datapath import Datapath, Request
from pydp.errors import NothingAttached
from pydp.lab import Segment
from tests.system.cli import ROOT
from tests.system.pinned import changed
from tests.system.whole import check, running, shape

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")


@pytest.fixture
def switch(segment: Callable[..., Segment]) -> Iterator[Segment]:
    """A segment of two, with mode count attached to p0."""
    made = segment(2)
    made.sw.call(attach)
    yield made
    with contextlib.suppress(NothingAttached):
        made.sw.call(detach)


def attach() -> None:
    Datapath().attach(Request("count", ("p0",), hook="tc"))


def detach() -> None:
    Datapath().detach()


def program(made: Segment) -> list[int]:
    return made.sw.call(running, made[0].port_index, "tc", "tcx")


def document(made: Segment) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """The pinned document, to be changed; it is as before at the end of the test by `restored`."""
    return changed(made.sw.call(Datapath).store.current / STATE)


@pytest.fixture
def restored(switch: Segment) -> Iterator[Segment]:
    """The segment; its document is put back at the end."""
    with document(switch) as before:
        pass
    yield switch
    with document(switch) as now:
        now.clear()
        now.update(before)


class TestDocuments:
    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_of_another_version(self, restored: Segment, version: Any) -> None:
        with document(restored) as found:
            found["version"] = version
        before = program(restored)
        for use in (attach, detach, lambda: Datapath().read()):
            with pytest.raises(PinError, match="another version of pydp") as caught:
                restored.sw.call(use)
            assert caught.value.hint == "detach with the version that attached"
        assert program(restored) == before != []

    @pytest.mark.parametrize("member", ["instances", "attachments", "settings", "generation"])
    def test_with_a_part_missing(self, restored: Segment, member: str) -> None:
        with document(restored) as found:
            del found[member]
        before = program(restored)
        for use in (attach, detach, lambda: Datapath().read()):
            with pytest.raises(PinError, match=f"damaged .*{member}") as caught:
                restored.sw.call(use)
            assert "/sys/fs/bpf/pydp" in caught.value.hint
        assert program(restored) == before != []

    def test_of_another_layout(self, restored: Segment) -> None:
        """A map whose value had the same size and other members."""
        with document(restored) as found:
            told = found["instances"]["count"]["maps"]["count_kinds"]
            assert told["layout"] == [["packets", 0, 8], ["bytes", 8, 8]]
            told["layout"] = [["octets", 0, 8], ["packets", 8, 8]]
        before = program(restored)
        with pytest.raises(LayoutMismatch) as caught:
            restored.sw.call(attach)
        assert "map count-count_kinds was made by a version with another layout" in str(caught.value)
        for part in "octets was 8 bytes at 0, is not there", "packets was 8 bytes at 8, is 8 bytes at 0":
            assert part in str(caught.value)
        assert "detach" in caught.value.hint
        assert program(restored) == before != []

    def test_of_another_layout_can_be_detached(self, switch: Segment) -> None:
        with document(switch) as found:
            found["instances"]["count"]["maps"]["count_kinds"]["layout"] = []
        switch.sw.call(detach)
        assert shape(switch.sw.call(check)) == {}

    def test_map_of_another_size(self, switch: Segment) -> None:
        path = switch.sw.call(Datapath).store.current / "maps" / "count-count_kinds"
        path.unlink()
        fd = libbpf.map_create(6, "count_kinds", 4, 24, 8)  # a per-CPU array
        libbpf.obj_pin(fd, str(path))
        os.close(fd)
        before, state = program(switch), switch.sw.call(check)
        with pytest.raises(LayoutMismatch, match="its values have 24 bytes, not 16") as caught:
            switch.sw.call(attach)
        assert "then attach again" in caught.value.hint
        assert program(switch) == before != []
        assert switch.sw.call(check) == state


class TestProcesses:
    def test_many_at_once(self, segment: Callable[..., Segment]) -> None:
        """Four processes attach and detach instances of their own, all at once: each succeeds every time."""
        script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pydp.datapath import Datapath, Request
name, port = sys.argv[1:]
for _ in range(3):
    Datapath().attach(Request("count", (port,), name=name, hook="tc"))
    assert name in Datapath().read().instances
    assert Datapath().detach([name]) == [name]
Datapath().attach(Request("count", (port,), name=name, hook="tc"))
"""
        made = segment(4)
        with contextlib.ExitStack() as stack:
            stack.callback(made.sw.call, detach)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            workers = [made.sw.popen([sys.executable, "-c", script, f"worker{i}", f"p{i}"], **pipes) for i in range(4)]
            for worker in workers:
                _, said = worker.communicate(timeout=100)
                assert worker.returncode == 0, said
            state = made.sw.call(check)
            assert shape(state) == {f"worker{i}": [made[i].port_index] for i in range(4)}
        assert shape(made.sw.call(check)) == {}
