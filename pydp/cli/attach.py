# SPDX-License-Identifier: Apache-2.0
"""`pydp attach`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pydp.cli.output import Notes, plural, printable, show_json
from pydp.config import HOOKS, AttachConfig, all_options, merge, read_config
from pydp.modes import MODES
from pydp.options import Option, options_of

if TYPE_CHECKING:
    from pydp.datapath import Datapath, Instance

_SHOWN = 8  # ports named in the line about an attach


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("interfaces", nargs="*", metavar="IFACE", help="port, bridge to adopt, or underlay of tunnels")
    parser.add_argument("--mode", metavar="MODE", help=f"what to attach: {', '.join(MODES)}")
    parser.add_argument(
        "--name", metavar="NAME", help="name of the instance (default: of the device adopted, or the mode)"
    )
    parser.add_argument(
        "--hook", choices=HOOKS, help="where to take frames (default: auto, which says what it chose and why)"
    )
    parser.add_argument("--config", metavar="FILE", help="TOML with mode, name, hook, interfaces, counters, "
                        "[[service]] and, in a table named after the mode, its options; flags override it")  # fmt: skip
    parser.add_argument("--no-counters", dest="counters", action="store_false", default=None, help="count nothing")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be attached")
    parser.add_argument("-v", "--verbose", action="store_true", help="on error, the compiler's or verifier's whole log")
    parser.add_argument("-j", "--json", action="store_true", help="show the result as JSON")
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Options that several modes have are one flag, in the group of the first of them."""
    texts: dict[str, list[str]] = {}
    for mode in MODES.values():
        defaults = mode.Options()
        for one in options_of(mode.Options):
            text = _help(one, getattr(defaults, one.key))
            known = texts.setdefault(one.key, [text])
            if text not in known:
                known.append(f"of mode {mode.name}: {text}")
    taken = set[str]()
    for mode in MODES.values():
        group = parser.add_argument_group(f"options of mode {mode.name}")
        for one in options_of(mode.Options):
            if one.key not in taken and one.kind != "tables":
                _add(group, one, "; ".join(texts[one.key]))
            taken.add(one.key)


def _help(one: Option, default: Any) -> str:
    told = default in (None, False, (), "") or "(default" in one.help
    return one.help if told else f"{one.help} (default: {default})"


def run(args: argparse.Namespace) -> int:
    config = settings(args)
    from pydp.datapath import Datapath, Request
    from pydp.services.attach import prepared

    request = Request(config.mode, config.interfaces, config.name, config.hook, config.options, config.counters)
    datapath = Datapath()
    notes = Notes()
    request, services = prepared(datapath, request, config.services, f"{config.source}: ", notes.add)
    if args.dry_run:
        instance, before = datapath.plan(request, services)
        _refuse_foreign(datapath, instance)
        action = "would be attached" if before is None else "would be replaced"
    else:
        instance = datapath.attach(request, services)
        action = "attached" if instance.revision == 0 else "replaced"
    named = None if services is None or services.wanted is None else len(services.wanted)
    _show(instance, action, named, as_json=args.json, dry_run=args.dry_run)
    notes.show()
    return 0


def settings(args: argparse.Namespace) -> AttachConfig:
    """Flags over the file. Raises UsageError."""
    flags = {key: getattr(args, key) for key in ("mode", "name", "hook", "counters")}
    options = {key: getattr(args, _dest(key), None) for key in all_options()}
    config = read_config(args.config) if args.config else None
    return merge({**flags, "interfaces": tuple(args.interfaces)}, options, config)


def _dest(key: str) -> str:
    return f"option_{key}"


def _add(group: Any, one: Option, text: str) -> None:
    about: dict[str, Any] = {"dest": _dest(one.key), "help": text.replace("%", "%%"), "default": None}
    if one.kind == "flag":
        group.add_argument(one.flag, action=argparse.BooleanOptionalAction, **about)
        return
    if one.kind in ("names", "texts"):
        about |= {"action": "append", "help": f"{about['help']}; may be repeated"}
    metavar = one.metavar or "|".join(one.choices) or one.kind.upper()
    group.add_argument(one.flag, metavar=metavar, **about)


def _refuse_foreign(datapath: Datapath, instance: Instance) -> None:
    """What attaching would refuse on ports that have nothing of ours yet. Raises ForeignProgram, DeviceGone."""
    from ebpf.hooks import refuse_foreign

    ours = datapath.read().attachments
    for ifindex, name in instance.names.items():
        for hook in instance.hooks[ifindex]:
            if f"{ifindex}-{hook}" not in ours:
                refuse_foreign(ifindex, hook, name)  # type: ignore[arg-type]


def _show(instance: Instance, action: str, services: int | None, *, as_json: bool, dry_run: bool) -> None:
    from pydp.cli.session import document, own_ports

    if as_json:
        more = {} if services is None else {"services": services}
        show_json({"action": action, "dry_run": dry_run, "instance": document(instance), **more})
        return
    names = [instance.names[ifindex] for ifindex in own_ports(instance)]
    others = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    ports = f"{plural(len(names), 'port')} ({' '.join(names[:_SHOWN])}{others})"
    print(printable(f"{instance.name}: {action}, mode {instance.mode}, {ports}"))
    print(printable(f"  hook {instance.hook}: {instance.why}"))
    if services is not None:
        print(f"  {plural(services, 'service')}")
