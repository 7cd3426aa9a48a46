"""The operator's token: what allows to order connections ended, at both ends of the operator's requests.

Not the HMAC key: that lies beside every application that is watched, and whoever takes it from there may not act on
all the others.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ossensor.errors import ConfigurationError

# What may stand after `Bearer` (RFC 6750 section 2.1). 32 characters of it, drawn at random, are 192 bits.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]{32,1024}=*")
_MAX_BYTES: Final = 2048
# Containers mount secrets as root's with the group of the program; nobody else has any business here.
_FORBIDDEN: Final = stat.S_IWGRP | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Token:
    """The secret. Its repr never shows it."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Names the token without telling of it, for the audit trail: a truncated HMAC under the token itself."""
        return hmac.digest(self.secret, b"ossensor operator token id v1", "sha256")[:8].hex()

    @property
    def header(self) -> str:
        """As the value of `Authorization`."""
        return f"Bearer {self.secret.decode('ascii')}"

    def opens(self, authorization: bytes) -> bool:
        """Whether this value of `Authorization` shows the token. How near a guess comes does not change the time."""
        scheme, _, given = authorization.partition(b" ")
        # Digests, because compare_digest tells at once when lengths differ.
        mine, other = (hmac.digest(b"length hidden", secret, "sha256") for secret in (self.secret, given))
        return hmac.compare_digest(mine, other) and scheme.lower() == b"bearer"


def load_token(path: Path, option: str) -> Token:
    """The token in a file, less a line break at its end. Raises ConfigurationError, which never shows what was read."""

    def fault(why: str) -> ConfigurationError:
        return ConfigurationError([f"{option}: {path}: {why}"])

    try:
        # Not blocking, or a pipe under that name would keep us waiting for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise fault("not a file")
            if mode & _FORBIDDEN:
                raise fault(f"its mode is {stat.S_IMODE(mode):04o}, others may read or change it (chmod 600)")
            secret = os.read(fd, _MAX_BYTES).removesuffix(b"\n").removesuffix(b"\r")
        finally:
            os.close(fd)
    except OSError as e:
        raise fault(e.strerror or type(e).__name__) from e
    if _TOKEN.fullmatch(secret) is None:
        raise fault("a token is one line of 32 to 1024 letters, digits and '._~+/-', with '=' at its end at most")
    return Token(secret)
