# SPDX-License-Identifier: Apache-2.0
"""The two ends of a change: undoing what was not committed, finishing what was. And what went by itself, with its
devices.

Both may be cut short at any moment and are then done again by whoever takes the lock next, so every step here can be
repeated, and the next tree goes last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ebpf.errors import DeviceGone
from ebpf.links import BpfLink, FilterLink, Link, remove_qdisc
from ebpf.loader import Program
from ebpf.pins import Store, pin_errors, remove_tree
from pydp.datapath import files
from pydp.datapath.devices import set_promisc
from pydp.datapath.state import Attachment, Instance, State


def open_link(tree: Path, one: Attachment) -> Link:
    """The link of an attachment in a tree. Raises OSError when there is none."""
    if one.kind == "clsact":
        return FilterLink(one.ifindex, one.hook)  # type: ignore[arg-type]
    return BpfLink.open(str(tree / "links" / one.key), one.hook)  # type: ignore[arg-type]


def roll_back(store: Store, current: State, following: State) -> None:
    """Undo a change that was not committed: each port runs again what the current tree says, new links go.

    Raises EbpfError, OSError; then the next tree is still there, for another try.
    """
    for one in current.attachments.values():
        _run_again(store.current, one)
    _clean_up(store, current, following)


def finish(store: Store, current: State, before: State) -> None:
    """Clean up after a commit: what only the earlier tree had goes. Raises as `roll_back` does."""
    _clean_up(store, current, before)


def recover(store: Store, ask: Callable[[Instance], None]) -> State:
    """The state of a store, after finishing or undoing a change that was interrupted. Within the lock.

    ASK is called for instances that a committed change left with their learned maps, which may not have heard yet what
    the change asks of these. Raises EbpfError.
    """
    with pin_errors(store.base):
        current = State.from_document(store.read())
        if store.unfinished():
            other = _state_of_next(store)
            if other.generation > current.generation or not store.current.exists():
                roll_back(store, current, other)
            else:
                for instance in changed_instances(other, current):
                    ask(instance)
                finish(store, current, other)
        else:
            files.tidy(store, current)  # one may be left of a change that was killed early
        return current


def changed_instances(before: State, now: State) -> list[Instance]:
    """Those of NOW that BEFORE had in another revision."""
    return [
        one
        for name, one in now.instances.items()
        if name in before.instances and before.instances[name].revision != one.revision
    ]


def _state_of_next(store: Store) -> State:
    found = store.read(store.next)
    # Killed before the document was written, or while the tree was being removed: nothing was switched, or all is done.
    return State.from_document(found) if found else State(generation=-1)


def _run_again(tree: Path, one: Attachment) -> None:
    try:
        program = Program.open(str(tree / "programs" / one.key))
        with program, contextlib.closing(open_link(tree, one)) as link:
            if link.ifindex and link.program_id != program.id:
                link.update(program)
    except (FileNotFoundError, DeviceGone):
        return  # the port is gone, or somebody removed the pin: nothing runs by it


def _clean_up(store: Store, remains: State, other: State) -> None:
    """Remove the next tree, which is that of OTHER, and everything that REMAINS does not share with it."""
    _reroute(other, remains)
    for key, one in other.attachments.items():
        if key not in remains.attachments:
            _remove_filter(store.next, one) if one.kind == "clsact" else _detach(store.next, one)
    _restore(other, remains)
    files.tidy(store, remains)
    # Killed between these two, the next tree still tells that there is something to undo.
    if not remains.instances:
        remove_tree(store.current)
    remove_tree(store.next)


def _detach(tree: Path, one: Attachment) -> None:
    """Take a bpf_link's program off now: its pin lets go of it too, but later than we say that it is gone."""
    with contextlib.suppress(FileNotFoundError):
        open_link(tree, one).detach()


def _remove_filter(tree: Path, one: Attachment) -> None:
    """Take a clsact filter off if it is ours."""
    try:
        program = Program.open(str(tree / "programs" / one.key))
    except FileNotFoundError:
        return  # the tree was being built or removed: the filter is not there yet, or no more
    with program:
        link = FilterLink(one.ifindex, one.hook)  # type: ignore[arg-type]
        if link.program_id == program.id:
            link.detach()


def _reroute(was: State, remains: State) -> None:
    """Take back the routes and group memberships that only WAS had, and have those that REMAINS has."""
    if was.routes == remains.routes and was.groups == remains.groups:
        return
    from pydp.kernel import routes

    routes.remove_routes(was.routes - remains.routes)
    routes.add_routes(remains.routes - was.routes)
    for group in was.groups - remains.groups:
        routes.leave(group)


def _restore(was: State, remains: State) -> None:
    """Put settings back that only WAS had changed."""
    for ifindex, before in was.settings.items():
        gone = before.keys() - remains.settings.get(ifindex, {}).keys()
        if "promisc" in gone:
            set_promisc(ifindex, on=bool(before["promisc"]))
        if "clsact" in gone:
            remove_qdisc(ifindex)


def without_dead(store: Store, state: State) -> State:
    """Leave out ports that are gone, and instances of which none is left: their links are dead, and a device that is
    made anew is another one. Raises EbpfError.
    """
    with pin_errors(store.base):
        dead = {one.ifindex for one in state.attachments.values() if not _alive(store, one)}
    if not dead:
        return state
    instances = {}
    for name, one in state.instances.items():
        slots = {ifindex: slot for ifindex, slot in one.slots.items() if ifindex not in dead}
        if slots:
            instances[name] = _on_ports(one, slots)
    attachments = {key: one for key, one in state.attachments.items() if one.ifindex not in dead}
    return replace(state, instances=instances, attachments=attachments)


def _on_ports(one: Instance, slots: Mapping[int, int]) -> Instance:
    """An instance on those of its ports that have a slot."""
    return replace(
        one,
        slots=slots,
        names={ifindex: one.names[ifindex] for ifindex in slots},
        hooks={ifindex: one.hooks[ifindex] for ifindex in slots},
        roles={ifindex: role for ifindex, role in one.roles.items() if ifindex in slots},
    )


def _alive(store: Store, one: Attachment) -> bool:
    try:
        with contextlib.closing(open_link(store.current, one)) as link:
            return bool(link.ifindex)
    except FileNotFoundError:  # somebody removed the pin by hand, and with it the link
        return False
