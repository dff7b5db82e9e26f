# SPDX-License-Identifier: Apache-2.0
"""Where the exporter listens: just there, or a clear refusal."""

from __future__ import annotations

import socket

import pytest

from pydp.errors import NotAllowed, PydpError, UsageError
from pydp.metrics import server
from pydp.metrics.address import listen_on, parse_listen, url_of


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:9818", ("127.0.0.1", 9818)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("localhost:9818", ("127.0.0.1", 9818)),
        ("[::1]:9818", ("::1", 9818)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
    ],
)
def test_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "", "9818", ":9818", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9818", "[::1]",
        "[127.0.0.1]:1", "256.0.0.1:1", "example.org:80", "127.1:80", "127.0.0.1:9818 ", "127.0.0.1:９",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert f"--listen {text}" in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize(("text", "host"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")])
def test_it_listens_there_and_nowhere_else(text: str, host: str) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("no ::1 on this machine")
    with listen_on(text) as sock:
        assert sock.getsockname()[0] == host
        assert url_of(sock) == f"http://{text.rpartition(':')[0]}:{sock.getsockname()[1]}/metrics"
        socket.create_connection((host, sock.getsockname()[1]), timeout=1).close()


def test_a_taken_address() -> None:
    with listen_on("127.0.0.1:0") as first, pytest.raises(PydpError) as caught:
        listen_on(f"127.0.0.1:{first.getsockname()[1]}")
    assert "taken" in str(caught.value)
    assert caught.value.status == 1


def test_an_address_of_somebody_else() -> None:
    with pytest.raises(UsageError, match="no device here"):
        listen_on("192.0.2.1:9818")


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotAllowed) as caught:
        server.serve(server.Service("127.0.0.1:0"))
    assert caught.value.status == 5
    assert "root" in caught.value.hint


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
