"""The vSensor's certificate: brought by the operator, or made here on the first start and kept.

A self-signed one is no weaker than it sounds: the sensor is shown by the HMAC key that it speaks to the holder of
*this* certificate (design section 7), or is given it as its CA file.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ossensor.durable import sync_folder

_YEARS: Final = 10


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where the certificate and its key are, and what it is known by."""

    certificate: Path
    key: Path
    sha256: str  # of the DER, in hex: what `openssl x509 -fingerprint -sha256` shows, without colons


def load(certificate: Path, key: Path) -> Certificate:
    """The pair in these files. Raises OSError (of which ssl.SSLError is one) or ValueError when it is unusable."""
    context(certificate, key)
    # Around the PEM there may be anything, in any encoding (RFC 7468 section 2): OpenSSL passes over it, too.
    text = certificate.read_text(encoding="ascii", errors="replace")
    first = text[text.index("-----BEGIN CERTIFICATE-----") :].partition("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert("".join(first[:2]))
    return Certificate(certificate, key, hashlib.sha256(der).hexdigest())


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's TLS settings with this pair. Raises OSError when it cannot be read or does not fit together."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2  # 1.3 wherever the client can
    # A passphrase prompt would stop a service for ever; an encrypted key fails to load instead.
    tls.load_cert_chain(certificate, key, password="")
    return tls


def ensure(folder: Path, listen_host: str) -> Certificate:
    """The pair in `folder`, made if there is none. Raises OSError when it can be neither made nor read."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if not certificate.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        certificate_pem, key_pem = _make(listen_host)
        # The certificate is last: where it exists, its key does. A crash between the two leaves a key that the next
        # start writes over.
        _write(key, key_pem, 0o600)
        _write(certificate, certificate_pem, 0o644)
    return load(certificate, key)


def _write(path: Path, data: bytes, mode: int) -> None:
    """The file is there whole, or as it was. The mode is set at creation: a moment of 0644 is enough to read a key."""
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_folder(path.parent)


def _make(listen_host: str) -> tuple[bytes, bytes]:
    """A new certificate and key, in PEM."""
    # 0.1 s and 10 MiB that only a first start needs.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    host_name = socket.gethostname()
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(("localhost", "127.0.0.1", "::1", host_name, listen_host)):
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ip_address(host)))
            continue
        with contextlib.suppress(ValueError):  # a host name that no certificate can carry
            names.append(x509.DNSName(host))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ossensor vsensor")])
    # An hour back: a sensor whose clock is a little behind must not find a certificate from the future.
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # Not a CA: whoever trusts this file trusts this server, and nothing that its key might sign.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
