# SPDX-License-Identifier: Apache-2.0
"""Which kernel a name means, what a guest starts from, and what is said when something is missing."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from pydp.errors import UsageError
from pydp.lab import LabError
from pydp.lab.vm import Guest, Kernel, Settings, apt, find_kernels, kernels, needs
from pydp.lab.vm.guests import write_exchange
from pydp.lab.vm.initramfs import initramfs
from pydp.lab.vm.kernels import cached_kernels, matches

OFFERED = """\
linux-image-6.1.0-9-amd64
linux-image-6.1.0-50-amd64
linux-image-6.1.0-50-cloud-amd64
linux-image-6.1.0-50-rt-amd64
linux-image-6.1.0-50-amd64-dbg
linux-image-6.1.0-50-amd64-unsigned
linux-image-6.12.9+deb13-amd64
linux-image-6.12.43+deb12-amd64
linux-image-amd64
linux-image-arm64
"""


def test_a_name_is_a_series_or_a_release() -> None:
    assert matches("6.1", "6.1.0-50-amd64")
    assert matches("6.1.0-50-amd64", "6.1.0-50-amd64")
    assert not matches("6.1", "6.12.43+deb12-amd64")
    assert not matches("6.1.0-5", "6.1.0-50-amd64")
    assert not matches("6.12", "6.1.0-50-amd64")


def keep(cache: Path, release: str) -> None:
    """A kernel as it stands in the cache."""
    tree = cache / "kernels" / release
    for name in (f"boot/vmlinuz-{release}", f"lib/modules/{release}/modules.dep"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, nothing missing, and a mirror that must not be asked."""

    def asked(self: apt.Source) -> list[str]:
        raise AssertionError("Debian was asked")

    monkeypatch.setattr(kernels, "lab_cache", lambda: tmp_path)
    monkeypatch.setattr(kernels, "check_needs", lambda: None)
    monkeypatch.setattr(apt.Source, "kernels", asked)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return tmp_path


@pytest.fixture
def offered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What apt offers, and as second thing which packages are fetched: they hold what they should."""
    fetched: list[str] = []

    def download(self: apt.Source, package: str, folder: Path) -> Path:
        fetched.append(package)
        return folder / f"{package}.deb"

    def unpack(package: Path, tree: Path) -> None:
        release = package.stem.removeprefix("linux-image-")
        for name in (f"boot/vmlinuz-{release}", f"lib/modules/{release}/modules.dep"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).touch()

    monkeypatch.undo()
    monkeypatch.setattr(kernels, "lab_cache", lambda: cache)
    monkeypatch.setattr(kernels, "check_needs", lambda: None)
    monkeypatch.setattr(kernels, "_unpack", unpack)
    monkeypatch.setattr(kernels, "_number_modules", lambda tree, release: None)
    monkeypatch.setattr(apt.Source, "_prepare", lambda self: None)
    monkeypatch.setattr(apt.Source, "_apt", lambda self, *words, **options: OFFERED)
    monkeypatch.setattr(apt.Source, "download", download)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return fetched


def test_the_newest_that_is_kept_comes_first(cache: Path) -> None:
    for release in ("6.1.0-9-amd64", "6.1.0-50-amd64", "6.12.43+deb12-amd64"):
        keep(cache, release)
    (cache / "kernels/6.12.99-half").mkdir()  # unpacked in part
    assert [kernel.release for kernel in cached_kernels()] == [
        "6.12.43+deb12-amd64", "6.1.0-50-amd64", "6.1.0-9-amd64",
    ]  # fmt: skip
    found = find_kernels(["6.1", "6.12", "6.1.0-9-amd64"])
    assert [kernel.release for kernel in found] == ["6.1.0-50-amd64", "6.12.43+deb12-amd64", "6.1.0-9-amd64"]
    assert found[0].image.name == "vmlinuz-6.1.0-50-amd64"


def test_the_newest_of_a_series_is_fetched_once(cache: Path, offered: list[str]) -> None:
    for _ in range(2):
        assert [one.release for one in find_kernels(["6.1", "6.12"])] == ["6.1.0-50-amd64", "6.12.43+deb12-amd64"]
    assert offered == ["linux-image-6.1.0-50-amd64", "linux-image-6.12.43+deb12-amd64"]
    assert sorted(path.name for path in (cache / "kernels").iterdir()) == ["6.1.0-50-amd64", "6.12.43+deb12-amd64"]


def test_an_update_asks_although_one_is_kept(cache: Path, offered: list[str]) -> None:
    keep(cache, "6.1.0-9-amd64")
    assert find_kernels(["6.1"])[0].release == "6.1.0-9-amd64"
    assert find_kernels(["6.1"], update=True)[0].release == "6.1.0-50-amd64"


@pytest.mark.parametrize(
    ("name", "complaint"), [("6", "not a kernel's"), ("../6.1", "not a kernel's"), ("5.4", "no such")]
)
def test_names_that_mean_nothing_are_refused(offered: list[str], name: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        find_kernels([name])
    assert offered == []


def test_all_that_is_missing_is_named_with_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name in (needs.QEMU, "depmod") else f"/usr/bin/{name}")
    monkeypatch.setattr(Path, "exists", lambda self: True)
    with pytest.raises(LabError, match=r"qemu-system-x86_64, depmod are not there") as missing:
        needs.check_needs()
    assert missing.value.hint == "apt-get install --no-install-recommends qemu-system-x86 kmod"


# The initramfs


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """As in a package: some compressed, overlay built in, and dependencies in depmod's order, the nearest first."""
    folder = tmp_path / "modules"
    files = {
        "kernel/virtio_pci.ko": b"pci",
        "kernel/virtio_pci_modern_dev.ko": b"modern",
        "kernel/virtio_ring.ko": b"ring",
        "kernel/virtio_console.ko.xz": lzma.compress(b"console"),
        "kernel/9p.ko": b"9p",
        "kernel/9pnet.ko": b"9pnet",
        "kernel/9pnet_virtio.ko": b"9pnet virtio",
        "kernel/unwanted.ko": b"unwanted",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "modules.dep").write_text(
        "kernel/virtio_pci.ko: kernel/virtio_pci_modern_dev.ko kernel/virtio_ring.ko\n"
        "kernel/virtio_pci_modern_dev.ko:\nkernel/virtio_ring.ko:\n"
        "kernel/virtio_console.ko.xz: kernel/virtio_ring.ko\n"
        "kernel/9p.ko: kernel/9pnet.ko\nkernel/9pnet.ko:\n"
        "kernel/9pnet_virtio.ko: kernel/9pnet.ko kernel/virtio_ring.ko\nkernel/unwanted.ko:\n"
    )
    return folder


def test_the_archive_unpacks_with_modules_in_order(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """busybox is the judge, which guests have in common with tests."""
    cpio = [str(needs.BUSYBOX), "cpio", "-i", "-d"]
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF")
    monkeypatch.setattr("pydp.lab.vm.initramfs.BUSYBOX", busybox)
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(cpio, cwd=tree, input=initramfs(modules), check=True, capture_output=True)
    found = {path.name: path.read_bytes() for path in sorted((tree / "modules").iterdir())}
    assert list(found) == [
        "00-virtio_ring", "01-virtio_pci_modern_dev", "02-virtio_pci", "03-virtio_console", "04-9pnet", "05-9p",
        "06-9pnet_virtio",
    ]  # fmt: skip
    assert found["03-virtio_console"] == b"console"
    assert (tree / "bin/busybox").read_bytes() == b"\x7fELF"
    assert (tree / "init").stat().st_mode & 0o777 == 0o755
    assert (tree / "lower").is_dir()


# What the guest is told


def test_words_reach_the_guests_shell_as_they_are(tmp_path: Path) -> None:
    words = ["printf", "%s|", "a b", "$HOME", "it's", "*", ""]
    guest = Guest("end 1", Kernel("6.1", Path("/k"), Path("/m")), words, environment={"PYDP_TEST": "a'b c"})
    write_exchange(tmp_path, guest, Settings(folder=tmp_path))
    script = (tmp_path / "command").read_text().replace("exec ", 'printf "%s|" "$PYDP_TEST" "$PWD"; exec ')
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/bin"})
    assert done.stdout == f"a'b c|{tmp_path}|a b|$HOME|it's|*||"
    assert "node=end-1\n" in (tmp_path / "settings").read_text()
