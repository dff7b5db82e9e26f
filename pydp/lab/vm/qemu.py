# SPDX-License-Identifier: Apache-2.0
"""The QEMU process of one guest: its command line, its output, its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pydp.lab.vm.guests import Guest, Outcome, Settings, write_exchange
from pydp.lab.vm.initramfs import initramfs
from pydp.lab.vm.needs import QEMU

BOOT = 180.0  # seconds until the command has to begin: thirty times what it takes
# Emulated code is quickest where it has least to emulate: no AVX, no supervisor access checks; wheels want SSE 4.2.
_PROCESSORS = {"tcg": "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16", "kvm": "host"}
_PARAMETERS = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"


def base_command(accelerator: str) -> list[str]:
    """QEMU with nothing in the machine, ending with whoever started it."""
    options = f"-M q35 -accel {accelerator} -cpu {_PROCESSORS[accelerator]} -nodefaults -no-user-config -display none"
    return ["setpriv", "--pdeathsig", "KILL", QEMU, *options.split(), "-no-reboot"]


class Machine:
    """A guest that runs. ``outputs`` are what its command's stdout and stderr are read from."""

    def __init__(self, guest: Guest, settings: Settings, place: Path, shared: Path, wire: int | None) -> None:
        self.guest = guest
        self.place = place
        self._settings = settings
        self._exchange = place / "exchange"
        self._exchange.mkdir(parents=True)
        write_exchange(self._exchange, guest, settings)
        (place / "initramfs").write_bytes(initramfs(guest.kernel.modules))
        self._began = time.monotonic()
        self._booted: float | None = None
        self._killed = ""
        self.outputs, self.process = self._start(shared, wire)

    def _start(self, shared: Path, wire: int | None) -> tuple[tuple[BinaryIO, BinaryIO], subprocess.Popen[bytes]]:
        pipes = [os.pipe() for _ in range(2)]
        writers = [writer for _, writer in pipes]
        try:
            command = [*base_command(self._settings.accelerator), *self._options(writers, shared, wire)]
            with (self.place / "qemu").open("wb") as said:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=[*writers, *([] if wire is None else [wire])],
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
        except BaseException:
            for reader, _ in pipes:
                os.close(reader)
            raise
        finally:
            for writer in writers:
                os.close(writer)
        readers = [os.fdopen(reader, "rb", buffering=0) for reader, _ in pipes]
        return (readers[0], readers[1]), process

    def _options(self, writers: Sequence[int], shared: Path, wire: int | None) -> list[str]:
        settings, kernel = self._settings, self.guest.kernel
        options = ["-smp", str(settings.cpus), "-m", str(settings.memory_mb), "-kernel", str(kernel.image)]
        options += ["-initrd", str(self.place / "initramfs"), "-append", _PARAMETERS]
        options += ["-serial", f"file:{self.place / 'console'}", "-device", "virtio-serial-pci"]
        for name, writer in zip(("stdout", "stderr"), writers, strict=True):
            options += ["-add-fd", f"fd={writer},set={writer}"]
            options += ["-chardev", f"file,id={name},path=/dev/fdset/{writer},append=on"]  # else QEMU would truncate it
            options += ["-device", f"virtserialport,chardev={name},name={name}"]
        options += _folder("root", Path("/"), "on") + _folder("lab", self._exchange, "off")
        options += _folder("shared", shared, "off")
        if wire is not None:
            mac = f"02:00:00:00:00:{wire % 256:02x}"
            options += [
                "-netdev",
                f"socket,id=wire,fd={wire}",
                "-device",
                f"virtio-net-pci,netdev=wire,mac={mac},romfile=",
            ]
        return options

    def overdue(self) -> None:
        """Kill a guest that takes too long to boot, or to be done."""
        now = time.monotonic()
        if self._booted is None and (self._exchange / "ready").exists():
            self._booted = now - self._began
        if self._killed or self.process.poll() is not None:
            return
        if self._booted is None:
            limit, what = BOOT, "not booted"
        else:
            limit, what = self._booted + self._settings.timeout, "no end of the command"
        if now - self._began > limit:
            self._killed = f"{what} after {limit - (self._booted or 0):.0f} s"
            self.process.kill()

    def outcome(self) -> Outcome:
        """What came of it, once it has ended."""
        self.process.wait()
        self.overdue()
        status, error = self._status(), ""
        if status is None:
            error = self._killed or "it ended before the command did"
            error += f" ({last})" if (last := self._last_words()) else ""
        seconds = time.monotonic() - self._began
        return Outcome(self.guest, status, error, self._booted or 0.0, seconds)

    def collect(self, folder: Path) -> None:
        """Copy what the command wrote to $PYDP_LAB_RESULTS into FOLDER, and the console."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._exchange / "results", folder, dirs_exist_ok=True, symlinks=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self.place / "console", folder / "console")

    def close(self) -> None:
        """End it now, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for output in self.outputs:
            output.close()

    def _status(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self._exchange / "status").read_text())
        return None

    def _last_words(self) -> str:
        """The last line that the kernel, or else QEMU, had to say."""
        for name in ("console", "qemu"):
            with contextlib.suppress(FileNotFoundError):
                lines = [line.strip() for line in (self.place / name).read_text(errors="replace").splitlines()]
                if said := [line for line in lines if line]:
                    return said[-1]
        return ""


def _folder(tag: str, path: Path, readonly: str) -> list[str]:
    quoted = str(path).replace(",", ",,")
    what = f"local,id={tag},path={quoted},security_model=none,readonly={readonly},multidevs=remap"
    return ["-fsdev", what, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
