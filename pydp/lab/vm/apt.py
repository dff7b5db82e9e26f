# SPDX-License-Identifier: Apache-2.0
"""apt with sources and lists of its own, beside those of the machine, which are neither read nor changed.

The machine's own settings for proxies hold. Packages are verified by the keys of debian-archive-keyring.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pydp.lab.errors import LabError
from pydp.lab.vm.needs import KEYS

MIRROR = "http://deb.debian.org/debian"
_SUITES = ("bookworm", "bookworm-backports", "trixie")  # with 6.1, 6.12, 6.12
_FRESH = 24 * 3600  # seconds for which lists are good
_IMAGE = re.compile(r"linux-image-(\d+\.\d+[\w.+~-]*?-amd64)")
_OTHERS = ("-cloud-", "-rt-")  # flavours without 9p, or for other ends

# The machine's settings are read before those given by -c, so what it would run after each update is cleared here.
_CONFIG = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{folder}/preferences";
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Sandbox::User "root";
"""


class Source:
    """What Debian's mirror has; PYDP_LAB_MIRROR in the environment names another one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "apt.conf"

    def kernels(self) -> list[str]:
        """Releases of all kernels for PCs, after an update of the lists if they are old. Raises LabError."""
        self._prepare()
        listed = self._apt("apt-cache", "pkgnames", "linux-image-")
        found = (_IMAGE.fullmatch(name) for name in listed.splitlines())
        return [match[1] for match in found if match and not any(word in match[1] for word in _OTHERS)]

    def download(self, package: str, folder: Path) -> Path:
        """Fetch a package into FOLDER; gives its path. Raises LabError."""
        self._apt("apt-get", "-q", "download", package, cwd=folder)
        (path,) = folder.glob("*.deb")
        return path

    def _prepare(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "sources", "preferences"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        self.config.write_text(_CONFIG.format(folder=self.folder))
        sources = self.folder / "sources" / "debian.sources"
        text = (
            f"Types: deb\nURIs: {os.environ.get('PYDP_LAB_MIRROR', MIRROR)}\nSuites: {' '.join(_SUITES)}\n"
            f"Components: main\nArchitectures: amd64\nSigned-By: {KEYS}\n"
        )
        stamp = self.folder / "updated"
        unchanged = sources.exists() and sources.read_text() == text
        if unchanged and stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
            return
        sources.write_text(text)
        self._apt("apt-get", "-q", "update", "--error-on=any")
        stamp.touch()

    def _apt(self, tool: str, *words: str, cwd: Path | None = None) -> str:
        command: Sequence[str | Path] = (tool, "-c", self.config, *words)
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
            raise LabError(
                f"{tool} {' '.join(words)}: {said[0] if said else 'failed'}",
                hint="PYDP_LAB_MIRROR names another mirror",
            )
        return done.stdout
