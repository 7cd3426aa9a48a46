"""The page's files, as they are answered: read once, with the headers that keep a browser to them.

Invariant: what is answered is one of the files of `page/`, by its whole name; no path is ever made of a request.

The files are public: they are in the package, and say nothing of this vSensor. They are the same for who is logged in
and who is not, so that no page has to be drawn here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, NamedTuple

INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",  # no 'unsafe-inline', no eval: a name of a sensor can never become a script
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",  # its forms are read by its script
    "frame-ancestors 'none'",  # nobody lays a page of theirs over "Order it"
    "require-trusted-types-for 'script'",  # and no text can become markup, whatever we write into the script one day
    "trusted-types 'none'",
)
# OWASP's list of headers, less Strict-Transport-Security, see DESIGN.md, "The page".
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for what does not know frame-ancestors
}


class File(NamedTuple):
    """What is answered for one name."""

    content: bytes
    headers: Mapping[str, str]
    tag: str  # an ETag (RFC 9110 section 8.8.3)


def load() -> Mapping[str, File]:
    """All of them, by name."""
    found = {}
    for entry in (files("ossensor") / "vsensor" / "page").iterdir():
        media_type = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if media_type is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            # Kept, and asked about each time: a page of one version with a script of another would be neither.
            headers = {**HEADERS, "Content-Type": media_type, "Cache-Control": "no-cache", "ETag": tag}
            found[entry.name] = File(content, headers, tag)
    return found
