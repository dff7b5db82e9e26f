# SPDX-License-Identifier: Apache-2.0
"""Services as they are written: on the command line and in TOML."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydp.errors import UsageError
from pydp.services.files import from_table, read_services
from pydp.services.model import MAX_WEIGHT, Backend, Frontend, Health, Service, check_all
from pydp.services.text import (
    check_name,
    health_text,
    parse_backend,
    parse_forward,
    parse_frontend,
    parse_health,
    parse_redirect,
    parse_service,
    service_text,
)

VIP, ONE, TWO = ip_address("10.96.0.1"), ip_address("10.0.1.2"), ip_address("10.0.1.3")
SIX, SIXTH = ip_address("fd00::1"), ip_address("fd00::2")


@pytest.mark.parametrize(
    ("text", "service"),
    [
        (
            "tcp:10.96.0.1:80=10.0.1.2:8080*3,10.0.1.3:8080",
            Service("tcp:10.96.0.1:80", (Frontend("tcp", VIP, 80),), (Backend(ONE, 8080, 3), Backend(TWO, 8080))),
        ),
        (
            "udp:[fd00::1]:53=[fd00::2]:5353",
            Service("udp:[fd00::1]:53", (Frontend("udp", SIX, 53),), (Backend(SIXTH, 5353),)),
        ),
        ("sctp:10.96.0.1:9=", Service("sctp:10.96.0.1:9", (Frontend("sctp", VIP, 9),))),
        ("tcp:10.96.0.1:9", Service("tcp:10.96.0.1:9", (Frontend("tcp", VIP, 9),))),
        ("tcp:80=8080", Service("tcp:any:80", (Frontend("tcp", None, 80),), (Backend(None, 8080),))),
        (
            "tcp:any6:80=[fd00::2]:80",
            Service("tcp:any6:80", (Frontend("tcp", None, 80, 6),), (Backend(SIXTH, 80),)),
        ),
    ],
)
def test_a_service(text: str, service: Service) -> None:
    assert parse_service(text) == service
    assert parse_service(service_text(service)) == service


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http:10.96.0.1:80=10.0.1.2:80", "not a protocol"),
        ("tcp", "not a protocol"),
        ("tcp:=10.0.1.2:80", "not a protocol"),
        ("tcp:10.96.0.1:0=10.0.1.2:80", "0 is not a port from 1 to 65535"),
        ("tcp:10.96.0.1:65536", "65536 is not a port"),
        ("tcp:10.96.0.1:", "nothing is not a port"),
        ("tcp:10.96.0.1:²", "² is not a port"),
        ("tcp:10.96.0:80", "10.96.0 is not an IP address"),
        ("tcp:fd00::1:80", "IPv6 addresses stand in brackets"),
        ("tcp:[10.96.0.1]:80", "IPv6 addresses stand in brackets"),
        ("tcp:[fd00::1:80", "IPv6 addresses stand in brackets"),
        ("tcp:0.0.0.0:80", "`any` is every address"),
        ("tcp:224.0.0.1:80", "a multicast address"),
        ("tcp:127.0.0.1:80", "no packet comes"),
        ("tcp:[fe80::1]:80", "a link-local address"),
        ("tcp:[::ffff:10.0.0.1]:80", "IPv4 address in IPv6"),
        ("tcp:255.255.255.255:80", "the broadcast address"),
        ("tcp:10.96.0.1:80=10.0.1.2:80*65536", "65536 is not a number from 0 to 65535"),
        ("tcp:10.96.0.1:80=10.0.1.2:80*", "the weight  is not"),
        ("tcp:10.96.0.1:80=10.0.1.2:80*-1", "the weight -1 is not"),
        ("tcp:10.96.0.1:80=10.0.1.2", "10.0.1.2 is not a port"),
        ("tcp:10.96.0.1:80=10.0.1.2:80,", "nothing is not a port"),
        ("tcp:10.96.0.1:80=10.0.1.2:80,10.0.1.2:80*2", r"backend 10.0.1.2:80\*2 is there twice"),
        ("tcp:10.96.0.1:80=[fd00::1]:80", "is IPv6 and no frontend is"),
        ("tcp:[fd00::1]:80=10.0.1.2:80", "is IPv4 and no frontend is"),
        ("tcp:any4:80=[fd00::1]:80", "is IPv6 and no frontend is"),
        ("tcp:80=8080,10.0.1.2:80", "on this host itself or at addresses, not both"),
    ],
)
def test_what_is_no_service(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_service(text)


def test_forward_and_redirect_are_for_every_address() -> None:
    assert parse_forward("tcp:8080=10.0.1.2:80").backends == (Backend(ONE, 80),)
    assert parse_redirect("udp:53=5353").backends == (Backend(None, 5353),)
    for parse, text in (
        (parse_forward, "tcp:10.96.0.1:80=10.0.1.2:80"),
        (parse_forward, "tcp:8080=80"),
        (parse_forward, "tcp:8080"),
        (parse_redirect, "tcp:10.96.0.1:80=8080"),
        (parse_redirect, "tcp:80=10.0.1.2:80"),
        (parse_redirect, "tcp:80=81,82"),
    ):
        with pytest.raises(UsageError, match=f"--{parse.__name__.removeprefix('parse_')} {text}"):
            parse(text)


@given(
    st.sampled_from(["tcp", "udp", "sctp"]),
    st.none() | st.ip_addresses(),
    st.integers(1, 65535),
    st.integers(0, MAX_WEIGHT),
)
def test_texts_are_read_back(protocol: str, address: object, port: int, weight: int) -> None:
    """All that is not refused."""
    frontend = Frontend(protocol, address, port)  # type: ignore[arg-type]
    backend = Backend(address, port, weight)  # type: ignore[arg-type]
    try:
        assert parse_frontend(str(frontend)) == frontend
        assert parse_backend(str(backend)) == backend
    except UsageError as error:
        assert f"{address} is " in str(error)  # noqa: PT017 - what is refused is refused for its address


@pytest.mark.parametrize(
    ("text", "health"),
    [
        ("none", Health("none")),
        ("tcp", Health("tcp")),
        ("http", Health("http")),
        ("http:/well?a=b", Health("http", path="/well?a=b")),
        ("https:/", Health("https")),
        ("exec:/bin/check --host 'a b'", Health("exec", command=("/bin/check", "--host", "a b"))),
    ],
)
def test_health(text: str, health: Health) -> None:
    assert parse_health(text) == health
    assert parse_health(health_text(health)) == health


@pytest.mark.parametrize("text", ["", "icmp", "tcp:80", "none:", "http:well", "exec:", "exec", "exec:'a"])
def test_what_is_no_health(text: str) -> None:
    with pytest.raises(UsageError, match="--health"):
        parse_health(text)


@pytest.mark.parametrize("name", ["", "-", "a b", "a\nb", "a\x1b[1m", "x" * 254])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="printable characters"):
        check_name(name)


def test_frontends_of_two_services() -> None:
    one, other = parse_service("tcp:any:80=10.0.1.2:80"), parse_service("tcp:any6:80=[fd00::2]:80")
    with pytest.raises(UsageError, match="tcp:any6:80 belongs to the services tcp:any:80 and tcp:any6:80"):
        check_all([one, other])
    with pytest.raises(UsageError, match="service tcp:any:80 is there twice"):
        check_all([one, one])
    check_all([parse_service("tcp:any4:80=10.0.1.2:80"), other, parse_service("udp:any:80=10.0.1.2:80")])


# TOML

WHOLE = """
[[service]]
name = "web"
frontends = ["tcp:10.96.0.1:80", "tcp:any:30080"]
backends = ["10.0.1.2:8080*3", "10.0.1.3:8080"]
scheduler = "maglev"
table_size = 251
affinity = 10800
masquerade = true
health = { kind = "http", path = "/well", host = "web", port = 81, interval = 5, timeout = 1.5, rise = 1, fall = 4 }

[[service]]
frontend = "udp:10.96.0.1:53"
backends = "10.0.1.2:53"
health = "exec:/bin/true -x"
dsr = true
"""


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(WHOLE)
    web, dns = read_services(str(path))
    assert web == Service(
        "web",
        (Frontend("tcp", VIP, 80), Frontend("tcp", None, 30080)),
        (Backend(ONE, 8080, 3), Backend(TWO, 8080)),
        scheduler="maglev",
        table_size=251,
        affinity=10800.0,
        masquerade=True,
        health=Health("http", port=81, path="/well", host="web", interval=5.0, timeout=1.5, rise=1, fall=4),
        source=str(path),
    )
    assert (dns.name, dns.dsr, dns.backends) == ("udp:10.96.0.1:53", True, (Backend(ONE, 53),))
    assert dns.health == Health("exec", command=("/bin/true", "-x"))


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({}, "f: frontends: a service has one at least"),
        ({"frontend": "tcp:80", "frontends": []}, "f: frontend: there is frontends, too"),
        ({"frontend": 80}, r"f: frontends: \[80\] is not a list of texts"),
        ({"frontend": "tcp:0"}, "f: frontends: tcp:0: 0 is not a port"),
        ({"backends": ["x:1"]}, "f: backends: x:1: x is not an IP address"),
        ({"name": 1}, "f: name: 1 is not a text"),
        ({"name": "a b"}, "f: name: 'a b': a name has"),
        ({"weight": 1}, "f: weight: there is no such key"),
        ({"scheduler": "rr"}, "f: scheduler: 'rr' is not one of random, maglev"),
        ({"affinity": -1}, "f: affinity: -1 is not between 0 and"),
        ({"affinity": True}, "f: affinity: True is not a number of seconds"),
        ({"masquerade": "yes"}, "f: masquerade: 'yes' is neither true nor false"),
        ({"scheduler": "maglev", "table_size": 100}, "table_size 100: not a prime"),
        ({"dsr": True, "masquerade": True}, "dsr and masquerade"),
        ({"dsr": True, "backends": ["80"]}, "needs no encapsulation"),
        ({"health": 1}, "f: health: 1 is not a table"),
        ({"health": {"kind": "icmp"}}, "f: health.kind: 'icmp' is not one of"),
        ({"health": {"kind": "tcp", "path": "/"}}, "f: health.path: it is for http and https, not for tcp"),
        ({"health": {"kind": "http", "path": "x"}}, "f: health.path: 'x' does not begin with /"),
        ({"health": {"kind": "exec"}}, "f: health.command: which command"),
        ({"health": {"interval": 0}}, "f: health.interval: 0 is not between"),
        ({"health": {"often": 1}}, "f: health.often: there is no such option"),
    ],
)
def test_what_is_no_table(table: dict[str, object], complaint: str) -> None:
    whole = {"frontend": "tcp:10.96.0.1:80", **table} if table and "frontends" not in table else table
    with pytest.raises(UsageError, match=complaint):
        from_table(whole, "f: ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("service = 1", "service: not a list of tables"),
        ("[service]\nname = 'x'", "service: not a list of tables"),
        ("[[services]]", "services: there is no such key"),
        ("x = ", "not TOML"),
        ('[[service]]\nfrontend = "tcp:80"\n[[service]]\nfrontend = "tcp:80"', "service tcp:any:80 is there twice"),
        ('[[service]]\nfrontend = "tcp:80"\n[[service]]', r"service\[1\].frontends: a service has one"),
    ],
)
def test_what_is_no_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "services.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_services(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--services .*No such file"):
        read_services(str(tmp_path / "x.toml"))
    with pytest.raises(UsageError, match="neither TOML"):
        read_services(str(tmp_path / "x.ini"))
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not TOML"):
        read_services(str(tmp_path / "x.toml"))
