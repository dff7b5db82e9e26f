# SPDX-License-Identifier: Apache-2.0
"""Attach, replace and detach modes in the network namespace of the process, and reach what is attached.

Knows no mode: what is particular about one comes from pydp.modes.
"""

from pydp.datapath.api import Datapath
from pydp.datapath.hooks import Choice, Obstacle, choose, obstacles, takes_peer
from pydp.datapath.planning import Request
from pydp.datapath.reader import Fill, ProgramRun, Reader, Verdict
from pydp.datapath.state import Attachment, Instance, State

__all__ = [
    "Attachment",
    "Choice",
    "Datapath",
    "Fill",
    "Instance",
    "Obstacle",
    "ProgramRun",
    "Reader",
    "Request",
    "State",
    "Verdict",
    "choose",
    "obstacles",
    "takes_peer",
]
