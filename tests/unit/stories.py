# SPDX-License-Identifier: Apache-2.0
"""A story that is nobody's, for tests of what plays and shows stories."""

from __future__ import annotations

from pydp.lab.stories import checks
from pydp.lab.stories.model import Experiment, Finding, Output, Seen, Step, Story, Topology, node, port
from pydp.lab.stories.results import Run, StepResult

TOPOLOGY = Topology(
    (
        node("a", port("eth0", "10.0.0.1/24")),
        node("sw", port("p0"), port("p1"), column=1, router=True),
        node("b", port("eth0", "10.0.0.2/24"), column=2, default="10.0.0.1"),
    ),
    ("a:eth0 sw:p0", "sw:p1 b:eth0"),
)
PREPARE = Step("prepare", ("ip -n sw link add br0 type bridge",))
PING = Step("ping", ("ip netns exec a ping 10.0.0.2",), "an answer", checks.answered(), ("b:eth0 icmp",))
ONLY = Step("look", ("pydp -n sw status",), "something", checks.works(), why="because")
STORY = Story(
    "test", "a title", "about it", TOPOLOGY,
    {"kernel": Experiment((PREPARE, PING)), "ebpf": Experiment((PING, ONLY), marks={"sw": ("pydp",)})},
)  # fmt: skip


def output(out: str = "", err: str = "", status: int = 0) -> Output:
    return Output("a command", status, out, err)


def seen(*outputs: Output, **captures: tuple[str, ...]) -> Seen:
    return Seen(outputs, {name.replace("_", ":"): lines for name, lines in captures.items()})


def pinged(sent: int, received: int) -> Output:
    return output(f"{sent} packets transmitted, {received} received", status=int(not received))


def run(via: str = "kernel", *, ok: bool = True, text: str = "as it should be") -> Run:
    """A run in which the ping did what was expected, or not."""
    heard = Seen((pinged(1, int(ok)),), {"b:eth0": ("IP a > b",)}, 0.5)
    made = Run(STORY, via, seconds=1.5)
    for step in STORY.ways[via].steps:
        finding = Finding(ok, text) if step.check else None
        made = made.with_step(StepResult(step, heard if step is PING else Seen((output(),)), finding))
    return made
