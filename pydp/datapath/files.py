# SPDX-License-Identifier: Apache-2.0
"""Files of instances: what does not fit the state document, such as a database of services.

    /run/pydp/<cookie of the network namespace>/<instance>-<revision>.db

The revision in the name makes the commit of a change that of the file, too: it counts as soon as the state says that
there is such a revision, and what the state knows nothing of is removed by whoever changes something next. Others than
root may read these files, but not list them.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ebpf.errors import EbpfError
from ebpf.pins import Store
from pydp.datapath.state import Instance, State

AREA = Path("/run/pydp")


def path(namespace: str, instance: Instance) -> Path:
    """The place of the file of this revision of an instance of the namespace with that cookie, by which its store is
    called. The folder may not be there yet.
    """
    return AREA / namespace / f"{instance.name}-{instance.revision}.db"


def tidy(store: Store, remains: State) -> None:
    """Remove the files that no instance of REMAINS has. Within the lock. Raises OSError."""
    folder = AREA / store.base.name
    wanted = {path(store.base.name, one).name for one in remains.instances.values()}
    with contextlib.suppress(FileNotFoundError):
        for one in folder.iterdir():
            # A database may have a journal beside it.
            if one.name.partition(".db")[0] + ".db" not in wanted:
                one.unlink()
        with contextlib.suppress(OSError):  # others have theirs there
            folder.rmdir()


def remove(name: str) -> None:
    """Remove the files of the namespace whose store has that name."""
    shutil.rmtree(AREA / name, ignore_errors=True)


def remove_orphans(own: Store) -> None:
    """Remove the files of namespaces that have no store."""
    with contextlib.suppress(OSError):
        for name in [one.name for one in AREA.iterdir() if one.name != own.base.name]:
            store = Store(name, area=own.area.name)
            if not store.base.exists():
                with contextlib.suppress(EbpfError), store.locked(timeout=0):
                    if not store.current.exists():
                        remove(name)
