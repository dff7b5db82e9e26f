# SPDX-License-Identifier: Apache-2.0
"""Attach, replace and detach modes in the network namespace of the process, and reach what is attached.

Knows no mode: what is particular about one comes from pydp.modes.
"""

from pydp.datapath.api import Datapath, Request
from pydp.datapath.hooks import Choice, Obstacle, choose, obstacles, takes_peer
from pydp.datapath.state import Attachment, Instance, State

__all__ = [
    "Attachment",
    "Choice",
    "Datapath",
    "Instance",
    "Obstacle",
    "Request",
    "State",
    "choose",
    "obstacles",
    "takes_peer",
]
