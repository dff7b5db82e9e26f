# SPDX-License-Identifier: Apache-2.0
"""Pins of network namespaces that are gone.

A namespace ends without telling anybody: its devices vanish and their links die, but what was pinned for it stays, maps
included. Whoever attaches or detaches next, in whichever namespace, removes it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from ebpf.errors import EbpfError
from ebpf.pins import Store, remove_tree
from pydp.datapath.recovery import open_link
from pydp.datapath.state import State
from pydp.kernel import namespace_cookies

Cookies = Callable[[], frozenset[str]]


def sweep(own: Store) -> list[str]:
    """Remove the stores beside OWN of which nothing is attached any more; gives their names.

    A store that is locked is somebody's, and one that cannot be read is left for a human: neither is an error here, nor
    does it wait.
    """
    swept = []
    cookies = functools.cache(namespace_cookies)
    try:
        names = sorted(path.name for path in own.area.iterdir())
    except OSError:  # ours was the last
        return []
    for name in names:
        store = Store(name, area=own.area.name)
        with contextlib.suppress(EbpfError, OSError):
            if name != own.base.name and _dead(store, cookies) and _remove(store, cookies):
                swept.append(name)
    return swept


def _remove(store: Store, cookies: Cookies) -> bool:
    with store.locked(timeout=0):
        if not _dead(store, cookies):  # used again since we looked
            return False
        remove_tree(store.current)
        remove_tree(store.next)
    return True


def _dead(store: Store, cookies: Cookies) -> bool:
    return not any(_attached(store, tree, cookies) for tree in (store.current, store.next))


def _attached(store: Store, tree: Path, cookies: Cookies) -> bool:
    """Whether anything of TREE is still attached, as far as can be seen from another namespace."""
    state = State.from_document(store.read(tree))
    for one in state.attachments.values():
        if one.kind == "clsact":
            # Nothing tells of a filter outside its namespace, which is alive as long as anybody can see it.
            return store.base.name in cookies()
        with contextlib.suppress(FileNotFoundError), contextlib.closing(open_link(tree, one)) as link:
            if link.ifindex:
                return True
    return False
