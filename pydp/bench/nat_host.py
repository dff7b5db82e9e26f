# SPDX-License-Identifier: Apache-2.0
"""Programs of the host itself as clients of a service: by the egress hook, or by a cgroup's connect() hook."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from ebpf import libbpf
from ebpf.loader import load
from pydp.bench import nat_paths, programs, streams
from pydp.bench.blocks import Measure
from pydp.bench.errors import BenchError
from pydp.bench.nat_paths import BACKEND_PORT, BACKENDS, SERVICE_PORT, SERVICES, NatPath, Rig
from pydp.bench.nat_streams import rig_with_server
from pydp.services.model import Service

_HIERARCHY = "0::"  # cgroup2 in /proc/self/cgroup (cgroups(7))


def connections(path: NatPath, stack: ExitStack) -> Measure:
    """Connect, one byte each way, close, one after the other, from the router to a service with one backend behind one
    of its ports; one that does not `translate` is asked for the backend itself. See `streams.connecting`.
    """
    rig = rig_with_server(path, 1, 1, stack)
    ns = rig.router.ns
    ns.run(["ip", "route", "add", str(SERVICES), "via", rig.server.address4])  # a way that it seems to take
    target = (nat_paths.address_of(0), SERVICE_PORT) if path.translates else (BACKENDS[1], BACKEND_PORT)
    return streams.connecting(rig.server.ns, ns, ("0.0.0.0", BACKEND_PORT), (str(target[0]), target[1]), stack)


def direct() -> NatPath:
    """No service at all."""
    return NatPath("direct", "the backend itself", _nothing, _forget, translates=False)


def connect_hook() -> NatPath:
    """A program that exchanges the address in connect()."""
    return NatPath("connect", "bare cgroup connect4", _exchange, _forget)


def _nothing(_rig: Rig, _known: Sequence[Service], _stack: ExitStack) -> None:
    """Nobody translates."""


def _forget() -> None:
    """Nothing is remembered."""


def _exchange(rig: Rig, _known: Sequence[Service], stack: ExitStack) -> None:
    """Raises BenchError, EbpfError, OSError."""
    source = programs.compiled("limit_connect")
    constants = {
        0: rig.router.ns.cookie,
        1: _word(nat_paths.address_of(0), SERVICE_PORT),
        2: _word(BACKENDS[1], BACKEND_PORT),
    }
    loaded = stack.enter_context(load(source, "limit_connect", "connect4", {}, constants=constants))
    group = os.open(own_cgroup(), os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, group)
    stack.callback(os.close, libbpf.link_create(loaded.fd, group, libbpf.ATTACH_CGROUP_CONNECT4))


def _word(address: IPv4Address, port: int) -> int:
    """As limit_connect.c compares them."""
    low: int = struct.unpack("=I", address.packed)[0]
    return low | socket.htons(port) << 32


def own_cgroup() -> Path:
    """The folder of this process's cgroup. Raises BenchError, OSError."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    where = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    own = next(
        (line.partition(_HIERARCHY)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()
         if line.startswith(_HIERARCHY)),
        None,
    )  # fmt: skip
    if where is None or own is None:
        raise BenchError("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    return where / own.lstrip("/")
