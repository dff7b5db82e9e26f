# SPDX-License-Identifier: Apache-2.0
"""`pydp stats`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, paint, printable, show_json, si, table
from pydp.cli.screen import Screen

if TYPE_CHECKING:
    from pydp.datapath import Instance, Reader

Key = tuple[object, ...]  # what tells a counter from others
Counts = Mapping[Key, tuple[int, int]]  # packets, bytes
_COLOURS = {"drop": "red", "punt": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="one instance (default: all)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")
    how.add_argument(
        "--watch", nargs="?", type=_seconds, const=1.0, metavar="SECONDS",
        help="show rates, again and again (default: every second)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    if args.watch is not None:
        return _watch(args.name, args.watch)
    found = _read(args.name, shown_empty=args.json)
    if args.json:
        show_json({"instances": found})
    else:
        print("\n\n".join(_text(one) for one in found))
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 86400")
    return seconds


def _read(name: str, *, shown_empty: bool = False) -> list[dict[str, Any]]:
    """Documents of the instances asked for. Raises NothingAttached, EbpfError."""
    from pydp.cli.session import chosen, reading

    with reading() as reader:
        if shown_empty and not reader.state.instances and not name:
            show_json({"instances": []})
        return [_document(reader, one) for one in chosen(reader, name)]


def _document(reader: Reader, instance: Instance) -> dict[str, Any]:
    """The verdicts of an instance, what went through its tunnels, and what mode count counted by kind, for JSON."""
    from pydp.tunnels import has_tunnels

    members = ("device", "ifindex", "hook", "kind", "reason", "what", "packets", "bytes")
    own = [one for one in reader.verdicts() if one.instance == instance.name]
    found = {
        "name": instance.name,
        "mode": instance.mode,
        "hook": instance.hook,
        "counters": instance.counters,
        "verdicts": [{member: getattr(one, member) for member in members} for one in own],
    }
    if has_tunnels(instance):
        found["tunnels"] = _tunnels(reader, instance)
    if "count_kinds" in instance.maps:
        found["kinds"] = _kinds(reader, instance)
    return found


def _tunnels(reader: Reader, instance: Instance) -> list[dict[str, Any]]:
    """Packets to and from each VTEP or peer that had any."""
    from pydp.cli.session import tunnel_documents

    found = []
    for one in tunnel_documents(reader, instance):
        ways = {"send": one.pop("sent"), "receive": one.pop("received")}
        del one["group"]
        found += [{**one, "direction": way, **counted} for way, counted in ways.items() if counted["packets"]]
    return found


def _kinds(reader: Reader, instance: Instance) -> list[dict[str, Any]]:
    """Packets that mode count saw, by port and kind (bpf_src/count.c)."""
    from pydp.datapath.specs import abi_of
    from pydp.modes.count import KINDS

    kinds = abi_of(instance).enum("count_kind")
    names = {
        number: (name.removeprefix("COUNT_").lower(), kinds.comments[name]) for name, number in kinds.members.items()
    }
    ports = {slot: (ifindex, instance.names[ifindex]) for ifindex, slot in instance.slots.items()}
    found = []
    for index, (packets, size) in sorted(reader.map(instance, "count_kinds").sums().items()):
        slot, number = divmod(index, KINDS)
        if slot in ports:
            ifindex, device = ports[slot]
            kind, what = names[number]
            found.append({"device": device, "ifindex": ifindex, "kind": kind, "what": what,
                          "packets": packets, "bytes": size})  # fmt: skip
    return found


def _text(one: dict[str, Any], before: Counts | None = None, seconds: float = 1.0) -> str:
    """An instance's tables; with BEFORE, which is SECONDS ago, rates in place of the meanings."""
    verdicts = [
        (row["device"], row["hook"], _kind(row["kind"]), row["reason"], *_numbers(one, row, before, seconds))
        for row in one["verdicts"]
    ]
    kinds = [(row["device"], row["kind"], *_numbers(one, row, before, seconds)) for row in one.get("kinds", ())]
    number, end = ("vni", "VTEP") if one["mode"] == "vxlan" else ("key", "PEER")
    ends = one.get("tunnels", ())
    numbered = any(row[number] is not None for row in ends)
    tunnels = [
        (*([row[number]] if numbered else []), row["remote"], row["direction"], *_numbers(one, row, before, seconds))
        for row in ends
    ]
    names = (*([number.upper()] if numbered else []), end, "DIRECTION")
    numbers = ("PACKETS", "BYTES", "MEANING") if before is None else ("PACKETS/S", "BITS/S", "PACKETS", "BYTES")
    right = [name for name in numbers if name != "MEANING"]
    parts = (
        _title(one, empty=not (verdicts or kinds)),
        table(("PORT", "HOOK", "VERDICT", "REASON", *numbers), verdicts, right=right),
        table((*names, *right), tunnels, right=(number.upper(), *right)),
        table(("PORT", "KIND", *numbers), kinds, right=right),
    )
    return "\n".join(filter(None, parts))


def _title(one: dict[str, Any], *, empty: bool) -> str:
    remark = (", no packet yet" if one["counters"] else ", attached with --no-counters") if empty else ""
    return f"{paint(printable(one['name']), 'bold')}: mode {one['mode']}, hook {one['hook']}{remark}"


def _kind(kind: str) -> str:
    return paint(kind, _COLOURS[kind]) if kind in _COLOURS else kind


def _numbers(one: dict[str, Any], row: dict[str, Any], before: Counts | None, seconds: float) -> tuple[object, ...]:
    packets, size = row["packets"], row["bytes"]
    if before is None:
        return (packets, size, row["what"]) if "what" in row else (packets, size)
    earlier = before.get(_key(one, row), (0, 0))
    # Counters begin anew when an instance is detached and attached again in between.
    rates = [max(now - then, 0) / seconds for now, then in zip((packets, size), earlier, strict=True)]
    return si(rates[0]), si(rates[1] * 8, "b"), packets, size


def _watch(name: str, seconds: float) -> int:
    """Until interrupted. On a terminal each picture replaces the one before."""
    screen = Screen()
    before, began = _counts(_read(name)), time.monotonic()
    with screen.following():
        while True:
            time.sleep(seconds)
            found, now = _read(name), time.monotonic()
            screen.show("\n\n".join(_text(one, before, now - began) for one in found))
            before, began = _counts(found), now


def _counts(found: list[dict[str, Any]]) -> Counts:
    rows = ((one, row) for one in found for row in (*one["verdicts"], *one.get("kinds", ()), *one.get("tunnels", ())))
    return {_key(one, row): (row["packets"], row["bytes"]) for one, row in rows}


def _key(one: dict[str, Any], row: dict[str, Any]) -> Key:
    names = ("ifindex", "hook", "kind", "reason", "vni", "key", "remote", "direction")
    return (one["name"], *(row.get(name) for name in names))
