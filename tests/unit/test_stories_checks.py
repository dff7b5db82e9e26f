# SPDX-License-Identifier: Apache-2.0
"""Each check of stories holds where it should, and fails where it should."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pydp.lab.stories import checks
from pydp.lab.stories.model import Check, Seen, Step
from pydp.lab.stories.running import finding
from tests.unit.stories import output, pinged, seen

REQUEST = (
    "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype IPv4 (0x0800), length 98:"
    " 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, length 64"
)
HEARD = seen(output(), red_eth0=(REQUEST, REQUEST), blue_eth0=())

CASES = [
    (checks.answered(), seen(pinged(2, 2)), seen(pinged(2, 1))),
    (checks.answered(), seen(pinged(1, 1)), seen(output(err="ping: unknown host", status=2))),
    (checks.unanswered(), seen(pinged(2, 0)), seen(pinged(2, 1))),
    (checks.unanswered(), seen(output(err="ping: connect: Network is unreachable", status=2)), seen(output())),
    (checks.works(), seen(output()), seen(output(status=1))),
    (checks.fails("no way"), seen(output(err="there is no way", status=1)), seen(output(err="else", status=1))),
    (checks.fails("no way"), seen(output(err="there is no way", status=1)), seen(output("no way"))),
    (checks.says("b+"), seen(output("aa\nbb\n")), seen(output("aa\n"))),
    (checks.says("b+", never=True), seen(output("aa\n")), seen(output("bb\n"))),
    (checks.prints("x y"), seen(output("x y\n")), seen(output("x y z\n"))),
    (checks.answered(0), seen(pinged(1, 1), pinged(1, 0)), seen(pinged(1, 0), pinged(1, 1))),
    (checks.captured("red:eth0", "echo request", 2), HEARD, seen(red_eth0=(REQUEST,))),
    (checks.captured("red:eth0", "echo request"), HEARD, seen(red_eth0=("ARP",))),
    (checks.uncaptured("red:eth0", "echo reply"), HEARD, seen(red_eth0=("ICMP echo reply",))),
    (checks.document(lambda found: (found["a"] == 1, "a number")), seen(output('{"a": 1}')), seen(output('{"a": 2}'))),
    (checks.document(lambda found: (found["a"] == 1, "a number")), seen(output('{"a": 1}')), seen(output("{}"))),
    (checks.document(lambda found: (found["a"] == 1, "a number")), seen(output('{"a": 1}')), seen(output("no JSON"))),
    (checks.learned({"m": "p1"}), seen(output('[{"mac": "m", "ifname": "p1"}]')), seen(output("[]"))),
    (checks.learned({"m": "p1"}), seen(output('{"entries": [{"mac": "m", "ifname": "p1"}, {"mac": "n"}]}')),
     seen(output('{"entries": [{"mac": "m", "ifname": "p2"}]}'))),
    (checks.both(checks.works(), checks.prints("x")), seen(output("x")), seen(output("y"))),
]  # fmt: skip


@pytest.mark.parametrize(("check", "good", "bad"), CASES)
def test_it_holds_and_it_fails(check: Check, good: Seen, bad: Seen) -> None:
    assert check(good).ok
    assert not check(bad).ok
    assert check(bad).text


def test_what_is_said_of_a_packet_leaves_ethernet_out() -> None:
    found = checks.captured("red:eth0", "echo request")(HEARD)
    assert found.text == "at red:eth0 2 times: 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, length 64"
    assert checks.captured("blue:eth0", r"1\.2\.3\.4 > .*ICMP")(HEARD).text == (
        "at blue:eth0: no 1.2.3.4 >  ... ICMP among 0 packets"
    )


def test_a_ping_is_named_by_its_ends() -> None:
    done = replace(pinged(2, 1), command="ip netns exec red ping -n -c 2 10.0.0.2")
    assert checks.answered()(seen(done)).text == "red to 10.0.0.2: 1 of 2 echo requests answered"


def test_a_check_that_stumbles_has_failed() -> None:
    step = Step("title", (), "something", lambda seen: json.loads(seen.last.out))
    found = finding(step, seen())
    assert found
    assert not found.ok
    assert "IndexError" in found.text


def test_a_step_that_only_prepares_has_no_finding() -> None:
    assert finding(Step("title", ()), seen()) is None
