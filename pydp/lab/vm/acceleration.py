# SPDX-License-Identifier: Apache-2.0
"""Whether KVM runs a stock kernel here: /dev/kvm may open and yet not, on hosts that only run kernels made for them."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path

from pydp.errors import Unsupported
from pydp.lab.vm.kernels import Kernel, lab_cache
from pydp.lab.vm.qemu import base_command

CHOICES = ("auto", "kvm", "tcg")
_DEVICE = "/dev/kvm"
_PATIENCE = 10.0  # seconds for the first line of a kernel, which KVM has at once
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def choose_acceleration(wanted: str, kernel: Kernel) -> str:
    """``kvm`` or ``tcg``, which is emulation. With "auto" KVM is tried once a boot, by this KERNEL.

    Raises Unsupported when KVM is insisted on, and does not work.
    """
    if wanted == "tcg":
        return wanted
    works = os.access(_DEVICE, os.R_OK | os.W_OK) and _works(kernel)
    if wanted == "kvm" and not works:
        raise Unsupported("KVM does not run Debian's kernels here", hint="--accel tcg emulates")
    return "kvm" if works else "tcg"


def _works(kernel: Kernel) -> bool:
    """Remembered until the machine boots again."""
    note = lab_cache() / "kvm"
    boot = _BOOT.read_text().strip()
    with contextlib.suppress(OSError, ValueError):
        noted, answer = note.read_text().split()
        if noted == boot:
            return answer == "yes"
    answer = "yes" if _speaks(kernel) else "no"
    note.write_text(f"{boot} {answer}\n")
    return answer == "yes"


def _speaks(kernel: Kernel) -> bool:
    """Whether the kernel says anything in time."""
    command = [*base_command("kvm"), "-m", "256", "-kernel", str(kernel.image), "-append", "console=ttyS0 panic=-1"]
    with subprocess.Popen(
        [*command, "-serial", "stdio"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return _hears(process)
        finally:
            process.kill()


def _hears(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None
    heard, until = b"", time.monotonic() + _PATIENCE
    while (left := until - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
        more = os.read(process.stdout.fileno(), 4096)
        heard += more
        if b"Linux version" in heard:
            return True
        if not more:
            break
    return False
