"""The operator's requests to a vSensor, over HTTPS. docs/protocol.md, "The operator".

Invariant: the token goes to nobody whose certificate was not verified, by the file that was named or by the system's
CAs. There is no way to do without.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import requests.structures

from ossensor import __version__
from ossensor.antigena.token import Token
from ossensor.errors import ConfigurationError, TheirsError
from ossensor.transport.connection import Adapter, tls_context

# As the sensor's: one round trip where it works at all; the reply may wait for the vSensor's disk.
_CONNECT_TIMEOUT_S: Final = 5.0
_REPLY_TIMEOUT_S: Final = 30.0
_MAX_REPLY_BYTES: Final = 64 << 20  # a full book's list, with what a thousand sensors say of it


class UnreachableError(TheirsError):
    """No answer: the same request may succeed later. `sent`: this one may have been taken all the same."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """What the vSensor said: the status, and the body's JSON object; an empty one where there is none."""

    status: int
    body: Mapping[str, Any]
    retry_after: str = ""


class Client:
    """Asks one vSensor. Raises ConfigurationError for a URL or a CA file that cannot be used."""

    def __init__(self, url: str, token: Token, ca_file: Path | None) -> None:
        faults: list[str] = []
        host, self._base = _origin(url, faults)
        try:
            self._context = tls_context("ca", None if ca_file is None else str(ca_file))
        except OSError as e:  # ssl.SSLError is one
            why = (e.reason if isinstance(e, ssl.SSLError) else e.strerror) or "not a certificate in PEM"
            faults.append(f"--ca-file: {ca_file}: {why}")
        if faults:
            raise ConfigurationError(faults)
        self._token = token
        self._connected = False
        self._adapter = Adapter(host, self._context, self._note_connected)

    def close(self) -> None:
        self._adapter.close()

    def _note_connected(self, _socket: Any) -> None:
        self._connected = True

    def ask(self, method: str, path: str, given: object = None) -> Answer:
        """The answer to one request. Raises UnreachableError, or ConfigurationError for an untrusted certificate."""
        with self._asking(method, path, given) as response:
            return _answer(response)

    def follow(self, path: str) -> Iterator[Answer]:
        """The events of a stream, one by one, for as long as it lasts; one answer when it is refused. Raises as `ask`.

        A stream that says nothing for as long as a reply may take is one that is lost.
        """
        with self._asking("GET", path, None) as response:
            if response.status_code != 200:
                yield _answer(response)
                return
            rest = b""
            # Whatever has come, not a full buffer: read1 (urllib3 2.2) waits for no more.
            while len(rest) <= _MAX_REPLY_BYTES and (piece := response.raw.read1(1 << 16)):
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    yield Answer(200, _object(_data(event)))
        raise self._unreachable("it ended the stream")

    @contextmanager
    def _asking(self, method: str, path: str, given: object) -> Iterator[requests.Response]:
        """The response to a request, whose body is yet to be read. Raises as `ask`, also of what is read in here."""
        request = requests.PreparedRequest()
        request.method, request.url = method, self._base + path
        request.headers = requests.structures.CaseInsensitiveDict(
            {
                "Authorization": self._token.header,
                "User-Agent": f"ossensor/{__version__}",
                "Accept-Encoding": "identity",
            }
        )
        body = b"" if given is None else json.dumps(given).encode()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        if body:
            request.headers["Content-Type"] = "application/json"
        try:
            timeouts = (_CONNECT_TIMEOUT_S, _REPLY_TIMEOUT_S)
            with self._adapter.send(request, stream=True, timeout=timeouts) as response:
                yield response
        except requests.exceptions.SSLError as e:
            if "CERTIFICATE_VERIFY_FAILED" in str(e):
                why = "its certificate is not trusted; the vSensor's own is --ca-file STORE/tls/cert.pem"
                if "mismatch, certificate is not valid for" in str(e):  # CPython, of X509_V_ERR_HOSTNAME_MISMATCH
                    why = "its certificate does not bear this name; ask by one that it does, or give --tls-cert there"
                raise ConfigurationError([f"{self._base}: {why}"]) from e
            raise self._unreachable(f"no TLS: {_cause(e)}") from e
        except (requests.RequestException, OSError) as e:
            raise self._unreachable(_cause(e)) from e
        except Exception as e:
            # urllib3 lets a few of its own through while a body is read.
            if not type(e).__module__.startswith(("urllib3", "http.client")):
                raise
            raise self._unreachable(_cause(e)) from e

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(f"{self._base}: {why}", sent=self._connected)


def _origin(url: str, faults: list[str]) -> tuple[str, str]:
    """The host to verify, and the URL up to its path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    bare = (parts.scheme, parts.path.strip("/"), parts.query, parts.fragment, parts.username) == (
        "https",
        "",
        "",
        "",
        None,
    )
    if not host or not bare:
        faults.append(f"--url: {url!r} is not https://HOST[:PORT]")
        return "", ""
    return host, f"https://[{host}]:{port or 443}" if ":" in host else f"https://{host}:{port or 443}"


def _answer(response: requests.Response) -> Answer:
    content = response.raw.read(_MAX_REPLY_BYTES)
    return Answer(response.status_code, _object(content), response.headers.get("Retry-After", ""))


def _data(event: bytes) -> bytes:
    """What a server-sent event says (WHATWG HTML, section 9.2.6), as far as ours use it."""
    return b"\n".join(line.removeprefix(b"data:") for line in event.split(b"\n") if line.startswith(b"data:"))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _cause(error: BaseException) -> str:
    """What the operating system said, where requests and urllib3 wrap it in their own words."""
    while error.__context__ is not None and not (isinstance(error, OSError) and error.strerror):
        error = error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
