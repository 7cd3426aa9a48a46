"""How many connections the descriptors of the serving process allow.

Invariant: connections that are served, files that are written and the rest together stay under the process's limit, so
that no connection costs the store the descriptor that it needs.
"""

from __future__ import annotations

import resource
from typing import Final

from .files import OPEN_MAX

# 500 sensors with four deliveries of an interface on their way and one connection for the rest are 2,500; the next
# power of two. Above, a request is answered 503, unsigned, and tried again. What one costs: server.TLS_READ_BYTES.
CONNECTIONS_MAX: Final = 4096
# Standard streams, index and books (SQLite: three for each), the loop's own, janitor and streams; some dozens in all.
_SPARE: Final = 128
# Under the 1,024 that a process has by default, with OPEN_MAX and the spare.
FEWEST: Final = 512


def raise_limit() -> int:
    """The soft limit of descriptors, raised as far as CONNECTIONS_MAX needs and the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OPEN_MAX + _SPARE
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return wanted if soft == resource.RLIM_INFINITY else soft


def connections(limit: int) -> int:
    """The connections to serve with so many descriptors. Below 1,024 in all it is the files that run short first."""
    return max(FEWEST, min(CONNECTIONS_MAX, limit - OPEN_MAX - _SPARE))
