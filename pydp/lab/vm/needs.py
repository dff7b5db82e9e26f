# SPDX-License-Identifier: Apache-2.0
"""What guests need of this machine beside Python, and the packages of Debian's that have it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydp.lab.errors import LabError

QEMU = "qemu-system-x86_64"
BUSYBOX = Path("/bin/busybox")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = {
    QEMU: "qemu-system-x86",
    str(BUSYBOX): "busybox-static",
    str(KEYS): "debian-archive-keyring",
    "depmod": "kmod",
    "setpriv": "util-linux",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}


def check_needs() -> None:
    """Raises LabError, which names all that is missing, before anything is downloaded."""
    missing = {name: package for name, package in PACKAGES.items() if shutil.which(name) is None and not _file(name)}
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise LabError(
            f"{', '.join(missing)} {verb} not there: guests need {'it' if len(missing) == 1 else 'them'}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing.values())}",
        )


def _file(name: str) -> bool:
    return name.startswith("/") and Path(name).exists()
