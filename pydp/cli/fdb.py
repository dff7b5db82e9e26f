# SPDX-License-Identifier: Apache-2.0
"""`pydp fdb`: the words and columns are those of bridge(8).

States mean what they mean there: none for what was learned, `static` for what was added (does not age, does not move by
itself), `permanent` for addresses of this host. What is behind a VTEP has `dst`, and the underlay for its device.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, plural, printable, show_json
from pydp.errors import UsageError

if TYPE_CHECKING:
    from pydp.datapath import Instance, Reader
    from pydp.fdb import FdbRow

# Keywords of bridge(8) that change nothing here: every entry is the bridge's, and what is added is static.
_UNDERSTOOD = ("master", "static")
_HOW = "pydp fdb add MAC dev DEV [vlan N], or of mode vxlan MAC dev DEV|dst VTEP [vni N]"
_OTHERS = {
    "permanent": "in bridge(8) that is an address of this host; what is added here is static",
    "local": "an address of this host comes with its interface; what is added here is static",
    "dynamic": "what ages is learned from frames; what is added here is static",
    "self": "the device's own table is bridge(8)'s; here it is the bridge's",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|add|del|flush")
    parser.set_defaults(action=_show, words=[], name="", dev="", dst="", vlan=None, vni=None, json=False)
    where = "[dev DEV|dst VTEP] [vlan N|vni N]"
    for name, action, metavar, text in (
        ("show", _show, where, "show addresses, as `bridge fdb` does"),
        ("add", _add, "MAC dev DEV|dst VTEP [vlan N|vni N] [sticky]", "enter a static address"),
        ("del", _del, f"MAC {where}", "take an address out"),
        ("flush", _flush, where, "take learned addresses out"),
    ):
        one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.set_defaults(action=action)
        _add_flags(one, name, metavar)


def _add_flags(one: argparse.ArgumentParser, name: str, metavar: str) -> None:
    one.add_argument("words", nargs="*", metavar=metavar, help="in the words of bridge(8), or with the flags below")
    one.add_argument(
        "--name", default="", metavar="NAME", help="instance (needed where several have an FDB, unless the port tells)"
    )
    one.add_argument("--dev", default="", metavar="DEV", help="port")
    one.add_argument("--dst", default="", metavar="VTEP", help="of mode vxlan: address of a VTEP")
    one.add_argument("--vlan", metavar="N", help="of mode bridge: VLAN id")
    one.add_argument("--vni", metavar="N", help="of mode vxlan: VXLAN network identifier")
    if name == "show":
        one.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")
        return
    if name == "add":
        one.add_argument("--sticky", action="store_true", help="keep it at this port, whoever sends from it elsewhere")
    if name == "flush":
        one.add_argument("--static", action="store_true", help="take out what was added, too")
    one.add_argument("--dry-run", action="store_true", help="check, and say what would be done")


def run(args: argparse.Namespace) -> int:
    result: int = args.action(args)
    return result


def _parse(args: argparse.Namespace, *, flags: Sequence[str] = (), mac: bool = False) -> bytes:
    """Take the words in place of flags into ARGS; gives the address when MAC is wanted. Raises UsageError."""
    from pydp.fdb import parse_mac

    words = list(args.words)
    if mac and not words:
        raise UsageError("MAC: which address?", hint=_HOW)
    address = parse_mac(words.pop(0)) if mac else b""
    while words:
        word = words.pop(0)
        if word in ("dev", "brport", "dst", "vlan", "vni", "br"):
            if not words:
                raise UsageError(f"{word}: nothing follows it")
            key = {"brport": "dev", "br": "name"}.get(word, word)
            setattr(args, key, words.pop(0))
        elif word in flags:
            setattr(args, word, True)
        elif word in _OTHERS:
            raise UsageError(f"{word}: {_OTHERS[word]}")
        elif word not in _UNDERSTOOD:
            raise UsageError(f"{word}: not understood", hint="pydp fdb --help")
    args.vlan = _number("vlan", args.vlan, 4094)
    args.vni = _number("vni", args.vni, (1 << 24) - 1)
    if args.dev and args.dst:
        raise UsageError("--dev and --dst: an address is behind a port or behind a VTEP, not both")
    return address


def _number(key: str, text: str | None, highest: int) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= highest:
        raise UsageError(f"--{key} {text}: not a number from 1 to {highest}")
    return int(text)


def _refuse_words_of_others(args: argparse.Namespace, instance: Instance) -> None:
    """VLANs are for bridges, VNIs and VTEPs for mode vxlan. Raises UsageError."""
    from pydp.tunnels import has_segments

    if has_segments(instance):
        if args.vlan is not None:
            raise UsageError(f"--vlan {args.vlan}: {instance.name} is of mode vxlan and has VNIs", hint="--vni N")
    elif args.vni is not None:
        raise UsageError(f"--vni {args.vni}: {instance.name} is of mode {instance.mode} and has VLANs", hint="--vlan N")
    elif args.dst:
        raise UsageError(f"--dst {args.dst}: {instance.name} is of mode {instance.mode} and has no VTEPs", hint=_HOW)


def _show(args: argparse.Namespace) -> int:
    _parse(args)
    with _open(args) as (reader, instance):
        entries = [_entry(row, instance.name) for row in _chosen_rows(reader, instance, args)]
    if args.json:
        show_json({"name": instance.name, "entries": entries})
    elif entries:
        print("\n".join(_line(one) for one in entries))
    return 0


def _entry(row: FdbRow, master: str) -> dict[str, Any]:
    """An entry in the shape of `bridge -j fdb`, and for learned ones the seconds since a frame came from it."""
    found: dict[str, Any] = {"mac": row.mac.hex(":"), "ifname": row.device or master}
    if row.dst:
        found["dst"] = row.dst
    if row.vid:
        found["vlan"] = row.vid
    if row.vni is not None:
        found["vni"] = row.vni
    found |= {"flags": ["sticky"] if row.sticky else [], "master": master}
    found["state"] = "permanent" if row.local else "static" if row.permanent else ""
    if not row.permanent:
        found["updated"] = round(row.idle, 2)
    return found


def _line(one: dict[str, Any]) -> str:
    words = [one["mac"], "dev", one["ifname"]]
    for key in ("dst", "vlan", "vni"):
        if key in one:
            words += [key, str(one[key])]
    return printable(" ".join([*words, *one["flags"], "master", one["master"], *one["state"].split()]))


def _add(args: argparse.Namespace) -> int:
    from pydp import fdb
    from pydp.datapath import Datapath

    mac = _parse(args, flags=("sticky",), mac=True)
    if not args.dev and not args.dst:
        raise UsageError("dev: behind which port?", hint=_HOW)
    with _open(args) as (reader, instance):
        places = _places(reader, instance, args)
    for place in places:
        if args.dry_run:
            words = "".join(f" {key} {value}" for key, value in place.items() if value)
            _would(f"{mac.hex(':')}{words}", "added to", instance)
        else:
            given = {{"dev": "device", "vlan": "vid"}.get(key, key): value for key, value in place.items()}
            fdb.add(Datapath(), instance, mac, sticky=args.sticky, **given)
    return 0


def _places(reader: Reader, instance: Instance, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Where an address is to be entered, in words: in one or several VLANs, or in a VNI."""
    from pydp import fdb
    from pydp.tunnels import has_segments, segments

    if not has_segments(instance):
        return [{"dev": args.dev, "vlan": vid} for vid in _vids(fdb.vlans(reader, instance, args.dev), args)]
    _, number, _ = fdb.find_place(reader, instance, args.dev, args.dst, args.vni)
    return [{"dev": args.dev, "dst": args.dst, "vni": segments(reader, instance).vnis[number]}]


def _vids(members: list[int] | None, args: argparse.Namespace) -> list[int]:
    """The VLANs to enter an address in: the one given, or all of the port, as the kernel does (br_fdb_add)."""
    if members is None:
        if args.vlan:
            raise UsageError(f"--vlan {args.vlan}: VLANs are not kept apart here", hint="attach with --vlan-filtering")
        return [0]
    if args.vlan and args.vlan not in members:
        raise UsageError(f"--vlan {args.vlan}: {args.dev} is not a member of it")
    if not members:
        raise UsageError(f"{args.dev} is a member of no VLAN")
    return [args.vlan] if args.vlan else members


def _del(args: argparse.Namespace) -> int:
    from pydp import fdb
    from pydp.datapath import Datapath
    from pydp.errors import PydpError

    mac = _parse(args, mac=True)
    with _open(args) as (reader, instance):
        rows = [row for row in _chosen_rows(reader, instance, args) if row.mac == mac]
    if not rows:
        given = ((key, getattr(args, key)) for key in ("dev", "dst", "vlan", "vni"))
        where = "".join(f" {key} {value}" for key, value in given if value)
        raise PydpError(f"{mac.hex(':')}{where} is not in the FDB of {instance.name}")
    for row in rows:
        if args.dry_run:
            where = f" vni {row.vni}" if row.vni is not None else f" vlan {row.vid}" if row.vid else ""
            _would(f"{mac.hex(':')}{where}", "deleted from", instance)
        else:
            fdb.delete(Datapath(), instance, mac, vid=row.vid, vni=row.vni)
    return 0


def _flush(args: argparse.Namespace) -> int:
    from pydp import fdb
    from pydp.datapath import Datapath

    _parse(args, flags=("static",))
    with _open(args) as (reader, instance):
        rows = _chosen_rows(reader, instance, args)
    if args.dry_run:
        going = [row for row in rows if not row.owned and not row.local and (args.static or not row.permanent)]
        _would(plural(len(going), "address"), "deleted from", instance)
    else:
        gone = fdb.flush(
            Datapath(), instance, device=args.dev, vid=args.vlan, vni=args.vni, dst=args.dst, permanent=args.static
        )
        print(f"{plural(gone, 'address')} deleted from {instance.name}")
    return 0


@contextlib.contextmanager
def _open(args: argparse.Namespace) -> Iterator[tuple[Reader, Instance]]:
    """A Reader, and the instance meant with the names its ports have now."""
    from pydp import fdb
    from pydp.cli.session import chosen, reading
    from pydp.datapath import Datapath

    name = fdb.instance_of(Datapath(), args.name, args.dev).name
    with reading() as reader:
        instance = chosen(reader, name)[0]
        _refuse_words_of_others(args, instance)
        yield reader, instance


def _chosen_rows(reader: Reader, instance: Instance, args: argparse.Namespace) -> list[FdbRow]:
    """The addresses at the port, behind the VTEP, in the VLAN or VNI asked for. Raises UsageError, EbpfError."""
    from pydp import fdb, tunnels

    ports = fdb.port_names(instance)
    if args.dev and args.dev not in ports:
        raise UsageError(f"{args.dev} is not a port of {instance.name}", hint=f"ports: {', '.join(ports)}")
    if args.vni is not None:
        tunnels.segments(reader, instance).number(args.vni)
    dst = tunnels.find(reader, instance, args.dst, args.vni)[0].remote if args.dst else ""
    return [
        row for row in fdb.rows(reader, instance)
        if args.dev in ("", row.device) and dst in ("", row.dst)
        and args.vlan in (None, row.vid) and args.vni in (None, row.vni)
    ]  # fmt: skip


def _would(what: str, action: str, instance: Instance) -> None:
    print(printable(f"{what} would be {action} {instance.name}"))
