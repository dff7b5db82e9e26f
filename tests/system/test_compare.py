# SPDX-License-Identifier: Apache-2.0
"""`pydp compare` with traffic under way: both paths carry it, nothing is lost, and what was there is there again."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pydp.lab import Namespace, Nodes, NumberedStream, Segment, ping, tcp_transfer
from pydp.lab.topology import poll
from tests.net.bridging import OFFLOADS, verdicts
from tests.system.cli import COMMAND, ROOT, complaint, ok, ok_json, pydp, refused
from tests.system.test_cli_faults import is_clean, pins

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(180)]

SegmentFactory = Callable[..., Segment]
PPS = 2000
SHORT = ("--seconds", "3.2", "--slice", "0.2")
COMPARED, FORWARDED = "punt_compare", "forward_port"


@pytest.fixture
def net(segment: SegmentFactory) -> Iterator[Segment]:
    """Three containers on a kernel bridge."""
    made = segment(3, kernel_bridge=True)
    yield made
    pydp("-n", made.sw.name, "detach", "--all")


@pytest.fixture
def adopted(net: Segment) -> Segment:
    ok("-n", net.sw.name, "attach", "--mode", "bridge", "br0")
    return net


@contextlib.contextmanager
def started(ns: Namespace, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`pydp compare WORDS...` while the block runs."""
    command = [*COMMAND, "-n", ns.name, "compare", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def stream(net: Segment) -> NumberedStream:
    return NumberedStream(net[0].ns, net[1].ns, net[1].address4, pps=PPS)


def seen(ns: Namespace, verdict: str) -> int:
    return sum(packets for (_, name), packets in verdicts(ns).items() if name == verdict)


def compared(ns: Namespace, *words: str) -> dict[str, Any]:
    return dict(ok_json("-n", ns.name, "compare", *words, "--json")["comparison"])


def instances(ns: Namespace) -> dict[str, Any]:
    done = pydp("-n", ns.name, "status", "--json")
    return {one["name"]: one for one in json.loads(done.stdout)["instances"]}


def is_plain(ns: Namespace, name: str = "br0") -> bool:
    """Whether an instance has nothing of a comparison any more."""
    return instances(ns)[name]["comparison"] is None and not any("compare" in pin for pin in pins(ns))


def test_both_paths_carry_and_agree_with_the_receiver(adopted: Segment) -> None:
    before = instances(adopted.sw)["br0"]
    with stream(adopted) as flowing:
        begun, received = time.monotonic(), flowing.received
        found = compared(adopted.sw, "br0", "--seconds", "4.8", "--slice", "0.2")
        rate = (flowing.received - received) / (time.monotonic() - begun)
    assert flowing.report.intact, flowing.report
    kernel, ebpf = found["paths"]["kernel"], found["paths"]["ebpf"]
    assert kernel["carried"] == 0
    assert ebpf["carried"] > 0.99
    for path in (kernel, ebpf):
        assert path["packets"] / path["seconds"] == pytest.approx(rate, rel=0.2)
        assert path["values"]["packets_per_second"]["median"] == pytest.approx(rate, rel=0.2)
        assert path["dropped"] == 0
    # Whichever way it went, each datagram was counted once where it came in; ARP comes to that.
    counted = sum(packets for (port, _), packets in verdicts(adopted.sw).items() if port == "p0")
    assert 0 <= counted - flowing.report.received < 20
    after = instances(adopted.sw)["br0"]
    assert is_plain(adopted.sw)
    for one in (before, after):
        del one["packets"], one["fdb"], one["maps"], one["ports"]
    assert after == before


def test_what_it_says(adopted: Segment) -> None:
    with stream(adopted), pinging(adopted):
        found = compared(adopted.sw, "br0", *SHORT)
        text = ok("-n", adopted.sw.name, "compare", "br0", *SHORT)
    assert set(found) == {
        "instance", "mode", "hook", "why", "adopted", "attached_for_it", "seconds", "slice", "share", "begun", "ended",
        "interrupted", "fault", "noise", "blocks", "paths", "comparisons", "machine", "versions",
    }  # fmt: skip
    assert (found["instance"], found["mode"], found["adopted"], found["share"]) == ("br0", "bridge", "br0", None)
    assert sum(found["blocks"].values()) == 4
    for path in found["paths"].values():
        assert set(path) == {
            "seconds", "packets", "bytes", "carried", "dropped", "device_drops", "answers", "values",
        }  # fmt: skip
        assert path["device_drops"] == 0
    # Echo requests, of which one in four is timed.
    assert any(path["answers"] for path in found["paths"].values())
    assert [one["measure"] for one in found["comparisons"]] == [
        "packets_per_second", "bits_per_second", "cpu_ns_per_packet", "answer_median_seconds", "answer_p99_seconds",
    ]  # fmt: skip
    told = {one["finding"] for one in found["comparisons"]}
    assert told <= {"too few blocks to tell", "too little traffic to tell"}  # as busy as the machine is
    assert "br0: mode bridge on tc, adopts br0" in text
    assert "carried by eBPF" in text


@contextlib.contextmanager
def pinging(net: Segment) -> Iterator[None]:
    command = ["ping", "-q", "-f", net[1].address4]
    process = net[2].ns.popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        net[2].ns.end(process)


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_an_interface_is_attached_for_as_long_as_it_takes(segment: SegmentFactory, hook: str) -> None:
    made = segment(3, kernel_bridge=True, offloads=OFFLOADS[hook])
    with stream(made) as flowing:
        found = compared(made.sw, "br0", *SHORT, "--hook", hook)
    assert flowing.report.intact, flowing.report
    assert (found["hook"], found["attached_for_it"]) == (hook, True)
    assert found["paths"]["ebpf"]["carried"] > 0.99
    assert found["paths"]["kernel"]["carried"] == 0
    assert is_clean(made.sw)
    refused("-n", made.sw.name, "status", status=3)


def test_tcp_goes_on_across_the_turns(adopted: Segment) -> None:
    a, b, _ = adopted.containers
    with started(adopted.sw, "br0", "--seconds", "4", "--slice", "0.1", "--json") as process:
        poll("its programs", lambda: any("compare" in pin for pin in pins(adopted.sw)), timeout=20)
        while process.poll() is None:
            tcp_transfer(b.ns, a.ns, b.address4, 5_000_000)
        found = json.loads(process.stdout.read())["comparison"]  # type: ignore[union-attr]
    for path in found["paths"].values():
        assert path["packets"] > 100
    # TCP with time stamps: data was answered by acknowledgements.
    assert any(path["answers"] for path in found["paths"].values())


def test_vxlan_devices_of_the_kernel(nodes: Callable[..., Nodes]) -> None:
    made = nodes(2, direct=True)
    near = made[0]
    for node in made.nodes:
        made.kernel_vxlan(node)
    one, other = (node.containers[0] for node in made.nodes)
    with NumberedStream(one.ns, other.ns, other.address4, pps=PPS) as flowing:
        found = compared(near.ns, near.dev, *SHORT)
        assert (found["instance"], found["mode"]) == ("vx100", "vxlan")
        assert found["paths"]["ebpf"]["carried"] > 0.99
        assert found["paths"]["kernel"]["carried"] == 0
        assert found["paths"]["kernel"]["packets"] > 500
    assert flowing.report.intact, flowing.report
    assert is_clean(near.ns)
    assert "pydp" not in near.ns.run(["ip", "link"]).stdout


def test_a_share_of_the_flows(adopted: Segment) -> None:
    """By 400 flows of one sender, both ways: the replies go the way that the requests did."""
    a, b, _ = adopted.containers
    with contextlib.ExitStack() as stack, started(adopted.sw, "br0", "--seconds", "3", "--slice", "0.5",
                                                  "--share", "30%", "--json") as process:  # fmt: skip
        sockets = [stack.enter_context(a.ns.socket(kind=socket.SOCK_DGRAM)) for _ in range(400)]
        sink = stack.enter_context(b.ns.socket(kind=socket.SOCK_DGRAM))
        sink.bind((b.address4, 0))
        for one in sockets:
            one.connect(sink.getsockname()[:2])
        flows = itertools.cycle(sockets)
        # By all of them: which way a single flow goes is chance.
        poll("the first packet", lambda: seen(adopted.sw, COMPARED) > 0 or not next(flows).send(b"x"), timeout=60)
        for one in flows:
            one.send(b"x")
            time.sleep(0.0005)
            if process.poll() is not None:
                break
        found = json.loads(process.stdout.read())["comparison"]  # type: ignore[union-attr]
    assert (found["share"], found["blocks"]["kept"]) == (0.3, 6)
    kernel, ebpf = (found["paths"][path]["packets"] for path in ("kernel", "ebpf"))
    # Of 400 flows 120, and in one case of a million fewer than 75 or more than 165.
    assert 0.18 < ebpf / (kernel + ebpf) < 0.42
    assert [one["measure"] for one in found["comparisons"]] == ["answer_median_seconds", "answer_p99_seconds"]
    assert is_plain(adopted.sw)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_shows_what_it_has(adopted: Segment, number: signal.Signals) -> None:
    with stream(adopted) as flowing, started(adopted.sw, "br0", "--seconds", "60", "--slice", "0.2") as process:
        poll("a turn", lambda: seen(adopted.sw, COMPARED) > 0, timeout=20)
        flowing.wait_received(3 * PPS, timeout=20)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    assert "packets/s" in out
    assert flowing.report.intact, flowing.report
    assert is_plain(adopted.sw)


def test_killed_in_a_turn_of_the_kernel(adopted: Segment) -> None:
    """All goes by eBPF again when the turn is over, and whoever changes something next takes the programs away."""
    at = ("-n", adopted.sw.name)
    with stream(adopted) as flowing:
        with started(adopted.sw, "br0", "--seconds", "60", "--slice", "1.5") as process:
            poll("a turn", lambda: seen(adopted.sw, COMPARED) > 0, timeout=20)
            assert instances(adopted.sw)["br0"]["comparison"] == "under way"
            assert "compared with the kernel's path right now" in ok(*at, "status")
            process.kill()
        killed = time.monotonic()
        poll("the end of the turn", lambda: _moves_on(adopted, flowing), timeout=1.5 * 1.2 + 1)
        assert time.monotonic() - killed < 1.5 * 1.2 + 1
        assert instances(adopted.sw)["br0"]["comparison"] == "left over"
        assert "a comparison was killed" in ok(*at, "status")
        ok(*at, "attach", "--mode", "count", "p2")
        assert is_plain(adopted.sw)
        forwarded = seen(adopted.sw, FORWARDED)
        flowing.wait_received(200)
        assert seen(adopted.sw, FORWARDED) >= forwarded + 200
    assert flowing.report.intact, flowing.report


def _moves_on(net: Segment, flowing: NumberedStream) -> bool:
    """Whether all of the next packets went by eBPF."""
    left = seen(net.sw, COMPARED)
    flowing.wait_received(100)
    return seen(net.sw, COMPARED) == left


@pytest.mark.parametrize("after", ["attach --mode count p2", "detach --all", "compare br0 --seconds 0.8 --slice 0.2"])
def test_killed_while_attached_for_it(net: Segment, after: str) -> None:
    """The kernel carries all again when the turn is over, and the instance goes with the next change."""
    at = ("-n", net.sw.name)
    with stream(net) as flowing:
        with started(net.sw, "br0", "--seconds", "60", "--slice", "0.5") as process:
            poll("a turn", lambda: bool(instances_of(net.sw)) and seen(net.sw, FORWARDED) > 0, timeout=20)
            process.kill()
        time.sleep(1)
        forwarded = seen(net.sw, FORWARDED)
        flowing.wait_received(200)
        assert seen(net.sw, FORWARDED) == forwarded
        assert "a comparison was killed" in ok(*at, "status")
        ok(*at, *after.split())
        assert list(instances(net.sw)) == (["count"] if "count" in after else [])
    assert flowing.report.intact, flowing.report
    if "count" not in after:
        assert is_clean(net.sw)


def instances_of(ns: Namespace) -> dict[str, Any]:
    done = pydp("-n", ns.name, "status", "--json")
    return {} if done.returncode else {one["name"]: one for one in json.loads(done.stdout)["instances"]}


def test_detached_meanwhile_it_ends(adopted: Segment) -> None:
    at = ("-n", adopted.sw.name)
    with stream(adopted) as flowing, started(adopted.sw, "br0", "--seconds", "60", "--slice", "0.2") as process:
        poll("a turn", lambda: seen(adopted.sw, COMPARED) > 0, timeout=20)
        assert "under way" in refused(*at, "compare", "br0", status=1)
        ok(*at, "attach", "--mode", "count", "p2")  # another instance on its ports is no matter
        flowing.wait_received(PPS)
        assert process.poll() is None
        ok(*at, "detach", "br0")
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "br0 was changed or detached meanwhile" in complaint(err)
    assert "packets/s" in out
    assert flowing.report.intact, flowing.report
    assert list(instances(adopted.sw)) == ["count"]


def test_without_traffic_it_says_so(adopted: Segment) -> None:
    found = compared(adopted.sw, "br0", "--seconds", "4", "--slice", "0.1")
    assert found["blocks"]["kept"] == 0
    assert found["blocks"]["idle"] + found["blocks"]["late"] == 10
    assert found["blocks"]["idle"] > 5
    assert {one["finding"] for one in found["comparisons"]} == {"too little traffic to tell"}


def test_dry_run_changes_nothing(net: Segment) -> None:
    at = ("-n", net.sw.name)
    text = ok(*at, "compare", "br0", "--dry-run")
    assert "attached for as long as it takes, would be compared" in text
    assert "turns of 0.5 s" in text
    assert is_clean(net.sw)
    found = ok_json(*at, "compare", "br0", "--share", "10%", "--dry-run", "--json")
    assert (found["instance"], found["attached_for_it"], found["share"]) == ("br0", True, 0.1)


def test_what_has_no_path_of_the_kernels_is_refused(segment: SegmentFactory) -> None:
    made = segment(3)
    at = ("-n", made.sw.name)
    ok(*at, "attach", "--mode", "bridge", "p0", "p1")
    assert "nothing of the kernel's would forward" in refused(*at, "compare", "bridge", status=2)
    assert "nothing of the kernel's would forward" in refused(*at, "compare", "p0", status=2)
    assert "nothing to compare" in refused(*at, "compare", "p2", status=2)
    assert "no such instance or interface" in refused(*at, "compare", "nosuch", status=2)
    ok(*at, "detach", "--all")
    made.sw.run(["ip", "address", "add", "192.0.2.1/24", "dev", "p0"])
    ok(*at, "attach", "--mode", "nat", "--masquerade", "10.9.0.0/24", "p0")
    assert "would not be translated" in refused(*at, "compare", "nat", status=2)
    ok(*at, "detach", "--all")
    ok(*at, "attach", "--mode", "count", "p0")
    assert "leaves every packet to the kernel anyway" in refused(*at, "compare", "count", status=2)
    ok(*at, "detach", "--all")
    assert is_clean(made.sw)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("p0",), "pydp compare br0"),
        (("br0", "--seconds", "1", "--slice", "1"), "too short for 4 turns"),
        (("br0", "--slice", "0.01"), "from 0.1 to 60"),
        (("br0", "--share", "0"), "from 0.1% to 99.9%"),
        (("br0", "--share", "100%"), "from 0.1% to 99.9%"),
        (("br0", "--share", "most"), "not a share"),
    ],
)
def test_what_makes_no_sense_is_refused(net: Segment, words: tuple[str, ...], what: str) -> None:
    assert what in refused("-n", net.sw.name, "compare", *words, status=2)
    assert ping(net[0].ns, net[1].address4, count=1).lost == 0
    assert is_clean(net.sw)


def test_a_hook_is_for_what_is_not_attached(adopted: Segment) -> None:
    at = ("-n", adopted.sw.name)
    assert "attached on tc already" in refused(*at, "compare", "br0", "--hook", "xdp", status=2)
