# SPDX-License-Identifier: Apache-2.0
"""TLS of the exporter, from what is in memory: the process that serves may open no file."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydp.errors import UsageError
from pydp.metrics.webconfig import Tls

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {
    "": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def server_context(tls: Tls) -> ssl.SSLContext:
    """Raises UsageError, which names the key of the web configuration that is at fault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    if tls.max_version:
        context.maximum_version = _VERSIONS[tls.max_version]
    context.set_alpn_protocols(["http/1.1"])
    with _named(tls.certificate) as certificate, _named(tls.key) as key:
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # else it would ask on the terminal
        except ssl.SSLError as error:
            raise UsageError(f"tls_server_config: {_why(error)}") from error
    if tls.client_auth:
        try:
            context.load_verify_locations(cadata=tls.client_ca)
        except ssl.SSLError as error:
            raise UsageError(f"tls_server_config.client_ca_file: {error.reason or error}") from error
    context.verify_mode = _CLIENTS[tls.client_auth]
    return context


def is_welcome(tls: Tls, connection: ssl.SSLSocket) -> bool:
    """Whether the client's certificate has one of the names that client_allowed_sans asks for."""
    if not tls.client_sans:
        return True
    shown: Any = connection.getpeercert() or {}
    return any(name in tls.client_sans for _, name in shown.get("subjectAltName", ()))


def _why(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "key_file does not belong to cert_file"
    return f"cert_file or key_file cannot be used ({error.reason or 'the key asks for a password'})"


@contextmanager
def _named(text: str) -> Iterator[str]:
    """A name for a text in memory, since OpenSSL takes certificates and keys from files only. Below /proc/self/fd this
    process may open it, whatever rights it has left, and no other of its user may.
    """
    descriptor = os.memfd_create("pydp-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "w", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
