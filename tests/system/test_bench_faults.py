# SPDX-License-Identifier: Apache-2.0
"""Faults put into a datapath on purpose: the suite has to find them, and to go on with what comes after."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from ebpf.attach import attach
from ebpf.compiler import compile_source
from ebpf.loader import load
from ebpf.source import flatten
from pydp.bench import paths, programs, runner
from pydp.bench.blocks import Plan
from pydp.bench.floods import flood_of_frames, on_segment
from pydp.bench.scenario import Comparison, Scenario
from pydp.cli.main import main
from pydp.lab import Segment
from pydp.sources import bpf_src

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

# Sends everything on as limit_xdp.c does, but for one frame in so many, which is lost or altered.
FAULTY = """\
#include <uapi/linux/bpf.h>
#include "abi.h"
BPF_TABLE("array", __u32, __u64, faulty_seen, 1);

static __always_inline bool unlucky(void)
{
	__u32 zero = 0;
	__u64 *seen = faulty_seen.lookup(&zero);
	return seen && ++*seen % CONSTANT(1) == 0;
}

int faulty_loses(struct xdp_md *ctx)
{
	return unlucky() ? XDP_DROP : bpf_redirect(CONSTANT(0), 0);
}

int faulty_alters(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	if ((void *)data + 64 <= (void *)(long)ctx->data_end && unlucky())
		data[57] ^= 1;
	return bpf_redirect(CONSTANT(0), 0);
}
"""
LOST = "% of the frames that were sent through a faulty pydp did not arrive"
ALTERED = "frames did not arrive as they were sent"
WHICH = {LOST: "a faulty pydp", ALTERED: "pydp: "}


def path(fault: str, every: int) -> paths.Path:
    """XDP on both ports with a FAULT in one frame in so many."""

    def build(segment: Segment, stack: ExitStack) -> None:
        source = compile_source(flatten(FAULTY, name="faulty.c", include_dirs=[bpf_src()]))
        maps = programs.create_maps(source, f"faulty_{fault}", stack)
        for inward, outward in (segment.containers, segment.containers[::-1]):
            constants = {0: segment.sw.ifindex(outward.port), 1: every}
            program = stack.enter_context(load(source, f"faulty_{fault}", "xdp", maps, constants=constants))
            link = segment.sw.call(attach, program, inward.port_index, "xdp", name=inward.port)
            stack.callback(segment.sw.call, link.detach)

    return paths.Path("pydp", "a faulty pydp", build, port_polls=True)


def scenario(name: str, mine: paths.Path) -> Scenario:
    shape = paths.Shape(paths.XDP_OFFLOADS)
    plan = Plan(2, 0.05, 2)
    return Scenario(
        name, name, "Mpps", 1e6,
        on_segment((mine, paths.bare_xdp("redirect")), flood_of_frames(256, "xdp"), shape),
        (Comparison("pydp", ("redirect",)),), plan, plan, "packet",
    )  # fmt: skip


@pytest.mark.parametrize(("fault", "told"), [("loses", LOST), ("alters", ALTERED)])
def test_one_fault_in_a_thousand_frames_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, told: str
) -> None:
    faulty, good = scenario("bridge-faulty", path(fault, 1000)), scenario("bridge-good", path(fault, 1 << 40))
    monkeypatch.setattr(runner, "SCENARIOS", (faulty, good))
    file = tmp_path / "results.json"
    assert main(["bench", "bridge", "--noise", "1", "--json", str(file)]) == 1
    assert told in capsys.readouterr().out
    first, second = (SimpleNamespace(**one) for one in json.loads(file.read_text())["scenarios"])
    assert told in first.fault
    assert WHICH[told] in first.fault
    assert second.fault == ""
    assert second.kept == 2


def test_what_the_system_refuses_costs_one_scenario(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(segment: Segment, stack: ExitStack) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    refused = scenario("bridge-refused", paths.Path("pydp", "a refused pydp", build, port_polls=True))
    good = scenario("bridge-good", path("loses", 1 << 40))
    monkeypatch.setattr(runner, "SCENARIOS", (refused, good))
    file = tmp_path / "results.json"
    assert main(["bench", "bridge", "--noise", "1", "--json", str(file)]) == 1
    assert "No buffer space available" in capsys.readouterr().out
    first, second = (SimpleNamespace(**one) for one in json.loads(file.read_text())["scenarios"])
    assert "No buffer space available" in first.fault
    assert (second.fault, second.kept) == ("", 2)


def test_when_nothing_can_be_measured_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "SCENARIOS", (scenario("bridge-faulty", path("loses", 1)),))
    assert main(["bench", "bridge", "--noise", "1"]) == 1
    assert "none arrived" in capsys.readouterr().err
