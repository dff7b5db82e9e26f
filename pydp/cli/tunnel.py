# SPDX-License-Identifier: Apache-2.0
"""`pydp tunnel`: who is at the other ends, what went each way, and the peers of mode ipip."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, plural, printable, show_json, table
from pydp.errors import NothingAttached, UsageError

if TYPE_CHECKING:
    from pydp.datapath import Instance, Reader
    from pydp.tunnels import Tunnel

_SHOWN = 4  # networks in a line
_COUNTS = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|add|del")
    parser.set_defaults(action=_show, name="", json=False)
    one = _action(actions, "show", _show, "show VTEPs and peers with their counters")
    one.add_argument("name", nargs="?", default="", metavar="NAME", help="one instance (default: all)")
    one.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")
    one = _action(actions, "add", _add, "have networks behind a peer, which may be a new one")
    one.add_argument("name", metavar="NAME", help="instance of mode ipip")
    one.add_argument("peer", nargs="+", metavar="ADDR=PREFIX[,...]", help="the peer and the networks")
    one.add_argument("--dry-run", action="store_true", help="check, and say what would be done")
    one = _action(actions, "del", _del, "take away a peer, or networks behind it")
    one.add_argument("name", metavar="NAME", help="instance of mode ipip")
    one.add_argument("peer", metavar="ADDR[=PREFIX,...]", help="the peer, or the networks that go")
    one.add_argument("--dry-run", action="store_true", help="check, and say what would be done")


def run(args: argparse.Namespace) -> int:
    result: int = args.action(args)
    return result


def _action(actions: Any, name: str, function: Any, text: str) -> Any:
    one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    one.set_defaults(action=function)
    return one


def _show(args: argparse.Namespace) -> int:
    from pydp.cli.session import chosen, reading

    with reading() as reader:
        there = chosen(reader, args.name) if args.name else list(reader.state.instances.values())
        found = [one for one in (describe(reader, each) for each in there) if one]
    if args.name and not found:
        raise UsageError(f"{args.name} is of mode {there[0].mode}: it has no tunnels")
    if args.json:
        show_json({"instances": found})
    if not found:
        raise NothingAttached(
            "nothing that has tunnels is attached in this namespace", hint="pydp attach --mode ipip or vxlan"
        )
    if not args.json:
        print("\n\n".join(_text(one) for one in found))
    return 0


def describe(reader: Reader, instance: Instance) -> dict[str, Any] | None:
    """The tunnels of an instance, for JSON; None for one that has none. ``guests`` are VTEPs that nobody named."""
    from pydp import tunnels
    from pydp.tunnels import peers

    if peers.has_peers(instance):
        rows = [
            {
                "remote": one.remote,
                "networks": list(one.networks),
                "path_mtu": one.path_mtu or None,
                **{key: getattr(one, key) for key in _COUNTS},
            }
            for one in peers.rows(reader, instance)
        ]
    elif tunnels.has_tunnels(instance):
        rows = _vteps(tunnels.tunnels(reader, instance))
    else:
        return None
    found = {"name": instance.name, "mode": instance.mode, "tunnels": rows}
    if tunnels.has_segments(instance):
        found["guests"] = _vteps(tunnels.guests(reader, instance))
    return found


def _vteps(found: Sequence[Tunnel]) -> list[dict[str, Any]]:
    return [{"remote": one.remote, "vni": one.vni, **{key: getattr(one, key) for key in _COUNTS}} for one in found]


def _text(one: Mapping[str, Any]) -> str:
    what, noun = ("VNI", "VTEP") if one["mode"] == "vxlan" else ("NETWORKS", "peer")
    head = f"{one['name']}: mode {one['mode']}, {plural(len(one['tunnels']), noun)}"
    guests = one.get("guests", ())
    if guests:
        head += f", {plural(len(guests), 'guest')}"
    tables = (_table("REMOTE", what, one["tunnels"]), _table("GUEST", what, guests))
    return "\n".join(filter(None, (printable(head), *tables)))


def _table(who: str, what: str, ends: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (each["remote"], _behind(each), each.get("path_mtu") or "", *(each[key] for key in _COUNTS)) for each in ends
    ]
    headers = (who, what, "PATH MTU", "SENT", "BYTES", "RECEIVED", "BYTES ")
    return table(headers, rows, right=headers[2:], indent="  ")


def _behind(each: Mapping[str, Any]) -> str:
    if "networks" not in each:
        return str(each["vni"])
    more = len(each["networks"]) - _SHOWN
    return " ".join(each["networks"][:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _add(args: argparse.Namespace) -> int:
    from pydp.datapath import Datapath
    from pydp.tunnels import peers

    instance = peers.add(Datapath(), args.name, args.peer, dry_run=args.dry_run)
    return _done(instance, args.peer, "added to", args)


def _del(args: argparse.Namespace) -> int:
    from pydp.datapath import Datapath
    from pydp.tunnels import peers

    instance = peers.delete(Datapath(), args.name, args.peer, dry_run=args.dry_run)
    return _done(instance, [args.peer], "deleted from", args)


def _done(instance: Instance, peers: Sequence[str], action: str, args: argparse.Namespace) -> int:
    would = "would be " if args.dry_run else ""
    print(printable(f"{' '.join(peers)} {would}{action} {instance.name}"))
    return 0
