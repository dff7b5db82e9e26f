# SPDX-License-Identifier: Apache-2.0
"""Each verb as a process: what it does, what it prints, which status it ends with."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pydp.lab import Namespace, Segment, ping
from tests.system.cli import COMMAND, ROOT, ok, ok_json, pydp, refused

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

HEAVY = ("bcc", "pyroute2", "prometheus_client", "cffi", "tabulate", "scapy", "pydp.datapath", "pydp.modes")
ADDED = "02:aa:00:00:00:01"


@pytest.fixture
def net(segment: Callable[..., Segment]) -> Iterator[Segment]:
    """Two containers on loose ports; what a test attached is detached."""
    made = segment(2)
    yield made
    pydp("-n", made.sw.name, "detach", "--all")


@pytest.fixture
def bridged(net: Segment) -> Segment:
    """The same, bridged by pydp, and one ping sent."""
    ok("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    assert ping(net[0].ns, net[1].address4, count=2, interval=0.01).received == 2
    return net


def add_filter(ns: Namespace, device: str) -> None:
    """Somebody else's filter: a classic BPF program that passes everything."""
    ns.run(["tc", "qdisc", "add", "dev", device, "clsact"])
    ns.run(["tc", "filter", "add", "dev", device, "ingress", "bpf", "bytecode", "1,6 0 0 0,"])


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = f"import sys, pydp.cli.main as m; m.main(['--help']); print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    # The processor time of the best of five: the machine may be busy with other things.
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = ok("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.15
    assert all(verb in text for verb in ("attach", "detach", "status", "stats", "fdb", "exporter", "doctor", "bench"))


@pytest.mark.parametrize("verb", ["attach", "detach", "status", "stats", "fdb", "exporter", "doctor"])
def test_every_verb_has_help(verb: str) -> None:
    assert ok(verb, "--help").startswith(f"usage: pydp {verb}")


def test_the_version() -> None:
    assert re.fullmatch(r"pydp \d+\.\d+\.\d+\n", ok("--version"))


def test_attach_says_what_it_did_and_why_and_detach_undoes_it(net: Segment) -> None:
    at = ("-n", net.sw.name)
    first, second = ok(*at, "attach", "--mode", "bridge", "p0", "p1").splitlines()
    assert first == "bridge: attached, mode bridge, 2 ports (p0 p1)"
    assert second.startswith("  hook tc: p0 is a veth")
    assert ping(net[0].ns, net[1].address4, count=2, interval=0.01).received == 2
    assert ok(*at, "attach", "--mode", "bridge", "--name", "bridge", "p0", "p1").startswith("bridge: replaced")
    assert ok(*at, "detach", "bridge") == "bridge: detached\n"
    refused(*at, "status", status=3)
    assert ping(net[0].ns, net[1].address4, count=1, wait=0.2).received == 0


def test_a_dry_run_changes_nothing(net: Segment) -> None:
    at = ("-n", net.sw.name)
    assert "would be attached" in ok(*at, "attach", "--mode", "bridge", "--dry-run", "p0", "p1")
    refused(*at, "status", status=3)
    found = ok_json(*at, "attach", "--mode", "bridge", "--dry-run", "--json", "p0", "p1")
    assert (found["action"], found["dry_run"]) == ("would be attached", True)
    ok(*at, "attach", "--mode", "bridge", "p0", "p1")
    before = ok_json(*at, "status", "--json")
    assert ok(*at, "detach", "--all", "--dry-run") == "bridge: would be detached\n"
    assert "would be replaced" in ok(*at, "attach", "--mode", "bridge", "--name", "bridge", "--dry-run", "p0", "p1")
    assert ok_json(*at, "status", "--json")["instances"][0]["ports"] == before["instances"][0]["ports"]


def test_a_dry_run_finds_what_would_be_in_the_way(net: Segment) -> None:
    add_filter(net.sw, "p1")
    for extra in ((), ("--dry-run",)):
        said = refused("-n", net.sw.name, "attach", "--mode", "bridge", *extra, "p0", "p1", status=1)
        assert "p1: tc is taken by filter bpf" in said
        assert "tc filter del dev p1 ingress" in said


def test_a_config_file_attaches(net: Segment, tmp_path: Any) -> None:
    path = tmp_path / "lan.toml"
    path.write_text('mode = "bridge"\nname = "lan"\ninterfaces = ["p0", "p1"]\n\n[bridge]\nageing = 7\n')
    found = ok_json("-n", net.sw.name, "attach", "--config", str(path), "--fdb-size", "128", "--json")
    assert found["action"] == "attached"
    assert found["instance"]["name"] == "lan"
    assert found["instance"]["options"] == {"ageing": 7.0, "fdb_size": 128}


def test_the_json_of_status(bridged: Segment) -> None:
    found = ok_json("-n", bridged.sw.name, "status", "--json")
    assert set(found) == {"version", "instances"}
    (one,) = found["instances"]
    assert set(one) == {
        "name", "mode", "hook", "asked", "why", "hooks", "adopted", "companion", "counters", "options", "created",
        "comparison", "ports", "packets", "maps", "fdb",
    }  # fmt: skip
    assert (one["name"], one["mode"], one["hook"], one["asked"], one["adopted"]) == (
        "bridge",
        "bridge",
        "tc",
        "auto",
        None,
    )
    assert [set(port) for port in one["ports"]] == [{"ifindex", "device", "slot", "role", "state", "programs"}] * 2
    assert [(port["device"], port["state"]) for port in one["ports"]] == [("p0", "running"), ("p1", "running")]
    assert {key for port in one["ports"] for program in port["programs"] for key in program} == {
        "hook",
        "id",
        "tag",
        "state",
    }
    assert set(one["packets"]) == {"forward", "flood", "punt", "drop", "pass"}
    assert all(set(count) == {"packets", "bytes"} for count in one["packets"].values())
    assert one["packets"]["forward"]["packets"] >= 4  # two requests, two replies
    assert set(one["fdb"]) == {"entries", "permanent", "capacity", "events"}
    assert (one["fdb"]["entries"], one["fdb"]["permanent"], one["fdb"]["capacity"]) == (4, 2, 65536)
    assert one["fdb"]["events"]["learned"] == 2


def test_the_text_of_status(bridged: Segment) -> None:
    lines = ok("-n", bridged.sw.name, "status", "bridge").splitlines()
    assert lines[0] == "bridge: mode bridge, 2 ports"
    assert lines[1].startswith("  hook tc: p0 is a veth")
    assert re.match(r"  packets: forward \d+, flood \d+, punt 0, drop 0, pass 0$", lines[2])
    assert lines[3].startswith("  fdb: 4 of 65536 addresses, 2 of them do not age; learned 2, ")
    assert lines[4].split() == ["PORT", "HOOK", "PROGRAM", "STATE"]
    assert [(line.split()[0], line.split()[3]) for line in lines[5:]] == [("p0", "running"), ("p1", "running")]


def test_ports_that_are_renamed_or_gone(bridged: Segment) -> None:
    for words in (("p0", "down"), ("p0", "name", "uplink"), ("uplink", "up")):
        bridged.sw.run(["ip", "link", "set", *words])
    bridged.sw.run(["ip", "link", "del", "p1"])
    at = ("-n", bridged.sw.name)
    ports = ok_json(*at, "status", "--json")["instances"][0]["ports"]
    assert [(port["device"], port["state"]) for port in ports] == [("uplink", "running"), ("p1", "gone")]
    assert "port gone" in ok(*at, "status")
    ok(*at, "fdb", "add", ADDED, "dev", "uplink")
    assert f"{ADDED} dev uplink master bridge static" in ok(*at, "fdb")
    assert ok(*at, "detach", "bridge") == "bridge: detached\n"


def test_stats_name_every_verdict_with_its_meaning(bridged: Segment) -> None:
    at = ("-n", bridged.sw.name)
    found = ok_json(*at, "stats", "--json")
    assert set(found) == {"version", "instances"}
    (one,) = found["instances"]
    assert set(one) == {"name", "mode", "hook", "counters", "verdicts"}
    assert {key for row in one["verdicts"] for key in row} == {
        "device", "ifindex", "hook", "kind", "reason", "what", "packets", "bytes",
    }  # fmt: skip
    forwarded = {row["device"]: row for row in one["verdicts"] if (row["kind"], row["reason"]) == ("forward", "port")}
    assert forwarded["p0"]["packets"] >= 2
    assert forwarded["p0"]["what"] == "sent out of one port"
    lines = ok(*at, "stats", "bridge").splitlines()
    assert lines[0] == "bridge: mode bridge, hook tc"
    assert lines[1].split() == ["PORT", "HOOK", "VERDICT", "REASON", "PACKETS", "BYTES", "MEANING"]
    assert any(line.split()[:4] == ["p0", "tc", "forward", "port"] for line in lines[2:])


def test_stats_of_mode_count_show_its_kinds(bridged: Segment) -> None:
    at = ("-n", bridged.sw.name)
    ok(*at, "attach", "--mode", "count", "p0")
    assert ping(bridged[0].ns, bridged[1].address4, count=3, interval=0.01).received == 3
    (one,) = [one for one in ok_json(*at, "stats", "--json")["instances"] if one["name"] == "count"]
    kinds = {row["kind"]: row for row in one["kinds"]}
    assert kinds["icmp"]["packets"] == 3
    assert kinds["icmp"]["device"] == "p0"
    assert "ICMP and ICMPv6" in ok(*at, "stats", "count")


def test_no_counters_is_told(net: Segment) -> None:
    at = ("-n", net.sw.name)
    ok(*at, "attach", "--mode", "bridge", "--no-counters", "p0", "p1")
    assert ping(net[0].ns, net[1].address4, count=1).received == 1
    assert ok_json(*at, "status", "--json")["instances"][0]["counters"] is False
    assert "not counted" in ok(*at, "status")
    assert ok(*at, "stats") == "bridge: mode bridge, hook tc, attached with --no-counters\n"


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], cwd=ROOT, text=True, **options)


def test_watch_prints_blocks_into_a_pipe_until_interrupted(bridged: Segment) -> None:
    watch = start("-n", bridged.sw.name, "stats", "--watch", "0.2", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watch.stdout
    lines = []
    with watch:
        while lines.count("bridge: mode bridge, hook tc\n") < 3:
            lines.append(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130
        assert watch.stderr
        assert watch.stderr.read() == ""
    assert "\x1b" not in "".join(lines)
    assert lines[1].split() == ["PORT", "HOOK", "VERDICT", "REASON", "PACKETS/S", "BITS/S", "PACKETS", "BYTES"]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_watch_redraws_a_terminal_and_colours_it_unless_told(bridged: Segment, no_color: str, coloured: bool) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    watch = start("-n", bridged.sw.name, "stats", "--watch", "0.1", stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    text = b""
    deadline = time.monotonic() + 20
    while text.count(b"\x1b[H") < 3 and time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            text += os.read(ours, 65536)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(10) == 130
    os.close(ours)
    assert text.count(b"\x1b[H") >= 3
    assert (b"\x1b[1mbridge\x1b[0m" in text) is coloured


def pictures(ours: int, done: Callable[[list[str]], bool]) -> list[str]:
    """What a terminal is told to show, picture by picture, until that is enough."""
    text, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            text += os.read(ours, 65536)
        whole = text.decode(errors="replace").replace("\r", "").split("\x1b[H")[1:]
        found = [one.removesuffix("\x1b[J").replace("\x1b[K", "") for one in whole if one.endswith("\x1b[J")]
        if done(found):
            return found
    raise AssertionError(f"{text!r}")


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def test_watch_follows_the_window(bridged: Segment) -> None:
    """Seconds before the next reading, the picture fits a window that has become smaller, and fills a larger one."""
    ours, theirs = pty.openpty()
    resize(ours, 24, 100)
    words = [*COMMAND, "-n", bridged.sw.name, "stats", "--watch", "3"]
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    for name in ("LINES", "COLUMNS"):
        env.pop(name, None)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    watch = subprocess.Popen(words, cwd=ROOT, stdout=theirs, stderr=theirs, env=env, preexec_fn=own_terminal)
    os.close(theirs)
    try:
        (whole,) = pictures(ours, lambda found: len(found) == 1)
        assert max(map(len, whole.splitlines())) > 60
        assert len(whole.splitlines()) > 3
        begun = time.monotonic()
        resize(ours, 4, 30)
        (small,) = pictures(ours, lambda found: len(found) == 1)
        assert small.splitlines() == [line[:30] for line in whole.splitlines()[:3]]
        resize(ours, 24, 100)
        assert pictures(ours, lambda found: len(found) == 1) == [whole]
        assert time.monotonic() - begun < 2.5, "it was drawn again only when it was read again"
    finally:
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130
        os.close(ours)


def test_fdb_prints_what_bridge_prints(bridged: Segment, namespace: Callable[..., Namespace]) -> None:
    """The same entries in a kernel bridge give the same lines but for the name of the bridge."""
    at = ("-n", bridged.sw.name)
    twin = namespace()
    for words in (("br0", "type", "bridge"), ("p0", "type", "veth", "peer", "name", "e0"), ("p1", "type", "veth")):
        twin.run(["ip", "link", "add", *words])
    for port in ("p0", "p1"):
        twin.run(["ip", "link", "set", port, "master", "br0"])
    entries = ((ADDED, "p0", ()), ("02:aa:00:00:00:02", "p1", ("sticky",)))
    for mac, port, more in entries:
        ok(*at, "fdb", "add", mac, "dev", port, *more)
        twin.run(["bridge", "fdb", "add", mac, "dev", port, "master", "static", *more])
    kernel = sorted(
        line.strip() for line in twin.run(["bridge", "fdb"]).stdout.splitlines() if line.startswith("02:aa:")
    )
    ours = [line for line in ok(*at, "fdb").splitlines() if line.startswith("02:aa:")]
    assert ours == [line.replace("master br0", "master bridge") for line in kernel]


def test_fdb_states_are_those_of_iproute2(bridged: Segment) -> None:
    at = ("-n", bridged.sw.name)
    ok(*at, "fdb", "add", ADDED, "--dev", "p1", "--sticky")
    found = ok_json(*at, "fdb", "show", "--json")
    assert set(found) == {"version", "name", "entries"}
    entries = {one["mac"]: one for one in found["entries"]}
    assert entries[ADDED] == {"mac": ADDED, "ifname": "p1", "flags": ["sticky"], "master": "bridge", "state": "static"}
    learned = entries[bridged[0].mac]
    assert {key: learned[key] for key in ("ifname", "flags", "state")} == {"ifname": "p0", "flags": [], "state": ""}
    assert 0 <= learned["updated"] < 60
    assert [one["state"] for one in entries.values()].count("permanent") == 2  # the ports' own
    assert f"{bridged[0].mac} dev p0 master bridge\n" in ok(*at, "fdb", "show")


def test_fdb_del_flush_and_their_dry_runs(bridged: Segment) -> None:
    at = ("-n", bridged.sw.name, "fdb")
    assert "would be added" in ok(*at, "add", ADDED, "dev", "p0", "--dry-run")
    assert ADDED not in ok(*at)
    assert ok(*at, "add", ADDED, "dev", "p0") == ""
    assert "would be deleted" in ok(*at, "del", ADDED, "--dry-run")
    assert ok(*at, "flush", "dev", "p1", "--dry-run") == "1 address would be deleted from bridge\n"
    assert ok(*at, "flush", "--static", "--dry-run") == "3 addresses would be deleted from bridge\n"
    assert ok(*at, "show", "dev", "p1").count("\n") == 2
    assert ok(*at, "flush", "dev", "p1") == "1 address deleted from bridge\n"
    assert ok(*at, "flush") == "1 address deleted from bridge\n"
    assert ADDED in ok(*at)
    assert ok(*at, "del", ADDED, "dev", "p0") == ""
    assert ADDED in refused(*at, "del", ADDED, status=1)


def test_of_several_fdbs_the_port_tells_which(segment: Callable[..., Segment]) -> None:
    made = segment(4)
    where = ("-n", made.sw.name)
    ok(*where, "attach", "--mode", "bridge", "--name", "one", "p0", "p1")
    ok(*where, "attach", "--mode", "bridge", "--name", "two", "p2", "p3")
    try:
        ok(*where, "fdb", "add", ADDED, "dev", "p3")
        assert f"{ADDED} dev p3 master two static" in ok(*where, "fdb", "show", "--name", "two")
        assert ADDED in ok(*where, "fdb", "show", "dev", "p3")
        assert ADDED not in ok(*where, "fdb", "show", "--name", "one")
        assert "one, two" in refused(*where, "fdb", "show", status=2)
        assert "eth9 is a port of none" in refused(*where, "fdb", "show", "dev", "eth9", status=2)
        ok(*where, "fdb", "del", ADDED, "dev", "p3")
        assert ADDED not in ok(*where, "fdb", "show", "dev", "p3")
    finally:
        ok(*where, "detach", "--all")


def test_fdb_of_vlans(net: Segment) -> None:
    at = ("-n", net.sw.name)
    words = ("--vlan-filtering", "--vlan", "p0=10-11", "--vlan", "p1=10:pvid:untagged")
    ok(*at, "attach", "--mode", "bridge", *words, "p0", "p1")
    ok(*at, "fdb", "add", ADDED, "dev", "p0", "vlan", "10")
    assert f"{ADDED} dev p0 vlan 10 master bridge static\n" in ok(*at, "fdb", "show", "vlan", "10")
    ok(*at, "fdb", "del", ADDED)
    ok(*at, "fdb", "add", ADDED, "dev", "p0")  # as with the kernel: in all VLANs of the port
    found = ok_json(*at, "fdb", "show", "--json")["entries"]
    assert [one["vlan"] for one in found if one["mac"] == ADDED] == [1, 10, 11]
    assert "not a member" in refused(*at, "fdb", "add", ADDED, "dev", "p1", "vlan", "11", status=2)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("add",), "MAC"),
        (("add", "02:zz:00:00:00:01", "dev", "p0"), "02:zz:00:00:00:01"),
        (("add", "01:00:5e:00:00:01", "dev", "p0"), "01:00:5e:00:00:01"),
        (("add", ADDED), "dev"),
        (("add", ADDED, "dev"), "dev"),
        (("add", ADDED, "dev", "eth9"), "eth9"),
        (("add", ADDED, "dev", "p0", "permanent"), "permanent"),
        (("add", ADDED, "dev", "p0", "nosuch"), "nosuch"),
        (("add", ADDED, "dev", "p0", "vlan", "4095"), "4095"),
        (("add", ADDED, "dev", "p0", "vlan", "ten"), "ten"),
        (("add", ADDED, "dev", "p0", "vlan", "10"), "--vlan 10"),  # this bridge keeps no VLANs apart
        (("show", "dev", "eth9"), "eth9"),
        (("flush", "dev", "eth9"), "eth9"),
    ],
)
def test_wrong_words_to_fdb_are_named(module_bridged: str, words: tuple[str, ...], what: str) -> None:
    assert what in refused("-n", module_bridged, "fdb", *words, status=2).splitlines()[0]


@pytest.fixture(scope="module")
def module_bridged(module_segment: Callable[..., Segment]) -> Iterator[str]:
    """Name of a namespace with an instance that tests do not change."""
    sw = module_segment(2).sw.name
    ok("-n", sw, "attach", "--mode", "bridge", "p0", "p1")
    yield sw
    ok("-n", sw, "detach", "--all")


@pytest.mark.parametrize(
    "words",
    [("status", "nosuch"), ("stats", "nosuch"), ("detach", "nosuch"), ("detach", "bridge", "nosuch", "--dry-run"),
     ("fdb", "show", "--name", "nosuch"), ("stats", "nosuch", "--watch", "0.1")],
)  # fmt: skip
def test_an_unknown_instance_is_3_and_named(module_bridged: str, words: tuple[str, ...]) -> None:
    assert "nosuch" in refused("-n", module_bridged, *words, status=3)


@pytest.mark.parametrize("words", [("status",), ("stats",), ("detach", "--all"), ("fdb", "show"), ("fdb", "flush"),
                                   ("tunnel",), ("tunnel", "show")])  # fmt: skip
def test_nothing_attached_is_3(namespace: Callable[..., Namespace], words: tuple[str, ...]) -> None:
    refused("-n", namespace().name, *words, status=3)


@pytest.mark.parametrize("words", [("status",), ("stats",), ("tunnel", "show")])
def test_without_anything_there_is_still_json(namespace: Callable[..., Namespace], words: tuple[str, ...]) -> None:
    done = pydp("-n", namespace().name, *words, "--json")
    assert done.returncode == 3
    assert done.stdout.split() == ["{", '"version":', "1,", '"instances":', "[]", "}"]


def test_a_bridge_has_no_tunnels(module_bridged: str) -> None:
    assert "mode bridge" in refused("-n", module_bridged, "tunnel", "show", "bridge", status=2)
    assert "no" in refused("-n", module_bridged, "tunnel", "show", status=3)


@pytest.mark.parametrize("words", [("status", "a", "b"), ("stats", "--bogus"), ("fdb", "show", "--bogus")])
def test_words_too_many_lead_to_the_help_of_the_verb(words: tuple[str, ...]) -> None:
    what, hint = refused(*words, status=2).splitlines()
    assert words[-1] in what
    assert hint.split() == ["pydp", words[0], "--help"]


def test_netns_by_path(bridged: Segment) -> None:
    assert ok("-n", bridged.sw.path, "status").startswith("bridge: ")


def test_everything_works_under_ip_netns_exec(net: Segment) -> None:
    """There /sys is mounted anew and bpffs hidden."""
    inside = {"before": ("ip", "netns", "exec", net.sw.name)}
    assert ok("attach", "--mode", "bridge", "p0", "p1", **inside).startswith("bridge: attached")
    assert ping(net[0].ns, net[1].address4, count=2, interval=0.01).received == 2
    assert ok("-n", net.sw.name, "status").startswith("bridge: ")  # seen from outside as well
    for words in (("status",), ("stats",), ("fdb",), ("doctor", "p0"), ("fdb", "add", ADDED, "dev", "p0")):
        ok(*words, **inside)
    assert ok("detach", "bridge", **inside) == "bridge: detached\n"
    refused("-n", net.sw.name, "status", status=3)


def test_doctor_tells_what_attach_would_choose(net: Segment) -> None:
    found = ok_json("-n", net.sw.name, "doctor", "p0", "--json")
    assert set(found) == {"version", "works", "machine", "interfaces"}
    assert found["works"] is True
    assert {"kernel", "rights", "bpffs", "kernel headers", "trial", "tcx"} <= {one["what"] for one in found["machine"]}
    (port,) = found["interfaces"]
    assert set(port) == {
        "name", "ifindex", "kind", "driver", "mtu", "master", "offloads", "peer", "xdp_features", "choice", "findings",
    }  # fmt: skip
    assert (port["name"], port["driver"], port["mtu"], port["choice"]["hook"]) == ("p0", "veth", 1500, "tc")
    assert (port["peer"]["name"], port["peer"]["namespace"]) == ("eth0", net[0].ns.name)
    mends = [one["mend"] for one in port["findings"] if one["what"] == "for --hook xdp"]
    assert mends == [f"ip netns exec {net[0].ns.name} ethtool -K eth0 tx off txvlan off gro on"]


def test_what_doctor_says_mends_xdp_does(net: Segment) -> None:
    at = ("-n", net.sw.name)
    refused(*at, "attach", "--mode", "count", "--hook", "xdp", "p0", status=4)
    for one in ok_json(*at, "doctor", "p0", "--json")["interfaces"][0]["findings"]:
        if one["what"] == "for --hook xdp":
            subprocess.run(one["mend"].split(), check=True)
    assert "hook xdp: asked for" in ok(*at, "attach", "--mode", "count", "--hook", "xdp", "p0")


def test_doctor_knows_our_programs_from_others(bridged: Segment) -> None:
    at = ("-n", bridged.sw.name)
    assert "tc: runs bridge" in ok(*at, "doctor", "p0")
    ok(*at, "detach", "--all")
    add_filter(bridged.sw, "p0")
    done = pydp(*at, "doctor", "p0")
    assert (done.returncode, done.stderr) == (4, "")
    assert "LACK tc: p0: tc is taken by filter bpf" in done.stdout
    assert "tc filter del dev p0 ingress" in done.stdout
    assert pydp(*at, "doctor", "p1").returncode == 0


def test_doctor_of_a_bridge_shows_its_ports(segment: Callable[..., Segment]) -> None:
    made = segment(2, kernel_bridge=True)
    found = ok_json("-n", made.sw.name, "doctor", "br0", "--json")
    assert [one["name"] for one in found["interfaces"]] == ["br0", "p0", "p1"]
    assert "adopts it with p0 p1 on tc" in found["interfaces"][0]["findings"][0]["told"]


def test_an_adopted_bridge_gives_its_name(segment: Callable[..., Segment]) -> None:
    made = segment(2, kernel_bridge=True)
    at = ("-n", made.sw.name)
    assert ok(*at, "attach", "--mode", "bridge", "br0").startswith("br0: attached")
    assert ping(made[0].ns, made[1].address4, count=2, interval=0.01).received == 2
    assert ok_json(*at, "status", "br0", "--json")["instances"][0]["adopted"] == "br0"
    assert f"{made[0].mac} dev p0 master br0\n" in ok(*at, "fdb")
    assert ok(*at, "detach", "br0") == "br0: detached\n"
    assert ping(made[0].ns, made[1].address4, count=2, interval=0.01).received == 2
