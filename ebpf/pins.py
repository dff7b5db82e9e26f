# SPDX-License-Identifier: Apache-2.0
"""bpffs: where it is, a lock, and a tree of pins that changes in one step.

A Store is a folder with a ``current`` tree. A change builds ``next`` beside it, exchanges the two (renameat2 with
RENAME_EXCHANGE, bpffs has it since 5.17) and removes what was there before. Each tree holds a ``state`` document with a
generation number, so whoever finds a ``next`` after a crash knows on which side of the exchange it happened.

bpffs refuses names with a dot in them; nothing here may use one.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import fcntl
import functools
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebpf import libbpf
from ebpf.errors import BpffsMissing, NotPermitted, PinError

BPFFS = "/sys/fs/bpf"
STATE = "state"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@functools.cache
def bpffs() -> Path:
    """The bpf file system, also where `ip netns exec` has covered it with a /sys of its own.

    That command mounts a fresh sysfs in a mount namespace of its own; the file system is still there in the mount
    namespace of the processes that called it, so their root is tried, nearest ancestor first. Raises BpffsMissing,
    NotPermitted when an ancestor may not be looked into.
    """
    if _has_bpffs("self"):
        return Path(BPFFS)
    hidden = False
    for pid in _ancestors():
        try:
            if _has_bpffs(str(pid)):
                # Held open for as long as we run: the ancestor may end before we do.
                folder = os.open(f"/proc/{pid}/root{BPFFS}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                return Path(f"/proc/self/fd/{folder}")
        except PermissionError:
            hidden = True
        except OSError:
            continue  # it ended meanwhile
    if hidden:
        raise NotPermitted(
            f"no bpf file system at {BPFFS}; not permitted to look for it in the processes above", hint="run as root"
        )
    raise BpffsMissing(f"no bpf file system at {BPFFS}, so nothing could be kept", hint=f"mount -t bpf bpf {BPFFS}")


def _has_bpffs(pid: str) -> bool:
    """Whether the topmost mount at BPFFS, as process PID sees it, is a bpf file system (proc_pid_mountinfo(5)). Raises
    OSError.
    """
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    for line in reversed(lines):
        fields = line.split()
        if fields[4] == BPFFS:
            return fields[fields.index("-") + 1] == "bpf"
        if fields[4] == "/sys":
            return False  # mounted later than any bpffs below it: covers it
    return False


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    while pid > 0:
        yield pid
        try:
            # The command name, in parentheses, may hold spaces; what follows the last parenthesis does not.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return


def write_blob(path: Path, data: bytes) -> None:
    """Keep DATA in bpffs, which has no plain files: as the only value of a pinned array map."""
    size = max(-(-len(data) // 8) * 8, 8)
    fd = libbpf.map_create(2, "pydp_state", 4, size, 1)
    try:
        libbpf.map_update(fd, bytes(4), data.ljust(size, b"\0"))
        libbpf.obj_pin(fd, str(path))
    finally:
        os.close(fd)


def read_blob(path: Path) -> bytes:
    """Read what write_blob wrote, without the padding. Raises OSError, PinError."""
    fd = libbpf.obj_get(str(path))
    try:
        info = libbpf.map_info(fd)
        if info.type != 2 or info.key_size != 4:
            raise PinError(f"{path} is not a state document")
        room = ct.create_string_buffer(info.value_size)
        libbpf.map_lookup(fd, bytes(4), room)
        return room.raw.rstrip(b"\0")
    finally:
        os.close(fd)


def remove_tree(folder: Path) -> None:
    """Remove a folder of pins with everything in it; fine if it is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextlib.contextmanager
def pin_errors(what: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a PinError or NotPermitted about WHAT."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"{what}: not permitted", hint="run as root") from error
    except OSError as error:
        raise PinError(f"{error.filename or what}: {error.strerror or error}") from error


def exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step. Raises OSError."""
    libc = ct.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ct.get_errno()
        raise OSError(code, os.strerror(code), str(one))


class Store:
    """A folder in bpffs with one current tree of pins. Root only (0700).

    Anybody may make folders in a bpffs that was mounted without options (mode 1777), so neither the area nor the folder
    is believed to be ours: a link, or a folder that others own or may write to, is refused.
    """

    def __init__(self, name: str, *, area: str = "pydp") -> None:
        self.area = bpffs() / area
        self.base = self.area / name
        self.current = self.base / "current"
        self.next = self.base / "next"

    @contextlib.contextmanager
    def locked(self, timeout: float = 30.0) -> Iterator[None]:
        """Hold the store for a change; an empty one is removed at the end. Raises PinError after TIMEOUT seconds."""
        with pin_errors(self.base):
            folder = self._lock(timeout)
        try:
            yield
        finally:
            # rmdir fails unless the folder is empty, which is just what we want; the area may serve others.
            with contextlib.suppress(OSError):
                self.base.rmdir()
                self.area.rmdir()
            os.close(folder)

    def _lock(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while True:
            folder = self._make_base()
            if folder is None:
                continue  # somebody removed the folder between our making and opening it
            try:
                if self._try_lock(folder):
                    return folder
                if time.monotonic() > deadline:
                    hint = _holder_hint(folder) if timeout else ""
                    raise PinError(f"another pydp process has held {self.base} for too long", hint=hint)
                time.sleep(0.01)
            except BaseException:
                os.close(folder)
                raise
            os.close(folder)

    def _try_lock(self, folder: int) -> bool:
        """Whether we hold the lock, on the folder of this name: the last holder may have removed the one we opened."""
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(folder), self.base.lstat())
        except (BlockingIOError, FileNotFoundError):
            return False

    def _make_base(self) -> int | None:
        try:
            for folder in (self.area, self.base):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                found = _open_folder(folder)
                if folder is self.base:
                    return found
                os.close(found)
        except FileNotFoundError:
            pass
        return None

    def read(self, tree: Path | None = None) -> dict[str, Any] | None:
        """The state document of the current tree (or TREE); None when there is none. Raises PinError, NotPermitted."""
        path = (tree or self.current) / STATE
        with pin_errors(path):
            try:
                text = read_blob(path) if self._is_there(path) else None
            except FileNotFoundError:  # gone in between
                text = None
        if text is None:
            return None
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("not a document")
        except ValueError as error:
            raise PinError(
                f"{path} is damaged: {error}", hint=f"remove {self.base} by hand: its programs detach"
            ) from error
        return found

    def _is_there(self, path: Path) -> bool:
        """Whether PATH exists, in folders that are ours. Raises OSError, PinError."""
        try:
            for folder in (self.area, self.base):
                os.close(_open_folder(folder))
            path.lstat()
        except FileNotFoundError:
            return False
        return True

    def prepare(self, folders: tuple[str, ...]) -> Path:
        """Make an empty ``next`` tree. Raises OSError, as the following do."""
        remove_tree(self.next)
        self.next.mkdir(mode=0o700)
        for folder in folders:
            (self.next / folder).mkdir(mode=0o700)
        return self.next

    def keep(self, name: str) -> None:
        """Take a pin of the current tree over into the next one."""
        os.link(self.current / name, self.next / name)

    def commit(self) -> None:
        """Make ``next`` current; the tree that was current is then ``next`` until it is removed."""
        if self.current.exists():
            exchange(self.current, self.next)
        else:
            self.next.rename(self.current)

    def unfinished(self) -> bool:
        """Whether a change was interrupted, on either side of its commit. Raises PinError, NotPermitted."""
        with pin_errors(self.base):
            return self._is_there(self.next)


def _open_folder(path: Path) -> int:
    """A descriptor of a folder that is ours alone. Raises FileNotFoundError, NotPermitted, PinError."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise PinError(f"{path} is not a folder of ours", hint=f"look at it: ls -ld {path}") from error
        raise
    about = os.fstat(found)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        os.close(found)
        raise PinError(f"{path} belongs to somebody else or is open to others", hint=f"look at it: ls -ld {path}")
    return found


def _holder_hint(folder: int) -> str:
    """Who holds the lock on an open folder, as /proc/locks tells: `1: FLOCK ADVISORY WRITE pid maj:min:inode ...`."""
    inode = str(os.fstat(folder).st_ino)
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return f"wait for it, or stop it: it has process id {fields[4]}"
    return "wait for it, or stop it"
