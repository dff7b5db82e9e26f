# SPDX-License-Identifier: Apache-2.0
"""Finding and merging kernel headers, in fake roots."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebpf import cachedir, headers
from ebpf.errors import HeadersMissing
from ebpf.headers import kernel_headers, kernel_release

RELEASE = "6.18.0-test"
COMMON = ("include/linux/kconfig.h", "include/uapi/linux/bpf.h", "arch/x86/include/uapi/asm/types.h", "Makefile")
FLAVOUR = ("include/generated/autoconf.h", "arch/x86/include/generated/asm/x.h", "Makefile", "Module.symvers")


@pytest.fixture(autouse=True)
def _on_a_pc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/headers"


def fill(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{directory.name} {name}\n")
    return directory


def whole(root: Path, name: str) -> Path:
    return fill(root / "usr/src" / name, *COMMON, *FLAVOUR)


def split(root: Path, version: str = "6.1.0-9", flavour: str = "amd64", common: str = "common") -> None:
    fill(root / f"usr/src/linux-headers-{version}-{flavour}", *FLAVOUR)
    fill(root / f"usr/src/linux-headers-{version}-{common}", *COMMON)


def find(root: Path, cache: Path) -> Path:
    found = kernel_headers(root=root, release=RELEASE, cache=cache)
    assert found is not None
    return found


def test_the_running_kernels_own_headers_come_first(root: Path, cache: Path) -> None:
    whole(root, "linux-headers-6.99.0")
    own = fill(root / "lib/modules" / RELEASE / "build", *COMMON, *FLAVOUR)
    assert find(root, cache) == own
    assert not cache.exists()


def test_build_and_source_of_the_running_kernel_are_merged(root: Path, cache: Path) -> None:
    whole(root, "linux-headers-6.99.0")
    fill(root / "lib/modules" / RELEASE / "build", *FLAVOUR)
    fill(root / "lib/modules" / RELEASE / "source", *COMMON)
    tree = find(root, cache)
    assert tree.parent == cache
    assert tree.name.startswith(RELEASE)
    assert all((tree / name).exists() for name in (*COMMON, *FLAVOUR) if "include" in name)


def test_bcc_is_left_to_find_what_the_kernel_carries(root: Path, cache: Path) -> None:
    fill(root / "sys/kernel", "kheaders.tar.xz")
    whole(root, "linux-headers-6.99.0")
    assert kernel_headers(root=root, release=RELEASE, cache=cache) is None


def test_the_newest_version_wins(root: Path, cache: Path) -> None:
    for name in ("linux-headers-6.9.12-amd64", "linux-headers-6.12.5+deb13-amd64", "linux-headers-6.1.0-56-amd64"):
        whole(root, name)
    assert find(root, cache).name == "linux-headers-6.12.5+deb13-amd64"


def test_incomplete_headers_are_passed_over(root: Path, cache: Path) -> None:
    fill(root / "usr/src/linux-headers-6.12.0-amd64", *FLAVOUR)  # its common package is gone
    fill(root / "usr/src/linux-headers-6.11.0-common", *COMMON)  # and here the flavour
    whole(root, "linux-headers-6.10.0-arm64")
    (root / "usr/src/linux-headers-6.10.0-arm64/arch/x86").rename(
        root / "usr/src/linux-headers-6.10.0-arm64/arch/arm64"
    )
    older = whole(root, "linux-headers-6.1.0-amd64")
    assert find(root, cache) == older


@pytest.mark.parametrize(
    ("flavour", "common"), [("amd64", "common"), ("cloud-amd64", "common"), ("rt-amd64", "common-rt")]
)
def test_split_headers_are_merged(root: Path, cache: Path, flavour: str, common: str) -> None:
    split(root, flavour=flavour, common=common)
    tree = find(root, cache)
    assert (tree / "include/linux/kconfig.h").read_text() == f"linux-headers-6.1.0-9-{common} include/linux/kconfig.h\n"
    assert (tree / "include/generated/autoconf.h").read_text().startswith(f"linux-headers-6.1.0-9-{flavour} ")
    links = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink()}
    assert links == {"include/linux", "include/uapi", "include/generated",
                     "arch/x86/include/uapi", "arch/x86/include/generated"}  # fmt: skip
    assert tree.stat().st_mode & 0o777 == 0o700
    assert cache.stat().st_mode & 0o777 == 0o700


def test_directories_in_both_are_merged_and_the_flavours_file_wins(root: Path, cache: Path) -> None:
    split(root)
    fill(root / "usr/src/linux-headers-6.1.0-9-amd64", "include/linux/both.h", "include/linux/mine.h")
    fill(root / "usr/src/linux-headers-6.1.0-9-common", "include/linux/both.h")
    linux = find(root, cache) / "include/linux"
    assert sorted(path.name for path in linux.iterdir()) == ["both.h", "kconfig.h", "mine.h"]
    assert (linux / "both.h").read_text().startswith("linux-headers-6.1.0-9-amd64 ")


def test_a_tree_is_used_again_until_the_packages_change(root: Path, cache: Path) -> None:
    split(root)
    first = find(root, cache)
    before = first.stat().st_mtime_ns
    assert find(root, cache) == first
    assert first.stat().st_mtime_ns == before
    fill(root / "usr/src/linux-headers-6.1.0-9-common", "include/net/new.h")
    second = find(root, cache)
    assert (second / "include/net/new.h").exists()
    assert list(cache.iterdir()) == [second]


def test_trees_of_other_kernels_stay(root: Path, cache: Path) -> None:
    split(root)
    first = find(root, cache)
    split(root, version="6.12.0-1")
    assert set(cache.iterdir()) == {first}
    assert {first, find(root, cache)} == set(cache.iterdir())


def test_what_a_killed_process_left_is_removed_in_time(root: Path, cache: Path) -> None:
    split(root)
    cache.mkdir(parents=True, mode=0o700)
    old, young = fill(cache / ".new-old", "x"), fill(cache / ".new-young", "x")
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    tree = find(root, cache)
    assert set(cache.iterdir()) == {tree, young}


def test_a_failure_leaves_nothing(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(root)

    def full(self: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", full)
        with pytest.raises(HeadersMissing, match=r"cannot be merged in .*: No space left on device"):
            find(root, cache)
    assert list(cache.iterdir()) == []
    assert find(root, cache).is_dir()


def test_many_at_once_agree_on_one_tree(root: Path, cache: Path) -> None:
    split(root)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: find(root, cache), range(64)))
    assert list(cache.iterdir()) == list(found)


def test_what_another_builds_may_be_gone_when_it_is_looked_at(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(root)
    tree = find(root, cache)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([*listed(path), path / ".new-gone"]))
    tree.rename(cache / "moved")
    assert find(root, cache) == tree


def test_a_link_in_place_of_the_cache_is_refused(root: Path, cache: Path, tmp_path: Path) -> None:
    split(root)
    (tmp_path / "elsewhere").mkdir()
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadersMissing, match="is not a directory") as caught:
        find(root, cache)
    assert caught.value.hint == f"remove {cache}"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_the_tree_is_refused(root: Path, cache: Path, tmp_path: Path) -> None:
    split(root)
    tree = find(root, cache)
    tree.rename(tmp_path / "moved")
    tree.symlink_to(tmp_path / "moved")
    with pytest.raises(HeadersMissing, match="is not a directory"):
        find(root, cache)


def test_a_cache_that_others_can_write_to_is_refused(root: Path, cache: Path) -> None:
    split(root)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(HeadersMissing, match="can be written to by others"):
        find(root, cache)


def test_a_cache_of_somebody_else_is_refused(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(root)
    cache.mkdir(parents=True, mode=0o700)
    owner = cache.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(HeadersMissing, match=f"belongs to user {owner}"):
        find(root, cache)


def test_a_user_gets_the_cache_of_the_desktop(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(root)
    (tmp_path / "xdg").mkdir()
    uid = (tmp_path / "xdg").stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: uid or 1000)
    for module in (headers, cachedir):  # as root, nothing made here belongs to that user
        monkeypatch.setattr(module, "is_own", Path.is_dir)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = kernel_headers(root=root, release=RELEASE)
    assert found is not None
    assert found.parent == tmp_path / "xdg/pydp/headers"
    assert (tmp_path / "xdg/pydp").stat().st_mode & 0o777 == 0o700


def test_the_users_choice_is_checked(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(root, "linux-headers-6.99.0")
    chosen = whole(root, "chosen")
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(chosen))
    assert find(root, cache) == chosen
    (chosen / "include/linux/kconfig.h").unlink()
    with pytest.raises(HeadersMissing, match=r"BCC_KERNEL_SOURCE: no complete kernel headers in .*chosen"):
        find(root, cache)


@pytest.mark.parametrize(("machine", "package"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("alpha", "alpha")])
def test_without_any_the_package_is_named(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, machine: str, package: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(HeadersMissing, match=f"neither for {RELEASE} nor") as caught:
        find(root, cache)
    assert caught.value.hint == f"apt-get install linux-headers-{package}"


def test_the_release_is_the_running_kernels() -> None:
    assert kernel_release() == Path("/proc/sys/kernel/osrelease").read_text().strip()
