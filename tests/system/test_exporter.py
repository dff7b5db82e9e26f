# SPDX-License-Identifier: Apache-2.0
"""`pydp exporter` beside a datapath that carries traffic: true numbers, no rights, no leaks, a clean end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ebpf import libbpf
from ebpf.maps import Map
from pydp.datapath import Instance, Reader
from pydp.datapath.specs import abi_of, counters_spec
from pydp.lab import Namespace, Nodes, Segment, ping, poll
from pydp.metrics.families import FAMILIES
from pydp.metrics.page import Page
from pydp.metrics.sources import LiveSources
from pydp.modes import fdb as table
from tests.system.exporting import PORT, Exporter, Lan, parsed, side, value, verdicts

pytestmark = pytest.mark.usefixtures("bpffs")

XDP_OFFLOADS = {"tx": False, "txvlan": False, "gro": True}


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_the_numbers_are_the_traffic(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter], hook: str
) -> None:
    net = segment(2, offloads=XDP_OFFLOADS if hook == "xdp" else None)
    net.sw.run(["ip", "link", "add", "other", "type", "bridge"])
    made = lan(net.sw)
    made.attach(*net.ports, hook=hook)
    serving = exporter(net.sw)
    begin = serving.values()
    a, b = net.containers
    assert ping(a.ns, b.address4, count=50, interval=0.005).received == 50
    found = serving.values()

    # 50 requests and the question for the address there, 50 replies and the answer back.
    for device in net.ports:
        carried = side(found, "ebpf", device) - side(begin, "ebpf", device)
        assert carried == 51
        assert side(found, "kernel", device) - side(begin, "kernel", device) == carried
        size = side(found, "ebpf", device, what="bytes") - side(begin, "ebpf", device, what="bytes")
        assert size == 50 * 98 + 42
    forwarded = {"instance": "bridge", "device": "p0", "hook": hook, "verdict": "forward", "reason": "port"}
    assert value(found, "pydp_verdicts_total", **forwarded) == 50
    assert value(found, "pydp_verdict_bytes_total", **forwarded) == 50 * 98
    assert value(found, "pydp_fastpath_ratio", instance="bridge") == 1
    assert value(found, "pydp_fdb_entries", instance="bridge", kind="learned") == 2
    assert value(found, "pydp_fdb_entries", instance="bridge", kind="local") == 2
    assert value(found, "pydp_fdb_learned_total", instance="bridge") == 2
    assert value(found, "pydp_fdb_max_entries", instance="bridge") == 65536
    assert value(found, "pydp_attached", instance="bridge", device="p1", hook=hook) == 1
    assert side(found, "kernel", "other", instance="") == 0  # a bridge that pydp has nothing to do with


def test_promtool_accepts_the_page(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2, kernel_bridge=True)
    made = lan(net.sw)
    made.attach("br0")
    a, b = net.containers
    ping(a.ns, b.address4, count=3, interval=0.01)
    serving = exporter(net.sw)
    page = serving.text()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shown = set()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            assert set(sample.labels) == set(FAMILIES[sample.name].labels)
            shown.add(sample.name)
    # Other modes have these, netfilter where it has rules, and bridges from Linux 6.7 on.
    others = ("pydp_tunnel_", "pydp_conntrack_", "pydp_service", "pydp_nat_", "pydp_netfilter_", "pydp_bridge_")
    assert {name for name in shown if not name.startswith(others)} == {
        name for name in FAMILIES if not name.startswith(others)
    }
    assert side(serving.values(), "kernel", "br0", instance="br0") >= 0
    assert serving.text("application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


def test_tunnels_count_what_the_other_end_counts(
    nodes: Callable[..., Nodes], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    """The oracle is the kernel's vxlan device at the other end."""
    made = nodes(2, 1, direct=True)
    near, far = made.nodes
    made.kernel_vxlan(far, 100)
    here = lan(near.ns)
    options = {"vni": 100, "local": near.address4, "remote": (far.address4, "192.0.2.77"), "port": near.ports}
    here.attach("eth0", mode="vxlan", **options)
    serving = exporter(near.ns)
    assert ping(near.containers[0].ns, far.containers[0].address4, count=50, interval=0.005).received == 50
    page = serving.text()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = parsed(page)

    there = json.loads(far.ns.run(["ip", "-s", "-j", "link", "show", "vx100"]).stdout)[0]["stats64"]
    tunnel = {"instance": "vxlan", "mode": "vxlan", "vni": "100", "remote": far.address4}
    for direction, key in (("send", "rx"), ("receive", "tx")):
        assert value(found, "pydp_tunnel_packets_total", direction=direction, **tunnel) == there[key]["packets"]
    assert value(found, "pydp_tunnel_packets_total", direction="send", **tunnel) >= 51
    # The kernel of either end may ask for an address once more; the question counts as 28 bytes of ARP and a header.
    assert value(found, "pydp_tunnel_bytes_total", direction="send", **tunnel) >= 50 * 98 + 42
    assert value(found, "pydp_tunnel_vteps", instance="vxlan") == 2
    silent = {**tunnel, "remote": "192.0.2.77"}
    assert value(found, "pydp_tunnel_packets_total", direction="receive", **silent) == 0

    # What the companion carried is left to the kernel, and stands beside.
    vxlan = {"mode": "vxlan", "instance": "vxlan"}
    assert side(found, "ebpf", "pydp-vx4789", **vxlan) == 0
    assert side(found, "kernel", "pydp-vx4789", "transmit", **vxlan) >= 2  # the question, to both VTEPs
    # The first request may find the next hop not resolved, and every two seconds the kernel is shown one.
    assert 45 <= side(found, "ebpf", "p0", **vxlan) <= 53
    assert value(found, "pydp_fdb_entries", instance="vxlan", kind="learned") == 2
    encap = {"instance": "vxlan", "device": "p0", "hook": "tc", "verdict": "forward", "reason": "encap"}
    assert value(found, "pydp_verdicts_total", **encap) >= 45

    # Punts by reason, of the port and of the tunnel that it sends to.
    shown = {"verdict": "punt", "reason": "neighbour"}
    punts = value(found, "pydp_verdicts_total", instance="vxlan", device="p0", hook="tc", **shown)
    ends = {one: tunnel[one] for one in ("instance", "mode", "vni", "remote")}
    assert 0 < punts == value(found, "pydp_tunnel_verdicts_total", **ends, **shown)

    here.attach("eth0", mode="vxlan", **options, ageing=100.0)
    after = serving.values()
    for name in (name for name, family in FAMILIES.items() if family.kind == "counter"):
        for labels, counted in found.get(name, {}).items():
            assert after[name][labels] >= counted, (name, labels)


def test_what_serves_has_no_rights_and_listens_on_loopback_only(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(1)
    lan(net.sw).attach("p0")
    serving = exporter(net.sw)
    serving.values()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{serving.child}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    assert status["Groups"].strip() == ""
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"

    # The process with rights keeps no map and no program open, and does not listen.
    opened = [str(one.readlink()) for one in Path(f"/proc/{serving.pid}/fd").iterdir()]
    assert not [one for one in opened if "bpf" in one]
    assert len([one for one in opened if one.startswith("socket:")]) == 1  # to its child
    listening = net.sw.run(["ss", "-Hltn"]).stdout.split("\n")[:-1]
    assert [line.split()[3] for line in listening] == [f"127.0.0.1:{PORT}"]


def test_counters_stay_when_the_instance_is_replaced(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    made = lan(net.sw)
    made.attach(*net.ports)
    serving = exporter(net.sw)
    a, b = net.containers
    ping(a.ns, b.address4, count=20, interval=0.005)
    pages = [serving.values()]
    for options in ({"ageing": 100.0}, {"ageing": 50.0, "fdb_size": 1000}):
        made.attach(*net.ports, **options)
        pages.append(serving.values())
    made.attach("p0", mode="count")
    pages.append(serving.values())
    ping(a.ns, b.address4, count=20, interval=0.005)
    pages.append(serving.values())

    assert value(pages[2], "pydp_fdb_max_entries", instance="bridge") == 1000
    for before, after in pairwise(pages):
        for name in (name for name, family in FAMILIES.items() if family.kind == "counter"):
            for labels, counted in before.get(name, {}).items():
                assert after[name][labels] >= counted, (name, labels)
    assert side(pages[4], "ebpf", "p0") >= side(pages[0], "ebpf", "p0") + 20


def test_an_attach_after_a_detach_is_seen_and_so_is_none(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    made = lan(net.sw)
    serving = exporter(net.sw)
    assert "pydp_attached" not in serving.values()
    for count in (5, 10):  # the state's generation is the same both times
        made.attach(*net.ports)
        ping(net[0].ns, net[1].address4, count=count, interval=0.005)
        assert verdicts(serving.values(), "p1") in (count, count + 1)  # the address may be known
        made.detach()
        assert "pydp_attached" not in serving.values()


def test_a_new_instance_does_not_inherit_what_another_counted(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    made = lan(net.sw)
    made.attach(*net.ports, mode="count")  # keeps program and counters of the ports
    made.attach(*net.ports)
    serving = exporter(net.sw)
    ping(net[0].ns, net[1].address4, count=5, interval=0.005)
    assert verdicts(serving.values(), "p1") >= 5
    made.detach("bridge")
    made.attach(*net.ports)
    assert side(serving.values(), "ebpf", "p1") == 0


def test_a_port_that_vanished_costs_no_other_number(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    lan(net.sw).attach(*net.ports)
    serving = exporter(net.sw)
    net.sw.run(["ip", "link", "del", "p1"])
    found = serving.values()
    assert value(found, "pydp_attached", instance="bridge", device="p0", hook="tc") == 1
    assert value(found, "pydp_attached", instance="bridge", device="p1", hook="tc") == 0
    assert side(found, "kernel", "p0") >= 0
    assert not [
        labels for labels in found["pydp_path_packets_total"] if {("path", "kernel"), ("device", "p1")} <= {*labels}
    ]


def test_nothing_leaks_over_many_scrapes_and_attaches(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    made = lan(net.sw)
    made.attach(*net.ports)
    serving = exporter(net.sw)
    serving.values()
    before = serving.descriptors()
    for number in range(200):
        if number % 50 == 49:
            made.attach(*net.ports, ageing=100.0 + number)
        serving.text()
    # The connection of the last scrape may still be closing.
    poll("descriptors as before", lambda: serving.descriptors() == before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_both(
    namespace: Callable[..., Namespace], exporter: Callable[..., Exporter], number: signal.Signals, status: int
) -> None:
    serving = exporter(namespace())
    assert serving.end(number) == (status, "")
    assert not Path(f"/proc/{serving.child}").exists()


def test_each_ends_when_the_other_is_killed(
    namespace: Callable[..., Namespace], exporter: Callable[..., Exporter]
) -> None:
    ns = namespace()
    serving = exporter(ns)
    serving.process.kill()
    serving.process.wait(10)
    poll("the child gone", lambda: not Path(f"/proc/{serving.child}").exists())

    serving = exporter(ns)  # the address is free again
    os.kill(serving.child, signal.SIGKILL)
    _, said = serving.process.communicate(timeout=10)
    assert serving.process.returncode == 1
    assert said == "pydp: the process that serves has ended: SIGKILL\n"

    serving = exporter(ns)  # as systemd stops a service: everybody is asked, in no order
    os.kill(serving.child, signal.SIGTERM)
    _, said = serving.process.communicate(timeout=10)
    assert (serving.process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    ("listen", "status", "words"),
    [
        (f"127.0.0.1:{PORT}", 1, "taken by another process"),
        ("nonsense", 2, "ADDR:PORT"),
        ("192.0.2.1:1", 2, "no device"),
    ],
)
def test_an_address_it_cannot_have(
    namespace: Callable[..., Namespace],
    exporter: Callable[..., Exporter],
    folder: Path,
    listen: str,
    status: int,
    words: str,
) -> None:
    ns = namespace()
    exporter(ns)
    done = ns.run([sys.executable, "-m", "pydp", "exporter", "--listen", listen], check=False, cwd=folder)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def full_house(ns: Namespace, small: Reader, instance: Instance, stack: contextlib.ExitStack) -> Reader:
    """SMALL, which has two ports, as if it had 256: counters of their own, the programs and links of the first.

    Attaching to 256 ports takes the kernel half a minute, and reads no differently.
    """
    names = {ns.ifindex(f"{end}{i}"): f"{end}{i}" for end in "pq" for i in range(128)}
    slots = {ifindex: slot for slot, ifindex in enumerate(names)}
    big = replace(instance, slots=slots, names=names, hooks=dict.fromkeys(names, ("tc",)))
    first = next(iter(small.state.attachments.values()))
    attachments = {f"{ifindex}-tc": replace(first, ifindex=ifindex) for ifindex in names}
    descriptors = {name: one for name, one in small.descriptors.items() if name.startswith("maps/")}
    spec = counters_spec(abi_of(instance))
    for key in attachments:
        counters = stack.enter_context(Map.create(spec))
        counters.update({number: (1000 + number, 64000) for number in (1, 8, 18, 40)})
        descriptors[f"counters/{key}"] = counters.fd
        descriptors[f"programs/{key}"] = small.descriptors[f"programs/{first.key}"]
        descriptors[f"links/{key}"] = small.descriptors[f"links/{first.key}"]
    return Reader(replace(small.state, instances={big.name: big}, attachments=attachments), descriptors)


def test_a_full_house_is_read_in_time(namespace: Callable[..., Namespace], lan: Callable[..., Lan]) -> None:
    addresses = 100_000
    ns = namespace()
    pairs = (f"link add p{i} type veth peer name q{i}\n" for i in range(128))
    ns.run(["ip", "-batch", "-"], stdin="".join(pairs))
    made = lan(ns)
    instance = made.attach("p0", "p1", fdb_size=addresses)
    first = int.from_bytes(b"\x02\xaa\0\0\0\0", "big")
    macs = ((first + number).to_bytes(6, "big") for number in range(addresses))
    wanted = [table.add_request(mac, 0, number % 2) for number, mac in enumerate(macs)]
    with made.datapath.store.locked():
        made.datapath.control(instance, wanted)

    with contextlib.ExitStack() as stack:
        reader = full_house(ns, stack.enter_context(Reader.open(made.datapath)), instance, stack)
        page = Page(lambda: LiveSources(lambda: reader))
        found = parsed(ns.call(page.text).decode())
        # A few find all their places taken: permanent addresses do not make way.
        assert value(found, "pydp_fdb_entries", instance="bridge", kind="permanent") >= 0.99 * addresses
        assert len(found["pydp_attached"]) == 256
        assert side(found, "ebpf", "q127") == (1001 + 1008) * libbpf.cpu_count()  # each CPU was given that
        assert side(found, "kernel", "q127") >= 0
        assert ns.call(cpu_seconds, page.text) < 0.3


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the best of five runs: nothing in a page waits but for the CPU, which others may hold."""
    took = []
    for _ in range(5):
        begin = time.thread_time()
        work()
        took.append(time.thread_time() - begin)
    return min(took)
