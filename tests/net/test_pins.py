# SPDX-License-Identifier: Apache-2.0
"""The store in bpffs: whose it is, its lock, its trees, and what a damaged one says."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf import libbpf, pins
from ebpf.errors import BpffsMissing, NotPermitted, PinError
from ebpf.pins import STATE, Store, bpffs, pin_errors, read_blob, remove_tree, write_blob
from pydp.lab import Namespace

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("maps",)
STRANGER = 65534


@pytest.fixture
def area() -> Iterator[str]:
    """A name for a folder of this test's own in bpffs, removed at the end."""
    name = f"pydp_test_{os.getpid()}"
    yield name
    path = bpffs() / name
    if path.is_symlink():
        path.unlink()
    remove_tree(path)


def change(store: Store, generation: int) -> None:
    with store.locked():
        tree = store.prepare(FOLDERS)
        write_blob(tree / STATE, f'{{"generation": {generation}}}'.encode())
        store.commit()
        remove_tree(store.next)


class TestTrees:
    def test_nothing(self, area: str) -> None:
        store = Store("1", area=area)
        assert store.read() is None
        assert not store.unfinished()
        with store.locked():
            assert stat.S_IMODE(store.area.stat().st_mode) == stat.S_IMODE(store.base.stat().st_mode) == 0o700
        assert not store.area.exists(), "empty folders go with the lock"

    def test_commit_and_exchange(self, area: str) -> None:
        store = Store("1", area=area)
        change(store, 1)
        assert store.read() == {"generation": 1}
        with store.locked():
            tree = store.prepare(FOLDERS)
            assert stat.S_IMODE(tree.stat().st_mode) == stat.S_IMODE((tree / "maps").stat().st_mode) == 0o700
            write_blob(tree / STATE, b'{"generation": 2}')
            assert store.unfinished()
            assert store.read() == {"generation": 1}
            store.commit()
            assert store.read() == {"generation": 2}
            assert store.read(store.next) == {"generation": 1}

    def test_kept_pins_are_the_same_object(self, area: str) -> None:
        store = Store("1", area=area)
        change(store, 1)
        with store.locked():
            write_blob(store.current / "maps" / "one", b"content")
            store.prepare(FOLDERS)
            store.keep("maps/one")
            remove_tree(store.current)
            assert read_blob(store.next / "maps" / "one") == b"content"

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 100_001])
    def test_blobs(self, area: str, size: int) -> None:
        store = Store("1", area=area)
        with store.locked():
            data = b"x" * size
            write_blob(store.base / "blob", data)
            assert read_blob(store.base / "blob") == data
            (store.base / "blob").unlink()

    @pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b""])
    def test_damaged_document(self, area: str, text: bytes) -> None:
        store = Store("1", area=area)
        with store.locked():
            write_blob(store.prepare(FOLDERS) / STATE, text)
            store.commit()
        with pytest.raises(PinError, match=r"current/state is damaged: ") as caught:
            store.read()
        assert str(store.base) in caught.value.hint

    def test_document_that_is_something_else(self, area: str) -> None:
        store = Store("1", area=area)
        with store.locked():
            tree = store.prepare(FOLDERS)
            fd = libbpf.map_create(1, "other", 4, 4, 1)
            libbpf.obj_pin(fd, str(tree / STATE))
            os.close(fd)
            store.commit()
        with pytest.raises(PinError, match="is not a state document"):
            store.read()


class TestOwnership:
    """Anybody may make folders in a bpffs of mode 1777: none of them is taken for ours."""

    @pytest.mark.parametrize("which", ["area", "base"])
    @pytest.mark.parametrize("what", ["link", "foreign", "open"])
    def test_refused(self, area: str, which: str, what: str) -> None:
        store = Store("1", area=area)
        (bpffs() / f"{area}_elsewhere").mkdir(mode=0o700)
        if which == "base":
            store.area.mkdir(mode=0o700)
        path = store.area if which == "area" else store.base
        try:
            if what == "link":
                path.symlink_to(bpffs() / f"{area}_elsewhere")
            else:
                path.mkdir(mode=0o700)
            if what == "foreign":
                os.chown(path, STRANGER, STRANGER)
            if what == "open":
                path.chmod(0o770)
            told = "is not a folder of ours" if what == "link" else "belongs to somebody else or is open to others"
            for use in (store.read, store.unfinished, store.locked().__enter__):
                with pytest.raises(PinError, match=told) as caught:
                    use()
                assert f"ls -ld {path}" in caught.value.hint
            assert not list((bpffs() / f"{area}_elsewhere").iterdir())
        finally:
            (bpffs() / f"{area}_elsewhere").rmdir()

    def test_not_root(self, area: str) -> None:
        store = Store("1", area=area)
        change(store, 1)

        def stranger() -> list[str]:
            os.setuid(STRANGER)
            found = []
            for use in (store.read, store.unfinished, store.locked().__enter__):
                try:
                    use()
                except NotPermitted as error:
                    found.append(error.hint)
            return found

        assert in_child(stranger) == "['run as root', 'run as root', 'run as root']"


def in_child(work: Callable[[], object]) -> str:
    """What WORK gives, as text, when a child process does it."""
    incoming, outgoing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(outgoing, repr(work()).encode())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(outgoing, repr(error).encode())
        os._exit(0)
    os.close(outgoing)
    os.waitpid(pid, 0)
    with os.fdopen(incoming) as file:
        return file.read()


class TestLock:
    def test_names_its_holder(self, area: str) -> None:
        store = Store("1", area=area)
        told = pytest.raises(PinError, match=r"another pydp process has held .* for too long")
        with store.locked(), told as caught, store.locked(timeout=0.05):
            pass
        assert f"process id {os.getpid()}" in caught.value.hint

    def test_does_not_wait(self, area: str) -> None:
        store = Store("1", area=area)
        with store.locked(), pytest.raises(PinError), store.locked(timeout=0):
            pass

    def test_waits(self, area: str) -> None:
        store = Store("1", area=area)
        ready, go = threading.Event(), threading.Event()

        def hold() -> None:
            with store.locked():
                ready.set()
                go.wait(5)

        holder = threading.Thread(target=hold)
        holder.start()
        ready.wait(5)
        threading.Timer(0.1, go.set).start()
        with store.locked(timeout=5):
            assert go.is_set()
        holder.join()

    def test_is_free_after_an_exception(self, area: str) -> None:
        store = Store("1", area=area)
        with pytest.raises(ZeroDivisionError), store.locked():
            raise ZeroDivisionError
        with store.locked(timeout=0):
            pass
        assert not store.base.exists()

    def test_leaks_no_descriptors(self, area: str) -> None:
        store = Store("1", area=area)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            with store.locked(), contextlib.suppress(PinError), store.locked(timeout=0.01):
                pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_one_at_a_time(self, area: str) -> None:
        """Six processes take turns with a lock whose folder each removes: no two hold it at once, none fails."""
        script = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from ebpf.pins import Store
store = Store("1", area={area!r})
for _ in range(60):
    with store.locked():
        (store.base / "held").mkdir()
        time.sleep(0.0005)
        (store.base / "held").rmdir()
"""
        workers = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(6)]
        for worker in workers:
            _, said = worker.communicate(timeout=60)
            assert worker.returncode == 0, said.decode()
        assert not (bpffs() / area).exists()


class TestErrors:
    @pytest.mark.parametrize(("code", "kind"), [(errno.EPERM, NotPermitted), (errno.EACCES, NotPermitted)])
    def test_rights(self, code: int, kind: type[Exception]) -> None:
        with pytest.raises(kind, match="what: not permitted"), pin_errors("what"):
            raise OSError(code, os.strerror(code))

    def test_others_name_the_file(self) -> None:
        with pytest.raises(PinError, match="file: No space left on device"), pin_errors("what"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
        with pytest.raises(PinError, match="what: No space left on device"), pin_errors("what"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestWhere:
    def test_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pins, "_has_bpffs", lambda _: False)
        with pytest.raises(BpffsMissing) as caught:
            bpffs.__wrapped__()
        assert caught.value.hint == "mount -t bpf bpf /sys/fs/bpf"

    def test_under_ip_netns_exec(self, namespace: Callable[..., Namespace], area: str) -> None:
        """There /sys is mounted anew: the file system is reached through the process that called."""
        ns = namespace()
        script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from ebpf.pins import Store, bpffs
print(os.path.ismount("/sys/fs/bpf"), bpffs())
(Store("1", area={area!r}).area).mkdir(mode=0o700)
"""
        command = ["ip", "netns", "exec", ns.name, sys.executable, "-c", script]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        assert shown.stdout.startswith("False /proc/self/fd/"), shown.stderr
        assert (bpffs() / area).is_dir(), "it is this one"
