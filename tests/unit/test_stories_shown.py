# SPDX-License-Identifier: Apache-2.0
"""What came of stories: status, JSON, the page, the table."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from pydp.cli import lab_run, lab_shown
from pydp.errors import Unsupported
from pydp.lab.stories import page
from pydp.lab.stories.results import Run, document
from tests.unit.stories import STORY, run

SKIPPED = Run(STORY, "kernel", problem="this kernel has no such devices", hint="a command", skipped=True)
BROKEN = replace(run(), problem="a command failed")


@pytest.mark.parametrize(
    ("made", "status", "held"),
    [
        (run(), "ok", (1, 1)),
        (run("ebpf"), "ok", (2, 2)),
        (run(ok=False), "failed", (0, 1)),
        (BROKEN, "failed", (1, 1)),
        (SKIPPED, "skipped", (0, 0)),
    ],
)
def test_status(made: Run, status: str, held: tuple[int, int]) -> None:
    assert (made.status, made.checks) == (status, held)


def test_exit_status() -> None:
    assert lab_run._status([run(), run("ebpf"), SKIPPED]) == 0
    assert lab_run._status([run(), run("ebpf", ok=False)]) == 1
    assert lab_run._status([BROKEN]) == 1
    with pytest.raises(Unsupported, match="no such devices") as raised:
        lab_run._status([SKIPPED])
    assert raised.value.hint == "a command"


def test_the_document() -> None:
    found = json.loads(json.dumps(document(run("ebpf"))))
    assert (found["story"], found["via"], found["status"]) == ("test", "ebpf", "ok")
    assert found["checks"] == {"held": 2, "all": 2}
    ping, look = found["steps"]
    assert (ping["title"], ping["expected"], ping["seen"], ping["ok"]) == ("ping", "an answer", "as it should be", True)
    assert ping["captures"] == [{"command": "ip netns exec b tcpdump -tnel -i eth0 icmp", "lines": ["IP a > b"]}]
    assert ping["commands"][0]["out"] == "1 packets transmitted, 1 received"
    assert look["why"] == "because"
    assert "│ pydp" in "\n".join(found["drawing"])
    assert found["topology"][0] == "ip netns add a"


def test_the_page() -> None:
    text = page.render([run(text="<b>seen</b>"), run("ebpf", ok=False), SKIPPED])
    assert "&lt;b&gt;seen&lt;/b&gt;" in text
    assert "<b>" not in text
    assert text.count("<svg") == 2
    assert text.count("<polyline") == 4
    assert "10.0.0.1/24" in text
    assert "IP a &gt; b" in text
    assert text.count("not so") == 2
    assert "this kernel has no such devices" in text
    assert not re.search(r"<script|<link|<img|\bsrc=|@import|url\(", text)


def test_steps_of_both_ways_stand_in_one_row() -> None:
    text = page.render([run(), run("ebpf")])
    titles = re.findall(r'<th colspan="2">(.*?)</th>', text)
    assert titles == ["prepare", "ping", "look"]


def test_the_summary_and_the_comparison() -> None:
    shown = lab_shown.summary([run(), SKIPPED, run("ebpf", ok=False)])
    lines = [line.split() for line in shown.splitlines()[1:]]
    assert [line[:3] for line in lines] == [
        ["test", "kernel", "ok"], ["test", "kernel", "skipped"], ["test", "ebpf", "failed"]
    ]  # fmt: skip
    assert "this kernel has no such devices (a command)" in shown
    both = lab_shown.compared([run(text="this"), run("ebpf", text="that")])
    assert both.splitlines()[-1].split() == ["ping", "this", "that"]
    assert lab_shown.compared([run()]) == ""


def test_what_a_terminal_is_told() -> None:
    failed = run(ok=False, text="nothing").steps[1]
    text = lab_shown.told(failed)
    assert "NOT SO" in text
    assert "exit status 1" in text
    assert "IP a > b" in text
    assert "expected: an answer" in lab_shown.announced(0, failed.step)
    assert "$ ip netns exec b tcpdump -tnel -i eth0 icmp &" in lab_shown.announced(0, failed.step)
