# SPDX-License-Identifier: Apache-2.0
"""What each interface can do, who is on it, and what `attach` would choose for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebpf.errors import EbpfError, NotPermitted
from ebpf.hooks import HOOKS, holders
from pydp.cli.doctor_machine import Finding, lack
from pydp.datapath import choose, obstacles
from pydp.datapath.hooks import SINGLE_BUFFER_MTU
from pydp.kernel import Device, View, XdpFeature, bridge_netfilter_active, read_devices

_OFFLOADS = ("tx_checksum", "tso", "gro", "tx_vlan", "rx_vlan")
Programs = Mapping[tuple[int, str], tuple[str, int]]  # (ifindex, hook) -> (instance, program id): what is ours


def look_at(names: Sequence[str]) -> list[dict[str, Any]]:
    """A document for each interface named (a bridge brings its ports along), or for all but lo. Raises NoSuchLink."""
    view = View.read()
    if names:
        links = [view.link(name) for name in names]
    else:
        links = [link for link in view.links.values() if not link.loopback]
    wanted = list(dict.fromkeys(index for link in links for index in (link.ifindex, *_ports_of(view, link.ifindex))))
    devices = read_devices(view, wanted)
    ours = _our_programs()
    return [_describe(view, devices, devices[ifindex], ours) for ifindex in wanted]


def _ports_of(view: View, ifindex: int) -> list[int]:
    bridge = view.bridges.get(ifindex)
    return [port.ifindex for port in bridge.ports] if bridge else []


def _our_programs() -> Programs:
    from pydp.cli.session import reading

    with contextlib.suppress(EbpfError, OSError), reading() as reader:  # without rights or bpffs: then none is known
        return {(one.ifindex, one.hook): (one.instance, one.id) for one in reader.programs()}
    return {}


def _describe(view: View, devices: Mapping[int, Device], device: Device, ours: Programs) -> dict[str, Any]:
    link, peer = device.link, device.peer
    found: dict[str, Any] = {
        "name": link.name,
        "ifindex": link.ifindex,
        "kind": link.kind,
        "driver": device.driver,
        "mtu": link.mtu,
        "master": view.name(link.master) if link.master else None,
        "offloads": {name: getattr(device.features, name) for name in _OFFLOADS},
        "peer": None,
        "xdp_features": list(device.xdp.names()) if device.xdp is not None else None,
    }
    if peer:
        offloads = {name: getattr(peer.features, name) for name in _OFFLOADS}
        found["peer"] = {"name": peer.link.name, "namespace": peer.namespace, "offloads": offloads, "polls": peer.polls}
    if link.ifindex in view.bridges:
        return {**found, "choice": None, "findings": list(_bridge(view, devices, link.ifindex))}
    choice = choose([device], "auto")
    findings = [*_xdp(device), *_offloads(device), *_taken(device, choice.hook, ours), *_attach(view, device, choice)]
    return {**found, "choice": {"hook": choice.hook, "why": choice.why}, "findings": findings}


def _bridge(view: View, devices: Mapping[int, Device], ifindex: int) -> Iterator[Finding]:
    """A kernel bridge is adopted: its ports get the programs."""
    ports = _ports_of(view, ifindex)
    if not ports:
        yield Finding("attach", "lack", "the bridge has no ports", f"ip link set DEV master {view.name(ifindex)}")
        return
    choice = choose([devices[port] for port in ports], "auto")
    names = " ".join(view.name(port) for port in ports)
    yield Finding("attach", "ok", f"mode bridge adopts it with {names} on {choice.hook}: {choice.why}")
    if reason := bridge_netfilter_active(view, view.bridges[ifindex]):
        yield Finding("netfilter", "lack", f"{reason}; frames forwarded in eBPF would pass these rules by",
                      "pydp attach --ignore-netfilter attaches all the same")  # fmt: skip


def _xdp(device: Device) -> Iterator[Finding]:
    """The XDP modes of the driver, and what would have to be mended before XDP."""
    link, features = device.link, device.xdp
    if features is None or features & XdpFeature.BASIC:
        told = "native and generic" if features is not None else "generic; native if the driver can"
        if link.mtu <= SINGLE_BUFFER_MTU:
            told += f"; native fits the MTU of {link.mtu}"
        elif features and features & XdpFeature.RX_SG:
            told += f"; native fits the MTU of {link.mtu}, in several buffers"
        else:
            told += f"; native may not fit the MTU of {link.mtu}"
    else:
        told = "generic only"
    yield Finding("XDP", "ok", told)
    for one in obstacles(device, "xdp"):
        if one.mend:
            yield Finding("for --hook xdp", "note", one.what, one.mend)


def _offloads(device: Device) -> Iterator[Finding]:
    on = [name for name in _OFFLOADS if getattr(device.features, name)]
    told = " ".join(on) or "none"
    if device.peer:
        told += "; other end: " + (
            " ".join(name for name in _OFFLOADS if getattr(device.peer.features, name)) or "none"
        )
    yield Finding("offloads", "ok", told)


def _taken(device: Device, chosen: str, ours: Programs) -> Iterator[Finding]:
    """Who has programs on the interface; somebody else's on the hook that would be chosen is in the way."""
    from ebpf.hooks import refuse_foreign

    index, name = device.link.ifindex, device.link.name
    for hook in HOOKS:
        if hook == "xdp-generic":
            continue  # the same place as xdp
        instance, own = (
            ours.get((index, hook)) or (ours.get((index, "xdp-generic")) if hook == "xdp" else None) or ("", 0)
        )
        try:
            foreign = [one for one in holders(index, hook) if not own or f"(id {own})" not in one]
            if instance:
                yield Finding(hook, "ok", f"runs {instance}")
            if foreign and hook == chosen and not instance:
                refuse_foreign(index, hook, name)
            elif foreign:
                yield Finding(hook, "note", f"taken by {', '.join(foreign)}")
        except NotPermitted:
            yield Finding(hook, "note", "who is there cannot be seen without rights")
        except EbpfError as error:
            yield lack(hook, error)


def _attach(view: View, device: Device, choice: Any) -> Iterator[Finding]:
    link = device.link
    if link.loopback:
        yield Finding("attach", "lack", "the loopback device cannot be a port")
    elif link.master:
        master = view.name(link.master)
        yield Finding("attach", "ok", f"with its bridge {master}, on {choice.hook}: {choice.why}")
    else:
        yield Finding("attach", "ok", f"on {choice.hook}: {choice.why}")
