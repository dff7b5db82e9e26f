# SPDX-License-Identifier: Apache-2.0
"""Where the services of an instance are kept: an SQLite database that the maps of the datapath follow.

It says what is wanted, which numbers were given out, and in `pending` which services have maps that may not be in line
with it: whoever writes maps leaves that list as long as he is not done (pydp.services.program). Whoever opens the
database next finishes it.

    service                       what is wanted, with numbers of backends and runs of slots (see pydp.services.rows)
    name                          what stands in nat_frontends, and whose it is
    room                          free runs of slots, by size and the time they became free
    spare                         free numbers of services and backends, and the time they became free
    pending                       services to be brought into the maps
    leaving_run, leaving_name, leaving_backend, leaving_service      what goes once they are
    gone                          records of backends that were deleted, until their numbers are given out again
    health                        what probes say
    fact                          single numbers: the next of each kind, whether something is unfinished
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydp.errors import NotAllowed, NothingAttached, PydpError

if TYPE_CHECKING:
    from pydp.datapath import Datapath, Instance

VERSION = 1
_PATIENCE = 10.0  # seconds for which others may hold the file
_SCHEMA = """
create table fact (key text primary key, value integer not null) without rowid;
create table service (
    number integer primary key, name text not null unique, scheduler text not null, table_size integer not null,
    affinity real not null, masquerade integer not null, dsr integer not null, health text, source text not null,
    frontends blob not null, backends blob not null, runs blob not null);
create table name (key blob primary key, service integer not null, wild integer) without rowid;
create index name_wild on name (wild) where wild is not null;
create table room (size integer not null, first integer not null, freed real not null, primary key (size, first))
    without rowid;
create table spare (kind text not null, freed real not null, number integer not null,
    primary key (kind, freed, number)) without rowid;
create table pending (service integer primary key);
create table leaving_run (first integer primary key, size integer not null);
create table leaving_name (key blob primary key, wild integer) without rowid;
create table leaving_backend (number integer primary key);
create table leaving_service (number integer primary key);
create table gone (number integer primary key, record blob not null);
create table health (
    service text not null, address blob not null, port integer not null, up integer not null, since real not null,
    reason text not null, checks integer not null, failures integer not null,
    primary key (service, address, port)) without rowid;
"""


def path_of(datapath: Datapath, instance: Instance) -> Path:
    """The database of this revision of an instance: an attach writes the next one, which counts once it is attached."""
    return datapath.path(instance)


class Database:
    """An open database. Close it, or use it in a ``with`` block."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self.path = path

    @classmethod
    def in_memory(cls) -> Database:
        """An empty one that nobody else sees."""
        made = cls(sqlite3.connect(":memory:", isolation_level=None), ":memory:")
        made._set_up()
        return made

    @classmethod
    def create(cls, path: Path) -> Database:
        """Make an empty one, in place of a file that is there. Raises PydpError."""
        with file_errors(path):
            make_folder(path.parent)
            remove(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644))
            path.chmod(0o644)
            made = cls(_connect(path, "rw"), str(path))
            made._set_up()
        return made

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Database:
        """Raises NothingAttached if there is none, PydpError for a file that is not ours, NotAllowed."""
        with file_errors(path):
            if not path.exists():
                raise NothingAttached(f"{path}: no services are kept there", hint="pydp attach --mode nat ...")
            found = cls(_connect(path, "rw" if write else "ro"), str(path))
            try:
                (version,) = found.connection.execute("pragma user_version").fetchone()
                if version != VERSION:
                    raise PydpError(
                        f"{path} is of another version of pydp: {version}, not {VERSION}",
                        hint="pydp detach the instance, then attach it with its services again",
                    )
                found.connection.execute("select count(*) from pending").fetchone()
            except BaseException:
                found.close()
                raise
        return found

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block, or nothing. Raises PydpError for what SQLite says."""
        with file_errors(self.path):
            self.connection.execute("begin immediate")
            try:
                yield self.connection
                if self.connection.in_transaction:  # the block may have taken it back
                    self.connection.execute("commit")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("rollback")
                raise

    def copy_to(self, path: Path) -> Database:
        """A copy, open for writing, in place of a file that is there. Raises PydpError."""
        other = Database.create(path)
        with file_errors(path):
            self.connection.backup(other.connection)
        return other

    def fact(self, key: str) -> int:
        """A number that is kept by name, 0 if it was never set."""
        found = self.connection.execute("select value from fact where key = ?", (key,)).fetchone()
        return int(found[0]) if found else 0

    def set_fact(self, key: str, value: int) -> None:
        self.connection.execute("insert or replace into fact values (?, ?)", (key, value))

    def _set_up(self) -> None:
        # One file without a log beside it, so that those without rights can read. It lies in memory: nothing to sync.
        self.connection.execute("pragma journal_mode = truncate")
        self.connection.executescript(f"begin; {_SCHEMA} pragma user_version = {VERSION}; commit;")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", timeout=_PATIENCE, isolation_level=None, uri=True)
    connection.execute("pragma synchronous = off")
    if mode == "rw":
        connection.execute("pragma journal_mode = truncate")
        connection.execute("pragma cache_size = -65536")  # KiB: a large change is not spilled to the file half-way
    return connection


def make_folder(folder: Path) -> None:
    """Make the folder of a namespace, which others may pass but not list. Raises OSError, PydpError."""
    for one in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o711)
            one.chmod(0o711)
        about = one.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise PydpError(f"{one} belongs to somebody else or is open to others", hint=f"look at it: ls -ld {one}")


def remove(path: Path) -> None:
    """Remove a database; fine if there is none. Raises OSError."""
    for one in (Path(f"{path}-journal"), path):
        one.unlink(missing_ok=True)


@contextlib.contextmanager
def file_errors(path: Path | str) -> Iterator[None]:
    """Turn what the system and SQLite say into a PydpError about PATH."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
        if code == sqlite3.SQLITE_READONLY:
            raise NotAllowed(f"{path}: opened for reading alone", hint="run as root") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise PydpError(f"{path}: another process holds it", hint="try again") from error
        raise PydpError(
            f"{path}: not a database of services that can be read: {error}",
            hint="pydp detach the instance, then attach it with its services again",
        ) from error
    except PermissionError as error:
        raise NotAllowed(f"{path}: not permitted", hint="run as root") from error
    except OSError as error:
        raise PydpError(f"{error.filename or path}: {error.strerror or error}") from error
