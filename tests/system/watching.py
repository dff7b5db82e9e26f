# SPDX-License-Identifier: Apache-2.0
"""A host with an instance of every mode, its exporter, and a Prometheus that watches it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pydp.datapath import Datapath
from pydp.lab import Namespace, NumberedStream, StreamReport, ping, poll, send_frame
from pydp.monitoring import PROMETHEUS
from tests.net.bridging import BROADCAST, attach, detach, frame, mac
from tests.net.serving import serving
from tests.system import served
from tests.system.exporting import Exporter

WEB, VOID = "10.96.0.1", "10.96.0.2"
SERVICES = f"""
[[service]]
name = "web"
frontends = ["tcp:{WEB}:80"]
backends = ["10.0.1.2:80"]
[[service]]
name = "void"
frontends = ["udp:{VOID}:80"]
backends = []
"""
# Counts what this host sends to its own port 1001: rules beside ours, and conntrack at work.
NFT = "table ip own { chain out { type nat hook output priority -100; udp dport 1001 counter redirect to :9; }; }"
INSTANCES = ("br0", "vxlan", "ipip", "nat", "macvlan", "ipvlan")
SPOOFED = 5  # packets from behind a peer whose source is not
REQUESTS = 40
PATIENCE = 60.0


class Prometheus:
    """A Prometheus in a namespace, with the files of pydp.monitoring; only its intervals are shorter."""

    def __init__(self, ns: Namespace, folder: Path) -> None:
        self._ns = ns
        for file in PROMETHEUS.glob("*.yml"):
            shutil.copy(file, folder)
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            "--web.listen-address=127.0.0.1:9090", "--log.level=warn",
        ]  # fmt: skip
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = ns.popen(command, stdout=log, stderr=subprocess.STDOUT)

    def end(self) -> None:
        self._ns.end(self._process)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP interface."""
        assert self._process.poll() is None, self._log.read_text()
        url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

        def fetch() -> Any:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)

        found = self._ns.call(fetch)
        assert found["status"] == "success"
        return found["data"]

    def query(self, text: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values by sorted labels, at this moment."""
        found = self.ask("query", query=text)["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    def curves(self, text: str, begin: float, end: float) -> list[tuple[dict[str, str], list[float]]]:
        """(labels, values each second) of every series, as a panel would draw them."""
        found = self.ask("query_range", query=text, start=str(begin), end=str(end), step="1")["result"]
        return [(one["metric"], [float(value) for _, value in one["values"]]) for one in found]

    def wait_scraped(self) -> None:
        """Wait for two scrapes that begin after now, so that rules have seen one."""
        now = time.time()
        poll(f"two scrapes; {self._log.read_text()}", lambda: self._scrapes(now) >= 2, timeout=PATIENCE, interval=0.2)

    def _scrapes(self, since: float) -> int:
        try:
            found = self.ask("query", query='up{job="pydp"}[5m]')["result"]
        except OSError:  # it is starting
            return 0
        return sum(when > since and value == "1" for one in found for when, value in one["values"])


@dataclass
class Watched:
    """What there is, and after `traffic` what the sinks counted: datagrams by instance; and from when to when."""

    host: Namespace
    ends: dict[str, Namespace]
    exporter: Exporter
    prometheus: Prometheus
    reports: dict[str, StreamReport] = field(default_factory=dict)
    answers: int = 0
    times: tuple[float, float] = (0.0, 0.0)

    @property
    def streams(self) -> dict[str, NumberedStream]:
        """One for each mode that carries what is no connection."""
        ends = {
            "br0": (self.ends["c0"], self.ends["c1"], "10.66.0.2"),
            "vxlan": (self.ends["inner"], self.ends["far"], "10.88.0.2"),
            "ipip": (self.host, self.ends["far"], "10.77.2.1"),
            "macvlan": (self.ends["child"], self.ends["outside"], "10.99.0.2"),
            "ipvlan": (self.ends["tenant"], self.ends["beyond"], "10.98.0.2"),
        }
        return {name: NumberedStream(*places, pps=200) for name, places in ends.items()}

    def warm_up(self) -> None:
        """Have all addresses known, so that later counts are of what is counted."""
        for name, dest in (
            ("c0", "10.66.0.2"), ("inner", "10.88.0.2"), ("client", "10.0.1.2"), ("child", "10.99.0.2"),
            ("tenant", "10.98.0.2"),
        ):  # fmt: skip
            ping(self.ends[name], dest, count=2, interval=0.05)
        ping(self.host, "10.77.2.1", count=2, interval=0.05)

    def traffic(self, scrapes: int = 3) -> None:
        """Of all modes at once, until it was seen by that many scrapes; then until the last one is."""
        begin = time.time()
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(stream) for name, stream in self.streams.items()}
            stack.enter_context(serving(self.ends["backend"], "10.0.1.2"))
            for number in range(scrapes):
                for _ in range(REQUESTS // scrapes):
                    self.answers += self._request()
                self._nudge(number)
                self._spoof(SPOOFED // scrapes + (number < SPOOFED % scrapes))
                self.prometheus.wait_scraped()
            self.reports = {name: stream.finish() for name, stream in running.items()}
        self.prometheus.wait_scraped()
        self.times = begin, time.time()

    def _request(self) -> bool:
        with self.ends["client"].socket() as sock:
            sock.settimeout(10)
            sock.connect((WEB, 80))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"200" in b"".join(iter(lambda: sock.recv(4096), b""))

    def _spoof(self, count: int) -> None:
        """Packets from behind the peer whose source is not."""
        ping(self.ends["far"], "10.77.1.1", count=count, interval=0.1, wait=0.1, extra=("-I", "10.77.9.9"))

    def _nudge(self, number: int) -> None:
        """A connection that nobody answers, one of this host that netfilter translates, and stations nobody knew."""
        for ns, address, port in ((self.ends["client"], VOID, 80), (self.host, "127.0.0.1", 1001)):
            with ns.socket(kind=2) as sock, contextlib.suppress(OSError):
                sock.sendto(b"%d" % number, (address, port))
        for end in ("c0", "inner"):
            send_frame(self.ends[end], "eth0", frame(BROADCAST, mac(100 + number)))


def make_watched(namespaces: contextlib.ExitStack, folder: Path, program: Path, prefix: str) -> Watched:
    """All of it, which ends with NAMESPACES. FOLDER is Prometheus', PROGRAM the folder that pydp runs from."""
    names = ("host", "c0", "c1", "inner", "far", "client", "backend", "outside", "child", "beyond", "tenant")
    made = {name: namespaces.enter_context(Namespace(prefix)) for name in names}
    host, far = made["host"], made["far"]
    _plug(made)
    namespaces.callback(_detach, host, far)
    # Tables are small: a scrape reads them whole, and tests scrape a lot.
    attach(host, "br0", options={"fdb_size": 1024})
    services = folder / "services.toml"
    services.write_text(SERVICES)
    host.call(lambda: served.attach("v0", "v1", services=str(services), flows=4096))
    attach(
        host,
        "u0",
        mode="vxlan",
        options={"vni": 100, "local": "192.0.2.1", "remote": ("192.0.2.2",), "port": ("x0",), "fdb_size": 1024},
    )
    for ns, own, other, network in ((host, 1, 2, "10.77.2.0/24"), (far, 2, 1, "10.77.1.0/24")):
        options = {"kind": "ipip", "local": f"198.51.100.{own}", "peer": (f"198.51.100.{other}={network}",)}
        attach(ns, "t0", mode="ipip", options=options)
    attach(host, "m0", mode="macvlan", options={"child": ("m1",)})
    attach(host, "i0", mode="ipvlan", options={"type": "l2", "child": ("i1=10.98.0.1",)})
    host.run(["nft", NFT])
    exporter = Exporter(host, program, "--program-stats")
    namespaces.callback(exporter.end)
    prometheus = Prometheus(host, folder)
    namespaces.callback(prometheus.end)
    return Watched(host, made, exporter, prometheus)


def _plug(made: dict[str, Namespace]) -> None:
    """Devices and addresses."""
    host, far = made["host"], made["far"]
    pairs = {"b0": ("c0", "eth0"), "b1": ("c1", "eth0"), "x0": ("inner", "eth0"), "u0": ("far", "u0"),
             "t0": ("far", "t0"), "v0": ("client", "eth0"), "v1": ("backend", "eth0"), "m0": ("outside", "eth0"),
             "m1": ("child", "eth0"), "i0": ("beyond", "eth0"), "i1": ("tenant", "eth0")}  # fmt: skip
    for name, (end, dev) in pairs.items():
        host.run(["ip", "link", "add", name, "type", "veth", "peer", "name", dev, "netns", made[end].name])
    host.sysctl("ipv4.ip_forward", 1)
    _batch(host, "link add br0 type bridge mcast_snooping 0", "link set b0 master br0", "link set b1 master br0",
           "link set br0 up", *(f"link set {name} up" for name in pairs), "address add 192.0.2.1/24 dev u0",
           "address add 198.51.100.1/24 dev t0", "address add 10.77.1.1/32 dev lo", "address add 10.0.0.1/24 dev v0",
           "address add 10.0.1.1/24 dev v1")  # fmt: skip
    _batch(far, "link set u0 up", "link set t0 up", "address add 192.0.2.2/24 dev u0",
           "address add 198.51.100.2/24 dev t0", "address add 10.77.2.1/32 dev lo", "address add 10.77.9.9/32 dev lo",
           "link add vx100 type vxlan id 100 dstport 4789 local 192.0.2.2 remote 192.0.2.1 dev u0",
           "address add 10.88.0.2/24 dev vx100", "link set vx100 up")  # fmt: skip
    for name, address, more in (
        ("c0", "10.66.0.1/24", ()), ("c1", "10.66.0.2/24", ()), ("inner", "10.88.0.1/24", ("link set eth0 mtu 1450",)),
        ("outside", "10.99.0.2/24", ()), ("child", "10.99.0.1/24", ()),
        ("beyond", "10.98.0.2/24", ()), ("tenant", "10.98.0.1/24", ()),
        ("client", "10.0.0.2/24", ("route add default via 10.0.0.1",)),
        ("backend", "10.0.1.2/24", ("route add default via 10.0.1.1",)),
    ):  # fmt: skip
        _batch(made[name], f"address add {address} dev eth0", "link set eth0 up", *more)
    poll("ports that forward", lambda: "forwarding" in host.run(["bridge", "link", "show", "dev", "b1"]).stdout)


def _batch(ns: Namespace, *lines: str) -> None:
    ns.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def _detach(*namespaces: Namespace) -> None:
    for ns in namespaces:
        if ns.call(lambda: Datapath().read().instances):
            detach(ns)


def descriptors_and_memory(exporter: Exporter) -> Iterator[int]:
    """Open descriptors and resident kB of both processes."""
    yield from exporter.descriptors()
    for pid in (exporter.pid, exporter.child):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        yield int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
