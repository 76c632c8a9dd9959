"""TLS certificates for servers that tests start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for 127.0.0.1."""
    subject = ["-nodes", "-newkey", "rsa:2048", "-subj"]
    for command in (
        ["req", "-x509", "-days", "2", *subject, "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *subject, "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "names", "-out", "server.pem"],
    ):  # fmt: skip
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
