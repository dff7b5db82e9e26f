# SPDX-License-Identifier: Apache-2.0
"""What the collectors read: the datapath by its descriptors, the kernel by netlink. No rights are needed for either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydp import conntrack, fdb, tunnels
from pydp.datapath.reader import Fill, ProgramRun, Reader, Verdict
from pydp.datapath.state import Instance, State
from pydp.kernel.conntrack import read_conntrack
from pydp.kernel.linkstats import read_bridges, read_link_stats, read_vxlan_devices
from pydp.kernel.namespace import namespace_cookie
from pydp.kernel.natrules import RuleCounters
from pydp.kernel.softnet import Machine, read_machine
from pydp.metrics.found import Conntrack, Conntracks, FdbTable, Links, Tunnels
from pydp.metrics.serving import Services, read_services
from pydp.tunnels.fates import fates


class LiveSources:
    """READER gives the open descriptors, as of now; what it raises, everything of the datapath raises. RULES gives what
    netfilter's rules counted, which takes rights. TIMED: somebody has the kernel time programs, whatever the sysctl
    says.
    """

    def __init__(
        self, reader: Callable[[], Reader], rules: Callable[[], RuleCounters] = RuleCounters, timed: bool = False
    ) -> None:
        self._rules = rules
        self._timed = timed
        self._censuses: dict[str, conntrack.Census] = {}
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
        return Links(read_link_stats(), read_bridges(), read_vxlan_devices())

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

    def conntracks(self) -> Conntracks:
        reader = self._open()
        tables = [
            Conntrack(name, self._census(one), conntrack.capacity(one), conntrack.events(reader, one))
            for name, one in reader.state.instances.items()
            if conntrack.has_flows(one)
        ]
        return Conntracks(tables, read_conntrack())

    def services(self) -> Sequence[Services]:
        reader = self._open()
        return [
            read_services(reader, one, namespace_cookie(), self._census(one).backends)
            for one in reader.state.instances.values()
            if conntrack.has_flows(one)
        ]

    def rules(self) -> RuleCounters:
        return self._rules()

    def machine(self) -> Machine:
        found = read_machine()
        return replace(found, program_stats=found.program_stats or self._timed)

    def _census(self, instance: Instance) -> conntrack.Census:
        """Taken once for all that want it: it reads the whole table."""
        if instance.name not in self._censuses:
            self._censuses[instance.name] = conntrack.census(self._open(), instance)
        return self._censuses[instance.name]

    def tunnels(self) -> Sequence[Tunnels]:
        reader = self._open()
        return [
            Tunnels(
                name,
                one.mode,
                tunnels.tunnels(reader, one),
                guests=tunnels.count_guests(reader, one),
                max_guests=tunnels.max_guests(one),
                fates=fates(reader, one),
            )
            for name, one in reader.state.instances.items()
            if tunnels.has_tunnels(one)
        ]
