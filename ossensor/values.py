"""How a variable's text becomes a value: one function each, which gives the value or raises ValueError.

The error's text is the reason, and "" where what is allowed says it all. "" as a text stands for "not given".
"""

from __future__ import annotations

import pwd
import re
import socket
import ssl
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from .ere import Ere, PatternError
from .transport.protocol import sensor_name_ok

DEFAULT_ROUTE: Final = ("default",)  # the value of network_device that is no list of names
_MAX_KEY_FILE_BYTES: Final = 4096  # far above any key; /dev/zero given by mistake ends here
_MAX_HOST_CHARACTERS: Final = 253
_MAX_SOCKET_BYTES: Final = 107  # sun_path of unix(7), less a NUL
# Labels as the resolver takes them: Python's IDNA step raises UnicodeError for an empty label or one above 63.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,18}")
_BOOLEANS: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def flaw(text: str) -> str | None:
    """What no variable may hold, or None."""
    if "\0" in text:
        return "has a NUL character"
    # An environment's bytes that are no UTF-8 arrive as lone surrogates (PEP 383). Not by encoding: the exception
    # would carry the text, which may be the key.
    return "is not UTF-8" if any("\ud800" <= c <= "\udfff" for c in text) else None


def whole(text: str) -> int:
    # int() also takes "1_0", " 5" and the digits of other scripts.
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("")
    return int(text)


def flag(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("")
    return _BOOLEANS[text.lower()]


def host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        IPv6Address(text[1:-1])  # raises a ValueError that says what is wrong
        if "%" in text:
            raise ValueError("a zone (%) does not fit into a URL")
    elif text and (_HOST.fullmatch(text) is None or len(text) > _MAX_HOST_CHARACTERS):
        raise ValueError("")
    return text


def folder(text: str) -> Path | None:
    return Path(text).absolute() if text else None


def address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if bracketed is not (address.version == 6) or whole(port) not in range(1, 65536):
        raise ValueError("")
    return str(address), int(port)


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(word) for word in text.split())  # raises a ValueError that says what is wrong


def local_socket(text: str) -> str:
    """Empty: none."""
    if text == "off":
        return ""
    if text[:1] not in {"/", "@"} or not text[1:] or len(text.encode()) > _MAX_SOCKET_BYTES:
        raise ValueError("")
    return text


def key(text: str) -> bytes:
    if "\n" in text or "\r" in text:
        raise ValueError("it has a line break")
    return text.encode()


def key_file(text: str) -> bytes:
    if not text:
        return b""
    try:
        with Path(text).open("rb") as file:
            raw = file.read(_MAX_KEY_FILE_BYTES + 1)
    except OSError as e:
        raise ValueError(e.strerror) from e
    if len(raw) > _MAX_KEY_FILE_BYTES:
        raise ValueError(f"the file has more than {_MAX_KEY_FILE_BYTES} bytes")
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if not raw:
        raise ValueError("the file is empty")
    decoded = raw.decode("utf-8", "surrogateescape")
    if what := flaw(decoded):
        raise ValueError(f"the file's content {what}")
    return key(decoded)


def readable(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).absolute()
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as e:
        raise ValueError(e.strerror) from e
    return path


def certificates(text: str) -> Path | None:
    path = readable(text)
    if path is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as e:  # ssl.SSLError is one
            raise ValueError("no usable PEM certificates in it") from e
    return path


def devices(text: str) -> tuple[str, ...] | None:
    names = tuple(dict.fromkeys(text.split()))
    if "default" in names and names != DEFAULT_ROUTE:
        raise ValueError("`default` stands alone")
    return names or None


def patterns(text: str) -> tuple[str, ...]:
    for pattern in text.split():
        # In double quotes in the config file, `\b` is a backspace: an exclude list would leave out nothing. Names that
        # hold such a character are not captured in any case (protocol.interface_name_ok).
        if not pattern.isprintable():
            raise ValueError(f"pattern {pattern!r} has a control character; in double quotes a backslash is `\\\\`")
        try:
            Ere(pattern)
        except PatternError as e:
            raise ValueError(f"pattern {pattern!r}: {e}") from e
    return tuple(text.split())


def sensor(text: str) -> str:
    if not text:
        return sanitised(socket.gethostname())
    if not sensor_name_ok(text):
        raise ValueError("")
    return text


def sanitised(host_name: str) -> str:
    """A sensor name made of any host name: what may not stand in one becomes `-`, and it is cut to length."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", host_name).lstrip("._-")[:63]
    return name if sensor_name_ok(name) else "sensor"


def user(text: str) -> str:
    if text.isascii() and text.isdigit():
        if whole(text) not in range(1, 2**32 - 1):  # 2**32-1 means "leave unchanged" to setuid's relatives
            raise ValueError("")
        return text
    try:
        uid = pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError("no such user") from None
    if uid == 0:
        raise ValueError("it is root")
    return text
