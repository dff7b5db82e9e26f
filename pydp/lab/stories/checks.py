# SPDX-License-Identifier: Apache-2.0
"""Checks of steps: each looks at what was seen and says in words what it found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydp.lab.stories.model import Check, Finding, Output, Seen


def both(*checks: Check) -> Check:
    """All of them."""

    def check(seen: Seen) -> Finding:
        found = [one(seen) for one in checks]
        return Finding(all(one.ok for one in found), "; ".join(one.text for one in found))

    return check


def answered(number: int = -1) -> Check:
    """Every echo request of that command, a ping, came back."""
    return _pinged(number, lambda sent, received: received == sent > 0)


def unanswered(number: int = -1) -> Check:
    """Echo requests were sent (or could not be), and none came back."""
    return _pinged(number, lambda _sent, received: received == 0)


def _pinged(number: int, wanted: Callable[[int, int], bool]) -> Check:
    def check(seen: Seen) -> Finding:
        output = seen.outputs[number]
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output.out)
        if not found:
            return Finding(wanted(0, 0) and output.status != 0, f"ping: {_said(output)}")
        sent, received = int(found[1]), int(found[2])
        return Finding(wanted(sent, received), f"{_who(output)}{received} of {sent} echo requests answered")

    return check


def _who(output: Output) -> str:
    words = output.command.split()
    return f"{words[3]} to {words[-1]}: " if words[:3] == ["ip", "netns", "exec"] else ""


def works(number: int = -1) -> Check:
    """The command succeeded."""

    def check(seen: Seen) -> Finding:
        output = seen.outputs[number]
        return Finding(output.status == 0, "it works" if output.status == 0 else _said(output))

    return check


def fails(pattern: str = "", number: int = -1) -> Check:
    """The command failed, with words that match."""

    def check(seen: Seen) -> Finding:
        output = seen.outputs[number]
        ok = output.status != 0 and bool(re.search(pattern, output.err + output.out))
        return Finding(ok, _said(output) if output.status else "it works")

    return check


def says(pattern: str, number: int = -1, *, never: bool = False) -> Check:
    """The output of a command matches, or never does. What is shown is the first line that matches."""

    def check(seen: Seen) -> Finding:
        output = seen.outputs[number]
        lines = [line.strip() for line in output.out.splitlines() if line.strip()]
        hits = [line for line in lines if re.search(pattern, line)]
        shown = hits or lines[:1] or [_said(output)]
        return Finding(bool(hits) != never, shown[0])

    return check


def prints(wanted: str, number: int = -1) -> Check:
    """The output of a command is just that."""

    def check(seen: Seen) -> Finding:
        found = seen.outputs[number].out.strip()
        return Finding(found == wanted, found or _said(seen.outputs[number]))

    return check


def document(what: Callable[[Any], tuple[bool, str]], number: int = -1) -> Check:
    """WHAT looks at the JSON that a command printed: whether it is right, and in words."""

    def check(seen: Seen) -> Finding:
        output = seen.outputs[number]
        try:
            return Finding(*what(json.loads(output.out)))
        except (ValueError, LookupError, TypeError) as error:
            return Finding(False, f"{_said(output)} ({error!r})")

    return check


def learned(wanted: Mapping[str, str], number: int = -1) -> Check:
    """An FDB has each MAC address at its port, in the shape that `bridge -json` and `pydp --json` have in common."""

    def look(found: Any) -> tuple[bool, str]:
        entries = found["entries"] if isinstance(found, dict) else found
        at = {one["mac"]: one["ifname"] for one in entries if one["mac"] in wanted}
        return at == wanted, ", ".join(f"{mac} at {name}" for mac, name in at.items()) or "none of those"

    return document(look, number)


def captured(place: str, pattern: str, least: int = 1) -> Check:
    """So many packets that match were captured there."""

    def check(seen: Seen) -> Finding:
        found = _matching(seen, place, pattern)
        return Finding(len(found) >= least, _told(seen, place, pattern, found))

    return check


def uncaptured(place: str, pattern: str) -> Check:
    """No such packet was captured there."""

    def check(seen: Seen) -> Finding:
        found = _matching(seen, place, pattern)
        return Finding(not found, _told(seen, place, pattern, found))

    return check


def _matching(seen: Seen, place: str, pattern: str) -> list[str]:
    return [line for line in seen.captures[place] if re.search(pattern, line)]


def _told(seen: Seen, place: str, pattern: str, found: list[str]) -> str:
    if found:
        number = f" {len(found)} times" if len(found) > 1 else ""
        return f"at {place}{number}: {_network(found[0])}"
    return f"at {place}: no {_plainly(pattern)} among {len(seen.captures[place])} packets"


def _network(line: str) -> str:
    """Without what tcpdump says of the Ethernet header of an untagged packet."""
    return re.sub(r"^\S+ > \S+, ethertype (IPv4|ARP) \(0x080[06]\), length \d+: (?=\w)", "", line)


def _plainly(pattern: str) -> str:
    return re.sub(r"\\(.)", r"\1", pattern).replace(".*", " ... ")


def _said(output: Output) -> str:
    lines = (output.err or output.out).strip().splitlines()
    return lines[0].strip() if lines else f"exit status {output.status}, no output"
