# SPDX-License-Identifier: Apache-2.0
"""What mode nat is told about sources and about time: --masquerade, --snat and --timeout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pydp.errors import NoSuchLink, UsageError
from pydp.modes.base import Target, View
from pydp.modes.fdb import TICK

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_RULES = 64  # NAT_RULES
LONGEST = 10_000_000  # seconds: ticks of 32 bits are compared by their difference
# In seconds, as nf_conntrack has them: proto_tcp, proto_udp, proto_icmp, proto_icmpv6, proto_generic and proto_sctp in
# net/netfilter. SCTP has fewer states here: sctp_init is its cookie_wait and cookie_echoed.
TIMEOUTS: Mapping[str, int] = {
    "tcp_syn_sent": 120,
    "tcp_syn_recv": 60,
    "tcp_established": 432_000,
    "tcp_fin_wait": 120,
    "tcp_close_wait": 60,
    "tcp_last_ack": 30,
    "tcp_time_wait": 120,
    "tcp_close": 10,
    "udp": 30,
    "udp_stream": 120,
    "icmp": 30,
    "icmpv6": 30,
    "generic": 600,
    "sctp_init": 3,
    "sctp_established": 210,
    "sctp_closed": 10,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is behind ``network`` gets another source when it leaves by ``device`` (0: by any port): ``to``, or with
    None the address of the device that it leaves by.
    """

    network: Network
    to: Address | None = None
    device: int = 0

    @property
    def words(self) -> str:
        """For messages."""
        return f"--snat {self.network}={self.to}" if self.to else f"--masquerade {self.network}"


def parse_ports(text: str) -> tuple[int, int]:
    """LOW-HIGH, both included. Raises UsageError."""
    low, dash, high = text.partition("-")
    if not (dash and low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high) <= 65535):
        raise UsageError(f"--ports {text}: not a range of ports", hint="--ports 1024-65535")
    return int(low), int(high)


def parse_rules(masquerade: Iterable[str], snat: Iterable[str], target: Target, view: View) -> list[Rule]:
    """PREFIX[@DEV] and PREFIX=ADDR[@DEV], in the order in which they are to be looked at: a longer prefix before a
    shorter one, and one for a device before one for all. Raises UsageError.
    """
    rules = [_masquerade(text, target, view) for text in masquerade] + [_snat(text, target, view) for text in snat]
    taken: dict[tuple[Network, int], Rule] = {}
    for rule in rules:
        other = taken.setdefault((rule.network, rule.device), rule)
        if other is not rule:
            raise UsageError(f"{rule.words}: there is {other.words} already")
    if len(rules) > MAX_RULES:
        raise UsageError(f"--masquerade and --snat: {len(rules)} rules, {MAX_RULES} at most")
    return sorted(rules, key=lambda rule: (-rule.network.prefixlen, not rule.device))


def _masquerade(text: str, target: Target, view: View) -> Rule:
    where = f"--masquerade {text}"
    prefix, device = _split(text, where, target, view)
    return Rule(_network(prefix, where), None, device)


def _snat(text: str, target: Target, view: View) -> Rule:
    where = f"--snat {text}"
    rest, device = _split(text, where, target, view)
    prefix, equals, to = rest.partition("=")
    if not equals:
        raise UsageError(f"{where}: not of the form PREFIX=ADDR[@DEV]")
    network = _network(prefix, where)
    try:
        address = ip_address(to.strip())
    except ValueError:
        raise UsageError(f"{where}: {to.strip()!r} is not an IP address") from None
    if address.version != network.version:
        raise UsageError(f"{where}: addresses are not translated from one IP version to the other")
    if address.is_multicast or address.is_unspecified:
        raise UsageError(f"{where}: {address} is not the address of one host")
    return Rule(network, address, device)


def _split(text: str, where: str, target: Target, view: View) -> tuple[str, int]:
    """What is before the @, and the ifindex of the device behind it. Answers come back by that device, so it has to be
    a port, or the bridge of one."""
    rest, at, name = text.partition("@")
    if not at:
        return rest, 0
    try:
        device = view.link(name.strip()).ifindex
    except NoSuchLink as error:
        raise UsageError(f"{where}: {error}") from None
    if device not in target.ports and device not in {view.links[ifindex].master for ifindex in target.ports}:
        raise UsageError(
            f"{where}: {name.strip()} is no port of the instance, so that answers could not be translated back",
            hint=f"name {name.strip()} among the interfaces",
        )
    return rest, device


def _network(text: str, where: str) -> Network:
    text = text.strip()
    try:
        network = ip_network(text)
    except ValueError as error:
        try:
            hint = f"the network is {ip_network(text, strict=False)}"
        except ValueError:
            hint = ""
        raise UsageError(f"{where}: {error}", hint=hint) from None
    if network.is_multicast:
        raise UsageError(f"{where}: a multicast address is nobody's source")
    return network


def parse_timeouts(texts: Iterable[str]) -> dict[str, int]:
    """NAME=SECONDS over nf_conntrack's: all timeouts by name, in ticks of the datapath. Raises UsageError."""
    seconds: dict[str, float] = dict(TIMEOUTS)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--timeout {text}: not of the form NAME=SECONDS")
        if name not in TIMEOUTS:
            raise UsageError(f"--timeout {text}: there is no timeout {name!r}", hint=f"timeouts: {', '.join(TIMEOUTS)}")
        try:
            seconds[name] = float(value)
        except ValueError:
            raise UsageError(f"--timeout {text}: {value!r} is not a number of seconds") from None
        if not 1 <= seconds[name] <= LONGEST:
            raise UsageError(f"--timeout {text}: {value} is not between 1 and {LONGEST}")
    return {name: round(value / TICK) for name, value in seconds.items()}
