# SPDX-License-Identifier: Apache-2.0
"""Where the C sources are."""

from __future__ import annotations

from pathlib import Path


def bpf_src() -> Path:
    """The directory of the C sources, absolute.

    ``pydp/bpf_src`` is a symbolic link to the top-level ``bpf_src`` in a checkout, and a directory with the files
    themselves in an installed wheel. The link is resolved, so that compiler errors name the file that one would edit.
    """
    return (Path(__file__).parent / "bpf_src").resolve()
