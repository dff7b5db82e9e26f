# SPDX-License-Identifier: Apache-2.0
"""`pydp status`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, paint, plural, printable, show_json, table

if TYPE_CHECKING:
    from pydp.datapath import Instance, Reader

_SHOWN = 32  # tunnels in the text; --json has all
_WAYS = ("SENT", "BYTES SENT", "RECEIVED", "BYTES RECEIVED")
_COMPARISONS = {
    "under way": "compared with the kernel's path right now (pydp compare)",
    "left over": "a comparison was killed: the next pydp attach, detach or compare takes its programs away",
}
KINDS = ("forward", "flood", "punt", "drop", "pass")  # of verdicts, in the order shown


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="one instance (default: all)")
    parser.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    from pydp.cli.session import chosen, reading

    with reading() as reader:
        if args.json and not reader.state.instances and not args.name:
            show_json({"instances": []})
        found = [describe(reader, one) for one in chosen(reader, args.name)]
    if args.json:
        show_json({"instances": found})
    else:
        print("\n\n".join(_text(one) for one in found))
    return 0


def describe(reader: Reader, instance: Instance) -> dict[str, Any]:
    """Everything about an instance, for JSON: what it is, its ports with their programs, packets by kind, fills, and
    its tunnels.
    """
    from pydp.cli.session import document, is_here, tunnel_documents
    from pydp.tunnels import has_segments, has_tunnels

    runs = reader.programs()
    found = document(instance)
    for port in found["ports"]:
        here = is_here(port["ifindex"])
        port["programs"] = [
            {"hook": one.hook, "id": one.id, "tag": one.tag, "state": "running" if one.running and here else "gone"}
            for one in runs
            if one.ifindex == port["ifindex"] and one.hook in instance.hooks[one.ifindex]
        ]
        states = [one["state"] for one in port["programs"]]
        port["state"] = "running" if states and all(state == "running" for state in states) else "gone"
    found["packets"] = _packets(reader, instance)
    found["maps"] = [
        {"map": one.map, "kind": one.kind, "entries": one.entries, "max_entries": one.max_entries}
        for one in reader.fills()
        if one.instance == instance.name
    ]
    if "fdb" in instance.maps:
        found["fdb"] = _fdb(reader, instance)
    if has_segments(instance):
        found["segments"] = _segments(reader, instance)
    if has_tunnels(instance):
        found["tunnels"] = tunnel_documents(reader, instance)
    return found


def _segments(reader: Reader, instance: Instance) -> list[dict[str, Any]]:
    from pydp.tunnels import segments

    found = segments(reader, instance)
    return [
        {"vni": vni, "ports": [instance.names[ifindex] for ifindex, mine in found.ports.items() if mine == number]}
        for number, vni in found.vnis.items()
    ]


def _packets(reader: Reader, instance: Instance) -> dict[str, dict[str, int]]:
    """Packets and bytes by kind of verdict, over all ports and hooks."""
    sums = {kind: {"packets": 0, "bytes": 0} for kind in KINDS}
    for one in reader.verdicts():
        if one.instance == instance.name:
            entry = sums.setdefault(one.kind, {"packets": 0, "bytes": 0})
            entry["packets"] += one.packets
            entry["bytes"] += one.bytes
    return sums


def _fdb(reader: Reader, instance: Instance) -> dict[str, Any]:
    from pydp import fdb

    entries, permanent = fdb.count(reader, instance)
    return {
        "entries": entries,
        "permanent": permanent,
        "capacity": fdb.capacity(instance),
        "events": fdb.events(reader, instance),
    }


def _text(one: dict[str, Any]) -> str:
    adopted = f", adopts {one['adopted']}" if one["adopted"] else ""
    ports = [port for port in one["ports"] if port["role"] != "companion"]
    lines = [
        f"{paint(printable(one['name']), 'bold')}: mode {one['mode']}{adopted}, {plural(len(ports), 'port')}",
        f"  hook {one['hook']}: {printable(one['why'])}",
    ]
    if one["companion"]:
        use = "routes are looked up by it" if one["adopted"] else "sends and takes what is left to the kernel"
        lines.append(f"  companion {printable(one['companion'])}: {use}")
    if one["comparison"]:
        lines.append("  " + _COMPARISONS[one["comparison"]])
    if one["counters"]:
        lines.append("  packets: " + ", ".join(f"{kind} {one['packets'][kind]['packets']}" for kind in one["packets"]))
    else:
        lines.append("  packets: not counted (--no-counters)")
    if "fdb" in one:
        lines.append("  " + _fdb_line(one["fdb"]))
    lines += [f"  map {each['map']}: {each['entries']} of {each['max_entries']} entries" for each in one["maps"]]
    lines += [_ports_table(one["ports"]), *_tunnel_tables(one)]
    return "\n".join(filter(None, lines))


def _ports_table(ports: list[dict[str, Any]]) -> str:
    """With a column of roles where ports differ in it."""
    roles = any(port["role"] != "port" for port in ports)
    rows = [
        (port["device"], *([port["role"]] if roles else []), program["hook"], program["id"], _state(program["state"]))
        for port in ports
        for program in port["programs"]
    ]
    headers = ("PORT", *(["ROLE"] if roles else []), "HOOK", "PROGRAM", "STATE")
    return table(headers, rows, right=("PROGRAM",), indent="  ")


def _tunnel_tables(one: dict[str, Any]) -> Iterator[str]:
    """VNIs with their ports, and the other ends with packets and bytes each way."""
    segments = [(each["vni"], " ".join(each["ports"])) for each in one.get("segments", ())[:_SHOWN]]
    yield table(("VNI", "PORTS"), segments, right=("VNI",), indent="  ")
    tunnels, vxlan = one.get("tunnels", ()), one["mode"] == "vxlan"
    number = "vni" if vxlan else "key"
    numbered = any(each[number] is not None for each in tunnels)
    rows = [
        (*([each[number]] if numbered else []), each["remote"], *each["sent"].values(), *each["received"].values())
        for each in tunnels[:_SHOWN]
    ]
    headers = (*([number.upper()] if numbered else []), "VTEP" if vxlan else "PEER", *_WAYS)
    yield table(headers, rows, right=(number.upper(), *_WAYS), indent="  ")
    for shown, noun in ((one.get("segments", ()), "VNI"), (tunnels, "VTEP" if vxlan else "peer")):
        if len(shown) > _SHOWN:
            yield f"  and {plural(len(shown) - _SHOWN, noun)} more: --json has all"


def _fdb_line(one: dict[str, Any]) -> str:
    events = ", ".join(f"{name} {number}" for name, number in one["events"].items())
    return f"fdb: {one['entries']} of {one['capacity']} addresses, {one['permanent']} of them do not age; {events}"


def _state(state: str) -> str:
    return paint("running", "green") if state == "running" else paint("port gone", "red")
