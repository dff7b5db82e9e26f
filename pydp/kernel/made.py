# SPDX-License-Identifier: Apache-2.0
"""Devices that pydp makes for itself. Their alias tells them from others, so that none is forgotten or mistaken."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from ebpf.netlink import NETLINK_ROUTE, attribute, attributes, dump, nested, text
from pydp.errors import PydpError
from pydp.kernel.batch import CREATE, EXCL, Answer, Command, Requests
from pydp.kernel.values import big_endian, u32

_MARK = "pydp "
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_IFINFOMSG = struct.Struct("=BxHiII")
_IFNAME, _MTU, _LINKINFO, _IFALIAS, _AF_SPEC, _EXT_MASK = 3, 4, 18, 20, 26, 29
_INFO_KIND, _INFO_DATA = 1, 2
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_NESTED = 0x8000
_UP, _NOARP = 0x1, 0x80
_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1  # IFLA_INET6_ADDR_GEN_MODE
_VXLAN_ID, _VXLAN_LEARNING, _VXLAN_PORT_RANGE, _VXLAN_PORT, _VXLAN_UDP6_ZERO_RX, _VXLAN_EXTERNAL = 1, 7, 10, 15, 20, 25
_LARGEST_MTU = 65535
_TAKEN = (errno.EEXIST, errno.EADDRINUSE)


@dataclass(frozen=True, slots=True)
class _Found:
    """A vxlan device with its IFLA_VXLAN_* attributes."""

    ifindex: int
    name: str
    alias: str
    options: dict[int, bytes]


def make_vxlan(name: str, *, port: int, alias: str, port_range: tuple[int, int] = (0, 0), up: bool = True) -> int:
    """A vxlan device of UDP port ``port`` that leaves everything to tunnel metadata; returns its ifindex. Only one that
    is ``up`` has a socket.

    It neither learns nor answers, has no address, takes frames of any length, and accepts checksum 0 over IPv6. One
    that is there with this name, alias and options is taken. ``alias`` is "pydp INSTANCE"; a process that is killed
    half way leaves no device without it. Raises PydpError when the name or the port is in use, or the kernel refuses.
    """
    if not alias.startswith(_MARK):
        raise ValueError(f"alias {alias!r} does not begin with {_MARK!r}")
    options = _options(port, port_range)
    devices = _vxlans()
    with Requests() as requests:
        for one in devices:
            if one.name == name:
                if one.alias != alias or any(one.options.get(kind) != value for kind, value in options.items()):
                    raise _foreign(name)
                _checked(requests.one(_flags(one.ifindex, up=up)), name, port, devices)
                return one.ifindex
        return _make(requests, name, options, alias, devices, up=up)


def forward(name: str) -> None:
    """Let packets of a device be forwarded: bpf_fib_lookup() answers for no other. Where /proc/sys cannot be written it
    stays as it is, and the kernel sends what eBPF then cannot.
    """
    for family in ("ipv4", "ipv6"):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/{family}/conf/{name}/forwarding").write_text("1")


def remove_made(keep: Container[int]) -> list[str]:
    """Remove the devices that pydp made in this namespace, except those whose ifindex is in ``keep``.

    Returns their names. Raises PydpError when the kernel refuses one, after trying the others; OSError.
    """
    removed = []
    failed: PydpError | None = None
    for one in _vxlans():
        if one.alias.startswith(_MARK) and one.ifindex not in keep:
            with Requests() as requests:
                answer = requests.one(Command(_RTM_DELLINK, _head(one.ifindex)))
            if not answer.code:
                removed.append(one.name)
            elif answer.code != errno.ENODEV:
                failed = failed or answer.error(f"cannot remove {one.name}", f"ip link del {one.name}")
    if failed:
        raise failed
    return removed


def _make(
    requests: Requests, name: str, options: Mapping[int, bytes], alias: str, devices: list[_Found], *, up: bool
) -> int:
    """The kernel takes an alias only for a device that is there. So the device is made and marked in one system call,
    under a name that nobody has: with its final one, the second step could mark somebody else's.
    """
    port = big_endian(dict(options), _VXLAN_PORT)
    interim = f"pydp-{os.urandom(4).hex()}"
    try:
        steps = [_create(interim, options), Command(_RTM_SETLINK, _head() + _string(_IFNAME, interim) + _marks(alias))]
        for _, answer in requests.send(steps):
            _checked(answer, name, port, devices)
        ifindex = socket.if_nametoindex(interim)
        answer = requests.one(Command(_RTM_SETLINK, _head(ifindex) + _string(_IFNAME, name)))
        if answer.code == errno.EEXIST:
            raise _foreign(name)
        _checked(answer, name, port, devices)
        _checked(requests.one(_flags(ifindex, up=up)), name, port, devices)
    except BaseException:
        _remove(interim, name, alias)
        raise
    return ifindex


def _remove(interim: str, name: str, alias: str) -> None:
    """Remove what `_make` made, whichever name it had come to."""
    with contextlib.suppress(OSError), Requests() as requests:
        for one in _vxlans():
            if one.name == interim or (one.name == name and one.alias == alias):
                requests.one(Command(_RTM_DELLINK, _head(one.ifindex)))


def _checked(answer: Answer, name: str, port: int, devices: list[_Found]) -> None:
    if answer.code in _TAKEN:
        raise _port_in_use(name, port, [one for one in devices if _is_on(one, port)])
    if answer.code:
        raise answer.error(f"cannot make {name}")


def _port_in_use(name: str, port: int, others: list[_Found]) -> PydpError:
    what, hint = "another socket", f"choose another port, or end what `ss -uanp sport = :{port}` shows"
    for one in others[:1]:
        if one.alias.startswith(_MARK):
            what, hint = f"{one.name} ({one.alias})", f"pydp detach {one.alias.removeprefix(_MARK)}"
        else:
            what = f"the kernel's {one.name}"
            hint = f"adopt the kernel's device, remove it (`ip link del {one.name}`), or choose another port"
    return PydpError(f"cannot make {name}: UDP port {port} is in use by {what}", hint=hint)


def _is_on(one: _Found, port: int) -> bool:
    return big_endian(one.options, _VXLAN_PORT) == port


def _foreign(name: str) -> PydpError:
    return PydpError(
        f"{name} exists already and is not the device that pydp would make", hint=f"remove it: ip link del {name}"
    )


def _options(port: int, port_range: tuple[int, int]) -> dict[int, bytes]:
    """IFLA_VXLAN_* of a device as `make_vxlan` makes it."""
    return {
        _VXLAN_ID: bytes(4),
        _VXLAN_EXTERNAL: b"\1",
        _VXLAN_LEARNING: b"\0",
        _VXLAN_UDP6_ZERO_RX: b"\1",
        _VXLAN_PORT: port.to_bytes(2, "big"),
        _VXLAN_PORT_RANGE: struct.pack(">HH", *port_range),
    }


def _create(name: str, options: Mapping[int, bytes]) -> Command:
    data = b"".join(attribute(kind, value) for kind, value in options.items())
    info = _string(_INFO_KIND, "vxlan") + attribute(_INFO_DATA | _NESTED, data)
    body = _head() + _string(_IFNAME, name) + u32(_MTU, _LARGEST_MTU)
    return Command(_RTM_NEWLINK, body + attribute(_LINKINFO | _NESTED, info), CREATE | EXCL)


def _marks(alias: str) -> bytes:
    """The alias, and that no link-local address is to be made up."""
    marks = _string(_IFALIAS, alias)
    if Path("/proc/thread-self/net/if_inet6").exists():
        family = attribute(socket.AF_INET6 | _NESTED, attribute(_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE])))
        marks += attribute(_AF_SPEC | _NESTED, family)
    return marks


def _flags(ifindex: int, *, up: bool) -> Command:
    flags = _NOARP | (_UP if up else 0)
    return Command(_RTM_SETLINK, _IFINFOMSG.pack(0, 0, ifindex, flags, _NOARP | _UP))


def _vxlans() -> list[_Found]:
    """The vxlan devices of the current namespace. Raises OSError."""
    body = _head() + attribute(_LINKINFO | _NESTED, _string(_INFO_KIND, "vxlan"))
    body += u32(_EXT_MASK, _SKIP_STATS)
    devices = []
    for datagram, start, end in dump(NETLINK_ROUTE, _RTM_GETLINK, body):
        _, _, ifindex, _, _ = _IFINFOMSG.unpack_from(datagram, start)
        found = attributes(datagram, start + _IFINFOMSG.size, end)
        info = nested(found.get(_LINKINFO, b""))
        if text(info.get(_INFO_KIND, b"")) == "vxlan":
            options = nested(info.get(_INFO_DATA, b""))
            devices.append(_Found(ifindex, text(found[_IFNAME]), text(found.get(_IFALIAS, b"")), options))
    return devices


def _head(ifindex: int = 0) -> bytes:
    return _IFINFOMSG.pack(0, 0, ifindex, 0, 0)


def _string(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")
