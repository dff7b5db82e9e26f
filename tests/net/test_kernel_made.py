# SPDX-License-Identifier: Apache-2.0
"""Devices that pydp makes, with `ip` as second opinion."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydp.errors import PydpError
from pydp.kernel import View, batch, join, make_vxlan, remove_made
from pydp.lab import Namespace, poll
from pydp.model import Group

Make = Callable[..., Namespace]
ALIAS = "pydp one"
NAME = "pydp-vx4789"


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


def devices(ns: Namespace) -> set[str]:
    return {link["ifname"] for link in json.loads(shell(ns, "ip -j link"))} - {"lo"}


def make(ns: Namespace, name: str = NAME, port: int = 4789, alias: str = ALIAS) -> int:
    return ns.call(make_vxlan, name, port=port, alias=alias)


@pytest.mark.parametrize("ipv6", [True, False])
def test_as_ip_shows_it(namespace: Make, ipv6: bool) -> None:
    ns = namespace(ipv6=ipv6)
    ifindex = make(ns)
    (link,) = json.loads(shell(ns, f"ip -d -j link show {NAME}"))
    data = link["linkinfo"]["info_data"]
    assert (link["ifindex"], link["ifalias"], link["mtu"]) == (ifindex, ALIAS, 65535)
    assert {"UP", "NOARP"} <= set(link["flags"])
    assert link["inet6_addr_gen_mode"] == "none"
    assert (data["external"], data["port"], data["learning"], data["udp_zero_csum6_rx"]) == (True, 4789, False, True)
    (addresses,) = json.loads(shell(ns, f"ip -j addr show {NAME}"))
    assert addresses["addr_info"] == []
    vxlan = ns.call(View.read).vxlans[ifindex]
    assert (vxlan.external, vxlan.port, vxlan.learning, vxlan.udp6_zero_rx, vxlan.up) == (True, 4789, False, True, True)
    assert devices(ns) == {NAME}


def test_one_that_is_there_is_taken(namespace: Make) -> None:
    ns = namespace()
    ifindex = make(ns)
    shell(ns, f"ip link set {NAME} down")
    assert make(ns) == ifindex
    assert ns.call(View.read).links[ifindex].up
    assert make(ns, "pydp-vx4790", 4790) != ifindex


@pytest.mark.parametrize(
    "foreign",
    [
        f"ip link add {NAME} type bridge",
        f"ip link add {NAME} type vxlan external dstport 4789 udp6zerocsumrx",
        f"ip link add {NAME} type vxlan external dstport 4789 udp6zerocsumrx; ip link set {NAME} alias 'pydp other'",
        f"ip link add {NAME} type vxlan external dstport 4790 udp6zerocsumrx; ip link set {NAME} alias '{ALIAS}'",
        f"ip link add {NAME} type vxlan external dstport 4789; ip link set {NAME} alias '{ALIAS}'",
        f"ip link add {NAME} type vxlan id 5 dstport 4789 udp6zerocsumrx; ip link set {NAME} alias '{ALIAS}'",
    ],
)
def test_one_of_that_name_that_is_not_ours(namespace: Make, foreign: str) -> None:
    ns = namespace()
    shell(ns, foreign)
    before = shell(ns, "ip -d link")
    with pytest.raises(PydpError, match=f"{NAME} exists already") as caught:
        make(ns)
    assert caught.value.hint == f"remove it: ip link del {NAME}"
    assert shell(ns, "ip -d link") == before


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        ("ip link add vx0 type vxlan id 5 dstport 4789; ip link set vx0 up", "ip link del vx0"),  # EADDRINUSE
        ("ip link add vx0 type vxlan external dstport 4789 udp6zerocsumrx", "ip link del vx0"),  # EEXIST
    ],
)
def test_port_of_the_kernel_s_vxlan(namespace: Make, other: str, hint: str) -> None:
    ns = namespace()
    shell(ns, other)
    before = shell(ns, "ip -d link")
    with pytest.raises(PydpError, match=f"cannot make {NAME}: UDP port 4789 is in use by the kernel's vx0") as caught:
        make(ns)
    assert hint in caught.value.hint
    assert shell(ns, "ip -d link") == before


def test_port_of_another_instance(namespace: Make) -> None:
    ns = namespace()
    make(ns)
    with pytest.raises(PydpError, match=rf"in use by {NAME} \({ALIAS}\)") as caught:
        make(ns, "pydp-again", alias="pydp two")
    assert caught.value.hint == "pydp detach one"
    assert devices(ns) == {NAME}


def test_port_of_a_process(namespace: Make) -> None:
    ns = namespace()
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 4789))
        with pytest.raises(PydpError, match="UDP port 4789 is in use by another socket") as caught:
            make(ns)
    assert "ss -uanp" in caught.value.hint
    assert devices(ns) == set()
    make(ns)


@pytest.mark.parametrize(
    ("name", "alias"), [(NAME, "pydp " + "x" * 300), ("a-name-that-is-too-long", ALIAS), ("with/slash", ALIAS)]
)
def test_what_the_kernel_refuses_half_way(namespace: Make, name: str, alias: str) -> None:
    ns = namespace()
    with pytest.raises(PydpError, match="cannot make "):
        make(ns, name, alias=alias)
    assert devices(ns) == set()


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_at_any_step(
    namespace: Make, step: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception before the answer to each of the four messages of a new device, its carrying out done."""
    ns = namespace()
    answers, seen = batch._answers, []

    def broken(datagram: bytes) -> Any:
        seen.append(None)
        if len(seen) == step + 1:
            raise error
        return answers(datagram)

    monkeypatch.setattr(batch, "_answers", broken)
    with pytest.raises(error):
        make(ns)
    assert len(seen) > step
    assert devices(ns) == set()


KILLED = """
import os, signal, sys
from pydp.kernel import batch, made
class Killed(batch.Requests):
    sent = 0
    def send(self, commands):
        Killed.sent += 1
        if Killed.sent == int(sys.argv[1]):
            answers = batch._answers
            batch._answers = lambda datagram: os.kill(os.getpid(), signal.SIGKILL)
        return super().send(commands)
made.Requests = Killed
made.make_vxlan("pydp-vx4789", port=4789, alias="pydp one")
"""


@pytest.mark.parametrize("when", [1, 2, 3])
def test_killed_half_way(namespace: Make, when: int) -> None:
    """What a killed process leaves is marked: it is found and removed."""
    ns = namespace()
    child = ns.popen([sys.executable, "-c", KILLED, str(when)], cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL)
    assert child.wait(30) == -signal.SIGKILL
    (left,) = devices(ns)
    assert ns.call(remove_made, ()) == [left]
    assert devices(ns) == set()


@pytest.mark.parametrize(
    ("destination", "group"),
    [
        ("remote 192.0.2.1", ""),
        ("remote 2001:db8::1 udp6zerocsumtx", ""),
        ("group 239.1.1.1 dev u1", "239.1.1.1"),
        ("group ff05::5 dev u1 udp6zerocsumtx", "ff05::5"),
    ],
)
def test_it_gets_what_vteps_send(namespace: Make, destination: str, group: str) -> None:
    """From a vxlan device of the kernel, to an address or to a group that the underlay has joined."""
    ns, other = namespace(ipv6=True), namespace(ipv6=True)
    shell(ns, f"ip link add u0 address 02:00:00:00:00:01 type veth peer name u1 netns {other.name}; ip link set u0 up")
    shell(ns, "ip addr add 192.0.2.1/24 dev u0; ip addr add 2001:db8::1/64 dev u0")
    shell(other, "ip link set u1 up; ip addr add 192.0.2.2/24 dev u1; ip addr add 2001:db8::2/64 dev u1")
    shell(other, f"ip link add vx0 type vxlan id 7 dstport 4789 {destination}; ip link set vx0 up")
    make(ns)
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\x09" + b"\x88\xb5" + bytes(64)
    with other.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("vx0", 0))

        def arrives() -> bool:
            return sock.send(frame) > 0 and received(ns) > 0

        if group:
            assert not any(arrives() for _ in range(10))
            ns.call(join, Group(ns.ifindex("u0"), group))
        poll("a frame on the device", arrives)


def received(ns: Namespace) -> int:
    (link,) = json.loads(shell(ns, f"ip -s -j link show {NAME}"))
    return int(link["stats64"]["rx"]["packets"])


def test_removal_leaves_others_alone(namespace: Make) -> None:
    ns = namespace()
    shell(
        ns,
        "ip link add vx0 type vxlan id 5 dstport 9; ip link set vx0 alias 'pydpx';"
        "ip link add vx1 type vxlan id 6 dstport 9;"
        "ip link add br0 type bridge; ip link set br0 alias 'pydp uplink'",
    )
    kept = make(ns)
    make(ns, "pydp-vx4790", 4790, "pydp two")
    assert ns.call(remove_made, {kept}) == ["pydp-vx4790"]
    assert devices(ns) == {NAME, "vx0", "vx1", "br0"}
    assert ns.call(remove_made, ()) == [NAME]
    assert ns.call(remove_made, ()) == []
    assert devices(ns) == {"vx0", "vx1", "br0"}
