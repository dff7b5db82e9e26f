# SPDX-License-Identifier: Apache-2.0
"""The web configuration file of Prometheus' exporters: TLS, basic authentication, headers of the answer.

    tls_server_config: {cert_file, key_file, min_version, max_version, client_auth_type, client_ca_file,
                        client_allowed_sans}
    http_server_config: {headers: {Strict-Transport-Security: ..., ...}}
    basic_auth_users: {NAME: HASH}   by bcrypt, as `htpasswd -nBC 10 NAME` writes it

Files are named relative to this one. An empty file is valid: no TLS, nobody is asked for a password. What cannot be
had here (choice of ciphers and curves, TLS before 1.2, clients' certificates that nobody verifies) is refused, not
ignored. See https://prometheus.io/docs/prometheus/latest/configuration/https/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydp.errors import UsageError

VERSIONS = ("TLS12", "TLS13")
_VERIFYING = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_HEADERS = {
    "Content-Security-Policy", "Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options",
    "X-XSS-Protection",
}  # fmt: skip
_HASH = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_TLS = "tls_server_config"
_MARKS = {"cert_file": "BEGIN CERTIFICATE", "client_ca_file": "BEGIN CERTIFICATE", "key_file": "PRIVATE KEY"}


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates and the key are PEM. ``client_auth``: "", or one of those that verify."""

    certificate: str
    key: str = field(repr=False)
    min_version: str = "TLS12"
    max_version: str = ""
    client_auth: str = ""
    client_ca: str = ""
    client_sans: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WebConfig:
    """``users``: bcrypt's hash by name; none: nobody is asked."""

    tls: Tls | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, found: Mapping[str, Any]) -> WebConfig:
        return cls(**{**found, "tls": Tls(**found["tls"]) if found["tls"] else None})


def read_web_config(path: Path) -> WebConfig:
    """The file and those that it names. Raises UsageError, which names the key at fault."""
    import yaml  # 0.05 s that `pydp exporter --help` does without

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    top = _Section(path, "", {} if found is None else found)
    top.only(_TLS, "http_server_config", "basic_auth_users")
    tls = _tls(top.section(_TLS)) if top.values.get(_TLS) else None
    return WebConfig(tls, _users(top.section("basic_auth_users")), _headers(top.section("http_server_config")))


class _Section:
    """A mapping of the file, which says where it stands when something in it is wrong."""

    def __init__(self, file: Path, where: str, values: Any) -> None:
        self.file = file
        self.where = where
        if not isinstance(values, dict):
            raise self.wrong("", "must be a mapping")
        self.values: dict[Any, Any] = values

    def wrong(self, key: str, what: str, hint: str = "") -> UsageError:
        name = ".".join(part for part in (self.where, key) if part)
        return UsageError(f"{self.file}: {f'{name}: ' if name else ''}{what}", hint=hint)

    def only(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                raise self.wrong(str(key), "is no key of pydp's", hint=f"there are {', '.join(known)}")

    def section(self, key: str) -> _Section:
        values = self.values.get(key)
        return _Section(self.file, key if not self.where else f"{self.where}.{key}", {} if values is None else values)

    def text(self, key: str, *choices: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str) or (value and choices and value not in choices):
            raise self.wrong(key, f"{value!r} is none of {', '.join(choices)}" if choices else "must be a text")
        return value

    def pem(self, key: str) -> str:
        """The content of the file that KEY names, "" without it."""
        name = self.text(key)
        if not name:
            return ""
        path = self.file.parent / name
        try:
            content = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise self.wrong(key, f"{path}: {getattr(error, 'strerror', None) or error}") from error
        if _MARKS[key] not in content:
            raise self.wrong(key, f"{path}: holds no {_MARKS[key].removeprefix('BEGIN ').lower()} in PEM")
        return content


def _tls(found: _Section) -> Tls:
    found.only(
        "cert_file", "key_file", "min_version", "max_version", "client_auth_type", "client_ca_file",
        "client_allowed_sans",
    )  # fmt: skip
    for key in ("cert_file", "key_file"):
        if not found.text(key):
            raise found.wrong(key, "is missing", hint="TLS needs both, cert_file and key_file")
    asked = found.text("client_auth_type", "NoClientCert", *_VERIFYING).removeprefix("NoClientCert")
    sans = found.values.get("client_allowed_sans") or []
    if not isinstance(sans, list) or not all(isinstance(one, str) for one in sans):
        raise found.wrong("client_allowed_sans", "must be a list of names")
    if asked and not found.text("client_ca_file"):
        raise found.wrong("client_ca_file", f"is missing: client_auth_type {asked} needs it")
    for key in ("client_ca_file", "client_allowed_sans"):
        if found.values.get(key) and not asked:
            raise found.wrong(key, "does nothing without client_auth_type", hint=f"one of {', '.join(_VERIFYING)}")
    low, high = found.text("min_version", *VERSIONS) or VERSIONS[0], found.text("max_version", *VERSIONS)
    if high and high < low:
        raise found.wrong("max_version", f"{high} is below min_version {low}")
    certificate, key, ca = found.pem("cert_file"), found.pem("key_file"), found.pem("client_ca_file")
    return Tls(certificate, key, low, high, asked, ca, tuple(sans))


def _users(found: _Section) -> dict[str, str]:
    for name, value in found.values.items():
        if not isinstance(name, str) or not name or ":" in name:
            raise found.wrong(str(name), "is no name: a text without a colon")
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            raise found.wrong(name, "is no hash by bcrypt", hint=f"htpasswd -nBC 10 {name}")
    return dict(found.values)


def _headers(found: _Section) -> dict[str, str]:
    found.only("http2", "headers")
    if not isinstance(found.values.get("http2", False), bool):
        raise found.wrong("http2", "must be true or false")
    headers = found.section("headers")
    headers.only(*sorted(_HEADERS))
    for name in headers.values:
        if not headers.text(name).isprintable():
            raise headers.wrong(name, "has signs that no header may have")
    return dict(headers.values)
