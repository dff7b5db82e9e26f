# SPDX-License-Identifier: Apache-2.0
"""Devices and namespaces that go while something is attached, and what was there before an attach."""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebpf import libbpf
from ebpf.errors import DeviceGone, EbpfError
from ebpf.hooks import has_qdisc
from ebpf.pins import STATE, Store, read_blob, remove_tree, write_blob
from pydp.datapath import Datapath, Instance, Request
from pydp.datapath.devices import pin_ports
from pydp.datapath.state import PORTS
from pydp.datapath.sweep import sweep
from pydp.errors import NothingAttached, PydpError
from pydp.lab import LabError, Namespace, Segment, ping, poll
from tests.system.whole import check, running, shape

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.alone]

MakeSegment = Callable[..., Segment]
MakeNamespace = Callable[..., Namespace]


@pytest.fixture(params=["tcx", "clsact"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How programs get to tc: as on kernels since 6.6, or before."""
    if request.param == "clsact":
        monkeypatch.setattr("ebpf.hooks.tcx_supported", lambda: False)
    return str(request.param)


def attach(mode: str, *names: str, hook: str = "tc") -> Instance:
    return Datapath().attach(Request(mode, names, name=mode, hook=hook))


def detach(*names: str) -> list[str]:
    return Datapath().detach(names or None)


@pytest.fixture
def cleared() -> Iterator[Callable[[Namespace], None]]:
    """Detaches everything from the namespaces that it is told, also after a failure."""
    with contextlib.ExitStack() as stack:

        def later(ns: Namespace) -> None:
            def clear() -> None:
                with contextlib.suppress(NothingAttached, LabError, FileNotFoundError):
                    ns.call(detach)

            stack.callback(clear)

        yield later


@pytest.fixture
def switch(segment: MakeSegment, cleared: Callable[[Namespace], None]) -> Segment:
    made = segment(3)
    cleared(made.sw)
    return made


class TestDevicesGone:
    def test_one_of_three(self, switch: Segment, kind: str) -> None:
        a, b = switch.containers[:2]
        switch.sw.call(attach, "bridge", "p0", "p1", "p2")
        switch.sw.run(["ip", "link", "del", "p2"])
        assert ping(a.ns, b.address4).received == 3
        switch.sw.call(attach, "count", "p0")
        assert shape(switch.sw.call(check, kind)) == {
            "bridge": [a.port_index, b.port_index],
            "count": [a.port_index],
        }
        switch.sw.call(attach, "bridge", "p0", "p1")
        assert ping(a.ns, b.address4).received == 3
        assert sorted(switch.sw.call(detach)) == ["bridge", "count"]
        assert shape(switch.sw.call(check, kind)) == {}

    def test_all(self, switch: Segment, kind: str) -> None:
        switch.sw.call(attach, "count", "p0", "p1")
        for port in "p0", "p1":
            switch.sw.run(["ip", "link", "del", port])
        switch.sw.call(attach, "bridge", "p2")
        assert shape(switch.sw.call(check, kind)) == {"bridge": [switch[2].port_index]}
        switch.sw.run(["ip", "link", "del", "p2"])
        assert switch.sw.call(detach) == ["bridge"]
        assert shape(switch.sw.call(check, kind)) == {}

    def test_made_anew_with_the_same_index(self, switch: Segment, kind: str) -> None:
        """It is another device: nothing is attached to it, whatever the state says of its number."""
        index = switch[0].port_index
        switch.sw.call(attach, "bridge", "p0", "p1")
        switch.sw.run(["ip", "link", "del", "p0"])
        switch.sw.run(["ip", "link", "add", "p0", "index", str(index), "up", "type", "veth", "peer", "name", "q0"])
        switch.sw.call(attach, "bridge", "p0", "p1")
        assert shape(switch.sw.call(check, kind)) == {"bridge": [index, switch[1].port_index]}

    def test_a_removed_pin_detaches_and_is_noticed(self, switch: Segment) -> None:
        switch.sw.call(attach, "count", "p0", "p1")
        datapath = switch.sw.call(Datapath)
        (datapath.store.current / "links" / f"{switch[0].port_index}-tc").unlink()
        switch.sw.call(attach, "bridge", "p2")
        assert shape(switch.sw.call(check)) == {"bridge": [switch[2].port_index], "count": [switch[1].port_index]}


class TestVanishing:
    @pytest.mark.parametrize("call", ["link_create", "link_update", "tc_hook_create", "tc_attach"])
    def test_between_plan_and_call(self, switch: Segment, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        """The interface goes just before the kernel is told to attach to it, or to replace its program."""
        kind = "clsact" if call.startswith("tc_") else "tcx"
        if kind == "clsact":
            monkeypatch.setattr("ebpf.hooks.tcx_supported", lambda: False)
        if call == "link_update":
            switch.sw.call(attach, "count", "p0", "p1")
        before = switch.sw.call(check, kind)
        real, calls = getattr(libbpf, call), []

        @functools.wraps(real)
        def vanish(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 2:
                switch.sw.run(["ip", "link", "del", "p1"])
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(libbpf, call, vanish)
            with pytest.raises(DeviceGone, match=r"the interface is gone|its qdisc is gone"):
                switch.sw.call(attach, "bridge" if call == "link_update" else "count", "p0", "p1")
        assert len(calls) >= 2
        assert shape(switch.sw.call(check, kind)) == shape(before)
        switch.sw.call(attach, "count", "p0")
        assert shape(switch.sw.call(check, kind)) == {"count": [switch[0].port_index]}

    def test_at_any_moment(self, segment: MakeSegment, cleared: Callable[[Namespace], None]) -> None:
        made = segment(1)
        cleared(made.sw)
        chance = random.Random(3)
        made.sw.call(attach, "count", "p0")
        start = time.monotonic()
        made.sw.call(attach, "count", "p0")
        duration = time.monotonic() - start
        made.sw.call(detach)
        failed = 0
        for _ in range(12):
            made.sw.run(["ip", "link", "add", "x0", "up", "type", "veth", "peer", "name", "x1"])
            delete = threading.Timer(chance.uniform(0, duration), made.sw.run, [["ip", "link", "del", "x0"]])
            delete.start()
            try:
                made.sw.call(attach, "count", "p0", "x0")
            except (EbpfError, PydpError):  # anything else fails the test
                failed += 1
            delete.join()
            shown = shape(made.sw.call(check))
            assert shown == {} or made[0].port_index in shown["count"]
            with contextlib.suppress(NothingAttached):
                made.sw.call(detach)
            assert shape(made.sw.call(check)) == {}
        assert failed


class TestNamespacesGone:
    def veth(self, namespace: MakeNamespace) -> Namespace:
        ns = namespace()
        ns.run(["ip", "link", "add", "v0", "up", "type", "veth", "peer", "name", "v1"])
        return ns

    def test_swept_by_the_next_attach(
        self, namespace: MakeNamespace, kind: str, cleared: Callable[[Namespace], None]
    ) -> None:
        gone, stays, other = (self.veth(namespace) for _ in range(3))
        for ns in gone, stays, other:
            cleared(ns)
        for ns in gone, stays:
            ns.call(attach, "count", "v0")
        stores = [ns.call(Datapath).store for ns in (gone, stays)]
        gone.close()
        poll("the namespace is gone", lambda: not stores[0].base.exists() or _attach_anything(other), timeout=10)
        assert not stores[0].base.exists()
        assert stores[1].base.exists()
        assert "count" in shape(stays.call(check, kind))

    def test_only_the_dead_and_without_waiting(
        self, namespace: MakeNamespace, cleared: Callable[[Namespace], None]
    ) -> None:
        """What has ports stays, whatever its document says, as does what somebody has locked."""
        ns = self.veth(namespace)
        cleared(ns)
        own = ns.call(Datapath).store
        names = ["1-locked", "1-alive", "1-dead", "1-begun"]
        locked, alive, dead, begun = stores = [Store(name) for name in names]
        try:
            for store, port in (alive, "v0"), (dead, "v1"):
                with store.locked():
                    write_blob(store.prepare(("links",)) / STATE, b"{")
                    ns.call(pin_ports, store.next / PORTS, [ns.ifindex(port)])
                    store.commit()
            with begun.locked():
                begun.prepare(())
            assert set(names) & set(sweep(own)) == {"1-begun"}
            ns.run(["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"])
            with dead.locked():
                (dead.current / PORTS).unlink()
                ns.call(pin_ports, dead.current / PORTS, [ns.ifindex("d0"), ns.ifindex("d1")])
            assert set(names) & set(sweep(own)) == set()
            ns.run(["ip", "link", "del", "d0"])
            with locked.locked():
                (locked.base / "held").mkdir()
                start = time.monotonic()
                assert set(names) & set(sweep(own)) == {"1-dead"}
                assert time.monotonic() - start < 1
                (locked.base / "held").rmdir()
            assert read_blob(alive.current / STATE) == b"{"
        finally:
            for store in stores:
                remove_tree(store.base)

    def test_a_device_that_moved_keeps_its_program(
        self, namespace: MakeNamespace, cleared: Callable[[Namespace], None]
    ) -> None:
        home, away, other = (self.veth(namespace) for _ in range(3))
        for ns in home, other:
            cleared(ns)
        home.run(["ip", "link", "set", "v1", "up"])  # or its other end does not hear that it polls
        home.run(["ethtool", "-K", "v1", "tx", "off", "txvlan", "off", "gro", "off"])
        home.run(["ethtool", "-K", "v1", "gro", "on"])
        home.run(["ip", "link", "set", "v0", "name", "moving"])
        home.call(attach, "count", "moving", hook="xdp")
        index = home.ifindex("moving")
        found = home.call(running, index, "xdp", "tcx")
        home.run(["ip", "link", "set", "moving", "netns", away.name])
        other.call(attach, "count", "v0")
        assert away.call(running, away.ifindex("moving"), "xdp", "tcx") == found != []
        assert home.call(detach) == ["count"]
        assert away.call(running, away.ifindex("moving"), "xdp", "tcx") == []

    def test_equal_numbers_and_names_do_not_meet(
        self, namespace: MakeNamespace, cleared: Callable[[Namespace], None]
    ) -> None:
        one, two = self.veth(namespace), self.veth(namespace)
        assert one.ifindex("v0") == two.ifindex("v0")
        for ns in one, two:
            cleared(ns)
            ns.call(attach, "count", "v0")
        one.call(attach, "count", "v0", "v1")
        index = one.ifindex("v0")
        assert len(shape(one.call(check))["count"]) == 2
        assert shape(two.call(check)) == {"count": [index]}
        one.call(detach)
        assert shape(two.call(check)) == {"count": [index]}
        with pytest.raises(NothingAttached):
            one.call(detach)


def _attach_anything(ns: Namespace) -> bool:
    ns.call(attach, "count", "v0")
    return False


class TestWhatWasThere:
    """clsact: what an administrator made before stays, what we made goes."""

    @pytest.fixture(autouse=True)
    def old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ebpf.hooks.tcx_supported", lambda: False)

    def test_the_qdisc(self, switch: Segment) -> None:
        index = [container.port_index for container in switch.containers]
        switch.sw.run(["tc", "qdisc", "add", "dev", "p0", "clsact"])
        switch.sw.call(attach, "bridge", "p0", "p1")
        switch.sw.call(attach, "count", "p1", "p2")
        assert [switch.sw.call(has_qdisc, number) for number in index] == [True, True, True]
        switch.sw.call(detach, "bridge")
        assert [switch.sw.call(has_qdisc, number) for number in index] == [True, True, True]
        switch.sw.call(detach)
        assert [switch.sw.call(has_qdisc, number) for number in index] == [True, False, False]

    def test_a_filter_on_the_way_out(self, switch: Segment) -> None:
        a, b, _ = switch.containers
        switch.sw.run(["tc", "qdisc", "add", "dev", "p0", "clsact"])
        switch.sw.run(["tc", "filter", "add", "dev", "p0", "egress", "u32", "match", "u32", "0", "0"])
        before = switch.sw.run(["tc", "filter", "show", "dev", "p0", "egress"]).stdout
        switch.sw.call(attach, "bridge", "p0", "p1")
        assert ping(a.ns, b.address4).received == 3
        switch.sw.call(detach)
        assert switch.sw.run(["tc", "filter", "show", "dev", "p0", "egress"]).stdout == before != ""
        assert not switch.sw.run(["tc", "filter", "show", "dev", "p0", "ingress"]).stdout

    def test_a_filter_that_came_later_keeps_its_qdisc(self, switch: Segment) -> None:
        switch.sw.call(attach, "count", "p0")
        switch.sw.run(["tc", "filter", "add", "dev", "p0", "egress", "u32", "match", "u32", "0", "0"])
        switch.sw.call(detach)
        assert "u32" in switch.sw.run(["tc", "filter", "show", "dev", "p0", "egress"]).stdout
