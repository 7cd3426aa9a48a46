"""A real TLS server that answers as each test scripts it, and certificates good and bad."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ossensor.transport.signing import Key, Request

KEY = Key(b"k" * 32)
NAME = "vsensor.test"


@dataclass
class Heard:
    """A request as it crossed the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def request(self) -> Request:
        """As the vSensor rebuilds it for verification: the authority is what the Host field says."""
        host = next(v for k, v in self.headers.items() if k.lower() == "host")
        made = Request(self.method, f"https://{host}{self.target}")
        made.headers.update(self.headers)
        return made


Script = Callable[[Heard], bytes | None]


@dataclass
class Server:
    """Answers every request with what `script` makes of it, then keeps the connection; None closes it instead."""

    context: ssl.SSLContext
    script: Script = lambda _: None
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    reset: bool = False
    close_after_reply: bool = False

    def __post_init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.closed = threading.Event()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(plain,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            plain.settimeout(60)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # 40 ms a reply otherwise
            with self.context.wrap_socket(plain, server_side=True) as tls, tls.makefile("rb") as stream:
                while (heard := self._read(stream)) is not None:
                    self.heard.append(heard)
                    answer = self.script(heard)
                    if self.reset:
                        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if answer is None:
                        break
                    tls.sendall(answer)
                    if self.close_after_reply:
                        break
        self.closed.set()

    def _read(self, stream: io.BufferedReader) -> Heard | None:
        line = stream.readline()
        if not line:
            return None
        method, target, _ = line.decode().split()
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return Heard(method, target, headers, stream.read(int(headers["Content-Length"])))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()


# -- certificates -----------------------------------------------------------------------------------------------------


def certificate(
    folder: Path, stem: str, names: list[x509.GeneralName], days: int = 1, issuer: str = ""
) -> tuple[Path, ssl.SSLContext]:
    """A certificate, self-signed or of another that was made here, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
    now = dt.datetime.now(dt.UTC)
    issuer_key = key
    if issuer:
        loaded = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        issuer_key = loaded
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or stem)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=3))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    file, key_file = folder / f"{stem}.pem", folder / f"{stem}.key"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return file, context


@dataclass
class Certificates:
    """The server's certificate, and ones that must not be taken for it."""

    ca_file: Path
    good: ssl.SSLContext
    stranger_file: Path
    stranger: ssl.SSLContext
    expired_file: Path
    expired: ssl.SSLContext


def make_certificates(folder: Path) -> Certificates:
    names = [x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1"))]
    return Certificates(
        *certificate(folder, "good", names),
        *certificate(folder, "stranger", names),
        *certificate(folder, "expired", names, days=-1),
    )


def raw(status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> bytes:
    """A response as it crosses the wire."""
    lines = [f"HTTP/1.1 {status} Whatever", *[f"{name}: {value}" for name, value in headers.items()]]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
