# SPDX-License-Identifier: Apache-2.0
"""Where something was measured: what a reader needs to judge it by, or to do it again."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_PATIENCE = 10  # s
# What measures and what is measured against, and how each says its version.
_TOOLS = {
    "iproute2": ("ip", "-V"),
    "iptables": ("iptables-nft", "-V"),
    "nftables": ("nft", "-v"),
    "iperf3": ("iperf3", "--version"),
    "sockperf": ("sockperf", "--version"),
}
_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, Any]:
    """Processor, memory, kernel and what slows it."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "system": _system(),
        "cpu": _cpu("model name", "Model") or platform.machine(),
        "cpus": os.cpu_count(),
        "virtual": "hypervisor" in _cpu("flags").split(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "mitigations": mitigations(),
        "bpf_jit": _read(_JIT) == "1",
        "load": os.getloadavg()[0],
        "time": now(),
        "bridge_netfilter": False,  # pydp.lab switches it off where it makes its bridges
    }


def mitigations() -> dict[str, str]:
    """What the kernel does about each flaw of the processor that concerns it."""
    found = {path.name: _read(path) for path in sorted(_VULNERABILITIES.glob("*"))}
    return {name: text for name, text in found.items() if text and text != "Not affected"}


def versions() -> dict[str, str]:
    """Of pydp, and of what compiles, sends and is compared with; "" for what is not there."""
    told = {"pydp": _installed("pydp"), "python": platform.python_version(), "bcc": _installed("bcc")}
    return told | {name: _told(command) for name, command in _TOOLS.items()}


def now() -> str:
    """The time, in UTC, as RFC 3339 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def facts(about: Mapping[str, Any]) -> str:
    """A machine in one line."""
    return f"Linux {about['kernel']}, {about['cpus']} x {about['cpu']}, load average {about['load']:.1f}"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _told(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _NUMBER.search(done.stdout + done.stderr)
    return found[0] if found else ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return ""


def _cpu(*names: str) -> str:
    """The first line of /proc/cpuinfo of one of these names."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
