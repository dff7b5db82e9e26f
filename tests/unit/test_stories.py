# SPDX-License-Identifier: Apache-2.0
"""Stories as data: every command speaks of nodes that there are, every expectation has a check, and the drawing."""

from __future__ import annotations

import sys
from itertools import combinations

import pytest

from pydp.errors import UsageError
from pydp.lab.stories import NAMES, building, drawing, find, stories
from pydp.lab.stories.commands import parse
from pydp.lab.stories.layout import arrange
from pydp.lab.stories.model import WAYS, Step, Story, Topology, node, port
from pydp.lab.stories.pairing import paired
from tests.unit.stories import STORY, TOPOLOGY

PLAYED = [(story, via) for story in stories() for via in story.ways]
IDS = [f"{story.name}-{via}" for story, via in PLAYED]


def node_named(command: str) -> str:
    """Where a command is to work: `ip -n NODE`, `ip netns exec NODE`; "" for everywhere."""
    words = command.split()
    if words[1] == "-n":
        return words[2]
    return words[3] if words[:2] == ["ip", "netns"] else ""


def test_all_are_found_under_their_names() -> None:
    assert [story.name for story in stories()] == list(NAMES)


def test_a_wrong_name_is_refused_with_a_near_one() -> None:
    with pytest.raises(UsageError, match="no story brige") as raised:
        find("brige")
    assert raised.value.hint == "did you mean bridge?"


@pytest.mark.parametrize("story", stories(), ids=lambda story: story.name)
def test_a_way_is_there_or_there_is_a_reason(story: Story) -> None:
    assert set(story.ways) | set(story.without) == set(WAYS)
    assert not set(story.ways) & set(story.without)


@pytest.mark.parametrize(("story", "via"), PLAYED, ids=IDS)
class TestSteps:
    def test_commands_speak_of_nodes_that_there_are(self, story: Story, via: str) -> None:
        nodes = {each.name for each in story.topology_of(via).nodes}
        for step in story.ways[via].steps:
            for command in step.commands:
                assert node_named(command) in {*nodes, ""}, command

    def test_what_is_expected_is_checked(self, story: Story, via: str) -> None:
        steps = story.ways[via].steps
        assert all(bool(step.expected) == bool(step.check) for step in steps)
        assert any(step.check for step in steps)

    def test_captures_and_servers_are_at_nodes(self, story: Story, via: str) -> None:
        nodes = {each.name for each in story.topology_of(via).nodes}
        for step in story.ways[via].steps:
            assert {place.partition(":")[0] for place in (*step.capture, *step.ready)} <= nodes
            assert bool(step.ready) == any(command.endswith(" &") for command in step.commands)

    def test_the_drawing_holds_all_of_it(self, story: Story, via: str) -> None:
        topology, marks = story.topology_of(via), story.marks_of(via)
        assert set(marks) <= {each.name for each in topology.nodes}
        picture = arrange(topology, marks)
        for one, other in combinations(picture.boxes, 2):
            apart = one.right < other.x or other.right < one.x
            assert apart or one.y + one.height <= other.y or other.y + other.height <= one.y
        text = drawing.text(topology, marks)
        for each in topology.nodes:
            assert f" {each.name} " in text
            assert all(address in text for device in each.ports for address in device.addresses)
        assert all(line in text for lines in marks.values() for line in lines)


def test_a_drawing() -> None:
    assert drawing.text(TOPOLOGY, {"sw": ("br0: p0 p1",)}).splitlines() == [
        "                         ┌─ sw ───────┐",
        "┌─ a ──────────────┐ ┌───┤ p0         │     ┌─ b ──────────────┐",
        "│ eth0 10.0.0.1/24 ├─┘   │ p1         ├─────┤ eth0 10.0.0.2/24 │",
        "└──────────────────┘     │ br0: p0 p1 │     └──────────────────┘",
        "                         └────────────┘",
    ]


def test_a_wire_may_come_back_to_its_node() -> None:
    box = Topology((node("box", port("v0"), port("v1")),), ("box:v0 box:v1",))
    assert drawing.text(box, {}).splitlines() == ["┌─ box ─┐", "│ v0    ├─┐", "│ v1    ├─┘", "└───────┘"]


def test_what_comes_later_is_drawn_and_not_built() -> None:
    nodes = (node("a", port("x", "10.0.0.1/24")), node("b", port("y"), column=1))
    later = Topology(nodes, later=("a:x b:y",))
    assert drawing.text(later, {}) == drawing.text(Topology(nodes, ("a:x b:y",)), {})
    assert not any("type veth" in line or "10.0.0.1" in line for line in building.commands(later))


@pytest.mark.parametrize(("column", "word"), [(2, "skips"), (0, "stays in")])
def test_a_wire_that_cannot_be_drawn(column: int, word: str) -> None:
    apart = Topology((node("a", port("x")), node("c", column=1), node("b", port("y"), column=column)), ("a:x b:y",))
    with pytest.raises(ValueError, match=word):
        arrange(apart, {})


def test_the_commands_that_build_it() -> None:
    found = list(building.commands(TOPOLOGY))
    wire = "ip -n a link add eth0 address 02:00:00:00:00:01 type veth peer name p0 address 02:00:00:00:00:02 netns sw"
    assert wire in found
    assert found[-1] == "ip -n b route add default via 10.0.0.1"
    assert any("net.ipv4.ip_forward=1" in line for line in found if line.startswith("ip netns exec sw "))
    assert not any("net.ipv4.ip_forward=1" in line for line in found if line.startswith("ip netns exec a "))


class TestParse:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("ip -n red link", ("ip", "-n", "lab-red", "link")),
            ("ip -n red link set red netns blue", ("ip", "-n", "lab-red", "link", "set", "red", "netns", "lab-blue")),
            ("ip netns exec red ping -n blue", ("ip", "netns", "exec", "lab-red", "ping", "-n", "blue")),
            ("ip netns pids red", ("ip", "netns", "pids", "lab-red")),
            ("pydp -n red status", (sys.executable, "-m", "pydp", "-n", "lab-red", "status")),
            ("ip netns exec red python3 -m x", ("ip", "netns", "exec", "lab-red", sys.executable, "-m", "x")),
            ("echo 'a  b'", ("echo", "a  b")),
        ],
    )  # fmt: skip
    def test_names_and_programs(self, text: str, words: tuple[str, ...]) -> None:
        found = parse(text, {"red": "lab-red", "blue": "lab-blue"})
        assert (found.words, found.source, found.sink, found.background) == (words, "", "", False)

    def test_files_and_what_stays(self) -> None:
        assert (parse("a < in > out", {}).source, parse("a < in > out", {}).sink) == ("in", "out")
        assert parse("a < in > out", {}).words == ("a",)
        assert (parse("a b &", {}).words, parse("a b &", {}).background) == (("a", "b"), True)


def test_steps_side_by_side() -> None:
    kernel, ebpf = (STORY.ways[via].steps for via in ("kernel", "ebpf"))
    titles = [tuple(step.title if step else "" for step in row) for row in paired([kernel, ebpf])]
    assert titles == [("prepare", ""), ("ping", "ping"), ("", "look")]


def test_steps_in_another_order_all_come() -> None:
    first, second = Step("x", ()), Step("y", ())
    rows = paired([(first, second), (second, first)])
    assert [row[0] for row in rows if row[0]] == [first, second]
    assert [row[1] for row in rows if row[1]] == [second, first]
