# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests of TLS, made by openssl(1)."""

from __future__ import annotations

import subprocess
from pathlib import Path


def authority(folder: Path, name: str = "ca") -> Path:
    """A certificate authority: NAME.crt and NAME.key; gives the first."""
    _openssl(folder, "req", "-x509", *_key(name), "-subj", f"/CN={name}", "-days", "2", "-out", f"{name}.crt")
    return folder / f"{name}.crt"


def certificate(folder: Path, name: str, *, names: str = "IP:127.0.0.1", ca: str = "ca") -> Path:
    """A certificate for NAMES, as subjectAltName has them, signed by CA: NAME.crt and NAME.key; gives the first."""
    extensions = folder / f"{name}.cnf"
    extensions.write_text(f"subjectAltName={names}\n")
    _openssl(folder, "req", *_key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial",
        "-days", "2", "-extfile", extensions.name, "-out", f"{name}.crt",
    )  # fmt: skip
    return folder / f"{name}.crt"


def _key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
