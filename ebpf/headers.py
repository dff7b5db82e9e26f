# SPDX-License-Identifier: Apache-2.0
"""Kernel headers for bcc: those of the running kernel, or any others, since our programs use its UAPI only.

Debian splits headers into a common package and one per flavour, of which bcc accepts neither alone. Both are merged
into one tree of symbolic links. Its name carries a digest of its links, so a tree that exists is complete and fits;
nothing is ever changed in place, and two processes may build at the same time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ebpf.cachedir import NotOurs, cache_folder, is_own, make_own
from ebpf.errors import HeadersMissing

# The kernel's name of an architecture (arch/NAME) and Debian's, by the name that uname has for the machine.
_ARCHITECTURES = {
    "x86_64": ("x86", "amd64"), "i386": ("x86", "686-pae"), "i686": ("x86", "686-pae"), "aarch64": ("arm64", "arm64"),
    "armv7l": ("arm", "armmp"), "ppc64le": ("powerpc", "powerpc64le"), "s390x": ("s390", "s390x"),
    "riscv64": ("riscv", "riscv64"), "mips64": ("mips", "5kc-malta"), "loongarch64": ("loongarch", "loong64"),
}  # fmt: skip
_ABANDONED = 3600  # seconds after which an unfinished tree is taken for that of a killed process

Links = dict[str, Path]
"""Path in the merged tree -> what it points to."""


def kernel_release() -> str:
    """The running kernel's release, as in ``uname -r``."""
    return os.uname().release


def kernel_headers(*, root: Path = Path("/"), release: str | None = None, cache: Path | None = None) -> Path | None:
    """The directory to set BCC_KERNEL_SOURCE to, or None where bcc finds headers in the kernel (CONFIG_IKHEADERS).

    In this order: $BCC_KERNEL_SOURCE; /lib/modules/<release>; the kernel's own; the newest in /usr/src. Split headers
    are merged below ``cache`` (default: /var/cache/pydp/headers, or in the user's cache directory when not root).
    Raises HeadersMissing when there are none (its hint is the command that installs them) or no safe place to merge in.
    """
    if chosen := os.environ.get("BCC_KERNEL_SOURCE"):
        if _complete([Path(chosen)]):
            return Path(chosen)
        hint = "unset it to let headers be found"
        raise HeadersMissing(f"BCC_KERNEL_SOURCE: no complete kernel headers in {chosen}", hint=hint)
    release = release or kernel_release()
    modules = root / "lib/modules" / release
    running = [modules / "build", modules / "source"]
    kept_in_kernel = (root / "sys/kernel/kheaders.tar.xz").exists()
    for name, parts in [(release, running), *([] if kept_in_kernel else _installed(root / "usr/src"))]:
        for part in parts:
            if _complete([part]):
                return part
        if _complete(parts):
            return _merged(name, parts, cache)
    if kept_in_kernel:
        return None
    debian = _ARCHITECTURES.get(platform.machine(), ("", platform.machine()))[1]
    raise HeadersMissing(
        f"no kernel headers: neither for {release} nor any others in {root / 'usr/src'}",
        hint=f"apt-get install linux-headers-{debian}",
    )


def _arch() -> str:
    return _ARCHITECTURES.get(platform.machine(), (platform.machine(), ""))[0]


def _complete(parts: list[Path]) -> bool:
    """Whether ``parts`` together hold what bcc includes in every program, for this machine's architecture."""
    arch = f"arch/{_arch()}/include"
    needed = ("include/linux/kconfig.h", "include/generated/autoconf.h", f"{arch}/uapi/asm", f"{arch}/generated")
    return all(any((part / name).exists() for part in parts) for name in needed)


def _installed(sources: Path) -> Iterator[tuple[str, list[Path]]]:
    """Name and parts of the headers in ``sources``, the newest version first; split ones as flavour and common."""
    found = sorted(sources.glob("linux-headers-*"), key=lambda path: _version(path.name), reverse=True)
    for path in found:
        # linux-headers-6.1.0-9-rt-amd64 goes with linux-headers-6.1.0-9-common-rt, others with ...-common
        prefixes = [(other, re.sub(r"-common(-rt)?$", "-", other.name)) for other in found if "-common" in other.name]
        for common, prefix in prefixes:
            if path.name.startswith(prefix) and path != common:
                yield path.name.removeprefix("linux-headers-"), [path, common]
        yield path.name.removeprefix("linux-headers-"), [path]


def _version(name: str) -> tuple[tuple[int, ...], str]:
    """A key that sorts 6.12 after 6.9, and names of one version by the rest."""
    digits = re.match(r"linux-headers-([\d.+~-]*)", name)
    return tuple(map(int, re.findall(r"\d+", digits[1] if digits else ""))), name


def _merged(name: str, parts: list[Path], cache: Path | None) -> Path:
    """The tree in ``cache`` that holds the headers of all ``parts``; of a file in several, the first one's."""
    links = _plan([part.resolve() for part in parts])
    digest = hashlib.sha256(repr(sorted(links.items())).encode()).hexdigest()
    try:
        cache = cache or cache_folder("headers")
        make_own(cache)
        tree = cache / f"{name}-{digest[:16]}"
        if not is_own(tree):
            _build(tree, links)
            _tidy(cache, name, keep=tree)
    except NotOurs as error:
        raise HeadersMissing(f"kernel headers cannot be merged in {error}", hint=f"remove {error.path}") from None
    except OSError as error:
        raise HeadersMissing(
            f"kernel headers cannot be merged in {error.filename or cache}: {error.strerror}"
        ) from error
    return tree


def _plan(parts: list[Path]) -> Links:
    """The fewest links that merge what bcc looks into: a directory that only one part has is linked whole."""
    links: Links = {}
    for inner in (Path("include"), Path("arch", _arch(), "include")):
        _plan_directory(inner, [part / inner for part in parts if (part / inner).is_dir()], links)
    return links


def _plan_directory(inner: Path, directories: list[Path], links: Links) -> None:
    if len(directories) == 1:
        links[str(inner)] = directories[0]
        return
    names = {entry.name for directory in directories for entry in directory.iterdir()}
    for name in sorted(names):
        found = [directory / name for directory in directories if (directory / name).exists()]
        if found and found[0].is_dir():
            _plan_directory(inner / name, [path for path in found if path.is_dir()], links)
        elif found:
            links[str(inner / name)] = found[0]


def _build(tree: Path, links: Links) -> None:
    """Build ``tree`` beside its place and move it there, unless another process was faster."""
    building = Path(tempfile.mkdtemp(prefix=".new-", dir=tree.parent))
    try:
        for link, target in links.items():
            (building / link).parent.mkdir(parents=True, exist_ok=True)
            (building / link).symlink_to(target)
        try:
            building.rename(tree)
        except OSError:
            if not is_own(tree):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _tidy(cache: Path, name: str, keep: Path) -> None:
    """Remove trees of the same headers that no longer fit, and what killed processes left."""
    outdated = re.compile(re.escape(name) + r"-[0-9a-f]{16}")
    for path in cache.iterdir():
        if path != keep and (outdated.fullmatch(path.name) or _is_abandoned(path)):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    if not path.name.startswith(".new-"):
        return False
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED
    except FileNotFoundError:  # whoever built there is done
        return False
