# SPDX-License-Identifier: Apache-2.0
"""What a user sees of mode vxlan: the verbs as they are typed, between a node with pydp and one with the kernel's own
tunnel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydp.lab import Nodes, ping
from tests.system.cli import ok, ok_json, pydp, refused

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

ADDED = "02:aa:00:00:00:01"
COMPANION = "pydp-vx4789"


def ours(nodes: Nodes) -> tuple[str, str]:
    """Where pydp runs: node 0."""
    return "-n", nodes[0].ns.name


@pytest.fixture(scope="module")
def wire(module_nodes: Callable[..., Nodes]) -> Nodes:
    """Two nodes with two containers each; on node 1 the kernel has VNI 100 with the first and 200 with the second."""
    made = module_nodes(2, 2, direct=True)
    for vni, port in ((100, "p0"), (200, "p1")):
        made.kernel_vxlan(made[1], vni, ports=[port])
    return made


@pytest.fixture
def net(wire: Nodes) -> Iterator[Nodes]:
    """The same, with nothing attached; what a test attached is detached."""
    pydp(*ours(wire), "detach", "--all")
    yield wire
    pydp(*ours(wire), "detach", "--all")


def attach_words(net: Nodes, *more: str) -> tuple[str, ...]:
    near, far = net[0], net[1]
    ends = ("--local", near.address4, "--remote", far.address4)
    return ("attach", "--mode", "vxlan", "--vni", "100", *ends, "--port", "p0", *more, "eth0")


def config(net: Nodes, path: Path) -> str:
    """Both VNIs, the second with one VTEP more."""
    far = net[1].address4
    path.write_text(
        f'mode = "vxlan"\ninterfaces = ["eth0"]\n\n[[vxlan]]\nvni = 100\nlocal = "{net[0].address4}"\n'
        f'remote = ["{far}"]\nport = ["p0"]\n\n[[vxlan]]\nvni = 200\nremote = ["{far}", "192.0.2.77"]\nport = ["p1"]\n'
    )
    return str(path)


@pytest.fixture(scope="module")
def both(wire: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """An instance with both VNIs, and some pings in each: the first packet of each CPU goes by the kernel."""
    ok(*ours(wire), "attach", "--config", config(wire, tmp_path_factory.mktemp("vxlan") / "both.toml"))
    for near, far in zip(wire[0].containers, wire[1].containers, strict=True):
        assert ping(near.ns, far.address4, count=8, interval=0.01).received == 8
    yield wire
    pydp(*ours(wire), "detach", "--all")  # unless another test has done so


def mac(nodes: Nodes, node: int, container: int) -> str:
    return nodes[node].containers[container].mac


# With both VNIs; these come first, since the instance lasts for the module until it is detached.


def test_the_json_of_status(both: Nodes) -> None:
    (one,) = ok_json(*ours(both), "status", "--json")["instances"]
    assert set(one) == {
        "name", "mode", "hook", "asked", "why", "hooks", "adopted", "companion", "counters", "options", "created",
        "comparison", "ports", "packets", "maps", "fdb", "segments", "tunnels",
    }  # fmt: skip
    assert (one["name"], one["mode"], one["adopted"], one["companion"]) == ("vxlan", "vxlan", None, COMPANION)
    assert [(port["device"], port["role"], port["state"]) for port in one["ports"]] == [
        ("eth0", "underlay", "running"), ("p0", "port", "running"), ("p1", "port", "running"),
        (COMPANION, "companion", "running"),
    ]  # fmt: skip
    assert one["segments"] == [{"vni": 100, "ports": ["p0"]}, {"vni": 200, "ports": ["p1"]}]
    assert all(set(tunnel) == {"vni", "remote", "group", "sent", "received"} for tunnel in one["tunnels"])
    tunnels = {(tunnel["vni"], tunnel["remote"]): tunnel for tunnel in one["tunnels"]}
    assert set(tunnels) == {(100, "192.0.2.2"), (200, "192.0.2.2"), (200, "192.0.2.77")}
    for vni in (100, 200):
        near = tunnels[vni, "192.0.2.2"]
        # The question for the address and two requests, the answer and two replies.
        assert near["sent"]["packets"] >= 3
        assert near["received"]["packets"] >= 3
        assert near["sent"]["bytes"] >= 42 + 2 * 98
        assert near["group"] is False
    silent = tunnels[200, "192.0.2.77"]
    assert silent["sent"]["packets"] >= 1  # the question
    assert silent["received"] == {"packets": 0, "bytes": 0}


def test_the_text_of_status(both: Nodes) -> None:
    lines = ok(*ours(both), "status", "vxlan").splitlines()
    assert lines[0] == "vxlan: mode vxlan, 3 ports"
    assert lines[1].startswith("  hook tc: eth0 is a veth")
    assert lines[2] == f"  companion {COMPANION}: sends and takes what is left to the kernel"
    assert re.match(r"  packets: forward \d+, flood \d+, punt \d+, drop 0, pass \d+$", lines[3])
    assert re.match(r"  fdb: 6 of 65536 addresses, 2 of them do not age; learned 4, ", lines[4])
    assert re.match(r"  map vxlan_fates: \d+ of 65536 entries$", lines[5])
    words = [line.split() for line in lines[6:]]
    assert words[0] == ["PORT", "ROLE", "HOOK", "PROGRAM", "STATE"]
    assert [(line[0], line[1], line[4]) for line in words[1:5]] == [
        ("eth0", "underlay", "running"), ("p0", "port", "running"), ("p1", "port", "running"),
        (COMPANION, "companion", "running"),
    ]  # fmt: skip
    assert words[5:8] == [["VNI", "PORTS"], ["100", "p0"], ["200", "p1"]]
    assert words[8] == ["VNI", "VTEP", "SENT", "BYTES", "SENT", "RECEIVED", "BYTES", "RECEIVED"]
    assert [line[:2] for line in words[9:]] == [["100", "192.0.2.2"], ["200", "192.0.2.2"], ["200", "192.0.2.77"]]


def test_stats_count_each_way_by_vtep(both: Nodes) -> None:
    (one,) = ok_json(*ours(both), "stats", "--json")["instances"]
    assert all(set(row) == {"vni", "remote", "direction", "packets", "bytes"} for row in one["tunnels"])
    shown = {(row["vni"], row["remote"], row["direction"]): row["packets"] for row in one["tunnels"]}
    (status,) = ok_json(*ours(both), "status", "--json")["instances"]
    for tunnel in status["tunnels"]:
        for direction, key in (("send", "sent"), ("receive", "received")):
            assert shown.get((tunnel["vni"], tunnel["remote"], direction), 0) == tunnel[key]["packets"]
    text = ok(*ours(both), "stats", "vxlan")
    assert "VNI  VTEP" in text
    assert re.search(r"^ *100 +192\.0\.2\.2 +send +\d+ +\d+$", text, re.MULTILINE)
    assert re.search(r"^p0 +tc +forward +encap +\d+ +\d+ +encapsulated", text, re.MULTILINE)


def test_fdb_shows_vnis_and_vteps(both: Nodes) -> None:
    lines = set(ok(*ours(both), "fdb").splitlines())
    assert lines >= {
        f"{mac(both, 0, 0)} dev p0 vni 100 master vxlan",
        f"{mac(both, 0, 1)} dev p1 vni 200 master vxlan",
        f"{mac(both, 1, 0)} dev eth0 dst 192.0.2.2 vni 100 master vxlan",
        f"{mac(both, 1, 1)} dev eth0 dst 192.0.2.2 vni 200 master vxlan",
    }
    assert len(lines) == 6  # and the addresses of the two ports
    for words, number in (
        (("vni", "100"), 3), (("--vni", "200"), 3), (("dst", "192.0.2.2"), 2), (("dst", "192.0.2.77"), 0),
        (("dev", "p0"), 2), (("dev", "eth0"), 2), (("dst", "192.0.2.2", "vni", "200"), 1),
    ):  # fmt: skip
        assert len(ok(*ours(both), "fdb", "show", *words).splitlines()) == number, words
    (entry,) = ok_json(*ours(both), "fdb", "show", "dst", "192.0.2.2", "vni", "100", "--json")["entries"]
    assert 0 <= entry.pop("updated") < 60
    assert entry == {
        "mac": mac(both, 1, 0), "ifname": "eth0", "dst": "192.0.2.2", "vni": 100, "flags": [], "master": "vxlan",
        "state": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("add", ADDED), "dev"),
        (("add", ADDED, "--dst", "192.0.2.2", "--dev", "p0"), "not both"),
        (("add", ADDED, "dst", "192.0.2.99"), "--dst 192.0.2.99: no VTEP of vxlan"),
        (("add", ADDED, "dst", "192.0.2.77", "vni", "100"), "--dst 192.0.2.77: no VTEP of vxlan in VNI 100"),
        (("add", ADDED, "dst", "here"), "--dst here: not an IP address"),
        (("add", ADDED, "dst", "192.0.2.2"), "several VNIs"),
        (("add", ADDED, "dst", "192.0.2.2", "vni", "300"), "--vni 300: vxlan has no such VNI"),
        (("add", ADDED, "dev", "p0", "vni", "200"), "--vni 200: p0 is a port of VNI 100"),
        (("add", ADDED, "dev", "p0", "vni", "many"), "--vni many"),
        (("add", ADDED, "dev", "p0", "vlan", "5"), "--vlan 5: vxlan is of mode vxlan and has VNIs"),
        (("add", ADDED, "dev", "eth0"), "eth0: it is the underlay"),
        (("add", ADDED, "dev", COMPANION), f"{COMPANION}: it is the companion"),
        (("show", "vlan", "5"), "--vlan 5"),
        (("show", "vni", "300"), "--vni 300"),
        (("flush", "dst", "192.0.2.99"), "--dst 192.0.2.99"),
    ],
)
def test_wrong_words_to_fdb_are_named(both: Nodes, words: tuple[str, ...], what: str) -> None:
    assert what in refused(*ours(both), "fdb", *words, status=2).splitlines()[0]


def test_fdb_add_del_and_flush_keep_to_their_vni(both: Nodes) -> None:
    at = (*ours(both), "fdb")

    def shown(*words: str) -> list[str]:
        return [line for line in ok(*at, "show", *words).splitlines() if line.startswith("02:aa:")]

    far = ("dst", "192.0.2.2", "vni", "200")
    assert ok(*at, "add", ADDED, *far, "--dry-run") == f"{ADDED} {' '.join(far)} would be added to vxlan\n"
    assert shown() == []
    assert ok(*at, "add", ADDED, *far) == ""
    assert ok(*at, "add", ADDED, "dev", "p0", "sticky") == ""
    behind = f"{ADDED} dev eth0 dst 192.0.2.2 vni 200 master vxlan static"
    assert shown() == [f"{ADDED} dev p0 vni 100 sticky master vxlan static", behind]
    assert "vni 200 would be deleted" in ok(*at, "del", ADDED, "vni", "200", "--dry-run")
    assert ok(*at, "del", ADDED, "dev", "p0") == ""
    assert shown() == [behind]
    assert f"{ADDED} vni 100 is not in the FDB" in refused(*at, "del", ADDED, "vni", "100", status=1)

    # Index 1 is a slot (that of p0) and also a VTEP: neither must take the other's addresses along.
    assert ok(*at, "flush", "dst", "192.0.2.2", "vni", "200", "--dry-run") == "1 address would be deleted from vxlan\n"
    assert ok(*at, "flush", "dst", "192.0.2.2", "vni", "200") == "1 address deleted from vxlan\n"
    assert ok(*at, "flush", "dev", "p0") == "1 address deleted from vxlan\n"
    assert ok(*at, "flush", "dev", "p1", "vni", "100") == "0 addresses deleted from vxlan\n"
    assert shown() == [behind]
    assert ok(*at, "flush", "vni", "200", "--static") == "2 addresses deleted from vxlan\n"  # p1's and the added one
    assert ok(*at, "flush", "dst", "192.0.2.2") == "1 address deleted from vxlan\n"
    assert {line.split()[-1] for line in ok(*at).splitlines()} == {"permanent"}


# Each with an instance of its own


def test_attach_says_what_it_did_and_detach_leaves_nothing(net: Nodes) -> None:
    at, near = ours(net), net[0].ns
    before = near.run(["ip", "-br", "link"]).stdout
    said = ok(*at, *attach_words(net, "--dry-run"))
    assert said.splitlines()[0] == "vxlan: would be attached, mode vxlan, 2 ports (eth0 p0)"
    refused(*at, "status", status=3)
    assert near.run(["ip", "-br", "link"]).stdout == before
    assert ok(*at, *attach_words(net)).splitlines()[0] == "vxlan: attached, mode vxlan, 2 ports (eth0 p0)"
    assert COMPANION in near.run(["ip", "-br", "link"]).stdout
    assert ok(*at, *attach_words(net)).splitlines()[0] == "vxlan: replaced, mode vxlan, 2 ports (eth0 p0)"
    assert ok(*at, "detach", "vxlan") == "vxlan: detached\n"
    assert near.run(["ip", "-br", "link"]).stdout == before


def test_what_is_added_is_where_frames_go(net: Nodes) -> None:
    """Without learning nobody else tells which VTEP a container is behind."""
    at = ours(net)
    ok(*at, *attach_words(net, "--no-learning"))
    near, far = net[0].containers[0], net[1].containers[0]

    def encapsulated() -> int:
        (one,) = ok_json(*at, "stats", "--json")["instances"]
        rows = [row["packets"] for row in one["verdicts"] if (row["kind"], row["reason"]) == ("forward", "encap")]
        return sum(rows)

    assert ping(near.ns, far.address4, count=3, interval=0.01).received == 3
    assert encapsulated() == 0  # every frame was copied to all VTEPs by the kernel
    assert f" dst {net[1].address4} " not in ok(*at, "fdb")
    ok(*at, "fdb", "add", far.mac, "--dst", net[1].address4)
    assert ping(near.ns, far.address4, count=10, interval=0.01).received == 10
    assert encapsulated() >= 8  # but for one that the kernel is shown


def test_an_adopted_device_and_its_bridge(net: Nodes) -> None:
    at, near = ours(net), net[0]
    said = refused(*at, "attach", "--mode", "vxlan", "eth0", status=2)
    assert "--vni N" in said
    assert "ip link add" in said
    net.kernel_vxlan(near, 100, ports=["p0"])
    try:
        assert ok(*at, "attach", "--mode", "vxlan", "eth0").splitlines()[0] == (
            "vx100: attached, mode vxlan, 2 ports (eth0 p0)"
        )
        assert ping(near.containers[0].ns, net[1].containers[0].address4, count=2, interval=0.01).received == 2
        (one,) = ok_json(*at, "status", "--json")["instances"]
        assert (one["adopted"], one["companion"]) == ("vx100", COMPANION)
        assert [(port["device"], port["role"]) for port in one["ports"]] == [("eth0", "underlay"), ("p0", "port")]
        assert one["segments"] == [{"vni": 100, "ports": ["p0"]}]
        assert [(tunnel["vni"], tunnel["remote"]) for tunnel in one["tunnels"]] == [(100, net[1].address4)]
        assert "  companion pydp-vx4789: routes are looked up by it\n" in ok(*at, "status")
        bridge = json.loads(near.ns.run(["ip", "-j", "link", "show", "br100"]).stdout)[0]["address"]
        shown = ok(*at, "fdb", "show", "vni", "100")
        assert f"{mac(net, 0, 0)} dev p0 vni 100 master vx100\n" in shown
        assert f"{bridge} dev vx100 vni 100 master vx100 permanent\n" in shown
        ok(*at, "detach", "vx100")
        assert COMPANION not in near.ns.run(["ip", "-br", "link"]).stdout
    finally:
        pydp(*at, "detach", "--all")
        net.kernel_down(near)


def test_words_of_mode_vxlan_are_none_of_a_bridge(net: Nodes) -> None:
    at = ours(net)
    ok(*at, "attach", "--mode", "bridge", "p0", "p1")
    for words, what in (
        (("show", "vni", "5"), "--vni 5: bridge is of mode bridge and has VLANs"),
        (("flush", "dst", "192.0.2.2"), "--dst 192.0.2.2: bridge is of mode bridge and has no VTEPs"),
        (("add", ADDED, "dst", "192.0.2.2"), "--dst 192.0.2.2: bridge is of mode bridge"),
    ):
        assert what in refused(*at, "fdb", *words, status=2)
    found: Any = ok_json(*at, "status", "--json")["instances"][0]
    assert found["companion"] is None
    assert not {"segments", "tunnels"} & set(found)
