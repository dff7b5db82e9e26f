# SPDX-License-Identifier: Apache-2.0
"""What the machine has and lacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ebpf.errors import EbpfError, NotPermitted
from pydp.cli.failure import describe

MINIMUM = (5, 17)  # renameat2(RENAME_EXCHANGE) on bpffs
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_PROBE = "int probe(struct __sk_buff *skb)\n{\n\treturn 0;\n}\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``state``: "ok"; "note", for what could be better; "lack", without which attach fails;
    "rights", the same but for the caller's rights. ``mend`` is a command, or ""."""

    what: str
    state: Literal["ok", "note", "lack", "rights"]
    told: str
    mend: str = ""

    def document(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything about the machine that attach needs, or is better with."""
    checks = (_kernel, _rights, _bpffs, _headers, _trial, _tcx, _xdp_features, _btf, _jit)
    return [one for check in checks for one in check()]


def lack(what: str, error: Exception) -> Finding:
    """An error as a finding."""
    told, mend = describe(error)
    denied = isinstance(error, NotPermitted | PermissionError) or isinstance(error.__cause__, PermissionError)
    return Finding(what, "rights" if denied else "lack", told, mend)


def _kernel() -> Iterator[Finding]:
    from pydp.kernel import kernel_version

    release = os.uname().release
    if kernel_version()[:2] < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        yield Finding("kernel", "lack", f"Linux {release} is too old", f"boot Linux {needed} or newer")
    else:
        yield Finding("kernel", "ok", f"Linux {release}")


def _rights() -> Iterator[Finding]:
    """CAP_SYS_ADMIN implies CAP_BPF and CAP_PERFMON (capabilities(7)); without the latter the verifier refuses programs
    that compute with pointers from several places, as the bridge's do.
    """
    held = effective_capabilities()
    implied = {"CAP_BPF", "CAP_PERFMON"} if "CAP_SYS_ADMIN" in held else set()
    missing = [name for name in ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN") if name not in held | implied]
    if missing:
        yield Finding("rights", "rights", f"the caller has no {' and no '.join(missing)}", "run as root")
    else:
        yield Finding("rights", "ok", ", ".join(sorted(held)))


def effective_capabilities() -> frozenset[str]:
    """Those of _CAPABILITIES that the process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1)


def _bpffs() -> Iterator[Finding]:
    from ebpf.pins import BPFFS, bpffs

    yield _tried("bpffs", lambda: f"mounted at {BPFFS}" if str(bpffs()) == BPFFS else f"{BPFFS} of a parent process")


def _headers() -> Iterator[Finding]:
    from ebpf.headers import kernel_headers

    yield _tried("kernel headers", lambda: str(kernel_headers() or "in the kernel (CONFIG_IKHEADERS)"))


def _trial() -> Iterator[Finding]:
    """Compile and load a program: bcc, headers, the verifier and the caller's rights at once."""
    from ebpf.compiler import compile_source
    from ebpf.loader import load
    from ebpf.source import Source

    def work() -> str:
        began = time.monotonic()
        load(compile_source(Source(_PROBE, ("probe.c",))), "probe", "tc", {}).close()
        return f"bcc compiled and the kernel loaded a program in {time.monotonic() - began:.1f} s"

    yield _tried("trial", work)


def _tried(what: str, work: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", work())
    except (EbpfError, OSError) as error:
        return lack(what, error)


def _tcx() -> Iterator[Finding]:
    from pydp.kernel import has_tcx

    if has_tcx():
        yield Finding("tcx", "ok", "programs on tc are bpf links, which nobody else can replace")
    else:
        yield Finding("tcx", "note", "none before Linux 6.6: programs on tc are filters of a clsact qdisc")


def _xdp_features() -> Iterator[Finding]:
    from pydp.kernel import read_xdp_features

    if read_xdp_features() is None:
        yield Finding("XDP features", "note", "this kernel (before 6.3) does not tell, so --hook auto takes tc")
    else:
        yield Finding("XDP features", "ok", "the kernel tells what each driver can do")


def _btf() -> Iterator[Finding]:
    if Path("/sys/kernel/btf/vmlinux").exists():
        yield Finding("BTF", "ok", "the kernel describes its types")
    else:
        yield Finding("BTF", "note", "the kernel was built without; nothing here needs it")


def _jit() -> Iterator[Finding]:
    try:
        on = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip() != "0"
    except OSError:  # not for our eyes, or in a namespace that does not show it
        return
    if on:
        yield Finding("JIT", "ok", "programs run as machine code")
    else:
        yield Finding(
            "JIT", "note", "programs are interpreted, many times slower", "sysctl -w net.core.bpf_jit_enable=1"
        )
