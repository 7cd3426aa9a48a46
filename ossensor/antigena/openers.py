"""Who opened a connection, which a quarantine of one direction depends on. Pure.

The handshake says it, where it was seen: a SYN comes from the opener, a SYN with ACK goes to it. Connections that are
older than the order have no handshake to see, and they are what a quarantine is most often ordered for. For them, and
for UDP, which has no handshake, the ports say it when exactly one of them is of the range that systems give to openers:
the other one was chosen, by a listener. Where both or neither are, nobody knows, and nothing is ended: a guess could
end the direction that the operator left open.

Left, each: taking the first sender seen as a datagram flow's opener (wrong for every flow older than the order); asking
the kernel for its listening ports (says nothing of other hosts, and a worker may not look into the application).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from .actions import End
from .segments import ACK, SYN, Segment

# ip_local_port_range begins at 32768 on Linux; IANA's dynamic ports (RFC 6335 section 6) lie within.
_FIRST_OPENERS_PORT: Final = 32_768
# Active FTP: the server opens from 20 to a port of the client's that is of an opener's range (RFC 959 section 3.2).
_FTP_DATA: Final = 20
# A few hundred bytes each, in each worker: 2 MiB. Whoever is forgotten is judged by its ports.
MAX_REMEMBERED: Final = 8192

_Key: TypeAlias = frozenset[End]


class Openers:
    """What handshakes have told, the newest `most` of them."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._known: OrderedDict[_Key, End] = OrderedDict()

    def learn(self, segment: Segment) -> None:
        """Takes note of a handshake; of other segments, nothing."""
        if not segment.flags & SYN:
            return
        key = frozenset((segment.source, segment.destination))
        self._known[key] = segment.destination if segment.flags & ACK else segment.source
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def maybe_opener(self, segment: Segment) -> End | None:
        ends = (segment.source, segment.destination)
        if segment.protocol == "tcp" and (known := self._known.get(frozenset(ends))):
            return known
        openers = [end for end in ends if end.port >= _FIRST_OPENERS_PORT]
        if len(openers) != 1 or any(end.port == _FTP_DATA for end in ends):
            return None
        return openers[0]
