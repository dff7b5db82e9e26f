# SPDX-License-Identifier: Apache-2.0
"""What a user sees of mode nat: attach, conntrack and metrics, on a router between containers and a host outside."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydp.datapath import Datapath, Reader
from pydp.lab import Nodes
from pydp.metrics.families import FAMILIES
from pydp.metrics.page import Page
from pydp.metrics.sources import LiveSources
from tests.net.natting import Site, make_site
from tests.system.cli import ok, ok_json, pydp, refused

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

VIP = "10.96.0.1"


@pytest.fixture(scope="module")
def site(module_nodes: Callable[..., Nodes]) -> Iterator[Site]:
    made = make_site(module_nodes, "tc", n=2)
    yield made
    pydp("-n", made.router.name, "detach", "--all")


@pytest.fixture
def words(site: Site) -> tuple[str, ...]:
    """Where pydp runs, with nothing attached."""
    pydp("-n", site.router.name, "detach", "--all")
    return "-n", site.router.name


def attach_words(site: Site, *more: str) -> tuple[str, ...]:
    backends = ",".join(f"{one.address4}:7" for one in site.inside)
    return ("attach", "--mode", "nat", "--service", f"udp:{VIP}:53={backends}", *more, site.node.dev, *site.node.ports)


@pytest.fixture(scope="module")
def attached(site: Site) -> Site:
    """With a service, masquerading, and accounting of flows; ten datagrams were sent to the service, and answered."""
    where = ("-n", site.router.name)
    pydp(*where, "detach", "--all")
    more = ("--accounting", "--masquerade", f"10.20.0.0/16@{site.node.dev}", "--timeout", "udp=300")
    ok(*where, *attach_words(site, *more))
    talk(site, 10)
    return site


def talk(site: Site, times: int) -> None:
    """Ask the service that often, each time from another port; the backends send back what they get."""
    servers = [one.ns.socket(kind=2) for one in site.inside]
    for server, one in zip(servers, site.inside, strict=True):
        server.bind((one.address4, 7))
        server.settimeout(0.2)
    try:
        for _ in range(times):
            with site.outside.socket(kind=2) as client:
                client.settimeout(2)
                client.sendto(b"question", (VIP, 53))
                _answer(servers)
                assert client.recvfrom(100) == (b"question", (VIP, 53))
    finally:
        for server in servers:
            server.close()


def _answer(servers: list[Any]) -> None:
    """Have whoever got it send it back."""
    for _ in range(20):
        for server in servers:
            try:
                data, peer = server.recvfrom(100)
            except TimeoutError:
                continue
            server.sendto(data, peer)
            return
    raise AssertionError("nobody was asked")


# With the instance that lasts for the module; these come first.


def test_the_line_about_an_attach(attached: Site) -> None:
    said = ok("-n", attached.router.name, *attach_words(attached, "--accounting", "--name", "nat", "--dry-run"))
    ports = (attached.node.dev, *attached.node.ports)
    assert said.splitlines()[0] == f"nat: would be replaced, mode nat, {len(ports)} ports ({' '.join(ports)})"
    assert said.splitlines()[-1] == "  1 service"


def test_conntrack_shows_flows_as_conntrack_does(attached: Site) -> None:
    lines = ok("-n", attached.router.name, "conntrack", "show", "--dport", "53").splitlines()
    assert len(lines) == 10
    client = attached.made[1].address4
    for line in lines:
        assert re.fullmatch(
            rf"udp      17 \d+ src={client} dst={VIP} sport=\d+ dport=53 packets=1 bytes=\d+ "
            rf"src=(\S+) dst={client} sport=7 dport=\d+ packets=1 bytes=\d+ "
            rf"service=udp:{VIP}:53 backend=(\S+)",
            line,
        ), line
    assert {line.rpartition("=")[2] for line in lines} <= {f"{one.address4}:7" for one in attached.inside}


def test_conntrack_as_json(attached: Site) -> None:
    found = ok_json("-n", attached.router.name, "conntrack", "show", "--json", "--dest", VIP, "--limit", "3")
    assert found["instance"] == "nat"
    assert len(found["flows"]) == 3
    one = found["flows"][0]
    assert one["protocol"] == "udp"
    assert one["original"]["dest"] == one["service"].split(":")[1] == VIP
    assert one["reply"]["source"] == one["backend"].split(":")[0]
    assert (one["assured"], one["replied"], one["original"]["packets"]) == (False, True, 1)
    assert 0 < one["timeout"] <= 300
    assert ok_json("-n", attached.router.name, "conntrack", "show", "-j", "--sport", "1")["flows"] == []


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        ("--dport 53", 10),
        ("--dest 10.96.0.0/24 --protocol udp", 10),
        (f"--dest {VIP} --protocol tcp", 0),
        ("--reply-source 10.20.0.0/16 --dport 53", 10),
        (f"--service udp:{VIP}:53", 10),
        ("--dport 53 --state ESTABLISHED", 0),
        ("--dport 53 --source 0.0.0.0/0", 10),
        ("--dport 53 --source ::/0", 0),
    ],
)
def test_conntrack_filters(attached: Site, flags: str, number: int) -> None:
    assert ok("-n", attached.router.name, "conntrack", "count", *flags.split()) == f"{number}\n"


def test_conntrack_counts(attached: Site) -> None:
    found = ok_json("-n", attached.router.name, "conntrack", "count", "-j")
    assert found["entries"] == found["assured"] + found["new"] >= 10
    assert found["max_entries"] == 262144


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--protocol gre", "--protocol gre: no protocol"),
        ("--sport 70000", "--sport 70000: not a number from 0 to 65535"),
        ("--source 10.0.0.1/8", "--source 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
        ("--state BUSY", "--state BUSY: there is no such state"),
        ("--service web", "--service web: there is no such service, or it has no backends"),
        ("--limit -1", "--limit -1: not a number of flows"),
    ],
)
def test_conntrack_says_what_is_wrong(attached: Site, flags: str, complaint: str) -> None:
    assert complaint in refused("-n", attached.router.name, "conntrack", "show", *flags.split(), status=2)


def test_metrics(attached: Site) -> None:
    def page() -> str:
        with Reader.open(Datapath()) as reader:
            return Page(lambda: LiveSources(lambda: reader)).text().decode()

    text = attached.router.call(page)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    missing = {name for name in FAMILIES if f"\n{name}{{" not in text}
    assert {name for name in missing if "conntrack" in name or "service" in name} == {"pydp_service_failures_total"}
    labels = f'instance="nat",service="udp:{VIP}:53",backend="{{}}:7"'
    totals = dict.fromkeys(("connections_total", "flows"), 0.0)
    for one in attached.inside:
        for name in totals:
            found = re.search(
                rf"^pydp_service_{name}{{{re.escape(labels.format(one.address4))}}} (\S+)$", text, re.MULTILINE
            )
            assert found, f"{name} of {one.address4}"
            totals[name] += float(found[1])
    assert totals == {"connections_total": 10, "flows": 10}
    assert 'pydp_service_backends{instance="nat",state="ready"} 2\n' in text
    assert re.search(r'^pydp_conntrack_entries{path="ebpf",instance="nat",kind="new"} 1\d$', text, re.MULTILINE)
    for name in ("conntrack", "services", "rules"):
        assert f'pydp_collector_success{{collector="{name}"}} 1\n' in text


def test_flush_ends_what_is_named(attached: Site) -> None:
    where = ("-n", attached.router.name, "conntrack")
    one = ok_json(*where, "show", "-j", "--dport", "53", "--limit", "1")["flows"][0]["original"]
    only = ("--dport", "53", "--sport", str(one["sport"]))
    assert ok(*where, "flush", *only, "--dry-run") == "1 flow would be ended, 0 of them assured\n"
    assert ok(*where, "flush", *only) == "1 flow ended, 0 of them assured\n"
    assert ok(*where, "count", "--dport", "53") == "9\n"
    assert ok(*where, "flush", "--dport", "53") == "9 flows ended, 0 of them assured\n"
    assert ok(*where, "flush", "--dport", "53") == "0 flows ended, 0 of them assured\n"
    talk(attached, 2)
    assert ok(*where, "count", "--dport", "53") == "2\n"


# Without it.


def test_a_file_says_everything(site: Site, words: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "nat.toml"
    config.write_text(
        f'mode = "nat"\ninterfaces = {[site.node.dev, *site.node.ports]}\n\n[nat]\nmasquerade = ["10.20.0.0/16"]\n'
        f'forward = ["udp:5353=10.20.0.1:53"]\nflows = 4096\n\n[[service]]\nname = "dns"\n'
        f'frontends = ["udp:{VIP}:53"]\nbackends = ["{site.inside[0].address4}:7"]\n'
    )
    found = ok_json(*words, "attach", "--config", str(config), "-j")
    assert found["services"] == 2
    assert found["instance"]["options"] == {"masquerade": ["10.20.0.0/16"], "flows": 4096}
    talk(site, 1)
    assert ok(*words, "conntrack", "count", "--service", "dns") == "1\n"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--service", "tcp:80"), None),
        (("--forward", "tcp:80"), "--forward tcp:80"),
        (("--services", "/nowhere.toml"), "--services /nowhere.toml: No such file or directory"),
        (("--masquerade", "10.0.0.1/8"), "--masquerade 10.0.0.1/8"),
        (("--timeout", "udp=0"), "--timeout udp=0"),
        (("--vni", "3"), "--vni: mode nat has no such option"),
    ],
)
def test_attach_says_what_is_wrong(
    site: Site, words: tuple[str, ...], more: tuple[str, ...], complaint: str | None
) -> None:
    command = (*words, "attach", "--mode", "nat", *more, site.node.dev)
    if complaint is None:
        ok(*command, "--dry-run")
    else:
        assert complaint in refused(*command, status=2)
    assert "there is no instance nat" in refused(*words, "detach", "nat", status=3)


def test_services_are_of_mode_nat_alone(site: Site, words: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "count.toml"
    config.write_text('mode = "count"\n[[service]]\nfrontends = ["tcp:80"]\n')
    said = refused(*words, "attach", "--config", str(config), site.node.dev, status=2)
    assert f"{config}: service: mode count has no services" in said


def test_nothing_is_attached(words: tuple[str, ...]) -> None:
    for verb in ("show", "count", "flush"):
        assert "no instance of mode nat" in refused(*words, "conntrack", verb, status=3)


def test_another_instance_has_no_flows(site: Site, words: tuple[str, ...]) -> None:
    ok(*words, "attach", "--mode", "count", site.node.dev)
    assert "count is not an instance of mode nat" in refused(*words, "conntrack", "show", "count", status=2)
