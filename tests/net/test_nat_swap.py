# SPDX-License-Identifier: Apache-2.0
"""All of a hundred thousand services replaced at once, and pins of another version, while connections go on."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from ebpf.errors import LayoutMismatch
from ebpf.pins import STATE
from pydp.datapath import Datapath, Request
from pydp.datapath.state import Instance
from pydp.services.api import Services
from pydp.services.attach import ServiceFiller
from pydp.services.model import Backend, Frontend, Service
from tests.net.bridging import detach
from tests.net.natting import Site, attach, make_site
from tests.net.speaking import Seen, Server, client, heard, outcome, stream
from tests.net.tunnelling import NodesFactory
from tests.system.pinned import changed

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

COUNT = 100_000
FIRST = IPv4Address("10.97.0.0")
NAMES = ("c0", "c1", "c2")
BEFORE, AFTER = NAMES[:2], NAMES[1:]  # who answers


@pytest.fixture
def site(nodes: NodesFactory) -> Iterator[Site]:
    """Three containers."""
    made = make_site(nodes, "tc", n=2, containers=len(NAMES))
    with contextlib.ExitStack() as stack:
        for name, one in zip(NAMES, made.inside, strict=True):
            stack.enter_context(Server(one.ns, name, one.address4))
        stack.callback(detach, made.router)
        yield made


def services(site: Site, count: int, names: tuple[str, ...]) -> list[Service]:
    """So many services, that these containers are behind."""
    ends = tuple(Backend(IPv4Address(site.inside[NAMES.index(name)].address4), 8080) for name in names)
    return [Service(f"s{at}", (Frontend("tcp", FIRST + at, 80),), ends) for at in range(count)]


def attach_all(site: Site, wanted: list[Service]) -> Instance:
    def work() -> Instance:
        datapath = Datapath()
        request = Request("nat", (site.node.dev, *site.node.ports), hook=site.kind)
        return datapath.attach(request, ServiceFiller(datapath, wanted))

    return site.router.call(work)


def test_a_hundred_thousand_services_are_swapped(site: Site) -> None:
    """Each request finds a service as it was or as it is to be, and once that is so always so; a connection with who
    stays a backend goes on.
    """
    attach_all(site, services(site, COUNT, BEFORE))
    answers: Counter[str] = Counter()
    done = threading.Event()

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        while not done.is_set():
            found = outcome(site.outside, str(FIRST + draw.randrange(COUNT)), 80, size=2000)
            answers[found.server if isinstance(found, Seen) else str(found)] += 1

    threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(2)]
    with contextlib.ExitStack() as stack:
        sock = client(site.outside, str(FIRST))
        stack.enter_context(sock)
        sock.connect((str(FIRST + 77), 80))
        while heard(sock).server != "c1":
            sock.close()
            sock = stack.enter_context(client(site.outside, str(FIRST)))
            sock.connect((str(FIRST + 77), 80))
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(done.set)
        for thread in threads:
            thread.start()
        wait_for(answers, 20)
        assert answers.keys() == set(BEFORE), answers
        site.router.call(lambda: Services(Datapath()).replace_all(services(site, COUNT, AFTER)))
        stream(sock, 50_000)
        wait_for(answers, answers.total() + 20)
    assert answers.keys() == set(NAMES), answers
    drawn = {outcome(site.outside, str(FIRST + at), 80, size=10) for at in range(0, COUNT, COUNT // 50)}
    assert {one.server for one in drawn if isinstance(one, Seen)} == set(AFTER)
    assert all(isinstance(one, Seen) for one in drawn)


def wait_for(answers: Counter[str], count: int) -> None:
    deadline = time.monotonic() + 60
    while answers.total() < count:
        assert time.monotonic() < deadline, answers
        time.sleep(0.02)


def test_pins_of_another_version(site: Site) -> None:
    """Flows that another version has written are not read as if they were ours: the attach says so, and all goes on."""
    instance = attach_all(site, services(site, 3, ("c1",)))
    with client(site.outside, str(FIRST)) as sock:
        sock.connect((str(FIRST), 80))
        assert heard(sock).server == "c1"
        with changed(site.router.call(Datapath).store.current / STATE) as found:
            told = found["instances"][instance.name]["maps"]["nat_flows"]
            told["layout"] = [["tuple", 0, 40], *told["layout"][1:]]
        ports = (site.node.dev, *site.node.ports)
        with pytest.raises(LayoutMismatch, match="nat_flows was made by a version with another layout") as caught:
            attach(site.router, *ports, hook=site.kind)
        assert "detach" in caught.value.hint
        stream(sock, 50_000)
    found_now = outcome(site.outside, str(FIRST), 80)
    assert isinstance(found_now, Seen)
    assert found_now.server == "c1"
