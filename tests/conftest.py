# SPDX-License-Identifier: Apache-2.0
"""Fixtures on top of `pydp.lab`. None of them costs anything to a test that does not ask for it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydp.lab import Namespace, Nodes, Segment, leftovers, sweep
from pydp.lab.syscalls import DIRECTORY, mount_bpffs, remove, unmount

PREFIX = "pt"
BPFFS = Path("/sys/fs/bpf")
RUN = Path("/run")
NAMESPACE_COOKIE = 71  # SO_NETNS_COOKIE

_cookies: set[int] = set()  # of all namespaces that fixtures made in this session


@pytest.fixture(scope="session")
def requires_root() -> None:
    """Skips, and says so, when the tests do not run as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, devices and BPF programs")


@pytest.fixture(scope="session")
def bpffs(requires_root: None) -> Iterator[Path]:
    """The bpf file system, mounted for the session if nothing is mounted there."""
    if mounted := not BPFFS.is_mount():
        mount_bpffs(str(BPFFS))
    yield BPFFS
    if mounted:
        unmount(str(BPFFS))


@pytest.fixture
def namespace(requires_root: None) -> Iterator[Callable[..., Namespace]]:
    """Makes namespaces, with the options of `pydp.lab.Namespace`, that last as long as the test."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Namespace:
            ns = stack.enter_context(Namespace(PREFIX, **options))
            _cookies.add(ns.cookie)
            return ns

        yield make


@pytest.fixture
def segment(requires_root: None) -> Iterator[Callable[..., Segment]]:
    """Makes segments, with the arguments of `pydp.lab.Segment`, that last as long as the test."""
    with contextlib.ExitStack() as stack:
        yield lambda n, **options: _enter_segment(stack, n, **options)


@pytest.fixture(scope="module")
def module_segment(requires_root: None) -> Iterator[Callable[..., Segment]]:
    """Like ``segment``, for the length of a module: for many examples on one topology."""
    with contextlib.ExitStack() as stack:
        yield lambda n, **options: _enter_segment(stack, n, **options)


def _enter_segment(stack: contextlib.ExitStack, n: int, **options: Any) -> Segment:
    made = stack.enter_context(Segment(n, prefix=PREFIX, **options))
    _cookies.update({made.sw.cookie, *(c.ns.cookie for c in made.containers)})
    return made


@pytest.fixture
def nodes(requires_root: None) -> Iterator[Callable[..., Nodes]]:
    """Makes nodes on an underlay, with the arguments of `pydp.lab.Nodes`, that last as long as the test."""
    with contextlib.ExitStack() as stack:
        yield lambda n, *arguments, **options: enter_nodes(stack, n, *arguments, **options)


@pytest.fixture(scope="module")
def module_nodes(requires_root: None) -> Iterator[Callable[..., Nodes]]:
    """Like ``nodes``, for the length of a module."""
    with contextlib.ExitStack() as stack:
        yield lambda n, *arguments, **options: enter_nodes(stack, n, *arguments, **options)


def enter_nodes(stack: contextlib.ExitStack, n: int, *arguments: Any, **options: Any) -> Nodes:
    made = stack.enter_context(Nodes(n, *arguments, prefix=PREFIX, **options))
    outer = [node.ns for node in made.nodes] + list(made.middle)
    _cookies.update(ns.cookie for ns in (*outer, *(container.ns for container in made.containers)))
    return made


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails the session when it leaves namespaces, XDP programs on devices of this namespace, or pins behind.

    What a killed earlier session left is swept at the start. Namespaces of sessions under way are not its business.
    """
    if os.geteuid() != 0:
        yield
        return
    sweep(PREFIX)
    own = _own_cookie()
    programs, pins = _xdp_devices(), _pins({own})
    yield
    found = {
        "namespaces": leftovers(PREFIX) + leftovers(PREFIX, mine=True),
        "devices with XDP": sorted(_xdp_devices() - programs),
        "pins": sorted(_pins({own, *_cookies}) - pins),
    }
    for name in found["namespaces"]:
        remove(str(DIRECTORY / name))
    left = {kind: names for kind, names in found.items() if names}
    assert not left, f"the tests left behind: {left}"


def _xdp_devices() -> set[str]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True, text=True)
    return {link["ifname"] for link in json.loads(shown.stdout) if "xdp" in link}


def _pins(cookies: set[int]) -> set[str]:
    """What is pinned or kept in files for these namespaces: folders are named by the cookie of theirs."""
    folders = [root / "pydp" / str(cookie) for root in (BPFFS, RUN) for cookie in cookies]
    return {str(path) for folder in folders for path in folder.rglob("*") if not path.is_dir()}


def _own_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, NAMESPACE_COOKIE, 8), "little")
