# SPDX-License-Identifier: Apache-2.0
"""tc filters on the clsact or ingress qdisc of a device, whoever put them there. (Programs attached by tcx are bpf
links, not filters.)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from ebpf.netlink import NETLINK_ROUTE, ask, attributes, dump, nested, text

_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_TC_H_INGRESS = 0xFFFFFFF1
_TCMSG = struct.Struct("=BxxxiIII")
_PARENTS: tuple[tuple[Literal["ingress", "egress"], int], ...] = (("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3))
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11


@dataclass(frozen=True, slots=True)
class Filter:
    """One tc filter: ``kind`` is the classifier ("bpf", "flower", "matchall"); ``name`` and ``prog_id`` are those of a
    bpf one.
    """

    direction: Literal["ingress", "egress"]
    kind: str
    pref: int
    handle: int
    name: str = ""
    prog_id: int = 0


def read_filters(ifindex: int) -> tuple[Filter, ...]:
    """The filters of a device in the order they run, ingress first. Raises OSError (ENODEV when it is gone)."""
    # The older ingress qdisc has one list, which it shows for egress too.
    parents = {"clsact": _PARENTS, "ingress": _PARENTS[:1]}.get(_qdisc(ifindex), ())
    return tuple(
        found
        for direction, parent in parents
        for datagram, start, end in dump(NETLINK_ROUTE, _RTM_GETTFILTER, _TCMSG.pack(0, ifindex, 0, parent, 0))
        if (found := _filter(direction, datagram, start, end))
    )


def _qdisc(ifindex: int) -> str:
    """Kind of the qdisc that holds the filters of a device; "" when it has none."""
    try:
        datagram, start, end = ask(NETLINK_ROUTE, _RTM_GETQDISC, _TCMSG.pack(0, ifindex, 0, _TC_H_INGRESS, 0))
    except FileNotFoundError:
        return ""
    return text(attributes(datagram, start + _TCMSG.size, end).get(_TCA_KIND, b""))


def _filter(direction: Literal["ingress", "egress"], datagram: bytes, start: int, end: int) -> Filter | None:
    _, _, handle, _, info = _TCMSG.unpack_from(datagram, start)
    if not handle:  # the classifier at this priority as such: its filters follow
        return None
    found = attributes(datagram, start + _TCMSG.size, end)
    kind = text(found.get(_TCA_KIND, b""))
    options = nested(found.get(_TCA_OPTIONS, b"")) if kind == "bpf" else {}
    prog_id = options.get(_TCA_BPF_ID)
    return Filter(
        direction,
        kind,
        pref=info >> 16,
        handle=handle,
        name=text(options.get(_TCA_BPF_NAME, b"")),
        prog_id=struct.unpack("=I", prog_id)[0] if prog_id else 0,
    )
