# SPDX-License-Identifier: Apache-2.0
"""`pydp service`: the services of an instance of mode nat."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydp.cli.output import VERSION, Notes, plural, printable, show_json
from pydp.cli.service_show import details, document, overview

if TYPE_CHECKING:
    from pydp.options import Option
    from pydp.services.api import Services
    from pydp.services.model import Health, Service
    from pydp.services.stored import Outcome

_TEXT = "PROTO:ADDR:PORT=ADDR:PORT[*WEIGHT][,...]"
_WHICH = "a service, by its name or a frontend"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|add|set|del|replace")
    parser.set_defaults(action=_show, service=None, instance="", json=False)
    one = action(actions, "show", _show, "show services with their backends and counters", change=False)
    one.add_argument("service", nargs="?", metavar="NAME|FRONTEND", help=f"{_WHICH} (default: all)")
    one = action(actions, "add", _add, "add services")
    one.add_argument("service", nargs="+", metavar=_TEXT, help="what clients speak to, and who answers")
    one.add_argument("--name", default="", metavar="NAME", help="what the service is called (default: its frontend)")
    _add_options(one)
    one = action(actions, "set", _set, "change what is told of a service")
    one.add_argument("service", metavar="NAME|FRONTEND", help=_WHICH)
    _add_options(one)
    one = action(actions, "del", _del, "delete services")
    one.add_argument("service", nargs="+", metavar="NAME|FRONTEND", help=_WHICH)
    one = action(actions, "replace", _replace, "have the services of a file and no others")
    one.add_argument("file", metavar="FILE", help="TOML, or Kubernetes manifests in YAML")
    one.add_argument(
        "--node", default="", metavar="NAME", help="the node of the manifests' cluster that this host is (default: its "
        "host name)"
    )  # fmt: skip


def action(actions: Any, name: str, function: Any, text: str, *, change: bool = True) -> Any:
    """A parser for one action on an instance, which may be a CHANGE."""
    one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    one.set_defaults(action=function)
    one.add_argument("--instance", default="", metavar="NAME", help="instance of mode nat (default: the only one)")
    if change:
        one.add_argument("--dry-run", action="store_true", help="check, and say what would be done")
    else:
        one.add_argument("-j", "--json", action="store_true", help=f"show JSON (version {VERSION})")
    return one


def _add_options(one: Any) -> None:
    from pydp.options import options_of
    from pydp.services.files import HealthOptions, ServiceOptions

    one.add_argument(
        "--frontend", action="append", metavar="PROTO:ADDR:PORT", help="further frontends; of `set`: these alone"
    )
    for option in options_of(ServiceOptions):
        _add_option(one, option, option.flag, option.key)
    one.add_argument(
        "--health", metavar="KIND", help="probe backends: tcp, http:/PATH, https:/PATH, exec:COMMAND or none"
    )
    for option in options_of(HealthOptions):
        prefix = "" if option.key in ("interval", "timeout", "rise", "fall") else "health-"
        _add_option(one, option, f"--{prefix}{option.key}", f"health_{option.key}")


def _add_option(one: Any, option: Option, flag: str, dest: str) -> None:
    if option.kind == "flag":
        one.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, default=None, help=option.help)
        return
    metavar = option.metavar or "|".join(option.choices) or ("SECONDS" if option.kind == "seconds" else "N")
    one.add_argument(flag, dest=dest, metavar=metavar, help=option.help)


def run(args: argparse.Namespace) -> int:
    result: int = args.action(args)
    return result


def opened(name: str) -> tuple[str, Services]:
    """The instance of mode nat of that name, or the only one, and its services. Raises NothingAttached, UsageError."""
    from pydp.datapath import Datapath
    from pydp.services.api import Services

    datapath = Datapath()
    found = datapath.of_mode("nat", name).name
    return found, Services(datapath, found)


# Changes


def _add(args: argparse.Namespace) -> int:
    from pydp.errors import UsageError
    from pydp.services.text import check_name, parse_frontend, parse_service

    services = [replace(parse_service(text, "service"), source="cli") for text in args.service]
    if len(services) > 1 and (args.name or args.frontend):
        raise UsageError(f"{'--name' if args.name else '--frontend'}: for one service, and {len(services)} are given")
    if args.name:
        services = [replace(services[0], name=check_name(args.name))]
    if args.frontend:
        more = tuple(parse_frontend(text, "--frontend") for text in args.frontend)
        services = [replace(services[0], frontends=services[0].frontends + more)]
    changes = _changes(args)
    services = [replace(one, **changes, **_health(args, None)) for one in services]
    instance, there = opened(args.instance)
    done(there.add(services, dry_run=args.dry_run), instance, dry_run=args.dry_run)
    return 0


def _set(args: argparse.Namespace) -> int:
    from pydp.errors import UsageError
    from pydp.services.text import parse_frontend

    changes = _changes(args)
    if args.frontend:
        changes["frontends"] = tuple(parse_frontend(text, "--frontend") for text in args.frontend)
    if not changes and not any(key.startswith("health") and value is not None for key, value in vars(args).items()):
        raise UsageError("nothing to change was given", hint="pydp service set --help")

    def changed(service: Service) -> Service:
        return replace(service, **changes, **_health(args, service.health))

    instance, services = opened(args.instance)
    done(services.edit(args.service, changed, dry_run=args.dry_run), instance, dry_run=args.dry_run)
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    from pydp.options import options_of, parse_options
    from pydp.services.files import ServiceOptions

    given = {one.key: getattr(args, one.key) for one in options_of(ServiceOptions)}
    options: ServiceOptions = parse_options(ServiceOptions, given)
    return options.given()


def _health(args: argparse.Namespace, before: Health | None) -> dict[str, Any]:
    """Member `health` of a service, if anything is told of it; what is not told stays as it was."""
    from pydp.errors import UsageError
    from pydp.options import options_of, parse_options
    from pydp.services.files import HealthOptions
    from pydp.services.text import parse_health

    given = {one.key: getattr(args, f"health_{one.key}") for one in options_of(HealthOptions)}
    options: HealthOptions = parse_options(HealthOptions, given, where="--health: ")
    changes = options.given()
    health = before if args.health is None else parse_health(args.health)
    if before and args.health is not None and health:
        health = replace(before, kind=health.kind, path=health.path, command=health.command)
    if health is None and changes:
        raise UsageError("--health: which kind of probes?", hint="--health tcp")
    if args.health is None and not changes:
        return {}
    return {"health": None if health is None or health.kind == "none" else replace(health, **changes)}


def _del(args: argparse.Namespace) -> int:
    instance, services = opened(args.instance)
    done(services.delete(args.service, dry_run=args.dry_run), instance, dry_run=args.dry_run)
    return 0


def _replace(args: argparse.Namespace) -> int:
    from pydp.services.files import read_services

    notes = Notes()
    found = read_services(args.file, "service replace", node=args.node, note=notes.add)
    instance, services = opened(args.instance)
    outcome = services.replace_all(found, dry_run=args.dry_run)
    counts = (("added", outcome.added), ("changed", outcome.changed), ("deleted", outcome.deleted))
    told = ", ".join(f"{len(names)} {what}" for what, names in counts if names) or "nothing to change"
    would = "would be " if args.dry_run and told[0].isdigit() else ""
    print(printable(f"{instance}: {plural(len(found), 'service')}, {would}{told}"))
    notes.show()
    return 0


def done(outcome: Outcome, instance: str, *, dry_run: bool) -> None:
    """Say what a change came to."""
    would = "would be " if dry_run else ""
    for what, names in (
        ("added to", outcome.added),
        ("changed in", outcome.changed),
        ("deleted from", outcome.deleted),
    ):
        for name in names:
            print(printable(f"service {name} {would}{what} {instance}"))
    if not (outcome.added or outcome.changed or outcome.deleted):
        print(printable(f"{instance}: nothing to change"))


# Showing


def _show(args: argparse.Namespace) -> int:
    instance, services = opened(args.instance)
    found = services.show(args.service)
    if args.json:
        show_json({"name": instance, "services": [document(one) for one in found]})
    elif args.service:
        print(details(found[0]))
    elif found:
        print(overview(found))
    return 0
