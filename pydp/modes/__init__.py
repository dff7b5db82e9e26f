# SPDX-License-Identifier: Apache-2.0
"""The modes. Each is one C file, one module here, one table of tests; `MODES` is where they are known by name."""

from __future__ import annotations

from collections.abc import Mapping

from pydp.errors import UsageError
from pydp.modes.base import Mode
from pydp.modes.bridge import BridgeMode
from pydp.modes.count import CountMode
from pydp.modes.ipip import IpipMode
from pydp.modes.ipvlan import IpvlanMode
from pydp.modes.macvlan import MacvlanMode
from pydp.modes.nat import NatMode
from pydp.modes.vxlan import VxlanMode

MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (CountMode(), BridgeMode(), VxlanMode(), IpipMode(), NatMode(), MacvlanMode(), IpvlanMode())
}


def mode_of(name: str) -> Mode:
    """The mode of that name. Raises UsageError that lists what there is."""
    try:
        return MODES[name]
    except KeyError:
        raise UsageError(f"--mode {name}: there is no such mode", hint=f"modes: {', '.join(MODES)}") from None
