# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboards as data.

`rendered` needs grafana-foundation-sdk, which comes with the extra "test"; what it makes is kept in
../grafana/dashboards, for those who only want to show them.
"""

from __future__ import annotations

from pydp.monitoring.dashboards.modes import BRIDGE, IPIP, IPVLAN, MACVLAN, NAT, VXLAN
from pydp.monitoring.dashboards.overview import OVERVIEW
from pydp.monitoring.dashboards.plots import Board

BOARDS: tuple[Board, ...] = (OVERVIEW, BRIDGE, VXLAN, IPIP, NAT, MACVLAN, IPVLAN)


def rendered() -> dict[str, str]:
    """File name -> JSON of every dashboard."""
    from pydp.monitoring.dashboards.render import text_of

    return {f"{board.uid}.json": text_of(board) for board in BOARDS}
