# SPDX-License-Identifier: Apache-2.0
"""The page of a large host: 10,000 services and 100,000 addresses, within a second and in bounded memory."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydp.datapath import Datapath, Reader
from pydp.lab import Namespace
from pydp.metrics.page import Page
from pydp.metrics.sources import LiveSources
from pydp.modes import fdb as table
from tests.conftest import PREFIX
from tests.net.bridging import attach, detach
from tests.system import served
from tests.system.exporting import Exporter, parsed, value
from tests.system.test_exporter import cpu_seconds
from tests.system.watching import descriptors_and_memory

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

SERVICES, ADDRESSES = 10_000, 100_000
SECONDS = 1.0  # of CPU time


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def service(number: int) -> str:
    place = f"{number >> 8}.{number & 255}"
    return f'[[service]]\nname = "s{number}"\nfrontends = ["tcp:10.96.{place}:80"]\nbackends = ["10.1.{place}:80"]\n'


@pytest.fixture(scope="module")
def large(requires_root: None, bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    with Namespace(PREFIX) as ns:
        for name in ("p0", "p1", "v0"):
            ns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}x"])
        file = tmp_path_factory.mktemp("large") / "services.toml"
        file.write_text("".join(map(service, range(SERVICES))))
        bridge = attach(ns, "p0", "p1", options={"fdb_size": ADDRESSES})
        try:
            ns.call(lambda: served.attach("v0", services=str(file)))
            first = int.from_bytes(b"\x02\xaa\0\0\0\0", "big")
            macs = ((first + number).to_bytes(6, "big") for number in range(ADDRESSES))
            wanted = [table.add_request(mac, 0, number % 2) for number, mac in enumerate(macs)]
            datapath = ns.call(Datapath)
            with datapath.store.locked():
                datapath.control(bridge, wanted)
            yield ns
        finally:
            detach(ns)


def test_a_large_host_is_read_in_time_and_memory_stays(large: Namespace) -> None:
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(large.call(lambda: Reader.open(Datapath())))
        page = Page(lambda: LiveSources(lambda: reader))
        text = large.call(page.text)
        found = parsed(text.decode())
        assert value(found, "pydp_services", instance="nat") == SERVICES
        assert len(found["pydp_service_connections_total"]) == SERVICES
        # A few find all their places taken: permanent addresses do not make way.
        assert value(found, "pydp_fdb_entries", instance="bridge", kind="permanent") >= 0.99 * ADDRESSES
        assert large.call(cpu_seconds, page.text) < SECONDS
        before = resident()
        for _ in range(20):  # of 6 MB each; the allocator may keep room for one more
            large.call(page.text)
        assert resident() - before < 64 << 20
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def spent(pid: int) -> float:
    """Seconds of CPU that a process has used, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(one) for one in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def test_it_is_scraped_in_time_over_http(large: Namespace, exporter: Callable[..., Exporter]) -> None:
    """The same as a Prometheus meets it; what both processes use is counted."""
    serving = exporter(large)
    assert value(serving.values(), "pydp_services", instance="nat") == SERVICES
    took, memory = [], []
    for _ in range(10):
        before = spent(serving.pid) + spent(serving.child)
        serving.text()
        took.append(spent(serving.pid) + spent(serving.child) - before)
        memory.append([*descriptors_and_memory(serving)][-1])
    assert min(took) < SECONDS, took
    assert memory[-1] - memory[1] < 32 << 10, memory  # kB; the allocator may keep room for one page more
