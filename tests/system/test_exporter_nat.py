# SPDX-License-Identifier: Apache-2.0
"""`pydp exporter` beside mode nat: started by root, it serves what services and conntrack did from a process that has
given up its rights.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pydp.lab import Nodes
from tests.net.natting import VIP, make_site
from tests.net.speaking import Seen, Server, ask, outcome
from tests.system.cli import ok
from tests.system.exporting import Exporter, value

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

WEB, EMPTY, LATER = f"tcp:{VIP}:80", f"tcp:{VIP}:81", f"tcp:{VIP}:82"
TIMES, SIZE = 5, 3000


def rights(pid: int) -> tuple[list[int], int]:
    """(user ids, effective capabilities) of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(one) for one in lines["Uid"].split()], int(lines["CapEff"], 16)


def test_services_and_conntrack_without_rights(nodes: Callable[..., Nodes], exporter: Callable[..., Exporter]) -> None:
    site = make_site(nodes, "tc", n=2, containers=1)
    one = site.inside[0]
    end = f"{one.address4}:8080"
    backend = {"instance": "nat", "service": WEB, "backend": end}
    with Server(one.ns, "c0", one.address4), site.nat(service=(f"{WEB}={end}", f"{EMPTY}="), flows=4096):
        serving = exporter(site.router)
        users, capabilities = rights(serving.child)
        assert 0 not in users
        assert capabilities == 0
        before = serving.values()
        assert value(before, "pydp_service_connections_total", **backend) == 0
        for _ in range(TIMES):
            ask(site.outside, VIP, 80, size=SIZE)
        assert outcome(site.outside, VIP, 81) == "ECONNREFUSED"

        page = serving.text()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        found = serving.values()
        assert value(found, "pydp_services", instance="nat") == 2
        assert value(found, "pydp_service_backend_up", **backend) == 1
        assert value(found, "pydp_service_connections_total", **backend) == TIMES
        for direction in ("send", "receive"):
            assert value(found, "pydp_service_bytes_total", **backend, direction=direction) > TIMES * SIZE
        assert value(found, "pydp_service_failures_total", instance="nat", service=EMPTY, reason="backend") >= 1
        created = {labels: count for labels, count in found["pydp_conntrack_created_total"].items() if count}
        assert max(created.values()) >= TIMES
        assert 4096 in found["pydp_conntrack_max_entries"].values()

        # What changes while it runs is seen, too.
        ok("-n", site.router.name, "service", "add", f"{LATER}={end}")
        assert isinstance(outcome(site.outside, VIP, 82), Seen)
        found = serving.values()
        assert value(found, "pydp_services", instance="nat") == 3
        assert value(found, "pydp_service_connections_total", **{**backend, "service": LATER}) == 1
