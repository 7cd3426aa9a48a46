"""A vSensor in some hundred lines, to be read beside protocol.md. What it must remember is in memory: not for use.

python receiver.py KEY_FILE CERTIFICATE PRIVATE_KEY PORT FOLDER
"""

import base64
import hashlib
import hmac
import http.server
import re
import ssl
import sys
import time
from pathlib import Path

import zstandard

PARAMETERS = r';created=(\d+);keyid="(\w+)";alg="hmac-sha256";nonce="([^"]+)";tag="([^"]+)"'
SIGNED = re.compile(rf"ossensor=(\(([^)]*)\){PARAMETERS})")
CONTROL = re.compile(r"/v1/sensors/([^/]+)/(registration|introduction)")
BATCH = re.compile(r"/v1/sensors/([^/]+)/epochs/(\w{32})/interfaces/([^/]+)/batches/(\d+)")


def digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign(key: bytes, parts: list[tuple[str, str]], parameters: str) -> str:
    base = "\n".join([*(f"{name}: {value}" for name, value in parts), f'"@signature-params": {parameters}'])
    return f"ossensor=:{base64.b64encode(hmac.digest(key, base.encode(), 'sha256')).decode()}:"


def request_parts(method: str, path: str, query: str, fields: dict[str, str]) -> list[tuple[str, str]]:
    names = sorted(n for n in fields if n.startswith("ossensor-") or n == "content-encoding")
    authority = fields["host"].lower().removesuffix(":443")
    where = {"method": method, "authority": authority, "path": path, "query": f"?{query}"}
    named = [(f'"{n}"', fields.get(n, "")) for n in ("content-digest", "content-type", *names)]
    return [*((f'"@{name}"', value) for name, value in where.items()), *named]


def verify(key: bytes, method: str, path: str, query: str, fields: dict[str, str], tag: str) -> tuple[int, str] | None:
    """Time and nonce of a request that a holder of the key signed for this channel; None for any other."""
    signed, parts = SIGNED.fullmatch(fields.get("signature-input", "")), request_parts(method, path, query, fields)
    if not signed or signed[2] != " ".join(name for name, _ in parts) or signed[6] != tag:
        return None
    good = hmac.compare_digest(sign(key, parts, signed[1]), fields.get("signature", ""))
    return (int(signed[3]), signed[5]) if good else None


def reply(key: bytes, status: int, ours: dict[str, str], method: str, path: str, signature: str, now: int, tag: str):
    request = [('"@method";req', method), ('"@path";req', path), ('"signature";req', signature)]
    parts = [('"@status"', str(status)), ('"content-digest"', digest(b"")), *request]
    parts += [(f'"{name}"', value) for name, value in sorted(ours.items())]
    key_id = hmac.digest(key, b"ossensor key id v1", "sha256")[:8].hex()
    names = " ".join(name for name, _ in parts)
    parameters = f'({names});created={now};keyid="{key_id}";alg="hmac-sha256";tag="{tag}"'
    signed = {"content-digest": digest(b""), "signature-input": f"ossensor={parameters}"}
    return {**ours, **signed, "signature": sign(key, parts, parameters)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    started, nonces, streams, floors = int(time.time()), set(), {}, {}

    def handle_request(self) -> None:
        path, _, query = self.path.partition("?")
        fields, now = {name.lower(): value for name, value in self.headers.items()}, int(time.time())
        body = self.rfile.read(int(fields.get("content-length", "0")))
        tag = "ossensor-data" if self.command == "PUT" else "ossensor-control"
        if not (BATCH if self.command == "PUT" else CONTROL).fullmatch(path):  # Antigena, too, which this one has not
            signed, headers, status = None, {}, 404
        else:
            signed, headers, status = verify(self.server.key, self.command, path, query, fields, tag), {}, 401
        if signed:
            status, outcome = self.judge(path, fields, body, *signed, now)
            ours = {"ossensor-outcome": outcome, "ossensor-time": str(now)}
            if self.command == "POST":
                ours["ossensor-certificate"] = self.server.certificate_sha256
            what = self.command, path, fields["signature"]
            headers = reply(self.server.key, status, ours, *what, now, f"{tag}-reply")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    do_PUT = do_POST = handle_request

    def judge(self, path: str, fields: dict, body: bytes, created: int, nonce: str, now: int) -> tuple[int, str]:
        batch = BATCH.fullmatch(path)
        if abs(now - created) > 60 or created <= self.started:
            return 401, "stale"
        if nonce in self.nonces:
            return 401, "replayed"
        self.nonces.add(nonce)
        if fields["content-digest"] != digest(body):
            return 400, "altered"
        return (
            self.store(*batch.groups(), int(fields["ossensor-floor"]), fields, body) if batch else (200, "registered")
        )

    def store(self, sensor, epoch, interface, sequence, floor, fields, body) -> tuple[int, str]:
        section = zstandard.decompress(body) if fields.get("content-encoding") == "zstd" else body
        head, rest = (int.from_bytes(section[at:end], "little") for at, end in ((4, 8), (16, 24)))
        if section[:4] != b"\x0a\x0d\x0d\x0a" or head + rest != len(section):
            return 422, "malformed"
        number, stored = int(sequence), self.streams.setdefault((sensor, epoch, interface), set())
        self.floors[sensor, epoch, interface] = floor = max(self.floors.get((sensor, epoch, interface), 0), floor)
        if number in stored:
            return 200, "present"
        if number < floor:
            return 422, "malformed"
        if not stored.issuperset(range(floor, number)):
            return 425, "out-of-order"
        with (self.server.folder / f"{sensor}.{interface}.pcapng").open("ab") as file:
            file.write(section)
        stored.add(number)
        return 201, "stored"


def main(key_file: str, certificate: str, private_key: str, port: str, folder: str) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    # The handshake is done by each connection's thread: one who says nothing keeps nobody else waiting.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.key, server.folder = Path(key_file).read_bytes().rstrip(b"\r\n"), Path(folder)
    server.certificate_sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(certificate).read_text())).hexdigest()
    print(f"listening on https://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
