# SPDX-License-Identifier: Apache-2.0
"""`pydp lab vm`: a command on other kernels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydp.errors import UsageError

if TYPE_CHECKING:
    from pydp.lab.vm import Guest, Kernel, Outcome

HELP = "run a command on other kernels of Debian's, in QEMU, with this machine's files"
_ADDRESSES = ("192.168.123.111/24", "192.168.123.114/24")  # of the two ends of a wire
_EPILOG = """\
The guest has this machine's whole root file system; what it writes stays in the guest, but for what is in
$PYDP_LAB_RESULTS (see --results), and in $PYDP_LAB_SHARED, which guests of the same run share. The command runs as
root, in this directory. Exit status: the command's; of several, the first that is not 0; 1 where there is none."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel", metavar="V,...", help="series or releases, one after the other: 6.1,6.12 (the default)"
    )
    which.add_argument("--lab", type=Path, metavar="FILE", help="the data nodes of a lab.yaml")
    add("--update", action="store_true", help="ask Debian for newer kernels than those kept")
    add("--list", action="store_true", help="show the kernels that are kept, and end")
    add("--wire", action="store_true", help="two guests at once, joined by eth0: $PYDP_LAB_END is 1 or 2")
    add("--jobs", type=int, default=1, metavar="N", help="how many guests at a time (1)")
    add("--results", type=Path, metavar="DIR", help="what the command writes to $PYDP_LAB_RESULTS, a folder per guest")
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="KVM, or emulation (tcg); auto tries KVM")
    add("--cpus", type=int, default=1, metavar="N", help="CPUs of a guest (1)")
    add("--memory", type=int, default=2048, metavar="MIB", help="memory of a guest (2048)")
    add("--timeout", type=float, default=1800, metavar="S", help="seconds that the command may take (1800)")
    add("-q", "--quiet", action="store_true", help="only what the command says")
    add("command", nargs="*", metavar="-- COMMAND", help="what to run")


def run(args: argparse.Namespace) -> int:
    from pydp.bench.interrupt import terminable

    with terminable():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from pydp.lab import vm

    if args.list:
        print("\n".join(f"{kernel.release}\t{kernel.image}" for kernel in vm.cached_kernels()))
        return 0
    _check(args)
    guests = _planned(args) if args.lab else _plain(args)
    settings = vm.Settings(
        vm.choose_acceleration(args.accel, guests[0].kernel), args.cpus, args.memory, args.timeout, Path.cwd()
    )
    wire = args.wire or bool(args.lab)
    outcomes = vm.run(
        guests, settings, jobs=args.jobs, wire=wire, results=args.results, ended=lambda one: _ended(one, args.quiet)
    )
    statuses = [1 if one.status is None else one.status for one in outcomes]
    return next((status for status in statuses if status), 0)


def _check(args: argparse.Namespace) -> None:
    if not args.command:
        raise UsageError("no command to run", hint="pydp lab vm --kernel 6.1 -- uname -r")
    for name, least in (("jobs", 1), ("cpus", 1), ("memory", 512), ("timeout", 1)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name} {getattr(args, name)}: at least {least}")


def _plain(args: argparse.Namespace) -> list[Guest]:
    """One for each kernel. The same kernel may be at both ends of a wire."""
    from pydp.lab import vm

    wanted = [name for name in (args.kernel or "6.1,6.12").split(",") if name]
    kernels = vm.find_kernels(wanted, update=args.update)
    if not args.wire:
        return [vm.Guest(kernel.release, kernel, args.command) for kernel in dict.fromkeys(kernels)]
    if len(kernels) != 2:
        raise UsageError(f"a wire has two ends, and {len(kernels)} kernels are given", hint="--kernel 6.1,6.12 --wire")
    return [_end(number, f"end{number}", kernel, args.command) for number, kernel in enumerate(kernels, 1)]


def _planned(args: argparse.Namespace) -> list[Guest]:
    """The data nodes of a plan, which are two, with its addresses."""
    from pydp.lab import vm

    plan = vm.read_plan(args.lab)
    nodes = plan.of_role("data")
    if len(nodes) != 2:
        raise UsageError(f"{args.lab}: a wire has two ends, and {len(nodes)} nodes have the role data")
    kernels = vm.find_kernels([node.kernel for node in nodes], update=args.update)
    length = plan.network.prefixlen
    return [
        _end(number, node.name, kernel, args.command, tuple(f"{one.address}/{length}" for one in nodes))
        for number, (node, kernel) in enumerate(zip(nodes, kernels, strict=True), 1)
    ]


def _end(number: int, name: str, kernel: Kernel, command: list[str], addresses: tuple[str, ...] = _ADDRESSES) -> Guest:
    from pydp.lab import vm

    peer = addresses[2 - number].partition("/")[0]
    environment = {"PYDP_LAB_END": str(number), "PYDP_LAB_PEER": peer}
    return vm.Guest(name, kernel, command, addresses[number - 1], environment)


def _ended(outcome: Outcome, quiet: bool) -> None:
    guest = outcome.guest
    name = guest.name if guest.name == guest.kernel.release else f"{guest.name} ({guest.kernel.release})"
    if outcome.status is None:
        print(f"pydp: {name}: {outcome.error}", file=sys.stderr)
    elif not quiet:
        times = f"command after {outcome.booted:.1f} s, {outcome.seconds:.1f} s in all"
        print(f"{name}: exit status {outcome.status} ({times})", file=sys.stderr)
