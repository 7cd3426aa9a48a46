"""B4's vSensor: holds the key and proves it, and answers batches in every way that a peer, a proxy or a line can.

    python -m harness.fickle HOST PORT CERTIFICATE PRIVATE_KEY KEY_FILE FOLDER SEED

Each batch is drawn up to two refusals that pass, and then an end: it is kept (its body goes to FOLDER), or refused for
good in a signed reply. Each refusal is drawn equally often. What was answered is told as a line of JSON each.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ossensor.transport.protocol import (
    FIELD_CERTIFICATE,
    FIELD_OUTCOME,
    FIELD_PACKETS,
    FIELD_TIME,
    TAG_CONTROL_REPLY,
    TAG_DATA_REPLY,
    BatchId,
    Outcome,
)
from ossensor.transport.signing import Key, Reply, Request, sign_reply

STATUSES: Final = (200, 204, 301, 400, 401, 403, 404, 408, 413, 422, 429, 500, 503)
SIGNED: Final = (
    *(Outcome.STALE, Outcome.REPLAYED, Outcome.ALTERED),
    *(Outcome.OUT_OF_ORDER, Outcome.BUSY, Outcome.STORE_FAILED, Outcome.REGISTERED),
)
BROKEN: Final = ("garbage", "half a reply", "half a head", "nothing", "a foreign signature", "another's reply")
# Thirty seconds, the client's whole patience: drawn once.
DRIPS: Final = "a byte a second"
PASSING: Final = (*(f"status {status}" for status in STATUSES), *(f"signed {o.value}" for o in SIGNED), *BROKEN)
FINAL: Final = (*[Outcome.STORED] * 6, Outcome.PRESENT, Outcome.MALFORMED, Outcome.TOO_LARGE)


class Fickle:
    """What is decided of each batch. One lock: handlers run in threads."""

    def __init__(self, key: Key, folder: Path, certificate_sha256: str, rng: random.Random) -> None:
        self.key = key
        self.certificate_sha256 = certificate_sha256
        self._folder = folder
        self._rng = rng
        self._lock = threading.Lock()
        self._passing = self._draw()
        self._plans: dict[str, list[str | Outcome]] = {}

    def _draw(self) -> Iterator[str]:
        yield DRIPS
        while True:
            yield from self._rng.sample(PASSING, len(PASSING))

    def garbage(self) -> bytes:
        with self._lock:
            return self._rng.randbytes(300)

    def next(self, path: str, body: bytes, packets: int) -> str | Outcome:
        """How this attempt is answered; told before it is."""
        with self._lock:
            if path not in self._plans:
                refusals = [next(self._passing) for _ in range(self._rng.randrange(3))]
                self._plans[path] = [*refusals, self._rng.choice(FINAL)]
            plan = self._plans[path]
            answer = plan.pop(0) if plan else "AFTER THE END"
            if answer in {Outcome.STORED, Outcome.PRESENT}:
                batch = BatchId.from_path(path)
                name = f"{batch.stream.interface}-{batch.stream.epoch}-{batch.sequence:09}.pcapng"
                (self._folder / name).write_bytes(body)
            said = answer.value if isinstance(answer, Outcome) else answer
            told = {"message": "answered", "path": path, "answer": said, "packets": packets, "ends": not plan}
            print(json.dumps(told), file=sys.stderr, flush=True)
            return answer


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fickle: Fickle

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_POST(self) -> None:
        self._body()
        if not self.path.endswith("/registration"):
            self._raw(404, {})
            return
        extra = {FIELD_CERTIFICATE: self.fickle.certificate_sha256}
        self._signed(Outcome.REGISTERED, self.fickle.key, TAG_CONTROL_REPLY, extra)

    def do_PUT(self) -> None:
        body = self._body()
        answer = self.fickle.next(self.path, body, int(self.headers[FIELD_PACKETS]))
        if isinstance(answer, Outcome):
            self._signed(answer, self.fickle.key, TAG_DATA_REPLY)
            return
        kind, _, what = answer.partition(" ")
        if kind == "signed":
            self._signed(Outcome(what), self.fickle.key, TAG_DATA_REPLY)
        elif kind == "status":
            self._raw(int(what), {"Retry-After": "1"} if what == "429" else {"Location": "https://10.9.0.3/"})
        else:
            self._broken(answer)

    def _broken(self, how: str) -> None:
        stored = Outcome.STORED
        others: dict[str, Callable[[], None]] = {
            "garbage": lambda: self._bytes(self.fickle.garbage()),
            "half a reply": lambda: self._bytes(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500),
            "half a head": lambda: self._bytes(b"HTTP/1.1 201 Created\r\nContent-Le"),
            "nothing": lambda: self._bytes(b""),
            "a foreign signature": lambda: self._signed(stored, Key(b"somebody else's"), TAG_DATA_REPLY),
            "another's reply": lambda: self._signed(stored, self.fickle.key, TAG_CONTROL_REPLY),
            DRIPS: self._drip,
        }
        others.get(how, lambda: self._bytes(b""))()

    def _drip(self) -> None:
        self._bytes(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            time.sleep(1)  # the fault itself: nobody waits for something to have happened
            try:
                self._bytes(b"x")
            except OSError:
                return

    def _bytes(self, reply: bytes) -> None:
        self.wfile.write(reply)
        self.wfile.flush()
        self.close_connection = True

    def _raw(self, status: int, headers: dict[str, str], *, body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _signed(self, outcome: Outcome, key: Key, tag: str, extra: dict[str, str] | None = None) -> None:
        request = Request(self.command, f"https://{self.headers['Host']}{self.path}")
        request.headers.update(self.headers)
        reply = Reply(outcome.status, request)
        now_s = int(time.time())
        reply.headers.update({FIELD_OUTCOME: outcome.value, FIELD_TIME: str(now_s), **(extra or {})})
        sign_reply(reply, b"", key=key, tag=tag, created_s=now_s)
        self._raw(outcome.status, dict(reply.headers))


class Server(http.server.ThreadingHTTPServer):
    """TLS in each connection's own thread: a handshake that hangs keeps nobody else waiting."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(address, Handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, *_: Any) -> None:
        pass  # they hang up on some of the answers


def main() -> None:
    host, port, certificate, private_key, key_file, folder, seed = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    der = ssl.PEM_cert_to_DER_cert(Path(certificate).read_text())
    key = Key(Path(key_file).read_bytes())
    Handler.fickle = Fickle(key, Path(folder), hashlib.sha256(der).hexdigest(), random.Random(int(seed)))
    Server((host, int(port)), context).serve_forever()


if __name__ == "__main__":
    main()
