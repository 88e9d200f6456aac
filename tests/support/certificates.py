"""Certificates of a test's own: a CA, and a server's and a client's that it signed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """All of one authority's."""

    ca: Path
    server: Signed
    client: Signed
    client_key_locked: Path
    """The client's key behind a password."""


def certificates(folder: Path) -> Certificates:
    """Make them anew with OpenSSL, or skip the test where it is not there."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there: install it to test TLS")

    def made(name: str, *how: str) -> Signed:
        signed = Signed(folder / f"{name}.pem", folder / f"{name}.key")
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        files = ["-keyout", str(signed.key), "-out", str(signed.cert)]
        run = [openssl, "req", "-x509", *kind, "-subj", f"/CN={name}", *files, *how]
        subprocess.run(run, check=True, capture_output=True, timeout=60)
        return signed

    ca = made("ca")
    by = ["-CA", str(ca.cert), "-CAkey", str(ca.key)]
    leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
    client, locked = made("client", *by, *leaf), folder / "locked.key"
    lock = [openssl, "pkey", "-in", str(client.key), "-out", str(locked)]
    subprocess.run(
        [*lock, "-aes256", "-passout", "pass:hush"], check=True, capture_output=True, timeout=60
    )
    return Certificates(
        ca=ca.cert,
        server=made("server", *by, *leaf, "-addext", "subjectAltName=IP:127.0.0.1"),
        client=client,
        client_key_locked=locked,
    )
