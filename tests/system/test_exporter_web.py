# SPDX-License-Identifier: Apache-2.0
"""`pydp exporter --web.config.file`: TLS, passwords, certificates of clients, and a configuration that changes."""

from __future__ import annotations

import base64
import shutil
import ssl
import sys
import urllib.error
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path

import bcrypt
import pytest

from pydp.lab import Namespace, Segment, ping, poll
from tests.certificates import authority, certificate
from tests.system.exporting import Exporter, Lan, value

pytestmark = pytest.mark.usefixtures("bpffs")

# What a client meets whose certificate is not welcome: when, depends on the version of TLS.
REFUSED = (urllib.error.URLError, ssl.SSLError, RemoteDisconnected, ConnectionError)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pki")
    authority(made)
    authority(made, "stranger")
    certificate(made, "server")
    certificate(made, "renewed")
    certificate(made, "friend", names="DNS:prometheus.example")
    certificate(made, "guest", names="DNS:guest.example")
    certificate(made, "foreign", names="DNS:prometheus.example", ca="stranger")
    made.chmod(0o700)
    for one in made.iterdir():
        one.chmod(0o600)  # root's alone
    return made


def trusting(pki: Path, client: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if client:
        context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    return context


def written(pki: Path, text: str, name: str = "web.yml") -> str:
    file = pki / name
    file.write_text(text)
    return str(file)


def login(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_tls_and_passwords_that_change(
    namespace: Callable[..., Namespace], exporter: Callable[..., Exporter], pki: Path
) -> None:
    """The process that serves has no rights, and the files are root's alone: the other one reads them anew."""
    for suffix in ("crt", "key"):
        shutil.copy(pki / f"server.{suffix}", pki / f"current.{suffix}")
    text = "tls_server_config: {{cert_file: current.crt, key_file: current.key}}\nbasic_auth_users: {{alice: '{}'}}\n"
    first, second = (bcrypt.hashpw(word, bcrypt.gensalt(4)).decode() for word in (b"secret", b"other"))
    file = written(pki, text.format(first))
    serving = exporter(namespace(), "--web.config.file", file, scheme="https")
    trust = trusting(pki)
    assert "pydp_build_info" in serving.text(context=trust, **login("alice", "secret"))
    for refused in ({}, login("alice", "wrong"), login("bob", "secret")):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            serving.text(context=trust, **refused)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        serving.text(context=ssl.create_default_context())
    serving.url = serving.url.replace("https", "http")
    with pytest.raises((urllib.error.URLError, ConnectionError, RemoteDisconnected)):
        serving.text()
    serving.url = serving.url.replace("http", "https")

    written(pki, text.format(second))
    for suffix in ("crt", "key"):
        shutil.copy(pki / f"renewed.{suffix}", pki / f"current.{suffix}")

    def renewed() -> bool:
        try:
            return "pydp_build_info" in serving.text(context=trust, **login("alice", "other"))
        except urllib.error.HTTPError:
            return False

    poll("the new password", renewed, timeout=20, interval=0.2)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        serving.text(context=trust, **login("alice", "secret"))
    shown = serving.ns.call(ssl.get_server_certificate, ("127.0.0.1", 9818), timeout=10)
    assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert((pki / "renewed.crt").read_text())


@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
def test_certificates_of_clients(
    namespace: Callable[..., Namespace], exporter: Callable[..., Exporter], pki: Path, version: str
) -> None:
    text = (
        f"tls_server_config: {{cert_file: server.crt, key_file: server.key, min_version: {version},"
        f" max_version: {version}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt,"
        " client_allowed_sans: [prometheus.example]}"
    )
    serving = exporter(namespace(), "--web.config.file", written(pki, text), scheme="https")
    assert "pydp_build_info" in serving.text(context=trusting(pki, "friend"))
    for name in ("", "guest", "foreign"):
        with pytest.raises(REFUSED):
            serving.text(context=trusting(pki, name))
    assert "pydp_build_info" in serving.text(context=trusting(pki, "friend"))  # it serves on


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("basic_auth_users: {alice: secret}", "basic_auth_users.alice"),
        ("tls_server_config: {cert_file: server.crt, key_file: renewed.key}", "tls_server_config: key_file"),
    ],
)
def test_a_configuration_that_is_wrong_is_one_sentence(
    namespace: Callable[..., Namespace], folder: Path, pki: Path, text: str, words: str
) -> None:
    file = written(pki, text, "wrong.yml")
    command = [sys.executable, "-m", "pydp", "exporter", "--web.config.file", file]
    done = namespace().run(command, check=False, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}: {words}" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_programs_are_timed_as_long_as_it_runs(
    segment: Callable[..., Segment], lan: Callable[..., Lan], exporter: Callable[..., Exporter]
) -> None:
    net = segment(2)
    lan(net.sw).attach(*net.ports)
    labels = {"instance": "bridge", "device": "p0", "hook": "tc"}
    serving = exporter(net.sw, "--program-stats")
    before = serving.values()
    ping(net[0].ns, net[1].address4, count=20, interval=0.005)
    found = serving.values()
    assert value(found, "pydp_program_stats_enabled") == 1
    runs, seconds = (
        value(found, name, **labels) - value(before, name, **labels)
        for name in ("pydp_program_runs_total", "pydp_program_run_time_seconds_total")
    )
    assert runs >= 20
    assert 0 < seconds < 1
