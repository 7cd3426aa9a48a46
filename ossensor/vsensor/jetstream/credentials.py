"""NATS user credentials: a JWT and the seed that proves it is ours, from a file that is read at each connection.

Invariant: nats-py sees both, whole and in its own spelling, or an OSError, which is trouble to it like a server that is
not there. Left to itself (2.16) it reads for ever in a file that has no JWT, and stops everything else meanwhile;
a seed that is none ends its reconnecting for good, without a word. Whoever renews a file in place, by truncating and
writing it, makes both for a moment.
"""

from __future__ import annotations

import re
from collections import UserString
from pathlib import Path
from typing import Final

# The server takes no CONNECT above 4 KiB unless it is told to (max_control_line); /dev/zero given by mistake ends here.
MAX_BYTES: Final = 64 << 10
# As nsc writes them. The tokens' alphabets are those of base64url (RFC 7515 section 2) and of base32; a user's seed
# has 58 letters (nkeys: two bytes of prefix, 32 of seed, two of checksum), and SU and three bits more are the prefix.
_JWT: Final = re.compile(r"^-{3,}BEGIN NATS USER JWT-{3,}\s+([\w-]+\.[\w-]+\.[\w-]+)\s", re.ASCII | re.MULTILINE)
_SEED: Final = re.compile(r"^-{3,}BEGIN USER NKEY SEED-{3,}\s+(SU[A-D][A-Z2-7]{55})\s", re.ASCII | re.MULTILINE)


def read(path: str) -> str:
    """The text of a file of secrets. Raises ValueError, with the reason."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES).decode()
    except OSError as e:
        raise ValueError(e.strerror) from e
    except UnicodeDecodeError:
        raise ValueError("not text") from None  # it carries what was read


def parse(text: str) -> str:
    """The credentials as nats-py reads them. Raises ValueError, which shows nothing of them, for a text without."""
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None:
        raise ValueError("no user's JWT in it")
    if seed is None:
        raise ValueError("no user's seed in it")
    return f"BEGIN NATS USER JWT\n{jwt[1]}\nBEGIN USER NKEY SEED\n{seed[1]}\n"


class Credentials(UserString):
    """What nats-py is given: to it, a UserString is a file's content, whose `data` it looks at for each connection."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"Credentials({self._path!r})"  # UserString's is the content

    @property
    def data(self) -> str:  # type: ignore[override]  # an attribute there
        """Raises OSError when it cannot be read, or is not what it should be."""
        try:
            return parse(read(self._path))
        except ValueError as e:
            raise OSError(f"--nats-creds: {self._path}: {e}") from None
