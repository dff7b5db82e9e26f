# SPDX-License-Identifier: Apache-2.0
"""Mode vxlan over what the kernel has already, and VTEPs that nobody named, with the traffic of real stacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pydp import lab
from pydp.datapath import Datapath, Reader
from pydp.errors import UsageError
from pydp.lab import Node, Nodes
from pydp.metrics.page import Page
from pydp.metrics.sources import LiveSources
from tests.net.bridging import attached
from tests.net.tunnelling import pydp_end
from tests.system.cli import ok, ok_json

pytestmark = pytest.mark.usefixtures("bpffs")
NodesFactory = Callable[..., Nodes]


def verdicts(node: Node) -> dict[tuple[str, str], int]:
    """Packets by device and verdict."""

    def read() -> dict[tuple[str, str], int]:
        with Reader.open(Datapath()) as reader:
            return {(one.device, f"{one.kind}_{one.reason}"): one.packets for one in reader.verdicts()}

    found: dict[tuple[str, str], int] = node.ns.call(read)
    return found


@pytest.mark.parametrize("udp_csum", [None, False], ids=["checksums", "none"])
def test_the_kernels_device_and_its_bridge(nodes: NodesFactory, udp_csum: bool | None) -> None:
    made = nodes(2, direct=True)
    near = made[0]
    for node in made.nodes:
        made.kernel_vxlan(node)
    one, other = (node.containers[0] for node in made.nodes)
    assert lab.ping(one.ns, other.address4, count=2, interval=0.05).received == 2
    given = {} if udp_csum is None else {"udp_csum": udp_csum}
    with attached(near.ns, near.dev, mode="vxlan", hook="tc", options=given) as instance:
        assert instance.name == "vx100"
        assert near.ns.run(["ip", "-br", "link", "show", "pydp-vx4789"]).stdout.split()[1] == "DOWN"
        assert lab.ping(one.ns, other.address4, count=5, interval=0.05).received == 5
        for server, client in ((other, one), (one, other)):
            assert lab.iperf3(server.ns, client.ns, server.address4, seconds=1).bits_per_second > 0
        found = verdicts(near)
    assert found["p0", "forward_encap"] > 100
    assert found["eth0", "forward_decap"] > 100
    if udp_csum is False:  # then also what is cut up below is encapsulated here
        assert not found.get(("p0", "punt_checksum"))
    assert lab.ping(one.ns, other.address4, count=2, interval=0.05).received == 2
    assert "pydp" not in near.ns.run(["ip", "link"]).stdout


def test_addresses_do_not_age_in_the_kernel_meanwhile(nodes: NodesFactory) -> None:
    made = nodes(2, direct=True)
    near = made[0]
    for node in made.nodes:
        made.kernel_vxlan(node, ageing=4)
    one, other = (node.containers[0] for node in made.nodes)
    with attached(near.ns, near.dev, mode="vxlan", hook="tc", options={}):
        assert lab.ping(one.ns, other.address4, count=70, interval=0.1).received == 70
        known = near.ns.run(["bridge", "fdb", "show", "br", "br100"]).stdout
    assert one.mac in known
    assert f"{other.mac} dev vx100 master" in known


def test_nothing_to_adopt_says_both_ways_to_go_on(nodes: NodesFactory) -> None:
    made = nodes(2, direct=True)
    with (
        pytest.raises(UsageError, match="eth0 carries no vxlan device of the kernel") as caught,
        attached(made[0].ns, "eth0", mode="vxlan", hook="tc", options={}),
    ):
        pass
    assert "--vni" in str(caught.value.hint)
    assert "ip link add" in str(caught.value.hint)


def test_vteps_that_nobody_named(nodes: NodesFactory) -> None:
    """The far one knows the near one, which knows nobody: what comes first comes from there."""
    made = nodes(2, direct=True)
    near, far = made.nodes
    made.kernel_vxlan(far)
    one, other = (node.containers[0] for node in made.nodes)
    with pydp_end(made, near, remote=(), any_source=False):
        assert other.ns.run(["ping", "-c", "1", "-W", "1", one.address4], check=False).returncode == 1
        assert verdicts(near)["pydp-vx4789", "drop_vtep"] > 0
    with pydp_end(made, near, remote=(), any_source=True):
        assert lab.ping(other.ns, one.address4, count=3, interval=0.05).received == 3
        for server, client in ((other, one), (one, other)):
            assert lab.iperf3(server.ns, client.ns, server.address4, seconds=1).bits_per_second > 0
        found = verdicts(near)
        assert found["p0", "forward_encap"] > 100
        assert found["eth0", "forward_decap"] > 100
        _is_shown(near, far.address4)


def _is_shown(node: Node, guest: str) -> None:
    """Beside those that were named, of whom there are none, with what it sent and was sent."""
    (shown,) = ok_json("-n", node.ns.name, "tunnel", "show", "--json")["instances"]
    assert shown["tunnels"] == []
    (one,) = shown["guests"]
    assert (one["remote"], one["vni"]) == (guest, 100)
    assert one["sent_packets"] > 100
    assert one["received_packets"] > 100
    text = ok("-n", node.ns.name, "tunnel", "show")
    assert "0 VTEPs, 1 guest\n" in text
    assert guest in text

    def page() -> str:
        with Reader.open(Datapath()) as reader:
            return Page(lambda: LiveSources(lambda: reader)).text().decode()

    lines = node.ns.call(page).splitlines()
    assert 'pydp_tunnel_guests{instance="vxlan"} 1' in lines
    assert 'pydp_tunnel_max_guests{instance="vxlan"} 4096' in lines
    assert 'pydp_collector_success{collector="tunnels"} 1' in lines
