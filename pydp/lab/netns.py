# SPDX-License-Identifier: Apache-2.0
"""Network namespaces as context managers. All work here needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Any, Self, TypeVar

from pydp.lab import syscalls
from pydp.lab.errors import LabError

_T = TypeVar("_T")
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_SO_NETNS_COOKIE = 71
_PACKAGES = {"ping": "iputils-ping", "iperf3": "iperf3", "sockperf": "sockperf", "tcpdump": "tcpdump"}
_live: dict[str, int] = {}  # path: process that made it


class Namespace:
    """A network namespace for the length of a ``with`` block, with lo up, visible to `ip netns` as its ``name``.

    The name is ``<prefix><pid>-<random><label>``, unless there is a ``name``, which `sweep` does not know.
    It neither forwards IPv4 nor checks return paths, whatever the host does: a new one takes the host's settings for
    that (devinet_init_net, net/ipv4/devinet.c). IPv6 is off unless ``ipv6``, and then without duplicate address
    detection and router solicitation, so that captures are quiet. ``bridge_netfilter`` leaves bridged frames to
    iptables: on a kernel that has br_netfilter built in every new namespace does that, while stock distributions do
    not load the module; False gives the bridge that those have. Processes started by `run` and `popen` end with it.
    Raises OSError when the kernel or missing rights forbid it.
    """

    def __init__(
        self, prefix: str, *, label: str = "", ipv6: bool = False, bridge_netfilter: bool = False, name: str = ""
    ) -> None:
        self.name = name or f"{prefix}{os.getpid():x}-{secrets.token_hex(3)}{label}"
        self.path = str(syscalls.DIRECTORY / self.name)
        self.cookie = 0
        self._ipv6 = ipv6
        self._bridge_netfilter = bridge_netfilter
        self._children: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._ipr: Any = None

    def __repr__(self) -> str:
        return f"Namespace({self.name})"

    def __enter__(self) -> Self:
        if Path(self.path).exists():
            raise LabError(f"there is a namespace {self.name} already", hint=f"ip netns del {self.name}")
        _live[self.path] = os.getpid()
        try:
            syscalls.in_thread(self._create)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its processes, close its netlink handle and remove the name; harmless when done already."""
        with self._lock:  # whatever a thread is still at, after an interrupt, has ended or will not begin
            self._closed = True
            children, self._children = self._children, []
        try:
            for child in children:
                _end(child)
            if self._ipr is not None:
                self._ipr.close()
        finally:
            syscalls.remove(self.path)
            _live.pop(self.path, None)

    def release(self) -> None:
        """Close the netlink handle, and leave the namespace and its processes to themselves."""
        with self._lock:
            self._closed = True
            self._children = []
        if self._ipr is not None:
            self._ipr.close()
            self._ipr = None
        _live.pop(self.path, None)

    @property
    def processes(self) -> tuple[int, ...]:
        """Ids of the processes started by `popen` that are alive."""
        return tuple(child.pid for child in self._children if child.poll() is None)

    def call(self, work: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Run ``work`` in a thread inside this namespace and return its value or raise its exception.

        Sockets opened and processes started there belong to the namespace for good.
        """
        return syscalls.inside(self.path, lambda: work(*arguments, **options))

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket of this namespace; the caller closes it."""
        return self.call(socket.socket, family, kind, protocol)

    def ifindex(self, name: str) -> int:
        """Index of the device ``name``; raises OSError when there is none."""
        return self.call(socket.if_nametoindex, name)

    def sysctl(self, key: str, value: str | int) -> None:
        """Set a sysctl below net, such as ``ipv4.ip_forward``; raises OSError when this kernel has none such."""
        path = Path("/proc/sys/net", *key.split("."))
        self.call(path.write_text, str(value))

    def ipr(self) -> Any:
        """pyroute2's IPRoute for this namespace, closed with it.

        It serves the thread that asked first; pyroute2 refuses to serve others.
        """
        if self._ipr is None:
            self._ipr = self._open_ipr()
        return self._ipr

    @contextlib.contextmanager
    def netlink(self) -> Iterator[Any]:
        """A handle like `ipr` for a few requests, closed at once: a handle holds four file descriptors."""
        handle = self._open_ipr()
        try:
            yield handle
        finally:
            handle.close()

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process inside, with ``options`` of ``subprocess.Popen``; it is killed when the namespace goes."""

        def start() -> subprocess.Popen[str]:
            with self._lock:
                self._refuse_when_closed()
                child: subprocess.Popen[str] = subprocess.Popen(command, text=True, **options)
                self._children.append(child)
                return child

        try:
            return self.call(start)
        except FileNotFoundError as error:
            if error.filename == self.path:
                raise LabError(f"namespace {self.name} is gone") from error
            package = _PACKAGES.get(command[0])
            raise LabError(
                f"{command[0]} is not installed", hint=f"apt-get install {package}" if package else ""
            ) from error

    def run(
        self, command: Sequence[str], *, check: bool = True, timeout: float = 60, stdin: str | None = None, **popen: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what it printed.

        Raises LabError, with its stderr, when it fails and ``check`` is set, when it is not installed, or after
        ``timeout`` seconds.
        """
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = self.popen(command, **pipes, **popen)
        try:
            out, err = child.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{' '.join(command)} in {self.name}: no end after {timeout} s") from error
        finally:
            self.end(child)
        if check and child.returncode:
            said = err.strip() or out.strip() or "no message"
            raise LabError(f"{' '.join(command)} in {self.name}: exit status {child.returncode}: {said}")
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def end(self, child: subprocess.Popen[str]) -> None:
        """Kill a process started by `popen`, unless it has ended, and close its pipes."""
        with self._lock:
            if child in self._children:
                self._children.remove(child)
        _end(child)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise LabError(f"namespace {self.name} is closed")

    def _create(self) -> None:
        with self._lock:
            self._refuse_when_closed()
            syscalls.unshare(self.path)
            self._settle()

    def _settle(self) -> None:
        """Runs inside the new namespace: sysctls, lo up, and the number that tells it from all others of this boot."""
        for key, value in self._sysctls():
            path = Path("/proc/sys/net", key)
            if path.exists():
                path.write_text(str(value))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
            self.cookie = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]

    def _sysctls(self) -> Iterator[tuple[str, int]]:
        for scope in ("all", "default"):
            yield f"ipv4/conf/{scope}/forwarding", 0
            yield f"ipv4/conf/{scope}/rp_filter", 0
            yield f"ipv6/conf/{scope}/disable_ipv6", int(not self._ipv6)
            yield f"ipv6/conf/{scope}/accept_dad", 0
            yield f"ipv6/conf/{scope}/router_solicitations", 0
        if self._ipv6:
            yield "ipv6/conf/lo/disable_ipv6", 0
        for family in ("iptables", "ip6tables", "arptables"):
            yield f"bridge/bridge-nf-call-{family}", int(self._bridge_netfilter)

    def _open_ipr(self) -> Any:
        from pyroute2 import IPRoute  # a third of a second

        # Given a socket, pyroute2 forks no process to open one. It insists on the name beside it for what it does by
        # ioctl (tun).
        sock = self.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        try:
            return IPRoute(netns=self.name, use_socket=sock)
        except BaseException:
            sock.close()
            raise


def leftovers(prefix: str, *, mine: bool = False) -> list[str]:
    """Names of namespaces of this prefix whose process is dead; with ``mine`` those of this process instead."""
    pattern = re.compile(re.escape(prefix) + r"([0-9a-f]+)-[0-9a-f]{6}(-\w+)?")
    found = []
    for path in syscalls.DIRECTORY.glob("*"):
        if match := pattern.fullmatch(path.name):
            owner = int(match[1], 16)
            if owner == os.getpid() if mine else not Path(f"/proc/{owner}").exists():
                found.append(path.name)
    return sorted(found)


def sweep(prefix: str) -> list[str]:
    """Remove what a killed run with this prefix left behind, and return the names. Those of living processes stay."""
    names = leftovers(prefix)
    for name in names:
        syscalls.remove(str(syscalls.DIRECTORY / name))
    return names


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a broken pipe may still hold bytes to flush
                pipe.close()


@atexit.register
def _remove_live() -> None:
    """Catches an interrupt in the few instructions between the creation of a namespace and its ``with`` block."""
    for path, owner in tuple(_live.items()):
        if owner == os.getpid():  # a forked child inherits the list, not the namespaces
            syscalls.remove(path)
