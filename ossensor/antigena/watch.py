"""What became of the connections that were answered: nothing is called closed that was not seen closed. Pure.

A closed connection is seldom seen to close: a host that takes a reset says nothing. So a connection is judged when both
its ends have been silent for QUIET_S since our last answer, and silence proves something only of an end that owes a
packet. `closed` is a TCP connection of which, before the silence,

- an end sent a reset of its own and nothing after it: it has no such connection, and the reset went on to the other
  end; or both sent FIN; or
- the last segment took sequence space. Its receiver owes an acknowledgment within half a second (RFC 9293 section
  3.8.6.3), its sender a repetition after a second or so (RFC 6298 section 2.1). Neither came, so neither is there.

On a quick network neither is so: the acknowledgment is there before the reset is. And where packets passed unseen, it
may be among them. Then both ends are asked, once, by a keep-alive (resets.questions). An end that has no such
connection says so by a reset, which is the proof; one that has it acknowledges, and that is a segment like others, and
is answered.

All that stay silent, and UDP's always, end `unconfirmed`: both ends were told, nothing contradicts, nothing proves. A
connection that goes on after that is matched, answered and counted again as another one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from .actions import End
from .packets import OUR_WINDOW
from .resets import Ahead
from .segments import ACK, FIN, RST, SYN, Segment

# Beyond a delayed acknowledgment and the first repetition over a path with a round trip of a second.
QUIET_S: Final = 3.0
# Connections under watch at once; the one that was silent longest is given up for another, unconfirmed. 8 MiB.
MAX_WATCHED: Final = 8192

# A segment may have waited so long when it is seen: its room is read every few milliseconds, and holds a fraction of a
# second's work. What passed unseen may so be younger than it, though it was noticed before.
_WAITED_S: Final = 1.0

# Answered so often, a connection should be over.
_PATIENT: Final = 4
# Sixteen steps are a millisecond of two programs on one host that answer each other without a pause.
_MOST_AHEAD: Final = 16

_Key: TypeAlias = tuple[str, frozenset[End]]


@dataclass(slots=True)
class _Connection:
    action_id: str
    last_s: float
    last: Segment  # without its bytes
    opening: int | None  # the sequence number of its SYN, when that was seen
    answers: int = 0  # segments that both ends were sent an answer for
    lengths: dict[End, int] = field(default_factory=dict)  # of what each end sent last that took sequence space
    asked: bool = False
    reset_by: frozenset[End] = frozenset()
    finished: frozenset[End] = frozenset()


class Verdict(NamedTuple):
    """One connection that is watched no longer."""

    action_id: str
    closed: bool


class Judged(NamedTuple):
    """What became of connections that fell silent, and those to ask: the order's id, and the last segment."""

    verdicts: list[Verdict]
    to_ask: list[tuple[str, Segment]]


class Watch:
    """Connections by their ends."""

    def __init__(self, most: int = MAX_WATCHED) -> None:
        self._most = most
        self._connections: OrderedDict[_Key, _Connection] = OrderedDict()  # the longest silent first
        self._overlooked_s = float("-inf")

    def __len__(self) -> int:
        return len(self._connections)

    def seen(self, segment: Segment, action_id: str, now_s: float) -> tuple[bool, list[Verdict]]:
        """Whether the segment, which that action ends, is of a connection that is new here; and who gave way to it."""
        key, verdicts = _key(segment), []
        connection = self._connections.get(key)
        opening = segment.sequence if segment.flags & (SYN | ACK) == SYN else None
        if connection is not None and opening not in {None, connection.opening}:
            # The same ports again, and no SYN that is repeated: the old connection is over, since a new one begins.
            verdicts.append(_verdict(connection, cut_short=True))
            connection = None
        new = connection is None
        if connection is None:
            connection = self._connections[key] = _Connection(action_id, now_s, segment, opening)
        self._connections.move_to_end(key)
        connection.last_s, connection.last, connection.asked = now_s, replace(segment, ip=b""), False
        connection.reset_by -= {segment.source}  # it speaks still: the reset was forged, or out of its turn
        if segment.flags & FIN:
            connection.finished |= {segment.source}
        if segment.length:
            connection.lengths[segment.source] = segment.length
        if len(self._connections) > self._most:
            verdicts.append(_verdict(self._connections.popitem(last=False)[1], cut_short=True))
        return new, verdicts

    def reset(self, segment: Segment) -> None:
        """Takes note of a reset that passed; ours say nothing."""
        connection = self._connections.get(_key(segment))
        if connection is not None and segment.flags & RST and segment.window != OUR_WINDOW:
            connection.reset_by |= {segment.source}

    def overlooked(self, now_s: float) -> None:
        """Packets passed unseen of late. Whoever has been silent since may have acknowledged, and may go on."""
        self._overlooked_s = now_s

    def answered(self, segment: Segment) -> None:
        """Both ends were sent their packet."""
        self._connections[_key(segment)].answers += 1

    def ahead(self, segment: Segment) -> Ahead:
        """How many steps beyond this segment its ends may be by now, and how long each takes them to be.

        None at first: one exact reset is enough for nearly all. A connection that outlives some of them is one that has
        gone on before each arrives, and then more and more steps are covered.
        """
        connection = self._connections[_key(segment)]
        steps = min(_MOST_AHEAD, 1 << connection.answers - _PATIENT) if connection.answers >= _PATIENT else 0
        to_source, to_destination = (connection.lengths.get(end, 1) for end in (segment.destination, segment.source))
        return Ahead(steps, to_source, to_destination)

    def judged(self, now_s: float) -> Judged:
        """Those that have been silent long enough. To be called every second or so."""
        judged = Judged([], [])
        while self._connections:
            key, connection = next(iter(self._connections.items()))
            if now_s - connection.last_s < QUIET_S:
                break
            blind = connection.last_s < self._overlooked_s + _WAITED_S
            verdict = _verdict(connection, cut_short=blind or connection.asked)
            if connection.answers and not verdict.closed and not connection.asked and connection.last.flags & ACK:
                connection.asked, connection.last_s = True, now_s
                self._connections.move_to_end(key)
                judged.to_ask.append((connection.action_id, connection.last))
            else:
                del self._connections[key]
                judged.verdicts.append(verdict)
        return judged


def _key(segment: Segment) -> _Key:
    return segment.protocol, frozenset((segment.source, segment.destination))


def _verdict(connection: _Connection, *, cut_short: bool = False) -> Verdict:
    """`cut_short`: there was no silence to prove anything."""
    owing = connection.last.protocol == "tcp" and connection.last.length != 0
    seen = bool(connection.reset_by) or len(connection.finished) > 1 or (owing and not cut_short)
    return Verdict(connection.action_id, closed=bool(connection.answers) and seen)
