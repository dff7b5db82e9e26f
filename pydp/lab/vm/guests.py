# SPDX-License-Identifier: Apache-2.0
"""What a guest is asked to do, and what came of it."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydp.lab.vm.kernels import Kernel

EXCHANGE = "/run/pydp-lab"  # in the guest: a folder of the host's, this guest's alone
SHARED = "/run/pydp-shared"  # one that all guests of a run have


@dataclass(frozen=True, slots=True)
class Guest:
    """A machine to boot. ``address`` (with prefix length) is that of eth0, on the wire; "" for none."""

    name: str
    kernel: Kernel
    command: Sequence[str]
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """``timeout`` is for a command, in seconds; ``accelerator`` is kvm or tcg (emulation)."""

    accelerator: str = "tcg"
    cpus: int = 1
    memory_mb: int = 2048
    timeout: float = 1800
    folder: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is the command's exit status, None if it has none, and then ``error`` says why.

    ``booted`` is how many seconds it took until the command began, ``seconds`` all of it.
    """

    guest: Guest
    status: int | None
    error: str
    booted: float
    seconds: float


def write_exchange(folder: Path, guest: Guest, settings: Settings) -> None:
    """What guest.sh reads: its settings, the command, and the folders that the command may write to."""
    (folder / "results").mkdir()
    here = Path(__file__).parent
    (folder / "guest.sh").write_bytes((here / "guest.sh").read_bytes())
    words = {
        "node": re.sub(r"[^a-zA-Z0-9]+", "-", guest.name),
        "address": guest.address,
        "modules": guest.kernel.modules,
        "now": int(time.time()),
    }
    (folder / "settings").write_text(_assignments(words))
    environment = {
        "PYDP_LAB_NODE": guest.name,
        "PYDP_LAB_RESULTS": f"{EXCHANGE}/results",
        "PYDP_LAB_SHARED": SHARED,
        **guest.environment,
    }
    if sys.prefix != sys.base_prefix:  # the virtual environment that runs this is the guest's, too
        environment["PATH"] = f"{sys.prefix}/bin:{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
    lines = [f"export {line}\n" for line in _assignments(environment).splitlines()]
    lines += [f"cd {shlex.quote(str(settings.folder))} || exit\n", f"exec {shlex.join(guest.command)}\n"]
    (folder / "command").write_text("".join(lines))


def _assignments(words: Mapping[str, object]) -> str:
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in words.items())
