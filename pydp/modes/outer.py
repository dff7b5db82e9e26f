# SPDX-License-Identifier: Apache-2.0
"""The outer header of a tunnel from Python's side (bpf_src/lib/outer.h): the policies for TTL and TOS as options."""

from __future__ import annotations

from pydp.errors import UsageError

TTL_INHERIT, TOS_INHERIT, DF_SET, DF_INHERIT, CHECKSUM = 1, 2, 4, 8, 16  # enum tunnel_flag
NUMBERS = ("PYDP_TUNNEL_MTU", "PYDP_TUNNEL_TTL", *(f"PYDP_TUNNEL_LOCAL{word}" for word in range(4)))  # Traits.written


def parse_ttl(text: str, name: str, *, automatic: bool = False) -> tuple[int, int]:
    """(flags, TTL) of an option called NAME; with AUTOMATIC it may say "auto", TTL 0. Raises UsageError."""
    if text == "inherit":
        return TTL_INHERIT, 0
    if automatic and text == "auto":
        return 0, 0
    if text.isdecimal() and 1 <= int(text) <= 255:
        return 0, int(text)
    raise UsageError(f"{name} {text}: {'auto, ' if automatic else ''}inherit, or 1 to 255")


def parse_tos(text: str, name: str) -> tuple[int, int]:
    """(flags, TOS) of an option called NAME. Raises UsageError."""
    if text == "inherit":
        return TOS_INHERIT, 0
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= 255:
        raise UsageError(f"{name} {text}: inherit, or 0 to 255")
    return 0, number
