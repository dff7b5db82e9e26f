# SPDX-License-Identifier: Apache-2.0
"""What the lab raises beside OSError and pyroute2's NetlinkError."""

from __future__ import annotations

from pydp.errors import PydpError


class LabError(PydpError):
    """Something in the lab did not go as asked: a command failed, traffic got lost, a tool is missing."""
