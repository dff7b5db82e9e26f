# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the same traffic through the kernel's bridge and through pydp, side by side.

    python -m pydp.bench.demo [--json FILE]

Builds everything in network namespaces of its own, and takes it down again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path as File
from statistics import median

from ebpf.errors import EbpfError
from pydp.bench import paths
from pydp.bench.floods import flood_of_frames
from pydp.bench.interrupt import terminable
from pydp.bench.streams import tcp_stream
from pydp.errors import NotAllowed, PydpError
from pydp.lab import LabError, Segment, sweep

_PREFIX = "pydp-demo-"
_ADDRESSES = 256
_ROUNDS = 3
_PINGS = 200
_INTERRUPTED = 130

_INTRODUCTION = """\
Two containers and a bridge, twice: once as the kernel does it, once as pydp does it.

    container A                      switch                      container B
    eth0 10.0.0.1 <--- veth ---> p0 [bridge] p1 <--- veth ---> eth0 10.0.0.2
"""

_MEANING = """\
What this means
  Everything was measured in turn, kernel then pydp, {rounds} times; shown are the medians, counted at the receiver.
  ping        {pings} echo requests a time, the median round trip. All were answered, on both sides.
  TCP         one connection, with the containers' default offloads: on tc pydp takes whole GSO frames and hands them
              straight into the container. Most of the time goes into the two TCP stacks, the same on both sides.
  64 bytes    {addresses} addresses talking at once, made in the kernel of container A, counted and checked by a program
              at eth0 of container B: here the bridge is nearly all there is to do.
  --hook xdp  the fastest for packets that are forwarded, and made for NICs. Containers have to give up checksum
              offload for it, which costs a TCP stream more than it gains: on veth pydp takes tc unless told otherwise.
  The kernel's bridge runs without iptables on bridged frames (bridge-nf-call-iptables 0), which is its faster way.
  Other work on this machine disturbs the numbers: `make bench` interleaves more and gives intervals."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of traffic: the medians of both ways in ``unit``, and how many times as fast pydp is."""

    traffic: str
    unit: str
    kernel: float
    pydp: float
    faster: float


class Demo:
    """What is built stays for as long as STACK; SAY prints a line."""

    def __init__(self, stack: ExitStack, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._say = say
        self.rows: list[Row] = []

    def bridges(self, hook: str) -> tuple[Segment, Segment]:
        """Two containers with a kernel bridge, two with pydp. Raises PydpError, OSError."""
        offloads = paths.XDP_OFFLOADS if hook == "xdp" else {}
        kernel = self._stack.enter_context(Segment(2, prefix=_PREFIX, kernel_bridge=True, offloads=offloads))
        mine = self._stack.enter_context(Segment(2, prefix=_PREFIX, offloads=offloads))
        if hook == "xdp":
            self._say(f"  in all containers:  $ ethtool -K {kernel[0].dev} tx off txvlan off gro on")
        for port in kernel.ports:
            self._say(f"  the kernel's bridge:  $ ip -n {kernel.sw.name} link set {port} master {kernel.bridge}")
        self._stack.callback(_pydp, mine, "detach", "--all", check=False)
        command = ["attach", "--mode", "bridge", *(["--hook", "xdp"] if hook == "xdp" else []), *mine.ports]
        self._say(f"  pydp:                 $ pydp -n {mine.sw.name} {' '.join(command)}")
        self._show(_pydp(mine, *command))
        return kernel, mine

    def compare(self, traffic: str, unit: str, ways: Sequence[Callable[[], float]], *, less: bool = False) -> None:
        """Measure both ways in turn, several times; with LESS the smaller is the faster."""
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for values, measure in zip(found, ways, strict=True):
                values.append(measure())
        kernel, mine = (median(values) for values in found)
        self.rows.append(Row(traffic, unit, kernel, mine, kernel / mine if less else mine / kernel))
        self._say(_columns(f"{traffic}, {unit}", f"{kernel:.2f}", f"{mine:.2f}", f"{self.rows[-1].faster:.2f} x"))

    def packets(self, hook: str, segments: tuple[Segment, Segment]) -> None:
        """64-byte packets, counted on HOOK of the receiver on both sides."""
        with ExitStack() as stack:
            prepare = flood_of_frames(_ADDRESSES, hook)
            kernel, mine = (
                prepare(segment, path, stack)
                for segment, path in zip(segments, (paths.kernel(), paths.pydp(hook)), strict=True)
            )
            ways = (lambda: kernel(0.3).value / 1e6, lambda: mine(0.3).value / 1e6)
            self.compare(f"64-byte packets, --hook {hook}", "million/s", ways)

    def sockets(self, segments: tuple[Segment, Segment]) -> None:
        """ICMP and TCP, as containers send them."""
        kernel, mine = segments
        self.compare("ICMP: ping, round trip", "us", (lambda: _ping(kernel), lambda: _ping(mine)), less=True)
        first, second = (tcp_stream(segment, paths.kernel(), self._stack) for segment in segments)
        self.compare("TCP stream", "Gb/s", (lambda: first(1).value / 1e9, lambda: second(1).value / 1e9))

    def counted(self, segment: Segment) -> None:
        """What pydp has to say about it."""
        self._say(f"\n  $ pydp -n {segment.sw.name} stats")
        self._show(_pydp(segment, "stats"))

    def _show(self, output: str) -> None:
        for line in output.splitlines():
            self._say(f"    {line}")


def run(say: Callable[[str], None]) -> list[Row]:
    """Build, measure, take down. Raises PydpError, EbpfError, OSError; nothing stays in any case."""
    if os.geteuid() != 0:
        raise NotAllowed("the demo makes network namespaces and loads programs", hint="run as root")
    sweep(_PREFIX)
    say(_INTRODUCTION)
    with ExitStack() as stack:
        demo = Demo(stack, say)
        say("1. On tc, where pydp attaches to containers by itself")
        on_tc = demo.bridges("tc")
        say("\n" + _columns("traffic", "kernel bridge", "pydp", "pydp/kernel"))
        demo.sockets(on_tc)
        demo.packets("tc", on_tc)
        demo.counted(on_tc[1])
        say("\n2. On XDP, before the kernel makes a packet buffer")
        on_xdp = demo.bridges("xdp")
        say("\n" + _columns("traffic", "kernel bridge", "pydp", "pydp/kernel"))
        demo.packets("xdp", on_xdp)
    say("\nAll of it is taken down again.\n")
    say(_MEANING.format(rounds=_ROUNDS, pings=_PINGS, addresses=_ADDRESSES))
    return demo.rows


def _columns(traffic: str, *cells: str) -> str:
    return f"  {traffic:<38}" + "".join(f"{cell:>15}" for cell in cells)


def _pydp(segment: Segment, *arguments: str, check: bool = True) -> str:
    """Run pydp as anybody would, and give what it prints. Raises LabError with its message when it fails."""
    command = [sys.executable, "-m", "pydp", "-n", segment.sw.name, *arguments]
    # A session of its own: Ctrl-C reaches this process alone, which then takes everything down in order.
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if check and done.returncode:
        raise LabError(f"pydp {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _ping(segment: Segment) -> float:
    """The median round trip in microseconds. Raises LabError when an answer is missing."""
    near, far = segment.containers
    command = ["ping", "-n", "-c", str(_PINGS), "-i", "0.002", "-W", "1", far.address4]
    times = re.findall(r"time=([\d.]+) ms", near.ns.run(command).stdout)
    if len(times) != _PINGS:
        raise LabError(f"{_PINGS - len(times)} of {_PINGS} echo requests were not answered")
    return 1000 * median(map(float, times))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; gives the exit status."""
    parser = argparse.ArgumentParser(prog="pydp demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to a file as well")
    args = parser.parse_args(argv)
    try:
        with terminable():
            rows = run(lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("\nInterrupted; all of it is taken down again.", file=sys.stderr)
        return _INTERRUPTED
    except (PydpError, EbpfError) as error:
        print(f"demo: {error}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status if isinstance(error, PydpError) else 1
    if args.json:
        File(args.json).write_text(json.dumps({"version": 1, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
