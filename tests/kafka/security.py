"""TLS and a password for a broker of tests: certificates made on the spot, one user.

Laws:

1. Keys and certificates are made anew for each run, and never kept.
2. The password appears in no command line but that which formats the broker's folder.

Source: OpenSSL's `req` and `x509`; Apache Kafka, PEM key stores (KIP-651) and SCRAM (KIP-84).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

USER = "penstock"
PASSWORD = "Tr0ub4dor-and-3"
MECHANISM = "SCRAM-SHA-512"


class Security:
    """An authority, a certificate of 127.0.0.1 that it signed, and one user.

    Args:
        folder: Where keys and certificates are put; made here.

    Attributes:
        ca: Certificate of the authority, as clients need it (PEM).
        other_ca: Certificate of an authority that has signed nothing (PEM).
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.ca = _authority(folder, "ca")
        self.other_ca = _authority(folder, "other")
        key, request, signed = folder / "key.pem", folder / "request.pem", folder / "signed.pem"
        _openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
                 "-subj", "/CN=localhost")  # fmt: skip
        extra = folder / "extra.cnf"
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", folder / "ca.key",
                 "-CAcreateserial", "-days", "2", "-extfile", extra, "-out", signed)  # fmt: skip
        self._keystore = folder / "keystore.pem"
        self._keystore.write_text(key.read_text() + signed.read_text())
        self._keystore.chmod(0o600)

    @property
    def scram(self) -> str:
        """The user, as `StorageTool format --add-scram` takes it."""
        return f"{MECHANISM}=[name={USER},password={PASSWORD}]"

    @property
    def properties(self) -> dict[str, str]:
        """What the broker has to be told."""
        login = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._keystore),
            "sasl.enabled.mechanisms": MECHANISM,
            f"listener.name.outside.{MECHANISM.lower()}.sasl.jaas.config": f"{login} required;",
        }

    def options(self, **changes: str) -> dict[str, str]:
        """Return what a client has to be told (`kafka.options`), with changes."""
        return {
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanisms": MECHANISM,
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        } | {name.replace("_", "."): value for name, value in changes.items()}


def _authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-keyout", folder / f"{name}.key", "-out", certificate,
             "-subj", f"/CN=penstock test {name}")  # fmt: skip
    return certificate


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
