# SPDX-License-Identifier: Apache-2.0
"""The FDB of an instance that bridges: read it, and have the datapath change it."""

from pydp.fdb.changing import add, delete, find_place, flush, parse_mac
from pydp.fdb.reading import (
    EVENTS,
    Census,
    FdbRow,
    capacity,
    census,
    count,
    events,
    places,
    port_names,
    rows,
    underlay,
    vlans,
)
from pydp.fdb.which import instance_of

__all__ = [
    "EVENTS",
    "Census",
    "FdbRow",
    "add",
    "capacity",
    "census",
    "count",
    "delete",
    "events",
    "find_place",
    "flush",
    "instance_of",
    "parse_mac",
    "places",
    "port_names",
    "rows",
    "underlay",
    "vlans",
]
