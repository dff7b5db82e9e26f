# SPDX-License-Identifier: Apache-2.0
"""Programs on interfaces: every kind of link, what others have put there, and swapping without a packet lost."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebpf import libbpf
from ebpf.attach import attach
from ebpf.errors import AttachError, DeviceGone, ForeignProgram, NotSupported
from ebpf.hooks import Hook, has_qdisc, holders
from ebpf.links import BpfLink, FilterLink, Link, remove_qdisc
from ebpf.loader import HOOK_TYPES, Program
from pydp.lab import Namespace, NumberedStream, Segment, ping, poll

pytestmark = pytest.mark.usefixtures("requires_root")

Load = Callable[..., Program]
MakeSegment = Callable[..., Segment]
MakeNamespace = Callable[..., Namespace]
XDP_PASS, TC_ACT_OK = 2, 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to attach."""

    hook: Hook
    kind: str

    @property
    def tcx(self) -> bool:
        return self.kind == "tcx"

    def attach(self, program: Program, ifindex: int, name: str = "v0") -> Link:
        return attach(program, ifindex, self.hook, name=name, tcx=self.tcx)


KINDS = [
    Kind("xdp", "xdp"),
    Kind("xdp-generic", "xdp"),
    Kind("tc", "tcx"),
    Kind("tc-egress", "tcx"),
    Kind("tc", "clsact"),
    Kind("tc-egress", "clsact"),
]
all_kinds = pytest.mark.parametrize("kind", KINDS, ids=[f"{one.hook} {one.kind}" for one in KINDS])


@pytest.fixture
def load(requires_root: None) -> Iterator[Load]:
    """Loads programs that let everything pass."""
    with contextlib.ExitStack() as stack:

        def make(hook: str, name: str = "passes", *, frags: bool = False) -> Program:
            kind = HOOK_TYPES["xdp" if hook.startswith("xdp") else "tc"]
            result = XDP_PASS if hook.startswith("xdp") else TC_ACT_OK
            code = struct.pack("<BBhi", 0xB7, 0, 0, result) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = result; exit
            flags = libbpf.F_XDP_HAS_FRAGS if frags else 0
            return stack.enter_context(Program(libbpf.prog_load(kind, name, code, license_="GPL", flags=flags), name))

        yield make


@pytest.fixture
def veth(namespace: MakeNamespace) -> Namespace:
    """v0 and its other end v1."""
    ns = namespace()
    ns.run(["ip", "link", "add", "v0", "up", "type", "veth", "peer", "name", "v1"])
    ns.run(["ip", "link", "set", "v1", "up"])
    return ns


class TestLinks:
    @all_kinds
    def test_attach_update_detach(self, veth: Namespace, load: Load, kind: Kind) -> None:
        first, second = load(kind.hook, "first"), load(kind.hook, "second")
        ifindex = veth.ifindex("v0")

        def work() -> None:
            assert holders(ifindex, kind.hook) == []
            link = kind.attach(first, ifindex)
            assert (link.hook, link.kind) == (kind.hook, kind.kind)
            assert (link.ifindex, link.program_id) == (ifindex, first.id)
            assert len(holders(ifindex, kind.hook)) == 1
            assert "first" in holders(ifindex, kind.hook)[0]
            link.update(second)
            assert link.program_id == second.id
            assert "second" in holders(ifindex, kind.hook)[0]
            link.update(first, expected=second)
            assert link.program_id == first.id
            with pytest.raises(AttachError, match="not the one to be replaced"):
                link.update(second, expected=second)
            assert link.program_id == first.id
            link.detach()
            assert holders(ifindex, kind.hook) == []
            assert not has_qdisc(ifindex)

        veth.call(work)

    @pytest.mark.parametrize("kind", [one for one in KINDS if one.kind != "clsact"], ids=lambda one: one.hook)
    def test_a_link_lives_by_its_pin(self, veth: Namespace, load: Load, kind: Kind, bpffs: Path) -> None:
        program, ifindex, path = load(kind.hook), veth.ifindex("v0"), bpffs / f"pydp_test_{veth.cookie}"

        def work() -> None:
            kind.attach(program, ifindex).close()
            assert holders(ifindex, kind.hook) == [], "nobody held it"
            link = kind.attach(program, ifindex)
            link.pin(str(path))
            link.close()
            try:
                again = BpfLink.open(str(path), kind.hook)
                assert (again.ifindex, again.program_id) == (ifindex, program.id)
                again.close()
                assert holders(ifindex, kind.hook) != []
            finally:
                path.unlink()
            poll("the kernel has noticed", lambda: holders(ifindex, kind.hook) == [])

        veth.call(work)

    def test_both_directions_share_a_qdisc(self, veth: Namespace, load: Load) -> None:
        ifindex = veth.ifindex("v0")

        def work() -> None:
            out = attach(load("tc"), ifindex, "tc-egress", tcx=False)
            into = attach(load("tc"), ifindex, "tc", tcx=False)
            out.detach()
            assert has_qdisc(ifindex)
            assert into.program_id
            into.detach()
            assert has_qdisc(ifindex), "it found the qdisc, and leaves it"
            remove_qdisc(ifindex)
            assert not has_qdisc(ifindex)

        veth.call(work)

    def test_a_qdisc_and_filters_of_others_stay(self, veth: Namespace, load: Load) -> None:
        veth.run(["tc", "qdisc", "add", "dev", "v0", "clsact"])
        veth.run(["tc", "filter", "add", "dev", "v0", "egress", "pref", "7", "u32", "match", "u32", "0", "0"])
        before = veth.run(["tc", "filter", "show", "dev", "v0", "egress"]).stdout
        ifindex = veth.ifindex("v0")

        def work() -> None:
            link = attach(load("tc"), ifindex, "tc", tcx=False)
            assert link.program_id
            link.detach()
            remove_qdisc(ifindex)

        veth.call(work)
        assert veth.run(["tc", "filter", "show", "dev", "v0", "egress"]).stdout == before != ""

    def test_a_filter_that_fails_leaves_no_qdisc(
        self, veth: Namespace, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(libbpf, "tc_attach", refuse)
        ifindex = veth.ifindex("v0")
        with pytest.raises(AttachError, match="v0: attaching to tc: Cannot allocate memory"):
            veth.call(attach, load("tc"), ifindex, "tc", name="v0", tcx=False)
        assert not veth.call(has_qdisc, ifindex)


class TestRefusals:
    """What others have put on an interface stays, and is named."""

    def refused(self, ns: Namespace, kind: Kind, program: Program, name: str) -> None:
        ifindex = ns.ifindex("v0")

        def shown() -> list[str]:
            return [ns.run(["tc", "filter", "show", "dev", "v0", side]).stdout for side in ("ingress", "egress")] + (
                ns.call(holders, ifindex, kind.hook)
            )

        before = shown()
        with pytest.raises(ForeignProgram) as caught:
            ns.call(kind.attach, program, ifindex)
        assert str(caught.value).startswith("v0: ")
        assert name in str(caught.value)
        assert "v0" in caught.value.hint
        assert shown() == before
        assert ns.call(holders, ifindex, kind.hook), "it is still there"

    @pytest.mark.parametrize("mode", ["xdp", "xdp-generic"])
    @pytest.mark.parametrize("hook", ["xdp", "xdp-generic"])
    def test_xdp_of_netlink(self, veth: Namespace, load: Load, mode: Hook, hook: Hook) -> None:
        """As `ip link set v0 xdp obj` does, in the same mode or the other."""
        foreign, ifindex = load("xdp", "foreign"), veth.ifindex("v0")
        flags = libbpf.XDP_FLAGS_DRV_MODE if mode == "xdp" else libbpf.XDP_FLAGS_SKB_MODE
        veth.ipr().link("set", index=ifindex, xdp={"attrs": [("IFLA_XDP_FD", foreign.fd), ("IFLA_XDP_FLAGS", flags)]})
        self.refused(veth, Kind(hook, "xdp"), load("xdp", "ours"), f"'foreign' (id {foreign.id})")
        assert foreign.id in veth.call(libbpf.xdp_query, ifindex)

    @pytest.mark.parametrize("kind", [one for one in KINDS if one.kind != "clsact"], ids=lambda one: one.hook)
    def test_link_of_another_loader(self, veth: Namespace, load: Load, kind: Kind) -> None:
        foreign = load(kind.hook, "foreign")
        link = veth.call(kind.attach, foreign, veth.ifindex("v0"))
        with contextlib.closing(link):
            self.refused(veth, kind, load(kind.hook, "ours"), f"'foreign' (id {foreign.id})")
            assert link.program_id == foreign.id

    @pytest.mark.parametrize("kind", KINDS[2:], ids=lambda one: f"{one.hook} {one.kind}")
    @pytest.mark.parametrize("filter_", ["bpf", "u32"])
    def test_filter(self, veth: Namespace, load: Load, kind: Kind, filter_: str, bpffs: Path) -> None:
        side = "egress" if kind.hook == "tc-egress" else "ingress"
        veth.run(["tc", "qdisc", "add", "dev", "v0", "clsact"])
        if filter_ == "bpf":
            path = bpffs / f"pydp_test_{veth.cookie}"
            load("tc", "foreign").pin(str(path))
            what = ["bpf", "direct-action", "object-pinned", str(path)]
        else:
            path, what = None, [filter_, "match", "u32", "0", "0"]
        try:
            veth.run(["tc", "filter", "add", "dev", "v0", side, "protocol", "ip", "pref", "5", *what])
        finally:
            if path:
                path.unlink()
        self.refused(veth, kind, load("tc", "ours"), f"filter {filter_}")

    @pytest.mark.parametrize("kind", KINDS[2:], ids=lambda one: f"{one.hook} {one.kind}")
    def test_the_other_direction_does_not_matter(self, veth: Namespace, load: Load, kind: Kind) -> None:
        other = "ingress" if kind.hook == "tc-egress" else "egress"
        veth.run(["tc", "qdisc", "add", "dev", "v0", "clsact"])
        veth.run(["tc", "filter", "add", "dev", "v0", other, "u32", "match", "u32", "0", "0"])
        link = veth.call(kind.attach, load("tc"), veth.ifindex("v0"))
        assert veth.call(lambda: link.program_id)
        veth.call(link.detach)
        assert "u32" in veth.run(["tc", "filter", "show", "dev", "v0", other]).stdout

    def test_taken_between_look_and_attach(self, veth: Namespace, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ebpf.attach.refuse_foreign", lambda *_: None)
        for kind in KINDS[0], KINDS[4]:
            foreign, ifindex = load(kind.hook, "foreign"), veth.ifindex("v0")
            link = veth.call(kind.attach, foreign, ifindex)
            with pytest.raises(ForeignProgram, match="in this moment"):
                veth.call(kind.attach, load(kind.hook, "ours"), ifindex)
            assert veth.call(lambda link=link: link.program_id) == foreign.id
            veth.call(link.detach)


class TestDevices:
    @all_kinds
    def test_gone_before(self, veth: Namespace, load: Load, kind: Kind) -> None:
        with pytest.raises(DeviceGone, match="v9: the interface is gone"):
            veth.call(kind.attach, load(kind.hook), 4711, "v9")

    @all_kinds
    def test_gone_after(self, veth: Namespace, load: Load, kind: Kind) -> None:
        link = veth.call(kind.attach, load(kind.hook), veth.ifindex("v0"))
        veth.run(["ip", "link", "del", "v0"])
        assert veth.call(lambda: link.ifindex) == 0
        with pytest.raises(DeviceGone):
            veth.call(link.update, load(kind.hook))
        veth.call(link.detach)

    def test_no_native_xdp(self, namespace: MakeNamespace, load: Load) -> None:
        ns = namespace()
        ns.run(["ip", "link", "add", "vx0", "up", "type", "vxlan", "id", "7", "dstport", "4789"])
        ifindex = ns.ifindex("vx0")
        with pytest.raises(NotSupported, match="vx0: its driver or this kernel has no xdp hook") as caught:
            ns.call(attach, load("xdp"), ifindex, "xdp", name="vx0")
        assert "--hook tc" in caught.value.hint
        assert ns.call(libbpf.xdp_query, ifindex) == (0, 0), "generic only when it is asked for"
        link = ns.call(attach, load("xdp"), ifindex, "xdp-generic", name="vx0")
        assert ns.call(libbpf.xdp_query, ifindex) == (0, link.program_id)
        link.detach()

    def test_jumbo_frames_need_frags(self, segment: MakeSegment, load: Load) -> None:
        made = segment(2, kernel_bridge=True, mtu=9000)
        a, b = made.containers
        with pytest.raises(NotSupported, match="p0: its MTU is too large for native XDP"):
            made.sw.call(attach, load("xdp"), a.port_index, "xdp", name="p0")
        link = made.sw.call(attach, load("xdp", frags=True), a.port_index, "xdp", name="p0")
        with contextlib.closing(link):
            assert made.sw.call(libbpf.xdp_query, a.port_index) == (link.program_id, 0)
            assert ping(a.ns, b.address4, count=3, size=8900).received == 3
        assert made.sw.call(libbpf.xdp_query, a.port_index) == (0, 0)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[4], KINDS[5]], ids=lambda one: f"{one.hook} {one.kind}")
def test_swapping_loses_no_packet(segment: MakeSegment, load: Load, kind: Kind) -> None:
    """Two programs taking turns 200 times on the way of a stream."""
    made = segment(2, kernel_bridge=True)
    source, sink = made.containers
    programs = load(kind.hook, "even"), load(kind.hook, "odd")
    port = sink if kind.hook == "tc-egress" else source

    # Attaching XDP, unlike replacing it, stops the device for a moment: it is there before the stream.
    link = made.sw.call(kind.attach, programs[1], port.port_index)
    with NumberedStream(source.ns, sink.ns, sink.address4, pps=8000) as stream:

        def swap() -> None:
            for turn in range(200):
                link.update(programs[turn % 2], expected=programs[(turn + 1) % 2])
                if turn % 20 == 0:
                    stream.wait_received(20)

        made.sw.call(swap)
        stream.wait_received(1)
    made.sw.call(link.detach)
    assert stream.report.intact, stream.report


def test_filter_link_of_nothing(veth: Namespace) -> None:
    """A filter that is not there is no error to look at, and none to remove."""
    link = FilterLink(veth.ifindex("v0"), "tc")
    assert veth.call(lambda: (link.ifindex, link.program_id)) == (0, 0)
    veth.call(link.detach)
    link.close()
