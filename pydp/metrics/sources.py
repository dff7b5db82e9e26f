# SPDX-License-Identifier: Apache-2.0
"""What the collectors read: the datapath by its descriptors, the kernel by netlink. No rights are needed for either."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydp import fdb, tunnels
from pydp.datapath.reader import Fill, ProgramRun, Reader, Verdict
from pydp.datapath.state import State
from pydp.kernel.linkstats import read_bridge_names, read_link_stats, read_vxlan_devices
from pydp.metrics.collectors import FdbTable, Links, Tunnels


class LiveSources:
    """READER gives the open descriptors, as of now; what it raises, everything of the datapath raises."""

    def __init__(self, reader: Callable[[], Reader]) -> None:
        self._failure: Exception | None = None
        self._reader = Reader(State(), {})
        try:
            self._reader = reader()
        except Exception as error:  # noqa: BLE001 - told by every collector that needs it; the kernel's side goes on
            self._failure = error

    @property
    def state(self) -> State:
        return self._reader.state

    def _open(self) -> Reader:
        if self._failure:
            raise self._failure
        return self._reader

    def verdicts(self) -> Sequence[Verdict]:
        return self._open().verdicts()

    def links(self) -> Links:
        return Links(read_link_stats(), read_bridge_names(), read_vxlan_devices())

    def programs(self) -> Sequence[ProgramRun]:
        return self._open().programs()

    def fills(self) -> Sequence[Fill]:
        return self._open().fills()

    def tables(self) -> Sequence[FdbTable]:
        reader = self._open()
        return [
            FdbTable(name, fdb.census(reader, one), fdb.capacity(one), fdb.places(one), fdb.events(reader, one))
            for name, one in reader.state.instances.items()
            if "fdb" in one.maps
        ]

    def tunnels(self) -> Sequence[Tunnels]:
        reader = self._open()
        return [
            Tunnels(
                name,
                one.mode,
                tunnels.tunnels(reader, one),
                guests=tunnels.count_guests(reader, one),
                max_guests=tunnels.max_guests(one),
            )
            for name, one in reader.state.instances.items()
            if tunnels.has_tunnels(one)
        ]
