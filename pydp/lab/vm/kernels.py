# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, as packages that apt verifies and that are unpacked into a cache without being installed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpf.cachedir import NotOurs, cache_folder, make_own
from pydp.errors import Unsupported, UsageError
from pydp.lab.errors import LabError
from pydp.lab.vm import apt
from pydp.lab.vm.needs import check_needs

_NAME = re.compile(r"\d+\.\d+[\w.+~-]*")


@dataclass(frozen=True, slots=True)
class Kernel:
    """``release`` as in `uname -r`; ``modules`` is the folder that belongs below /lib/modules under that name."""

    release: str
    image: Path
    modules: Path


def lab_cache() -> Path:
    """The folder for kernels and for guests under way: /var/cache/pydp/lab. Raises LabError."""
    try:
        folder = cache_folder("lab")
        make_own(folder)
    except NotOurs as error:
        raise LabError(f"kernels cannot be kept in {error}", hint=f"remove {error.path}") from None
    return folder


def cached_kernels() -> list[Kernel]:
    """Those unpacked before, the newest first."""
    found = (_kernel(path) for path in (lab_cache() / "kernels").glob("[0-9]*"))
    return sorted((one for one in found if one), key=lambda one: _order(one.release), reverse=True)


def find_kernels(wanted: Sequence[str], *, update: bool = False) -> list[Kernel]:
    """A kernel for each name: a series (6.12) or a whole release (6.1.0-50-amd64), from the cache if it is there.

    With UPDATE the newest that Debian has is looked for. Raises UsageError when there is none such, LabError when it
    cannot be had, Unsupported.
    """
    if platform.machine() != "x86_64":
        raise Unsupported(f"kernels for QEMU are only known for x86_64, not for {platform.machine()}")
    for name in wanted:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--kernel {name}: not a kernel's version", hint="a series, as in --kernel 6.1,6.12")
    check_needs()
    found: dict[str, Kernel] = {}
    with _locked():
        for name in wanted:
            kept = None if update else next((one for one in cached_kernels() if matches(name, one.release)), None)
            found[name] = kept or _fetch(name)
    return [found[name] for name in wanted]


def matches(wanted: str, release: str) -> bool:
    """Whether a RELEASE is of the series WANTED, or is just that."""
    return release == wanted or (release.startswith(wanted) and release[len(wanted)] in ".-+")


def _order(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", release)))


def _fetch(wanted: str) -> Kernel:
    """Download and unpack the newest kernel of that name, unless it is there already."""
    source = apt.Source(lab_cache() / "apt")
    releases = [release for release in source.kernels() if matches(wanted, release)]
    if not releases:
        raise UsageError(
            f"--kernel {wanted}: Debian has no such kernel", hint=f"`apt-cache -c {source.config} search ^linux-image-`"
        )
    release = max(releases, key=_order)
    place = lab_cache() / "kernels" / release
    if kernel := _kernel(place):
        return kernel
    place.parent.mkdir(exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
    try:
        _unpack(source.download(f"linux-image-{release}", building), building / "tree")
        _number_modules(building / "tree", release)
        (building / "tree").rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    kernel = _kernel(place)
    if kernel is None:
        raise LabError(f"linux-image-{release}: the package holds no kernel of that name")
    return kernel


def _kernel(place: Path) -> Kernel | None:
    image = place / "boot" / f"vmlinuz-{place.name}"
    modules = place / "lib/modules" / place.name
    return Kernel(place.name, image, modules) if image.exists() and (modules / "modules.dep").exists() else None


def _unpack(package: Path, tree: Path) -> None:
    done = subprocess.run(["dpkg-deb", "-x", package, tree], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(
            f"{package.name} cannot be unpacked: {done.stderr.strip()}", hint="`df` shows what room there is"
        )
    if not (tree / "lib").exists():  # from Debian 13 on all is below /usr
        (tree / "lib").symlink_to("usr/lib")


def _number_modules(tree: Path, release: str) -> None:
    """modules.dep is made when a package is installed."""
    try:
        subprocess.run(["depmod", "-b", tree, release], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise LabError(f"depmod {release}: {error.stderr.strip()}") from None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    descriptor = os.open(lab_cache() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
