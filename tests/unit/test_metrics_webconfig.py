# SPDX-License-Identifier: Apache-2.0
"""The web configuration file: what it means, what is refused and by which key, and who gets in."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from pydp.errors import PydpError, UsageError
from pydp.metrics.guard import Guard, Passwords
from pydp.metrics.tls import server_context
from pydp.metrics.webconfig import Tls, WebConfig, read_web_config
from tests.certificates import authority, certificate

HASH = bcrypt.hashpw(
    b"secret", b"$2b$04$" + b"pydp" * 5 + b"pe"
).decode()  # the same in each run: it is in names of tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    authority(made)
    for name in ("server", "other"):
        certificate(made, name)
    (made / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    return made


def read(folder: Path, text: str) -> WebConfig:
    file = folder / "web.yml"
    file.write_text(text)
    return read_web_config(file)


def tls(more: str = "", *, cert: str = "server.crt", key: str = "server.key") -> str:
    return f"tls_server_config: {{cert_file: {cert}, key_file: {key}{', ' if more else ''}{more}}}\n"


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "basic_auth_users:\ntls_server_config:\n"])
def test_an_empty_file_asks_for_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == WebConfig()


def test_all_that_there_is(folder: Path) -> None:
    found = read(
        folder,
        tls(
            "min_version: TLS13, max_version: TLS13, client_auth_type: RequireAndVerifyClientCert, "
            "client_ca_file: ca.crt, client_allowed_sans: [a.example, b.example]"
        )
        + f"basic_auth_users: {{alice: '{HASH}'}}\n"
        + "http_server_config: {http2: true, headers: {X-Frame-Options: deny}}",
    )
    assert found.tls == Tls(
        (folder / "server.crt").read_text(),
        (folder / "server.key").read_text(),
        "TLS13",
        "TLS13",
        "RequireAndVerifyClientCert",
        (folder / "ca.crt").read_text(),
        ("a.example", "b.example"),
    )
    assert (found.users, found.headers) == ({"alice": HASH}, {"X-Frame-Options": "deny"})
    assert WebConfig.from_document(found.document()) == found
    assert HASH not in repr(found)
    assert "PRIVATE" not in repr(found)
    context = server_context(found.tls)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "web.yml: must be a mapping"),
        ("a: [", "web.yml: not YAML"),
        ("tls_config: {}", "tls_config: is no key"),
        ("tls_server_config: 7", "tls_server_config: must be a mapping"),
        ("tls_server_config: {cert_file: server.crt}", "tls_server_config.key_file: is missing"),
        ("tls_server_config: {key_file: server.key}", "tls_server_config.cert_file: is missing"),
        (tls(cert="none.crt"), "tls_server_config.cert_file: .*none.crt: No such file"),
        (tls(cert="server.key"), "tls_server_config.cert_file: .*holds no certificate"),
        (tls(key="server.crt"), "tls_server_config.key_file: .*holds no private key"),
        (tls("min_version: TLS10"), "tls_server_config.min_version: 'TLS10' is none of TLS12, TLS13"),
        (tls("min_version: TLS13, max_version: TLS12"), "tls_server_config.max_version: TLS12 is below"),
        (tls("cipher_suites: [A]"), "tls_server_config.cipher_suites: is no key"),
        (tls("client_auth_type: RequireAnyClientCert"), "tls_server_config.client_auth_type: 'RequireAny"),
        (tls("client_auth_type: RequireAndVerifyClientCert"), "tls_server_config.client_ca_file: is missing"),
        (tls("client_ca_file: ca.crt"), "tls_server_config.client_ca_file: does nothing without"),
        (tls("client_allowed_sans: [a]"), "tls_server_config.client_allowed_sans: does nothing without"),
        (tls("client_allowed_sans: a"), "tls_server_config.client_allowed_sans: must be a list"),
        ("basic_auth_users: {alice: secret}", "basic_auth_users.alice: is no hash by bcrypt"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "basic_auth_users.a:b: is no name"),
        ("basic_auth_users: [alice]", "basic_auth_users: must be a mapping"),
        ("http_server_config: {http2: 5}", "http_server_config.http2: must be true or false"),
        ("http_server_config: {headers: {Server: me}}", "http_server_config.headers.Server: is no key"),
        ('http_server_config: {headers: {X-Frame-Options: "a\\nb: c"}}', "headers.X-Frame-Options: has signs"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(folder, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.yml: No such file"):
        read_web_config(tmp_path / "no.yml")


@pytest.mark.parametrize(
    ("key", "words"), [("other.key", "key_file does not belong to cert_file"), ("locked.key", "cannot be used")]
)
def test_a_key_that_cannot_be_used(folder: Path, key: str, words: str) -> None:
    found = read(folder, tls(key=key)).tls
    assert found is not None
    with pytest.raises(UsageError, match=words):
        server_context(found)


def header(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def ask(guard: Guard, authorization: str | None = None) -> tuple[str, dict[str, str], bytes]:
    said: list[Any] = []

    def page(_: dict[str, Any], start: Any) -> Iterable[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    environ = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}
    body = b"".join(guard.guarded(page)(environ, lambda status, headers, *_: said.append((status, dict(headers)))))
    ((status, headers),) = said
    return status, headers, body


@pytest.mark.parametrize(
    "given",
    [
        None, "", "Basic", "Basic !", "Basic YWxpY2U=", "Bearer x", header("alice", "wrong"), header("bob", "secret"),
        header("alice", ""), header("alice", "x" * 100), header("alice", "secret\0"), "Basic /////w==",
    ],
)  # fmt: skip
def test_who_does_not_know_the_password_stays_outside(given: str | None) -> None:
    status, headers, body = ask(Guard(WebConfig(users={"alice": HASH})), given)
    assert (status, headers["WWW-Authenticate"]) == ("401 Unauthorized", 'Basic realm="pydp"')
    assert b"page" not in body


def test_who_knows_the_password_gets_the_page_and_the_headers() -> None:
    guard = Guard(WebConfig(users={"alice": HASH}, headers={"X-Frame-Options": "deny"}))
    for _ in range(2):  # the second time from memory
        status, headers, body = ask(guard, header("alice", "secret"))
        assert (status, body, headers["X-Frame-Options"]) == ("200 OK", b"page", "deny")
    assert ask(Guard(WebConfig()))[0] == "200 OK"


def test_no_more_passwords_are_remembered_than_a_hundred() -> None:
    passwords = Passwords()
    cheap = {"alice": HASH}
    for number in range(250):
        assert not passwords.right(cheap, header("alice", str(number)))
    assert len(passwords._known) <= 100
    assert passwords.right(cheap, header("alice", "secret"))


def test_a_configuration_that_changes_is_taken_over_and_one_that_is_wrong_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, told = [100.0], list[str]()
    monkeypatch.setattr("pydp.metrics.guard.time.monotonic", lambda: clock[0])
    now: list[WebConfig | Exception] = [WebConfig()]

    def given() -> WebConfig:
        if isinstance(now[0], Exception):
            raise now[0]
        return now[0]

    guard = Guard(WebConfig(), given, told.append)
    now[0] = WebConfig(users={"alice": HASH})
    assert ask(guard)[0] == "200 OK"  # asked a moment ago
    clock[0] += 2
    assert ask(guard)[0] == "401 Unauthorized"
    now[0] = PydpError("web.yml: not YAML")
    for _ in range(3):
        clock[0] += 2
        assert ask(guard)[0] == "401 Unauthorized"
    assert told == ["web configuration read anew", "the web configuration stays as it was: web.yml: not YAML"]
    now[0] = WebConfig()
    clock[0] += 2
    assert ask(guard)[0] == "200 OK"
