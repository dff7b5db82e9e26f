# SPDX-License-Identifier: Apache-2.0
"""lab.yaml: nodes with their kernels, roles and addresses, for `pydp lab vm --lab` and for vagrant/Vagrantfile."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydp.errors import UsageError

ROLES = ("data", "monitoring")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SIZES = {"cpus": (1, 1), "memory": (2048, 512)}  # what they are unless given, and at least
_KEYS = {"name", "kernel", "role", "address", *_SIZES}


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """``address`` without prefix length; ``memory`` in MiB."""

    name: str
    kernel: str
    role: str
    address: str
    cpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``network`` is what all addresses are in."""

    network: ipaddress.IPv4Network
    nodes: tuple[PlannedNode, ...]

    def of_role(self, role: str) -> tuple[PlannedNode, ...]:
        return tuple(node for node in self.nodes if node.role == role)


def read_plan(path: Path) -> Plan:
    """Raises UsageError, which names the key at fault."""
    import yaml  # 20 ms

    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    try:
        return _plan(document)
    except (ValueError, KeyError, TypeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"{path}: {what}") from None


def _plan(document: Any) -> Plan:
    if not isinstance(document, Mapping):
        raise TypeError("not a mapping with network and nodes")
    network = ipaddress.IPv4Network(document["network"])
    nodes = tuple(_node(entry, network) for entry in document["nodes"])
    for key in ("name", "address"):
        values = [getattr(node, key) for node in nodes]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"two nodes have the {key} {twice[0]}")
    return Plan(network, nodes)


def _node(entry: Any, network: ipaddress.IPv4Network) -> PlannedNode:
    if not isinstance(entry, Mapping):
        raise TypeError(f"nodes: {entry!r} is not a mapping")
    name = entry["name"]
    if unknown := sorted(set(entry) - _KEYS):
        raise ValueError(f"nodes: {name}: no such key: {unknown[0]}")
    if not _NAME.fullmatch(str(name)):
        raise ValueError(f"nodes: {name}: not a host name")
    if entry["role"] not in ROLES:
        raise ValueError(f"nodes: {name}: role is one of {', '.join(ROLES)}, not {entry['role']}")
    if not isinstance(entry["kernel"], str):
        raise TypeError(f"nodes: {name}: kernel has to be quoted: 6.10 would be read as 6.1")
    if ipaddress.IPv4Address(entry["address"]) not in network:
        raise ValueError(f"nodes: {name}: address {entry['address']} is not in {network}")
    sizes = {key: _size(entry, key, *bounds) for key, bounds in _SIZES.items()}
    return PlannedNode(name, entry["kernel"], entry["role"], entry["address"], **sizes)


def _size(entry: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = entry.get(key, default)
    if not isinstance(value, int) or value < least:
        raise ValueError(f"nodes: {entry['name']}: {key} is {least} at least, not {value}")
    return value
