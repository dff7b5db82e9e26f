# SPDX-License-Identifier: Apache-2.0
"""`pydp lab vm` as a user has it: guests that boot, what comes back from them, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydp.lab.vm import find_kernels
from pydp.lab.vm.kernels import lab_cache
from tests.system.cli import COMMAND, ROOT, complaint, refused

# Emulated, and on a machine that has other work, a boot takes up to a minute.
pytestmark = [pytest.mark.usefixtures("requires_root", "kernels"), pytest.mark.timeout(400)]
WIRE = str(ROOT / "tests/system/wire.sh")


@pytest.fixture(scope="module")
def kernels() -> None:
    """Fetched before, so that no test waits for a mirror."""
    find_kernels(["6.1", "6.12"])


def vm(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "lab", "vm", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def traces(pid: int) -> list[str]:
    """Guests that a process with that PID started, and folders of guests that nobody runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(lab_cache() / "running" / f"{pid}-").encode() in path.read_bytes():
                found.append(path.parent.name)
    return found + [path.name for path in (lab_cache() / "running").glob(f"{pid}-*")]


def test_output_status_and_files_come_back(tmp_path: Path) -> None:
    """From a guest that is root of a machine of its own, and cannot change this one."""
    left = tmp_path / "left"
    script = f"""
        uname -r; id -u; pwd; echo aside >&2
        test -e bpf_src/abi.h && pydp --version
        echo there >{left} && cat {left}
        mkdir $PYDP_LAB_RESULTS/deep && printf 'a\\0b' >$PYDP_LAB_RESULTS/deep/file
        exit 7"""
    results = tmp_path / "results"
    done = vm("--kernel", "6.12", "--quiet", "--results", str(results), "--", "sh", "-c", script, status=7)
    (kernel,) = find_kernels(["6.12"])
    assert done.stdout.splitlines() == [kernel.release, "0", str(ROOT), "pydp 0.1.0", "there"]
    assert done.stderr == "aside\n"
    assert not left.exists()
    assert (results / kernel.release / "deep/file").read_bytes() == b"a\0b"


def test_guests_at_a_time_are_told_apart() -> None:
    """The first status that is not 0 is the command's; a line that has no end gets one."""
    script = 'case $(uname -r) in 6.1.*) printf one; exit 5;; *) printf "two\\nlines"; exit 0;; esac'
    done = vm("--kernel", "6.1,6.12", "--jobs", "2", "--", "sh", "-c", script, status=5)
    first, second = find_kernels(["6.1", "6.12"])
    expected = [f"[{first.release}] one", f"[{second.release}] two", f"[{second.release}] lines"]
    assert sorted(done.stdout.splitlines()) == sorted(expected)
    assert f"{first.release}: exit status 5 (command after " in done.stderr
    assert f"{second.release}: exit status 0 (command after " in done.stderr


def test_a_command_that_takes_too_long_is_ended() -> None:
    done = vm("--kernel", "6.12", "--timeout", "2", "--", "sh", "-c", "echo begun; exec sleep 600", status=1)
    assert done.stdout == "begun\n"
    assert "no end of the command after 2 s" in complaint(done.stderr)


def test_a_guest_that_dies_has_no_status() -> None:
    done = vm("--kernel", "6.1", "--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60", status=1)
    assert "it ended before the command did" in complaint(done.stderr)


@contextlib.contextmanager
def begun(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, "lab", "vm", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("when", "number"),
    [("booting", signal.SIGINT), ("running", signal.SIGINT), ("running", signal.SIGTERM), ("running", signal.SIGKILL)],
    ids=lambda one: getattr(one, "name", one),
)
def test_an_interrupt_leaves_no_guest(when: str, number: signal.Signals) -> None:
    """Killed, its folder stays until somebody comes next, and the guests are gone as well."""
    script = "echo begun; exec sleep 600"
    with begun("--kernel", "6.12,6.1", "--jobs", "2", "--", "sh", "-c", script) as child:
        assert child.stdout is not None
        if when == "running":
            assert "begun" in child.stdout.readline()
        else:
            wait_for(lambda: len(traces(child.pid)) > 2)
        os.kill(child.pid, number)
        _, err = child.communicate(timeout=20)
    if number == signal.SIGKILL:
        assert child.returncode == -signal.SIGKILL
        wait_for(lambda: [one for one in traces(child.pid) if one.isdigit()] == [])
        vm("--kernel", "6.12", "--quiet", "--", "true")
    else:
        assert (child.returncode, err) == (130, "")
    assert traces(child.pid) == []


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["vxlan", "ipip"])
def test_two_kernels_on_one_wire(tmp_path: Path, mode: str) -> None:
    """Ping and TCP both ways, from a container whose tunnel is pydp's, on 6.1, to a device of the kernel's, on 6.12.

    4 MiB go each way. iperf3 ends its test when they are written, so the last of them may never have left a socket.
    """
    done = vm("--kernel", "6.1,6.12", "--wire", "--results", str(tmp_path), "--", WIRE, mode)
    assert "3 received, 0% packet loss" in done.stdout
    (instance,) = json.loads((tmp_path / "end1/tunnel.json").read_text())["instances"]
    (tunnel,) = instance["tunnels"]
    assert min(tunnel["sent_bytes"], tunnel["received_bytes"]) > 1 << 20
    (device,) = json.loads((tmp_path / "end2/device.json").read_text())
    counted = device["stats64"]
    assert min(counted["rx"]["bytes"], counted["tx"]["bytes"]) > 1 << 20


def test_a_plan_names_its_nodes(tmp_path: Path) -> None:
    """Those with the role data, with their kernels and addresses."""
    script = "echo $PYDP_LAB_NODE $PYDP_LAB_END $PYDP_LAB_PEER $(uname -r) $(ip -br -4 address show eth0)"
    done = vm("--lab", "vagrant/lab.yaml", "--", "sh", "-c", script)
    first, second = find_kernels(["6.1", "6.12"])
    assert sorted(done.stdout.splitlines()) == [
        f"[node1] node1 1 192.168.123.114 {first.release} eth0 UP 192.168.123.111/24",
        f"[node2] node2 2 192.168.123.111 {second.release} eth0 UP 192.168.123.114/24",
    ]


def test_what_makes_no_sense_is_refused_before_anything_boots(tmp_path: Path) -> None:
    assert "no command to run" in refused("lab", "vm", status=2)
    assert "--jobs 0: at least 1" in refused("lab", "vm", "--jobs", "0", "--", "true", status=2)
    assert "not a kernel's version" in refused("lab", "vm", "--kernel", "new", "--", "true", status=2)
    assert "a wire has two ends" in refused("lab", "vm", "--kernel", "6.1", "--wire", "--", "true", status=2)
    assert "No such file" in refused("lab", "vm", "--lab", str(tmp_path / "no.yaml"), "--", "true", status=2)


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused("lab", "vm", "--kernel", "6.12", "--", "true", status=1)
    assert "qemu-system-x86_64" in said
    assert "apt-get install --no-install-recommends qemu-system-x86 " in said
