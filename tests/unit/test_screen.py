# SPDX-License-Identifier: Apache-2.0
"""Pictures that fit a terminal."""

from __future__ import annotations

import pytest

from pydp.cli.screen import cut

BOLD, OFF = "\x1b[1m", "\x1b[0m"


@pytest.mark.parametrize(
    ("line", "width", "kept"),
    [
        ("abc", 5, "abc"),
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        (f"{BOLD}ab{OFF}cd", 4, f"{BOLD}ab{OFF}cd"),
        (f"{BOLD}ab{OFF}", 2, f"{BOLD}ab{OFF}"),
        (f"{BOLD}abc{OFF}", 2, f"{BOLD}ab{OFF}"),
        ("", 3, ""),
    ],
)
def test_a_line_is_cut_where_the_window_ends(line: str, width: int, kept: str) -> None:
    assert cut(line, width) == kept
