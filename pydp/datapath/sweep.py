# SPDX-License-Identifier: Apache-2.0
"""Pins of network namespaces that are gone.

A namespace ends without telling anybody: its devices vanish and their links die, but what was pinned for it stays, maps
included. Whoever attaches or detaches next, in whichever namespace, removes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ebpf import libbpf
from ebpf.errors import EbpfError
from ebpf.pins import Store, remove_tree
from pydp.datapath import files
from pydp.datapath.devices import any_port_left
from pydp.datapath.state import PORTS


def sweep(own: Store) -> list[str]:
    """Remove the stores beside OWN whose ports are all gone; gives their names.

    The documents are not looked at: whoever wrote them, without ports they are about nothing. A store that is locked is
    somebody's; that is no error here, and it does not wait.
    """
    swept = []
    try:
        names = sorted(path.name for path in own.area.iterdir())
    except OSError:  # ours was the last
        return []
    for name in names:
        store = Store(name, area=own.area.name)
        with contextlib.suppress(EbpfError, OSError):
            if name != own.base.name and _dead(store) and _remove(store):
                swept.append(name)
    files.remove_orphans(own)
    return swept


def _remove(store: Store) -> bool:
    with store.locked(timeout=0):
        if not _dead(store):  # used again since we looked
            return False
        remove_tree(store.current)
        remove_tree(store.next)
        files.remove(store.base.name)
    return True


def _dead(store: Store) -> bool:
    return not any(_lives(tree) for tree in (store.current, store.next) if tree.exists())


def _lives(tree: Path) -> bool:
    """Whether a port of TREE is there, or a link attached: a device that moved to another namespace takes its XDP
    program along. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):  # killed before anything was attached, or after all was detached
        if any_port_left(tree / PORTS):
            return True
    with contextlib.suppress(FileNotFoundError):
        return any(_attached(link) for link in (tree / "links").iterdir())
    return False


def _attached(path: Path) -> bool:
    fd = libbpf.obj_get(str(path))
    try:
        return bool(libbpf.link_info(fd).ifindex)
    finally:
        os.close(fd)
