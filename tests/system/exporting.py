# SPDX-License-Identifier: Apache-2.0
"""What tests of the exporter share: it runs in a namespace, and its page is read."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pydp.datapath import Datapath, Instance, Request
from pydp.lab import Namespace

PORT = 9818
Values = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(page: str) -> Values:
    """Every sample of a page on which all collectors did well."""
    found: Values = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    assert set(found["pydp_collector_success"].values()) == {1}
    return found


class Lan:
    """A namespace whose devices can be attached; all is detached at the end."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.datapath = ns.call(Datapath)

    def attach(self, *ports: str, mode: str = "bridge", hook: str = "tc", **options: Any) -> Instance:
        return self.ns.call(self.datapath.attach, Request(mode, ports, hook=hook, options=options))

    def detach(self, *names: str) -> None:
        self.ns.call(self.datapath.detach, names or None)


class Exporter:
    """`pydp exporter` in a namespace. ``pid`` is the process that was started, ``child`` the one that serves."""

    def __init__(
        self, ns: Namespace, folder: Path, *options: str, scheme: str = "http", host: str = "127.0.0.1"
    ) -> None:
        self.ns = ns
        self.url = f"{scheme}://{host}:{PORT}/metrics"
        command = [sys.executable, "-m", "pydp", "exporter", *options]
        self.process = ns.popen(command, cwd=folder, stderr=subprocess.PIPE)
        self.pid = self.process.pid
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        assert self.url in self.said, self.said + self.process.stderr.read()
        (self.child,) = (int(one) for one in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def text(self, accept: str = "text/plain", context: ssl.SSLContext | None = None, **headers: str) -> str:
        def fetch() -> str:
            request = urllib.request.Request(self.url, headers={"Accept": accept, **headers})
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                found: bytes = answer.read()
            return found.decode()

        return self.ns.call(fetch)

    def values(self) -> Values:
        return parsed(self.text())

    def descriptors(self) -> tuple[int, int]:
        """How many both processes have open."""
        own, childs = (len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in (self.pid, self.child))
        return own, childs

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """(exit status, what it said)."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said


def value(found: Values, name: str, **labels: str) -> float:
    return found[name][tuple(sorted(labels.items()))]


def side(
    found: Values, path: str, device: str, direction: str = "receive", what: str = "packets", **more: str
) -> float:
    labels = {"mode": "bridge", "instance": "bridge", **more}
    return value(found, f"pydp_path_{what}_total", path=path, device=device, direction=direction, **labels)


def verdicts(found: Values, device: str) -> float:
    return sum(v for labels, v in found["pydp_verdicts_total"].items() if dict(labels)["device"] == device)
