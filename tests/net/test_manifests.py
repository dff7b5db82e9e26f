# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests with real servers: by which addresses a Service is reached, who answers, and whom he sees."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pydp.lab import Namespace
from tests.net.serving import Customer, Site, make_site, serving, wait
from tests.unit.kubernetes import Made, end, ending, kube

VIP, EXTERNAL, NODE = "10.96.0.1", "203.0.113.7", "10.0.0.1"
ONE, TWO = "10.0.1.2", "10.0.2.2"


@pytest.fixture
def site(namespace: Callable[..., Namespace]) -> Iterator[Site]:
    made = make_site(namespace)
    yield made
    made.detach()


def write(path: Path, *, local: bool = False, one: bool = True) -> Path:
    """A Service whose endpoint ONE, which may be terminating, is on this node."""
    service = kube(
        [{"name": "http", "port": 80, "nodePort": 30080}], type="NodePort", externalIPs=[EXTERNAL],
        externalTrafficPolicy="Local" if local else "Cluster",
    )  # fmt: skip
    condition = {} if one else {"ready": False, "serving": True, "terminating": True}
    ends: tuple[Made, ...] = (end(ONE, platform.node().lower(), **condition), end(TWO, "other"))
    path.write_text(yaml.safe_dump_all([service, ending(*ends, ports=[{"name": "http", "port": 80}])]))
    return path


def answers(site: Site, address: str, port: int = 80) -> set[str]:
    """Who answers forty requests."""
    with Customer(site.client, address, port) as customer:
        wait("answers", lambda: len(customer.answers) >= 40)
    return customer.since(0)


def test_by_every_address(site: Site, tmp_path: Path) -> None:
    with serving(site.backends[0], ONE), serving(site.backends[1], TWO):
        site.attach(write(tmp_path / "services.yaml"))
        assert answers(site, VIP) == answers(site, EXTERNAL) == answers(site, NODE, 30080) == {ONE, TWO}


def test_policy_local(site: Site, tmp_path: Path) -> None:
    """From outside only the endpoints of this node answer."""
    with serving(site.backends[0], ONE), serving(site.backends[1], TWO):
        site.attach(write(tmp_path / "services.yaml", local=True))
        assert answers(site, EXTERNAL) == answers(site, NODE, 30080) == {ONE}
        assert answers(site, VIP) == {ONE, TWO}


def test_an_endpoint_that_is_terminating(site: Site, tmp_path: Path) -> None:
    """Where there is another it gets no new connections; alone on its node it does, by policy Local."""
    path = tmp_path / "services.yaml"
    with serving(site.backends[0], ONE), serving(site.backends[1], TWO):
        site.attach(write(path))
        assert answers(site, VIP) == {ONE, TWO}
        site.pydp("service", "replace", str(write(path, local=True, one=False)))
        assert answers(site, VIP) == {TWO}
        assert answers(site, EXTERNAL) == {ONE}


@pytest.mark.parametrize(("local", "seen"), [(False, "10.0.1.1"), (True, "10.0.0.2")])
def test_who_the_client_is(local: bool, seen: str, site: Site, tmp_path: Path) -> None:
    """Behind external addresses it is this host, unless the policy is Local."""
    with serving(site.backends[0], ONE) as server, serving(site.backends[1], TWO):
        site.attach(write(tmp_path / "services.yaml", local=local))
        answers(site, EXTERNAL)
        assert server.clients == {seen}
        server.clients.clear()
        answers(site, VIP)
        assert server.clients == {"10.0.0.2"}


def test_a_file_that_is_wrong_changes_nothing(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    with serving(site.backends[0], ONE), serving(site.backends[1], TWO):
        site.attach(write(path))
        text = path.read_text()
        path.write_text(text.replace("port: 80\n", "port: 80000\n", 1))
        before = site.pydp("service", "show", "-j")
        said = site.pydp("service", "replace", str(path), status=2)
        assert "document 1 (Service default/web): spec.ports[0].port: 80000 is not between 1 and 65535" in said
        assert site.pydp("service", "show", "-j") == before
        assert answers(site, VIP) == {ONE, TWO}


def test_the_node_is_told(site: Site, tmp_path: Path) -> None:
    """By policy Local the endpoints of that node answer, whatever this host is called."""
    path = write(tmp_path / "services.yaml", local=True)
    with serving(site.backends[0], ONE), serving(site.backends[1], TWO):
        words = ("--hook", "tc", "--services", str(path), "--node", "other")
        site.pydp("attach", "--mode", "nat", *words, "v0", "v1", "v2")
        assert answers(site, EXTERNAL) == {TWO}
        site.pydp("service", "replace", str(path), "--node", platform.node().lower())
        assert answers(site, EXTERNAL) == {ONE}
        site.pydp("service", "replace", str(path), "--node", "third")
        with site.client.socket() as sock:
            sock.settimeout(1)
            with pytest.raises(TimeoutError):  # dropped, not refused
                sock.connect((EXTERNAL, 80))
        assert answers(site, VIP) == {ONE, TWO}
