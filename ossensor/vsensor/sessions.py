"""Sessions of the page: what stands in for the operator's token in a browser, after it was shown once. Pure.

Invariant: a session is good for at most LONGEST_S, and for IDLE_S after its person last did something; it may do what
the token that opened it may, and no more. What is remembered of its id is a digest, so neither a look-up's time nor a
dump of memory tells it.

In memory only: whoever restarts the vSensor, with another token perhaps, means that nobody is logged in any more. The
choices are those of OWASP's Session Management and CSRF Prevention cheat sheets.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# `__Host-`: a browser takes it only with Secure, for the whole of this very host, and from nobody else (RFC 6265bis
# section 4.1.3.2), so another service of the same domain cannot plant one.
COOKIE: Final = "__Host-ossensor"
CSRF_FIELD: Final = "x-csrf-token"
# OWASP: 15 to 30 minutes where the harm is small, 4 to 8 hours for who uses it all day. Looking on does not
# count as doing something, so a screen that was left alone cannot order anything for long.
IDLE_S: Final = 30 * 60.0
LONGEST_S: Final = 8 * 3600.0
# People with a token, each with some browsers. Only who holds one can open another, and then the least used goes.
SESSIONS_MAX: Final = 64

_RANDOM_BYTES: Final = 32  # 256 bits; OWASP asks for 64 at least
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True)
class Session:
    """One browser that is let in."""

    token: str  # the id of the token that opened it
    may_order: bool
    opened_s: float
    active_s: float
    csrf: str = field(repr=False)

    def ends_s(self) -> float:
        """Until when it is good if nothing is done."""
        return min(self.active_s + IDLE_S, self.opened_s + LONGEST_S)

    def meant(self, shown: Iterable[str]) -> bool:
        """Whether a request that shows this comes from our own page: another site cannot read this."""
        match list(shown):
            case [value]:
                return hmac.compare_digest(value.encode("latin-1"), self.csrf.encode("ascii"))
        return False


class Sessions:
    """All of them."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, Session] = OrderedDict()  # by the digest of the id; the least active first

    def open(self, token: str, now_s: float, *, may_order: bool) -> tuple[str, Session]:
        """A new one, and its id, which is the cookie's value and is kept nowhere here."""
        name = secrets.token_urlsafe(_RANDOM_BYTES)
        session = Session(token, may_order, now_s, now_s, secrets.token_urlsafe(_RANDOM_BYTES))
        self._open[_digest(name)] = session
        if len(self._open) > SESSIONS_MAX:
            self._open.popitem(last=False)
        return name, session

    def find(self, cookies: Iterable[str], now_s: float, *, active: bool = False) -> Session | None:
        """The session that the values of `Cookie` fields show, as long as it is good. `active`: its person did this."""
        key = _shown(cookies)
        session = None if key is None else self._open.get(key)
        if key is None or session is None:
            return None
        if now_s >= session.ends_s():
            del self._open[key]
            return None
        if active:
            session.active_s = now_s
            self._open.move_to_end(key)
        return session

    def close(self, cookies: Iterable[str]) -> None:
        """Ends the session that is shown; without a word when there is none."""
        key = _shown(cookies)
        if key is not None:
            self._open.pop(key, None)


def set_cookie(name: str) -> str:
    """The value of `Set-Cookie`. Without a lifetime: it goes with the browser, if not before."""
    return f"{COOKIE}={name}; Path=/; Secure; HttpOnly; SameSite=Strict"


def forget_cookie() -> str:
    """Likewise, to have a browser forget it."""
    return f"{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"


def _shown(cookies: Iterable[str]) -> bytes | None:
    """The digest of the one id in these fields; None for no id, for one that cannot be ours, or for several."""
    pairs = [pair.strip(" \t").partition("=") for field_ in cookies for pair in field_.split(";")]
    match [value for name, _, value in pairs if name == COOKIE]:
        case [value] if _ID.fullmatch(value):
            return _digest(value)
    return None


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("ascii")).digest()
