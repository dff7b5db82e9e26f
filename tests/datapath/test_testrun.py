# SPDX-License-Identifier: Apache-2.0
"""Test runs: a frame in, verdict and frame out; repeated; live frames as generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ebpf import testrun
from ebpf.compiler import compile_source
from ebpf.errors import EbpfError
from ebpf.loader import Program, load
from ebpf.maps import Map
from ebpf.source import flatten
from pydp.lab import Capture, Segment

pytestmark = pytest.mark.usefixtures("requires_root")

TEXT = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
BPF_TABLE("array", __u32, __u64, notes, 4);
static __always_inline __u64 *note(__u32 index)
{
	return notes.lookup(&index);
}
int swap(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	if ((void *)(data + 14) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__u8 first = data[0];
	data[0] = data[6];
	data[6] = first;
	__u64 *runs = note(0), *from = note(1);
	if (runs)
		(*runs)++;
	if (from)
		*from = ctx->ingress_ifindex;
	return XDP_TX;
}
int send(struct xdp_md *ctx)
{
	__u64 *to = note(2), *runs = note(0);
	if (!to || !runs)
		return XDP_ABORTED;
	(*runs)++;
	return bpf_redirect(*to, 0);
}
int mark(struct __sk_buff *skb)
{
	__u64 *seen = note(0);
	if (seen)
		*seen = skb->mark;
	skb->mark = skb->gso_size;
	return TC_ACT_SHOT;
}
"""
FRAME = bytes.fromhex("020000000001 120000000002 88b5") + bytes(range(46))


@pytest.fixture
def notes() -> Iterator[Map]:
    compiled = compile_source(flatten(TEXT, include_dirs=[]))
    with Map.create(compiled.maps["notes"]) as made:
        yield made


@pytest.fixture
def program(notes: Map) -> Iterator[Callable[[str, str], Program]]:
    """Loads a program of TEXT for a hook."""
    compiled = compile_source(flatten(TEXT, include_dirs=[]))
    made: list[Program] = []

    def make(name: str, hook: str) -> Program:
        made.append(load(compiled, name, hook, {"notes": notes}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_frame_in_frame_out(program: Callable[[str, str], Program]) -> None:
    outcome = testrun.run(program("swap", "xdp"), FRAME)
    assert outcome.action == 3
    assert outcome.frame == b"\x12" + FRAME[1:6] + b"\x02" + FRAME[7:]


def test_repeat(program: Callable[[str, str], Program], notes: Map) -> None:
    """The same frame again and again, as the run before left it."""
    outcome = testrun.run(program("swap", "xdp"), FRAME, repeat=1000)
    assert notes.get(0) == 1000
    assert outcome.frame == FRAME
    assert outcome.duration_ns > 0


def test_the_device_it_came_from(program: Callable[[str, str], Program], notes: Map) -> None:
    testrun.run(program("swap", "xdp"), FRAME, ifindex=1)
    assert notes.get(1) == 1


def test_members_of_an_skb(program: Callable[[str, str], Program], notes: Map) -> None:
    outcome = testrun.run(program("mark", "tc"), FRAME, skb={"mark": 77, "gso_size": 1448, "gso_segs": 2})
    assert outcome.action == 2
    assert notes.get(0) == 77
    assert testrun.skb_field(outcome, "mark") == 1448


@pytest.mark.parametrize("length", [0, 13])
def test_what_is_no_frame_is_refused(program: Callable[[str, str], Program], length: int) -> None:
    for name, hook in (("swap", "xdp"), ("mark", "tc")):
        with pytest.raises(EbpfError, match=f"test run of {name}: "):
            testrun.run(program(name, hook), FRAME[:length])


@pytest.mark.parametrize("count", [1, 63, 64, 1000])
def test_live_frames_arrive_counted(
    program: Callable[[str, str], Program], notes: Map, segment: Callable[..., Segment], count: int
) -> None:
    """As many as asked for, redirected out of one device as if another had received them."""
    made = segment(2, offloads={"gro": True})
    notes.set(2, made[1].port_index)
    with Capture(made[1].ns, made[1].dev) as capture:
        sender = program("send", "xdp")
        made.sw.call(lambda: testrun.live_frames(sender, FRAME, count, ifindex=made[0].port_index))
        assert capture.frames(count, timeout=5) == [FRAME] * count
        assert capture.frames(1, timeout=0.1) == []
    assert notes.get(0) == count


def test_live_frames_of_no_device(program: Callable[[str, str], Program]) -> None:
    with pytest.raises(EbpfError, match="test run of send: "):
        testrun.live_frames(program("send", "xdp"), FRAME, 1, ifindex=0x7FFFFFFF)
