# SPDX-License-Identifier: Apache-2.0
"""A comparison with the kernel's path as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydp.bench.machine import facts
from pydp.bench.statistics import Interval
from pydp.cli.output import paint, plural, printable, si, table
from pydp.compare.readings import EBPF, KERNEL
from pydp.compare.results import ANSWERS, MEASURES, Measure, Ratio, Results

_NOTHING = "n/a"


def text(found: Results) -> str:
    """The whole report."""
    return "\n".join(_lines(found))


def _lines(found: Results) -> Iterator[str]:
    yield facts(found.machine)
    made = ", attached for this" if found.attached_for_it else ""
    yield printable(f"{paint(found.instance, 'bold')}: mode {found.mode} on {found.hook}, adopts {found.adopted}{made}")
    yield f"  {_how(found)}"
    if not found.paths:
        yield "  nothing was measured"
        return
    ratios = {one.measure: one for one in found.comparisons}
    rows = [_row(found, measure, ratios.get(measure.name)) for measure in MEASURES]
    rows += [_counts(found, title, of) for title, of in _COUNTS.items()]
    headers = ("", "KERNEL", "EBPF", "EBPF/KERNEL", "95 %", "")
    yield table(headers, rows, right=("KERNEL", "EBPF", "EBPF/KERNEL"), indent="  ")
    yield from _remarks(found)


def _how(found: Results) -> str:
    blocks = found.blocks
    if found.share is not None:
        how = f"{found.share * 100:g} % of the flows by eBPF, the others by the kernel, {plural(blocks.kept, 'block')}"
    else:
        how = f"by turns of {found.slice:g} s, {plural(blocks.kept, 'block')} of four"
    idle = f", {blocks.idle} with too little traffic" if blocks.idle else ""
    late = f", {blocks.late} discarded, as turns were late" if blocks.late else ""
    return f"{how}{idle}{late}{', interrupted' if found.interrupted else ''}; {found.noise}"


def _row(found: Results, measure: Measure, one: Ratio | None) -> list[str]:
    cells = [_value(measure, found, path) for path in (KERNEL, EBPF)]
    if one is None:
        return [measure.title, *cells, "", "", ""]
    if one.ratio is None:
        return [measure.title, *cells, "", "", one.finding]
    return [measure.title, *cells, f"{one.ratio.median:.2f}", _interval(one.ratio), _painted(measure, one.finding)]


def _value(measure: Measure, found: Results, path: str) -> str:
    result = found.paths.get(path)
    value = result.values[measure.name] if result else None
    if value is None:
        return _NOTHING
    if measure.name.endswith("_seconds"):
        return _time(value.median)
    return f"{value.median:.0f}" if measure.name == "cpu_ns_per_packet" else si(value.median)


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _interval(one: Interval) -> str:
    return f"{one.low:.2f} - {one.high:.2f}"


def _painted(measure: Measure, finding: str) -> str:
    if finding not in ("more", "less"):
        return finding
    return paint(finding, "green" if (finding == "less") == measure.less else "yellow")


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.3g} %"


_COUNTS: dict[str, Callable[[Results, str], str]] = {
    "packets": lambda found, path: str(found.paths[path].packets),
    "carried by eBPF": lambda found, path: _share(found.paths[path].carried),
    "dropped by eBPF": lambda found, path: str(found.paths[path].dropped),
    "dropped by devices": lambda found, path: _number(found.paths[path].device_drops),
}


def _number(value: int | None) -> str:
    return _NOTHING if value is None else str(value)


def _counts(found: Results, title: str, of: Callable[[Results, str], str]) -> list[str]:
    return [title, *(of(found, path) if path in found.paths else _NOTHING for path in (KERNEL, EBPF)), "", "", ""]


def _remarks(found: Results) -> Iterator[str]:
    """What a reader must know to make the right thing of it."""
    if found.share is not None:
        yield "  Of flows at once only times can be compared, not how much traffic each has or what CPUs spend on it."
    else:
        yield "  How much traffic there is, is the traffic's own affair: rates differ where it takes all it can get."
    if all(found.paths[path].values[measure.name] is None for path in found.paths for measure in ANSWERS):
        yield "  Answers: none could be timed, as no TCP with time stamps and no echo was answered from port to port."
    else:
        yield "  Answers: from when a packet came in by a port until its answer did; the answering host is in it."
    if found.hook.startswith("xdp"):
        yield "  The kernel's path had the XDP program in front of it, which slows down TCP on virtual devices."
