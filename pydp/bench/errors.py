# SPDX-License-Identifier: Apache-2.0
"""What a benchmark raises beside what the lab and the datapath raise."""

from __future__ import annotations

from pydp.errors import PydpError


class BenchError(PydpError):
    """A measurement that means nothing: nothing arrived, or not what was sent."""
