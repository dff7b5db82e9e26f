# SPDX-License-Identifier: Apache-2.0
"""What can go wrong around a command: a line or two that say so, the right status, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf.pins import BPFFS as MOUNT
from pydp.lab import LabError, Namespace, Segment, ping
from tests.system.cli import COMMAND, ROOT, complaint, ok, pydp, refused

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
BPFFS = Path(MOUNT)


@pytest.fixture
def net(segment: Callable[..., Segment]) -> Iterator[Segment]:
    """Two containers on loose ports; what a test attached is detached."""
    made = segment(2)
    yield made
    pydp("-n", made.sw.name, "detach", "--all")


@pytest.fixture(scope="module")
def unused(module_segment: Callable[..., Segment]) -> Segment:
    """The same for tests that attach nothing."""
    return module_segment(2)


@pytest.fixture(scope="module")
def used(module_segment: Callable[..., Segment]) -> Iterator[Segment]:
    """With something attached, for tests that only look."""
    made = module_segment(2)
    ok("-n", made.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    yield made
    ok("-n", made.sw.name, "detach", "--all")


def pins(ns: Namespace) -> list[str]:
    """What is pinned for a namespace; a folder may go meanwhile."""
    found = os.walk(BPFFS / "pydp" / str(ns.cookie))
    return sorted(str(Path(folder, name)) for folder, folders, files in found for name in (*folders, *files))


def programs(ns: Namespace) -> str:
    """What bpftool sees on the devices of a namespace, and their qdiscs."""
    shown = ns.run(["ip", "-d", "link"]).stdout.count("prog/xdp")
    return f"{shown} xdp, {ns.run(['tc', 'qdisc']).stdout.count('clsact')} clsact"


def is_clean(ns: Namespace) -> bool:
    return not pins(ns) and programs(ns) == "0 xdp, 0 clsact"


# Rights


@pytest.fixture
def nobody() -> dict[str, object]:
    """Options that run a command as a user without rights."""
    if not all(path.stat().st_mode & 0o001 for path in (ROOT, *ROOT.parents)):
        pytest.skip(f"{ROOT} is not open to other users, so none of them can run it")
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.mark.parametrize(
    "words",
    [
        ("attach", "--mode", "bridge", "lo"),
        ("attach", "--mode", "bridge", "--dry-run", "lo"),
        ("detach", "--all"),
        ("status",),
        ("status", "--json"),
        ("stats",),
        ("stats", "--watch"),
        ("fdb", "show"),
        ("fdb", "add", "02:aa:00:00:00:01", "dev", "p0"),
        ("fdb", "flush"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("where", ["used", "unused"])
def test_without_rights_it_is_5_and_a_line(
    request: pytest.FixtureRequest, nobody: dict[str, object], words: tuple[str, ...], where: str
) -> None:
    """Both where pydp has its folder and where nobody ever attached anything in this namespace."""
    net: Segment = request.getfixturevalue(where)
    assert "run as root" in refused(*words, status=5, before=("nsenter", f"--net={net.sw.path}", *AS_NOBODY))


def test_without_rights_under_ip_netns_exec(unused: Segment, nobody: dict[str, object]) -> None:
    """bpffs is out of sight there, and the processes that see it may not be looked into."""
    refused("status", status=5, before=("ip", "netns", "exec", unused.sw.name, *AS_NOBODY))


def test_without_rights_a_namespace_is_not_entered(unused: Segment, nobody: dict[str, object]) -> None:
    assert unused.sw.name in refused("-n", unused.sw.name, "status", status=5, **nobody)


def test_doctor_without_rights_shows_what_it_can(nobody: dict[str, object]) -> None:
    done = pydp("doctor", **nobody)
    assert (done.returncode, done.stderr) == (5, "")
    assert "LACK rights: the caller has no CAP_BPF and no CAP_PERFMON and no CAP_NET_ADMIN" in done.stdout
    assert "kernel: Linux" in done.stdout
    assert done.stdout.endswith("the caller lacks rights\n")


@pytest.mark.parametrize("missing", ["", "perfmon", "bpf", "net_admin"])
def test_three_capabilities_are_needed_and_enough(net: Segment, missing: str) -> None:
    """The user stays root, to whom bpffs belongs, but has no other rights."""
    keep = ",".join(f"+{name}" for name in ("bpf", "net_admin", "perfmon") if name != missing)
    before = ("nsenter", f"--net={net.sw.path}", "setpriv", f"--bounding-set=-all,{keep}", f"--inh-caps=-all,{keep}")
    if missing:
        refused("attach", "--mode", "bridge", "p0", "p1", status=5, before=before)
        assert is_clean(net.sw)
        assert f"the caller has no CAP_{missing.upper()}" in pydp("doctor", before=before).stdout
        return
    ok("attach", "--mode", "bridge", "p0", "p1", before=before)
    assert ping(net[0].ns, net[1].address4, count=2).received == 2
    ok("status", before=before)
    ok("detach", "--all", before=before)


# Names


@pytest.mark.parametrize("words", [("eth9",), ("p0", "eth9")])
def test_an_unknown_interface_is_2_and_named(unused: Segment, words: tuple[str, ...]) -> None:
    assert "eth9" in refused("-n", unused.sw.name, "attach", "--mode", "bridge", *words, status=2)
    assert is_clean(unused.sw)


def test_a_near_name_is_offered(net: Segment) -> None:
    net.sw.run(["ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "other0"])
    assert "uplink0" in refused("-n", net.sw.name, "attach", "--mode", "bridge", "upink0", status=2).splitlines()[1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--mode", "switch"), "--mode switch"),
        (("--mode", "bridge", "--hook", "tcx"), "--hook"),
        (("--mode", "bridge", "--ageing", "soon"), "--ageing"),
        (("--mode", "bridge", "--fdb-size", "3"), "--fdb-size"),
        (("--mode", "bridge", "--vlan", "p0=10"), "--vlan"),
        (("--mode", "bridge", "--vlan-filtering", "--vlan", "p0=5000"), "--vlan p0=5000"),
        (("--mode", "bridge", "--vlan-filtering", "--vlan", "p7=10"), "--vlan p7=10"),
        (("--mode", "bridge", "--isolated", "p7"), "--isolated p7"),
        (("--mode", "bridge", "--name", "../x"), "--name ../x"),
        (("--mode", "bridge", "--name", "a b"), "--name a b"),
        (("--mode", "count", "--ageing", "5"), "--ageing"),
    ],
)
def test_a_wrong_value_is_2_and_its_key_named(unused: Segment, words: tuple[str, ...], named: str) -> None:
    assert named in refused("-n", unused.sw.name, "attach", *words, "p0", "p1", status=2).splitlines()[0]
    assert is_clean(unused.sw)


def test_an_error_in_the_config_file_is_2_and_names_file_and_key(unused: Segment, tmp_path: Path) -> None:
    path = tmp_path / "lan.toml"
    path.write_text('mode = "bridge"\ninterfaces = ["p0"]\n[bridge]\nageing = "soon"\n')
    said = refused("-n", unused.sw.name, "attach", "--config", str(path), status=2)
    assert f"{path}: bridge.ageing" in said
    assert "none.toml" in refused("attach", "--config", str(tmp_path / "none.toml"), status=2)


def test_no_interface_at_all_is_2(unused: Segment) -> None:
    refused("-n", unused.sw.name, "attach", "--mode", "bridge", status=2)


# File systems


def in_own_mounts(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run SCRIPT and then pydp in mount and PID namespaces of their own, where /proc shows no ancestor's mounts."""
    command = f"{script}; {shlex.join([*COMMAND, *words])}"
    before = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", command]
    return subprocess.run(before, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [("attach", "--mode", "bridge", "p0", "p1"), ("status",), ("detach", "--all")])
def test_without_bpffs_it_is_4_and_the_mount_command(unused: Segment, words: tuple[str, ...]) -> None:
    done = in_own_mounts("umount -l /sys/fs/bpf", "-n", unused.sw.name, *words)
    assert done.returncode == 4
    assert "mount -t bpf bpf /sys/fs/bpf" in complaint(done.stderr).splitlines()[1]
    assert BPFFS.is_mount()
    assert is_clean(unused.sw)


def test_doctor_finds_bpffs_missing() -> None:
    done = in_own_mounts("umount -l /sys/fs/bpf", "doctor")
    assert (done.returncode, done.stderr) == (4, "")
    assert "LACK bpffs" in done.stdout
    assert "mount -t bpf bpf /sys/fs/bpf" in done.stdout


FULL = " && ".join(
    f"mount -t tmpfs -o size=64k,nr_inodes=20 tmpfs {place} && {{ dd if=/dev/zero of={place}/full bs=4k status=none; "
    f"for i in $(seq 30); do : > {place}/$i; done; }} 2>/dev/null; true"
    for place in ("/var/cache", "/tmp", "/var/tmp", "/root")
    if not ROOT.is_relative_to(place)
)


def test_a_full_disk_is_1_and_the_place_named(net: Segment) -> None:
    """Headers that must be merged anew have no place; afterwards attach works as if nothing had been."""
    done = in_own_mounts(f"({FULL})", "-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    if done.returncode == 0:
        pytest.skip("the kernel headers of this machine need no merging, so attach writes nothing")
    assert done.returncode == 1
    said = complaint(done.stderr)
    assert "/var/cache" in said
    assert "No space left on device" in said
    assert is_clean(net.sw)
    ok("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")


def test_no_headers_is_4_and_the_package_named(net: Segment) -> None:
    script = "mount -t tmpfs tmpfs /usr/src; mount -t tmpfs tmpfs /lib/modules"
    done = in_own_mounts(f"({script}) 2>/dev/null", "-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    if done.returncode == 0:
        pytest.skip("this kernel brings its headers itself")
    assert done.returncode == 4
    assert "apt-get install linux-headers-" in complaint(done.stderr)
    assert is_clean(net.sw)


def test_a_full_disk_behind_stdout_is_1(used: Segment) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "-n", used.sw.name, "status"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in complaint(done.stderr)


def test_a_reader_that_goes_away_is_no_error(used: Segment) -> None:
    for words in (("-n", used.sw.name, "status"), ("--help",), ("attach", "--help")):
        ours, theirs = os.pipe()
        os.close(ours)
        done = subprocess.run(
            [*COMMAND, *words], cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(theirs)
        assert (done.returncode, done.stderr) == (1, "")


# Moments


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_compiler(child: subprocess.Popen[str]) -> None:
    """Until the process has loaded bcc, which is in the middle of an attach."""
    deadline = time.monotonic() + 30
    while child.poll() is None and "libbcc" not in Path(f"/proc/{child.pid}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def attach_time(net: Segment) -> float:
    """How long an attach takes from when it compiles to its end."""
    child = start("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    wait_for_compiler(child)
    began = time.monotonic()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    took = time.monotonic() - began
    ok("-n", net.sw.name, "detach", "--all")
    return took


def test_an_interface_that_vanishes_while_it_is_attached(net: Segment) -> None:
    """At moments spread over the whole attach: it is done or refused, and nothing is left of what is refused."""
    took, ended = attach_time(net), set()
    for step in range(7):
        net.sw.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"])
        child = start("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1", "v0")
        if step:
            wait_for_compiler(child)
            time.sleep(took * (step - 1) / 5)
        else:
            time.sleep(0.15)
        with contextlib.suppress(LabError):
            net.sw.run(["ip", "link", "del", "v0"])
        _, said = child.communicate(timeout=60)
        ended.add(child.returncode)
        if child.returncode == 0:
            ok("-n", net.sw.name, "status")
            ok("-n", net.sw.name, "detach", "--all")
        else:
            assert child.returncode in (1, 2), said
            assert "v0" in complaint(said)
        assert is_clean(net.sw)
    assert len(ended) > 1  # it struck both during and after the attach
    ok("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
    assert ping(net[0].ns, net[1].address4, count=2).received == 2


def test_an_interrupt_is_130_and_leaves_nothing(net: Segment) -> None:
    took = attach_time(net)
    for step in range(3):
        child = start("-n", net.sw.name, "attach", "--mode", "bridge", "p0", "p1")
        wait_for_compiler(child)
        time.sleep(took * step / 4)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert said == ""
        assert child.returncode in (0, 130)  # 0 when it was done already
        if child.returncode == 0:
            ok("-n", net.sw.name, "detach", "--all")
        assert is_clean(net.sw)


def test_two_attaches_at_once_serialise(net: Segment) -> None:
    both = [start("-n", net.sw.name, "attach", "--mode", mode, "p0") for mode in ("bridge", "count")]
    for child in both:
        _, said = child.communicate(timeout=60)
        assert (child.returncode, said) == (0, "")
    shown = ok("-n", net.sw.name, "status")
    assert "bridge: mode bridge" in shown
    assert "count: mode count" in shown


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('\t__u64 above; asm volatile("%0 = *(u64 *)(r10 + 8)" : "=r"(above));', "pydp_tc: invalid "),
        ("\tnot a statement;", "use of undeclared identifier 'not'"),
    ],
    ids=["verifier", "compiler"],
)
def test_a_fault_in_the_source_is_told_by_file_and_line(unused: Segment, tmp_path: Path, fault: str, said: str) -> None:
    """What the verifier or the compiler refuses, in short, and with --verbose the whole log."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pydp", "ebpf", "bpf_src"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    stage = tree / "bpf_src" / "count.c"
    lines = stage.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if "enum verdict count_stage" in line) + 2
    lines.insert(at, fault)
    stage.write_text("\n".join(lines) + "\n")
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [*COMMAND, "-n", unused.sw.name, "attach", "--mode", "count", "--hook", "tc", "p0"]
    short = subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert short.returncode == 1, short.stderr
    assert complaint(short.stderr).startswith(f"pydp: count.c:{at + 1}: {said}")
    whole = subprocess.run([*words, "--verbose"], cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert whole.returncode == 1
    assert whole.stderr.startswith(short.stderr.splitlines()[0])
    assert len(whole.stderr.splitlines()) > 3
    assert is_clean(unused.sw)
