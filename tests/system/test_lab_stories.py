# SPDX-License-Identifier: Apache-2.0
"""Stories as a user plays them: all of them by both ways, what is left standing, and that interrupts leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pydp.kernel import namespace_cookie
from pydp.lab import Namespace, syscalls
from pydp.lab.stories import NAMES, building, find, processes, standing
from pydp.lab.stories.commands import parse
from pydp.lab.stories.leftovers import PREFIX, has_pins
from pydp.lab.stories.model import Experiment, Step, Topology
from pydp.lab.stories.results import DONE, FAILED, SKIPPED
from pydp.lab.stories.running import play
from tests.system import bench as process
from tests.system.cli import COMMAND, ok, ok_json, refused

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")


def processes_of(pid: int) -> list[str]:
    """Command lines with the names of namespaces that a process made."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{PREFIX}{pid:x}-" in words:
                found.append(words)
    return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lab's temporary folders are made."""
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def played(words: list[str], files: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What `pydp lab run` tells of each story and way: all checks hold, or there is a reason why it was not played."""
    with process.started([*COMMAND, "lab", "run", *words, "--json"]) as child:
        out, err = child.communicate(timeout=170)
    runs = {(one["story"], one["via"]): one for one in json.loads(out)["runs"]}
    failed = {
        key: [step["seen"] for step in run["steps"] if not step["ok"]] or run["problem"]
        for key, run in runs.items()
        if run["status"] == FAILED
    }
    assert (child.returncode, failed, err) == (0, {}, "")
    for run in runs.values():
        if run["status"] == SKIPPED:
            assert run["problem"]
            assert not run["steps"]
        else:
            assert run["checks"]["held"] == run["checks"]["all"] > 0
    assert process.traces(PREFIX, child.pid) == []
    assert list(files.iterdir()) == []
    return runs


@pytest.mark.timeout(180)
def test_all_of_them_by_the_kernel(files: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    runs = played(["--all", "--via", "kernel", "--html", str(page)], files)
    assert list(runs) == [(name, "kernel") for name in NAMES]
    assert all(f'id="{name}"' in page.read_text() for name in NAMES)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
def test_each_by_ebpf(name: str, files: Path) -> None:
    runs = played([name, "--via", "ebpf"], files)
    assert {key: run["status"] for key, run in runs.items()} == {(name, "ebpf"): DONE}


def test_both_ways_in_one_run(files: Path) -> None:
    assert list(played(["veth", "--via", "both"], files)) == [("veth", "kernel"), ("veth", "ebpf")]


SETTINGS = ["net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv6.conf.all.disable_ipv6"]
TOPOLOGIES = [find("bridge").topology, find("iptables").topology, find("vxlan").topology]


def shape(spaces: dict[str, Namespace]) -> dict[str, Any]:
    """Devices, addresses, routes and settings of namespaces, without numbers that differ each time."""
    found: dict[str, Any] = {}
    for node, ns in spaces.items():
        links = json.loads(ns.run(["ip", "-json", "addr"]).stdout)
        devices = {
            link["ifname"]: (link["address"], link["mtu"], link["operstate"], sorted(link["flags"]),
                             [(one["local"], one["prefixlen"]) for one in link["addr_info"]])
            for link in links
        }  # fmt: skip
        routes = json.loads(ns.run(["ip", "-json", "route"]).stdout)
        settings = ns.run(["sysctl", "-n", *SETTINGS]).stdout
        found[node] = (devices, routes, settings)
    return found


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=["bridge", "iptables", "vxlan"])
def test_the_commands_shown_build_the_same(topology: Topology) -> None:
    with contextlib.ExitStack() as stack:
        mine, typed = (
            {each.name: stack.enter_context(Namespace("pt", label=f"-{each.name}")) for each in topology.nodes}
            for _ in range(2)
        )
        building.build(topology, mine)
        names = {node: ns.name for node, ns in typed.items()}
        for line in building.commands(topology):
            if " lo up" not in line and "ip netns add" not in line:
                subprocess.run(parse(line, names).words, check=True, capture_output=True)
        wanted, deadline = shape(mine), time.monotonic() + 20
        while (found := shape(typed)) != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        assert found == wanted


class TestWhatGoesWrong:
    STORY = find("veth")

    def play(self, *steps: Step) -> Any:
        return play(replace(self.STORY, ways={"kernel": Experiment(steps)}), "kernel")

    def test_a_check_that_does_not_hold(self, files: Path) -> None:
        unrouted, routed, *_ = self.STORY.ways["kernel"].steps
        done = self.play(replace(unrouted, check=routed.check))
        assert (done.status, done.checks) == (FAILED, (0, 1))
        assert done.steps[0].finding.text
        assert list(files.iterdir()) == []

    def test_a_command_that_fails(self, files: Path) -> None:
        done = self.play(Step("wrong", ("ip -n red link set nothing up",)), Step("never", ("ip -n red link",)))
        assert (done.status, len(done.steps)) == (FAILED, 0)
        assert 'ip -n red link set nothing up: exit status 1: Cannot find device "nothing"' in done.problem
        assert list(files.iterdir()) == []

    @pytest.mark.parametrize("command", ["no-such-program", "no-such-program &", "ip netns exec red no-such-program"])
    def test_a_program_that_is_not_there(self, command: str) -> None:
        assert self.play(Step("wrong", (command,))).problem == "no-such-program is not installed"

    def test_a_server_that_ends_at_once(self) -> None:
        done = self.play(Step("server", ("ip netns exec red false &",), ready=("red:tcp:1",)))
        assert "ended with status 1" in done.problem

    def test_a_device_that_the_kernel_lacks(self) -> None:
        way = Experiment(self.STORY.ways["kernel"].steps, needs="nosuchkind")
        done = play(replace(self.STORY, ways={"kernel": way}), "kernel")
        assert (done.status, done.problem) == (SKIPPED, "this kernel has no nosuchkind devices")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("run",), "name stories, or --all"),
            (("run", "veth", "--all"), "name stories, or --all"),
            (("run", "nothing"), "no story nothing"),
            (("run", "veth", "--pause"), "this is no terminal"),
            (("run", "veth", "--html", "/nowhere/page.html"), "there is no folder /nowhere"),
            (("show", "nothing"), "no story nothing"),
        ],
    )
    def test_wrong_words(self, words: tuple[str, ...], said: str) -> None:
        assert said in refused("lab", *words, status=2)


def test_list_and_show() -> None:
    listed = ok_json("lab", "list", "--json")["stories"]
    assert [one["name"] for one in listed] == list(NAMES)
    text = ok("lab", "show", "bridge")
    assert "┌─ switch " in text
    assert "$ ip netns add box" in text
    flat = " ".join(text.replace("│", " ").split())
    assert "pydp -n switch attach" in flat
    ways = ok_json("lab", "show", "bridge", "--json")["ways"]
    assert "pydp -n switch attach --mode bridge p1 p2 p3" in ways["ebpf"]["steps"][0]["commands"]


def test_with_a_pause_it_waits_for_enter() -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [*COMMAND, "lab", "run", "veth", "--via", "kernel", "--pause"])
    said, entered = b"", 0
    with contextlib.suppress(OSError):  # the other end is closed
        while select.select([terminal], [], [], 60)[0]:
            said += os.read(terminal, 65536)
            if said.count(b"Enter plays it") > entered:
                assert said.count(b"seen:") == entered
                entered += 1
                os.write(terminal, b"\n")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert entered == len(find("veth").ways["kernel"].steps)


STEPS = [
    (name, via, number)
    for name, via in (("iptables", "kernel"), ("tuntap", "kernel"), ("ipip", "ebpf"))
    for number in range(len(find(name).ways[via].steps))
]


@pytest.mark.parametrize(("name", "via", "number"), STEPS)
def test_an_interrupt_in_any_step_leaves_nothing(name: str, via: str, number: int, files: Path) -> None:
    chance = random.Random(f"{name} {number}")
    delay = chance.uniform(0, 0.5)
    while not _interrupted(["lab", "run", name, "--via", via], number, delay, chance, files):
        delay /= 3  # all steps were done by then
        assert delay > 1e-4


def _interrupted(words: list[str], number: int, delay: float, chance: random.Random, files: Path) -> bool:
    """Send a signal so many seconds after a step began, and look for traces. False when it came too late."""
    with process.started([*COMMAND, *words]) as child:
        _read_until(child, f"{number + 1}. ")
        child.send_signal(signal.SIGSTOP)
        cookies = _cookies(child.pid)
        child.send_signal(signal.SIGCONT)
        time.sleep(delay)
        sent = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        child.send_signal(sent)
        _, err = child.communicate(timeout=60)
    assert cookies
    assert process.traces(PREFIX, child.pid) == []
    assert processes_of(child.pid) == []
    assert not [cookie for cookie in cookies if has_pins(cookie)]
    assert list(files.iterdir()) == []
    if child.returncode in (0, -sent):
        return False
    assert (child.returncode, err.strip()) == (130, "Interrupted; all of it is taken down again.")
    return True


def test_what_a_killed_run_has_left_goes_with_the_next(files: Path) -> None:
    with process.started([*COMMAND, "lab", "run", "tuntap", "--via", "kernel"]) as child:
        _read_until(child, "3. ")
        child.kill()
        child.communicate()
    (folder,) = files.iterdir()
    assert len(processes.marked(folder)) >= 2
    assert process.traces(PREFIX, child.pid)
    ok("lab", "run", "veth", "--via", "kernel")
    assert processes.marked(folder) == []
    assert process.traces(PREFIX, child.pid) == []
    assert list(files.iterdir()) == []


def _read_until(child: subprocess.Popen[str], begin: str) -> None:
    assert child.stdout
    for line in child.stdout:
        if line.startswith(begin):
            return
    raise AssertionError(child.communicate())


def _cookies(pid: int) -> list[str]:
    paths = [str(syscalls.DIRECTORY / name) for name in process.traces(PREFIX, pid)]
    return [syscalls.inside(path, namespace_cookie) for path in paths]


@pytest.fixture
def down() -> Iterator[None]:
    """Takes down, in the end, what a test has left standing."""
    before = set(standing.standing())
    yield
    for name in set(standing.standing()) - before:
        standing.down(name)


@pytest.mark.usefixtures("down")
class TestStanding:
    def test_up_and_down(self, files: Path) -> None:
        text = ok("lab", "up", "tuntap", "--via", "kernel")
        noted = standing.standing()["tuntap"]
        names = {node: name for node, (name, _) in noted.namespaces.items()}
        assert all(f"ip netns exec {name} bash" in text for name in names.values())
        running = processes.marked(noted.folder)
        assert len(running) == 3
        ping = ["ip", "netns", "exec", names["c1"], "ping", "-c", "1", "-W", "2", "1.2.4.100"]
        assert subprocess.run(ping, capture_output=True, check=False).returncode == 0
        assert {one["name"]: one["up"] for one in ok_json("lab", "list", "--json")["stories"]}["tuntap"]
        assert "tuntap stands already" in refused("lab", "up", "tuntap", status=2)
        assert "tuntap: 4 namespaces and 3 processes removed" in ok("lab", "down", "tuntap")
        assert not [name for name in names.values() if (syscalls.DIRECTORY / name).exists()]
        assert not [pid for pid in running if Path(f"/proc/{pid}/cwd").exists()]  # a zombie has none
        assert list(files.iterdir()) == []
        assert "tuntap" not in standing.standing()
        assert "does not stand" in refused("lab", "down", "tuntap", status=3)

    def test_what_was_attached_goes(self) -> None:
        shown = ok_json("lab", "up", "veth", "--json")
        assert shown["status"] == DONE
        cookies = [cookie for _, cookie in standing.standing()["veth"].namespaces.values()]
        assert [has_pins(cookie) for cookie in cookies] == [False, True]
        ok("lab", "down", "veth")
        assert not [cookie for cookie in cookies if has_pins(cookie)]

    def test_what_has_the_name_by_now_stays(self) -> None:
        ok("lab", "up", "namespace", "--via", "kernel")
        name, _ = standing.standing()["namespace"].namespaces["red"]
        subprocess.run(["ip", "netns", "del", name], check=True)
        with Namespace("", name=name):
            ok("lab", "down", "namespace")
            assert (syscalls.DIRECTORY / name).exists()
        assert not (syscalls.DIRECTORY / "lab-namespace-blue").exists()

    def test_a_namespace_of_that_name_is_not_taken(self) -> None:
        with Namespace("", name="lab-veth-blue"):
            assert "there is a namespace lab-veth-blue already" in refused("lab", "up", "veth", status=2)
        assert "veth" not in standing.standing()

    def test_an_interrupt_leaves_nothing(self, files: Path) -> None:
        with process.started([*COMMAND, "lab", "up", "ipip"]) as child:
            _read_until(child, "1. ")
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        assert (child.returncode, err.strip()) == (130, "Interrupted; all of it is taken down again.")
        assert "ipip" not in standing.standing()
        assert list(syscalls.DIRECTORY.glob("lab-ipip-*")) == []
        assert list(files.iterdir()) == []

    def test_after_a_kill_down_removes_what_there_is(self, files: Path) -> None:
        folder = standing.AREA / "iptables"
        with process.started([*COMMAND, "lab", "up", "iptables", "--via", "kernel"]) as child:
            _read_until(child, "1. ")
            while len(processes.marked(folder)) < 3:
                time.sleep(0.01)
            child.kill()
            child.communicate()
        assert "iptables: 4 namespaces" in ok("lab", "down", "iptables")
        assert processes.marked(folder) == []
        assert not folder.exists()
        assert list(syscalls.DIRECTORY.glob("lab-iptables-*")) == []
        assert list(files.iterdir()) == []
