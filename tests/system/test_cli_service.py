# SPDX-License-Identifier: Apache-2.0
"""What a user sees of services: the verbs as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydp.lab import Namespace, Segment
from tests.system.cli import ok, ok_json, pydp, refused
from tests.system.served import answers

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

WEB = "tcp:10.96.0.1:80=10.0.1.2:8080*3,10.0.1.3:8080"
FILE = """
[[service]]
name = "web"
frontend = "tcp:10.96.0.1:80"
backends = ["10.0.1.2:8080*3", "10.0.1.9:8080"]

[[service]]
frontend = "udp:[fd00::1]:53"
backends = "[fd00::2]:53"
"""


@pytest.fixture(scope="module")
def switch(module_segment: Callable[..., Segment]) -> Namespace:
    return module_segment(2).sw


@pytest.fixture(scope="module")
def attached(switch: Namespace) -> Iterator[Namespace]:
    """A namespace with an instance."""
    ok("-n", switch.name, "attach", "--mode", "nat", "--hook", "tc", "p0", "p1")
    yield switch
    pydp("-n", switch.name, "detach", "--all")


@pytest.fixture
def net(attached: Namespace, tmp_path: Path) -> Namespace:
    """The same, with the service web alone."""
    (tmp_path / "none.toml").write_text("")
    ok("-n", attached.name, "service", "replace", str(tmp_path / "none.toml"))
    ok("-n", attached.name, "service", "add", WEB, "--name", "web")
    return attached


def do(net: Namespace, *words: str) -> str:
    return ok("-n", net.name, *words)


def no(net: Namespace, *words: str, status: int = 2) -> str:
    return refused("-n", net.name, *words, status=status)


def test_add_set_and_delete(net: Namespace) -> None:
    words = ("--scheduler", "maglev", "--table-size", "251", "--affinity", "60", "--frontend", "tcp:any:30080")
    assert (
        do(net, "service", "add", "tcp:10.96.0.2:80=10.0.1.2:80", "--name", "x", *words) == "service x added to nat\n"
    )
    assert do(net, "service", "add", "tcp:8080=80", "udp:53=5353").count("added to nat") == 2
    assert net.call(answers) == {
        "web": ["10.0.1.2:8080*3", "10.0.1.3:8080"],
        "x": ["10.0.1.2:80"],
        "tcp:any:8080": ["80"],
        "udp:any:53": ["5353"],
    }
    do(net, "service", "set", "tcp:any:30080", "--masquerade", "--health", "http:/well", "--interval", "1")
    do(net, "service", "set", "x", "--fall", "9")
    (found,) = ok_json("-n", net.name, "service", "show", "x", "-j")["services"]
    assert (found["scheduler"], found["table_size"], found["affinity"]) == ("maglev", 251, 60.0)
    assert (found["masquerade"], found["dsr"], found["source"]) == (True, False, "cli")
    assert found["health"].items() >= {"kind": "http", "path": "/well", "interval": 1.0, "fall": 9, "rise": 2}.items()
    assert [one["port"] for one in found["frontends"]] == [80, 30080]
    assert "nothing to change" in do(net, "service", "set", "x", "--no-dsr")
    do(net, "service", "set", "x", "--health", "none", "--no-masquerade", "--frontend", "tcp:any:30081")
    (found,) = ok_json("-n", net.name, "service", "show", "tcp:30081", "-j")["services"]
    assert (found["health"], found["masquerade"]) == (None, False)
    assert do(net, "service", "del", "x", "tcp:any:8080", "--dry-run").count("would be deleted from nat") == 2
    assert do(net, "service", "del", "x", "tcp:any:8080").splitlines() == [
        "service x deleted from nat",
        "service tcp:any:8080 deleted from nat",
    ]
    assert net.call(answers).keys() == {"web", "udp:any:53"}


def test_backends(net: Namespace) -> None:
    do(net, "service", "add", "tcp:10.96.0.2:80=10.0.1.2:8080,10.0.1.4:1")
    do(net, "backend", "add", "web", "10.0.1.4:8080", "10.0.1.2:8080*9")
    assert net.call(answers)["web"] == ["10.0.1.2:8080*9", "10.0.1.3:8080", "10.0.1.4:8080"]
    assert do(net, "backend", "drain", "-", "10.0.1.2:8080", "--deadline", "60", "--then", "move").count("changed") == 2
    rows = ok_json("-n", net.name, "backend", "show", "-j")["backends"]
    draining = [one for one in rows if one["state"] == "draining"]
    assert [one["service"] for one in draining] == ["web", "tcp:10.96.0.2:80"]
    assert all((one["address"], one["port"], one["on_end"]) == ("10.0.1.2", 8080, "move") for one in draining)
    assert re.search(r"10\.0\.1\.2:8080 +draining +move in (60|5\d) s +9 ", do(net, "backend", "show", "web"))
    do(net, "backend", "add", "web", "10.0.1.2:8080")
    assert "1 draining" not in do(net, "service", "show").splitlines()[1]
    do(net, "backend", "del", "-", "10.0.1.2:8080", "--then", "move")
    assert net.call(answers) == {"web": ["10.0.1.3:8080", "10.0.1.4:8080"], "tcp:10.96.0.2:80": ["10.0.1.4:1"]}


def test_show(net: Namespace) -> None:
    head, line = do(net, "service", "show").splitlines()
    assert head.split() == ["SERVICE", "FRONTENDS", "BACKENDS", "SCHEDULER", "CONNECTIONS", "FAILED"]
    assert line.split() == ["web", "tcp:10.96.0.1:80", "2", "ready", "random", "0", "0"]
    first, second, *table = do(net, "service", "show", "web").splitlines()
    assert (first, second) == ("web: scheduler random, from cli", "  frontend tcp:10.96.0.1:80")
    assert [line.split()[:3] for line in table[1:]] == [
        ["10.0.1.2:8080", "ready", "3"],
        ["10.0.1.3:8080", "ready", "1"],
    ]
    do(net, "service", "del", "web")
    assert do(net, "service", "show") == do(net, "backend", "show") == ""
    assert ok_json("-n", net.name, "service", "show", "-j") == {"version": 1, "name": "nat", "services": []}


def test_replace(net: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(FILE)
    do(net, "service", "add", "tcp:10.96.0.7:80=10.0.1.2:8080")
    told = do(net, "service", "replace", str(path), "--dry-run")
    assert told == "nat: 2 services, would be 1 added, 1 changed, 1 deleted\n"
    assert do(net, "service", "replace", str(path)) == "nat: 2 services, 1 added, 1 changed, 1 deleted\n"
    assert do(net, "service", "replace", str(path)) == "nat: 2 services, nothing to change\n"
    assert net.call(answers) == {"web": ["10.0.1.2:8080*3", "10.0.1.9:8080"], "udp:[fd00::1]:53": ["[fd00::2]:53"]}
    path.write_text(FILE.replace("8080*3", "x"))
    assert f"{path}: service[0].backends: 10.0.1.2:x" in no(net, "service", "replace", str(path))


MANIFESTS = """
{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}
"""
HEADLESS = """---
{{apiVersion: v1, kind: Service, metadata: {{name: none{}}}, spec: {{clusterIP: None, ports: [{{port: 80}}]}}}}
"""


def test_what_manifests_hold_for_others_is_said(net: Namespace, tmp_path: Path) -> None:
    """And only that: it is no error. Of many the first ten."""
    path = tmp_path / "services.yaml"
    path.write_text(MANIFESTS.format() + "".join(HEADLESS.format(number) for number in range(12)))
    for words in (("service", "replace", str(path)), ("attach", "--mode", "nat", "--services", str(path), "p0", "p1")):
        done = pydp("-n", net.name, *words)
        assert done.returncode == 0
        first, *rest, last = done.stderr.splitlines()
        assert first == "pydp: note: Service default/none0: headless (clusterIP None), which is for DNS: skipped"
        assert (len(rest), last) == (9, "pydp: note: and 2 more like these")
        assert net.call(answers) == {"default/web": []}
    path.write_text(MANIFESTS.format())
    ok("-n", net.name, "service", "replace", str(path))


def test_nodes_are_those_of_manifests(net: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(FILE)
    said = no(net, "service", "replace", str(path), "--node", "a")
    assert f"--node a: {path} is no file of Kubernetes manifests" in said
    said = no(net, "attach", "--mode", "nat", "--node", "a", "p0", "p1")
    assert "node a: there are no manifests" in said
    assert net.call(answers).keys() == {"web"}


NONSENSE = (
    (("service", "add", "tcp:10.96.0.1:80=10.0.1.2:80"), "belongs to the services web and tcp:10.96.0.1:80"),
    (("service", "add", WEB, "--name", "web"), "service web is there already"),
    (("service", "add", "tcp:1=2", "tcp:3=4", "--name", "x"), "--name: for one service, and 2 are given"),
    (("service", "add", "tcp:1=2", "--table-size", "1"), "--table-size: 1 is not between"),
    (("service", "add", "tcp:1=2", "--scheduler", "rr"), "--scheduler: 'rr' is not one of random, maglev"),
    (("service", "add", "tcp:1=2", "--interval", "1"), "--health: which kind of probes?"),
    (("service", "add", "tcp:1=2", "--dsr"), "needs no encapsulation"),
    (("service", "set", "web"), "nothing to change was given"),
    (("service", "set", "wep", "--dsr"), "did you mean web?"),
    (("service", "del", "tcp:10.96.0.9:80"), "there is no service tcp:10.96.0.9:80"),
    (("backend", "add", "web", "10.0.1.2"), "10.0.1.2 is not a port"),
    (("backend", "add", "web", "[fd00::1]:80"), "is IPv6 and no frontend is"),
    (("backend", "add", "web", "10.0.1.9:1", "10.0.1.9:1*2"), "a backend is named twice"),
    (("backend", "del", "web", "10.0.1.2:81"), "10.0.1.2:81 is no backend of web"),
    (("backend", "drain", "-", "10.0.1.2:81"), "10.0.1.2:81 is a backend of no service"),
    (("backend", "drain", "web", "10.0.1.2:8080", "--deadline", "nan"), "--deadline nan: not a number of seconds"),
    (("service", "replace", "/nowhere.toml"), "service replace /nowhere.toml: No such file"),
)


def test_what_makes_no_sense(net: Namespace) -> None:
    for words, complaint in NONSENSE:
        assert complaint in no(net, *words), words
    assert net.call(answers) == {"web": ["10.0.1.2:8080*3", "10.0.1.3:8080"]}


def test_without_an_instance(namespace: Callable[..., Namespace]) -> None:
    here = namespace()
    for words in (("service", "show"), ("backend", "show"), ("service", "add", "tcp:1=2")):
        assert "no instance of mode nat" in no(here, *words, status=3)


def test_an_instance_of_another_mode(net: Namespace) -> None:
    do(net, "attach", "--mode", "count", "--name", "other", "--hook", "tc", "p0")
    assert "other is not an instance of mode nat" in no(net, "service", "show", "--instance", "other")
    assert do(net, "service", "show", "web", "--instance", "nat").startswith("web: ")
