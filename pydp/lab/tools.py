# SPDX-License-Identifier: Apache-2.0
"""Measurements by iperf3 and sockperf, run inside namespaces and parsed."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace
from pydp.lab.topology import poll


@dataclass(frozen=True, slots=True)
class IperfResult:
    """What the receiver got. ``retransmits`` is None for UDP, ``lost_percent`` for TCP; ``raw`` is all iperf3 said."""

    bits_per_second: float
    retransmits: int | None
    lost_percent: float | None
    raw: dict[str, Any] = field(repr=False)


def iperf3(
    server: Namespace, client: Namespace, addr: str, *, seconds: float = 2, nbytes: int = 0,
    extra: Sequence[str] = (), port: int = 0,
) -> IperfResult:  # fmt: skip
    """Run iperf3 from client to server, with ``nbytes`` until so many are sent; ``extra`` are options of the client
    (-R, -u -b 0, -P 4, -M 1400 ...).

    Raises LabError with iperf3's message when it fails.
    """
    port = port or free_port(server, addr)
    until = ["-n", str(nbytes)] if nbytes else ["-t", str(seconds)]
    with _serving(server, ["iperf3", "-s", "-1", "-B", addr, "-p", str(port)], port, "tcp"):
        command = ["iperf3", "-J", "-c", addr, "-p", str(port), *until, *extra]
        done = client.run(command, check=False, timeout=seconds + 30)
    try:
        raw = json.loads(done.stdout)
        end = raw["end"]
        if "error" in raw:
            raise LabError(f"iperf3 to {addr}: {raw['error']}")
        total = end["sum"] if "sum" in end else end["sum_received"]
        sent = end.get("sum_sent", {})
    except (ValueError, KeyError) as error:
        raise LabError(f"iperf3 to {addr}: {done.stderr.strip() or done.stdout.strip()[:500]}") from error
    return IperfResult(total["bits_per_second"], sent.get("retransmits"), total.get("lost_percent"), raw)


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Of requests and replies, one at a time: how many a second, and the median time of one in microseconds."""

    per_second: float
    median_us: float


def request_response(
    server: Namespace,
    client: Namespace,
    addr: str,
    *,
    seconds: float = 1,
    proto: str = "tcp",
    size: int = 64,
    port: int = 0,
) -> float:
    """Round trips a second; see `round_trips`."""
    return round_trips(server, client, addr, seconds=seconds, proto=proto, size=size, port=port).per_second


def round_trips(
    server: Namespace,
    client: Namespace,
    addr: str,
    *,
    seconds: float = 1,
    proto: str = "tcp",
    size: int = 64,
    port: int = 0,
) -> RoundTrips:
    """One request at a time of ``size`` bytes each way (sockperf ping-pong).

    ``seconds`` are rounded up.
    Raises LabError when sockperf fails or a message got lost.
    """
    if proto not in ("tcp", "udp"):
        raise LabError(f"proto is tcp or udp, not {proto}")
    port = port or free_port(server, addr, proto)
    options = ["-i", addr, "-p", str(port)] + (["--tcp"] if proto == "tcp" else [])
    with _serving(server, ["sockperf", "sr", *options], port, proto):
        length = str(math.ceil(seconds))
        done = client.run(["sockperf", "pp", *options, "-t", length, "-m", str(size)], timeout=seconds + 30)
    valid = re.search(
        r"\[Valid Duration\] RunTime=([\d.]+) sec; SentMessages=(\d+); ReceivedMessages=(\d+)", done.stdout
    )
    dropped = re.search(r"# dropped messages = (\d+)", done.stdout)
    # sockperf gives half of a round trip, the way there.
    half = re.search(r"percentile 50\.\d+ = +([\d.]+)", done.stdout)
    if valid is None or dropped is None or half is None:
        raise LabError(f"sockperf to {addr}: {done.stdout.strip()[-500:]}")
    if int(dropped[1]):
        raise LabError(f"sockperf to {addr}: {dropped[1]} messages lost")
    return RoundTrips(int(valid[3]) / float(valid[1]), 2 * float(half[1]))


def free_port(ns: Namespace, addr: str, proto: str = "tcp") -> int:
    """A port of ``addr`` that nobody uses now."""
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    with ns.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, kind) as sock:
        sock.bind((addr, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def _serving(ns: Namespace, command: Sequence[str], port: int, proto: str) -> Iterator[None]:
    """Run a server: the block starts when it listens, and ends it."""
    child = ns.popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def listening() -> bool:
        if child.poll() is not None:
            raise LabError(f"{' '.join(command)} in {ns.name} ended at once with status {child.returncode}")
        return listens(child.pid, port, proto)

    try:
        poll(f"{command[0]} in {ns.name} listens", listening)
        yield
    finally:
        ns.end(child)


def listens(pid: int | str, port: int, proto: str) -> bool:
    """Whether a socket in the namespace of ``pid`` (a folder of /proc) has that local port and, for TCP, listens
    (state 0A).

    A connection, to try, would be the only one that `iperf3 -s -1` serves.
    """
    suffix = f":{port:04X}"
    for name in (proto, f"{proto}6"):
        with contextlib.suppress(FileNotFoundError):  # the process is gone, or there is no IPv6
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if local.endswith(suffix) and (proto == "udp" or state == "0A"):
                    return True
    return False
