# SPDX-License-Identifier: Apache-2.0
"""`pydp conntrack`: the flows of mode nat, in the words of conntrack(8)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pydp.cli.output import VERSION, plural, printable, show_json
from pydp.errors import UsageError

if TYPE_CHECKING:
    from pydp.conntrack import Ends, Filter, Flow
    from pydp.datapath import Datapath, Instance

_T = TypeVar("_T")

_FILTERS = (
    ("source", "ADDR[/LENGTH]", "address that the initiator has"),
    ("dest", "ADDR[/LENGTH]", "address that the initiator speaks to"),
    ("sport", "PORT", "port of the initiator, or identifier of an echo"),
    ("dport", "PORT", "port that the initiator speaks to"),
    ("reply-source", "ADDR[/LENGTH]", "address that answers: of the backend"),
    ("reply-dest", "ADDR[/LENGTH]", "address that is answered: the initiator's, or what masquerading made of it"),
    ("protocol", "PROTO", "tcp, udp, sctp, icmp, icmpv6 or a number"),
    ("state", "STATE", "of TCP and SCTP: ESTABLISHED, TIME_WAIT, ..."),
    ("service", "NAME", "flows to the backends of a service"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|count|flush")
    parser.set_defaults(action=_show, name="", json=False, limit=None, **{_dest(one): None for one, *_ in _FILTERS})
    for name, action, text in (
        ("show", _show, "show flows"),
        ("count", _count, "how many flows there are"),
        ("flush", _flush, "end flows: connections that go on begin anew"),
    ):
        one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.set_defaults(action=action)
        one.add_argument(
            "name", nargs="?", default="", metavar="NAME", help="instance (needed where there are several)"
        )
        for flag, metavar, about in _FILTERS:
            one.add_argument(f"--{flag}", metavar=metavar, help=about)
        if name == "show":
            one.add_argument("--limit", type=int, metavar="N", help="show so many at the most")
        if name == "flush":
            one.add_argument("--dry-run", action="store_true", help="say how many would be ended")
        else:
            one.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")


def run(args: argparse.Namespace) -> int:
    result: int = args.action(args)
    return result


def _dest(flag: str) -> str:
    return flag.replace("-", "_")


def _show(args: argparse.Namespace) -> int:
    from pydp import conntrack
    from pydp.datapath import Datapath, Reader

    datapath = Datapath()
    instance = datapath.of_mode("nat", args.name)
    if args.limit is not None and args.limit < 0:
        raise UsageError(f"--limit {args.limit}: not a number of flows")
    wanted, whose = _wanted(args, datapath, instance), _Backends(datapath, instance)
    with Reader.open(datapath) as reader:
        found = islice(conntrack.flows(reader, instance, wanted), args.limit)
        counted = bool(instance.constants["PYDP_NAT_ACCOUNTING"])
        if args.json:
            _stream(instance.name, (_document(one, whose, counted) for one in found))
        else:
            for one in found:
                print(printable(_line(one, whose, counted)))
    return 0


def _count(args: argparse.Namespace) -> int:
    from pydp import conntrack
    from pydp.datapath import Datapath, Reader

    datapath = Datapath()
    instance = datapath.of_mode("nat", args.name)
    wanted = _wanted(args, datapath, instance)
    with Reader.open(datapath) as reader:
        found = (
            conntrack.census(reader, instance)
            if wanted == conntrack.Filter()
            else conntrack.Census.of(conntrack.flows(reader, instance, wanted))
        )
    if args.json:
        show_json({"instance": instance.name, "entries": found.entries, "assured": found.assured,
                   "new": found.new, "max_entries": conntrack.capacity(instance)})  # fmt: skip
    else:
        print(found.entries)
    return 0


def _flush(args: argparse.Namespace) -> int:
    from pydp import conntrack
    from pydp.datapath import Datapath, Reader

    datapath = Datapath()
    instance = datapath.of_mode("nat", args.name)
    wanted = _wanted(args, datapath, instance)
    if args.dry_run:
        with Reader.open(datapath) as reader:
            found = conntrack.Census.of(conntrack.flows(reader, instance, wanted))
    else:
        found = conntrack.end_flows(datapath, instance.name, wanted)
    would = "would be " if args.dry_run else ""
    print(f"{plural(found.entries, 'flow')} {would}ended, {found.assured} of them assured")
    return 0


def _wanted(args: argparse.Namespace, datapath: Datapath, instance: Instance) -> Filter:
    """The flags as a filter. Raises UsageError."""
    from pydp import conntrack

    state = None if args.state is None else args.state.upper()
    if state is not None and state not in conntrack.STATES:
        raise UsageError(f"--state {args.state}: there is no such state", hint=", ".join(conntrack.STATES))

    def given(flag: str, parse: Callable[[str, str], _T]) -> _T | None:
        text = getattr(args, _dest(flag))
        return None if text is None else parse(text, f"--{flag}")

    return conntrack.Filter(
        protocol=given("protocol", conntrack.parse_protocol),
        state=state,
        source=given("source", conntrack.parse_network),
        dest=given("dest", conntrack.parse_network),
        sport=given("sport", _port),
        dport=given("dport", _port),
        reply_source=given("reply-source", conntrack.parse_network),
        reply_dest=given("reply-dest", conntrack.parse_network),
        backends=None if args.service is None else _Backends(datapath, instance).of(args.service),
    )


def _port(text: str, where: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise UsageError(f"{where} {text}: not a number from 0 to 65535")
    return int(text)


class _Backends:
    """Names of services and backends by the backend's number, looked up when they are met first."""

    def __init__(self, datapath: Datapath, instance: Instance) -> None:
        self._path = datapath.path(instance)
        self._known: dict[int, tuple[str, str]] | None = None

    def of(self, service: str) -> frozenset[int]:
        """The numbers of the backends of a service. Raises UsageError."""
        found = frozenset(number for number, (name, _) in self._read().items() if name == service)
        if not found:
            raise UsageError(f"--service {service}: there is no such service, or it has no backends")
        return found

    def name(self, number: int) -> tuple[str, str]:
        """(service, backend) in words."""
        return self._read().get(number, ("", ""))

    def _read(self) -> dict[int, tuple[str, str]]:
        if self._known is None:
            from pydp.services.database import Database
            from pydp.services.names import read_names

            with Database.open(self._path) as database:
                named = read_names(database).backends
            self._known = {number: (one.service, one.backend) for number, one in named.items()}
        return self._known


def _line(one: Flow, whose: _Backends, counted: bool) -> str:
    """As conntrack(8) has it, and who answers."""
    state = f" {one.state}" if one.state != "NONE" else ""
    original, reply = (
        _ends(ends, one.is_echo) + (f" packets={packets} bytes={length}" if counted else "")
        for ends, packets, length in zip((one.original, one.reply), one.packets, one.bytes, strict=True)
    )
    unreplied, assured = "" if one.replied else " [UNREPLIED]", " [ASSURED]" if one.assured else ""
    text = f"{one.protocol_name:<8} {one.protocol} {int(one.left)}{state} {original}{unreplied} {reply}{assured}"
    if one.backend is not None:
        service, backend = whose.name(one.backend)
        text += f" service={service} backend={backend}"
    return text


def _ends(ends: Ends, echo: bool) -> str:
    ports = f"id={ends.sport}" if echo else f"sport={ends.sport} dport={ends.dport}"
    return f"src={ends.source} dst={ends.dest} {ports}"


def _document(one: Flow, whose: _Backends, counted: bool) -> dict[str, Any]:
    service, backend = (None, None) if one.backend is None else whose.name(one.backend)
    tuples = (one.original, one.reply)
    found: dict[str, Any] = {
        "protocol": one.protocol_name,
        "state": one.state,
        "assured": one.assured,
        "replied": one.replied,
        "timeout": round(one.left, 3),
        **{
            key: {"source": ends.source, "dest": ends.dest, "sport": ends.sport, "dport": ends.dport}
            for key, ends in zip(("original", "reply"), tuples, strict=True)
        },
        "service": service,
        "backend": backend,
    }
    if counted:
        for key, packets, length in zip(("original", "reply"), one.packets, one.bytes, strict=True):
            found[key] |= {"packets": packets, "bytes": length}
    return found


def _stream(instance: str, found: Iterator[dict[str, Any]]) -> None:
    """A document for programs, written as it is made: there may be a million flows."""
    print(f'{{\n  "version": {VERSION},\n  "instance": {json.dumps(instance)},\n  "flows": [', end="")
    comma = ""
    for one in found:
        print(f"{comma}\n    {json.dumps(one)}", end="")
        comma = ","
    print("\n  ]\n}")
