# SPDX-License-Identifier: Apache-2.0
"""The kernel's own VXLAN: a device and a bridge with ports, made in a namespace and taken away again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydp.lab.netns import Namespace
from pydp.lab.topology import delete_links, wait_up

Option = str | int | bool | None
_ANYONE = "00:00:00:00:00:00"


class KernelVxlan:
    """The device ``vx<vni>`` and the bridge ``br<vni>`` that it and ``ports`` belong to.

    ``options`` are those of `ip link add type vxlan` by their names; True gives the bare word (udpcsum), False the word
    with "no" in front (nolearning), None leaves it out, and a text may have several words (srcport "1000 2000").
    Unknown and group addresses go to every one of ``remotes``. Entries not used for ``ageing`` seconds are forgotten.
    """

    def __init__(
        self, ns: Namespace, vni: int, *, number: int, ports: Sequence[str], remotes: Sequence[str],
        ageing: int, options: Mapping[str, Option],
    ) -> None:  # fmt: skip
        self.vni = vni
        self.device = f"vx{vni}"
        self.bridge = f"br{vni}"
        self._ns = ns
        self._number = number
        self._ports = ports
        self._remotes = remotes
        self._ageing = ageing
        self._options = options

    def up(self) -> None:
        """Make them; returns when the ports forward. Raises LabError with what ip said, and then nothing stays."""
        try:
            self._ns.run(["ip", "-batch", "-"], stdin="\n".join(self._links()) + "\n")
            entries = [f"fdb append {_ANYONE} dev {self.device} dst {remote} self" for remote in self._remotes]
            if entries:
                self._ns.run(["bridge", "-batch", "-"], stdin="\n".join(entries) + "\n")
            wait_up(self._ns.ipr(), [self._ns.ifindex(port) for port in self._ports], forwarding=True)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Take them away; fine when they are gone."""
        for name in (self.bridge, self.device):
            try:
                index = self._ns.ifindex(name)
            except OSError:
                continue
            delete_links(self._ns, index=index)

    def _links(self) -> Iterator[str]:
        words = " ".join(_words(self._options))
        yield (f"link add {self.device} address {self._mac(5)} type vxlan id {self.vni} ageing {self._ageing} {words}")
        yield (
            f"link add {self.bridge} address {self._mac(2)} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            f" ageing_time {100 * self._ageing}"
        )
        for name in (self.device, *self._ports):
            yield f"link set {name} master {self.bridge} up"
        yield f"link set {self.bridge} up"

    def _mac(self, kind: int) -> str:
        vni = self.vni.to_bytes(3, "big").hex(":")
        return f"02:{kind:02x}:{vni}:{self._number + 1:02x}"


def _words(options: Mapping[str, Option]) -> Iterator[str]:
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool):
            yield name if value else f"no{name}"
        else:
            yield f"{name} {value}"
