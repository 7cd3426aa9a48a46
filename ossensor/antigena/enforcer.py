"""From a packet that a watch showed to the packets that go out for it, and the counts that are reported. Pure.

Invariant: nothing is sent but about a segment that an order in force concerns and no guard spares; each packet is
counted, under its order and end, or under the reason why it was not sent.

What comes in and what goes out are IP packets: the host's routes take an answer to its end, this very host included.
Left: a frame on the link where the cause was seen, with its hardware addresses and VLAN tags. It would reach ends that
this host has no route to (beside a mirror port), but never those at this host, because a frame to one's own address
leaves and does not come back; so it is a second way of sending, with a parser of link layers and a socket for each
interface. A sensor beside an application has a route to whomever the application talks to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ossensor.ratelimit import Bucket

from .actions import Action, End
from .guards import Guards
from .openers import Openers
from .packets import OUR_WINDOW
from .refusals import Refusal
from .resets import Answer, answerable, answers, questions
from .segments import RST, Segment, maybe_segment
from .table import Table
from .watch import Verdict, Watch

# 10,000 small packets are half a percent of a gigabit, and a third of a processor's time (63 us for a segment and its
# two answers [M]); the burst is what a busy host's connections need when a quarantine begins.
PACKETS_PER_S: Final = 10_000
BURST_PACKETS: Final = 10_000

Mode: TypeAlias = Literal["enforce", "observe"]


_Kind: TypeAlias = Literal["sent", "asked"]
_Side: TypeAlias = Literal["source", "destination"]


class Outgoing(NamedTuple):
    """An IP packet, the end of a connection that it is for, and where it is counted."""

    packet: bytes
    to: End
    action_id: str
    kind: _Kind
    side: _Side


@dataclass(slots=True)
class Tally:
    """What one order did. `sent` and `asked` count packets by the order's side that got them; `withheld`: observe."""

    matched: int = 0
    closed: int = 0
    unconfirmed: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    withheld: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)

    def counted(self, kind: _Kind) -> Counter[str]:
        return self.sent if kind == "sent" else self.asked

    def to_json(self) -> dict[str, Any]:
        """Fit for json.dumps; dataclasses.asdict would take the Counters apart."""
        counts = {"matched": self.matched, "closed": self.closed, "unconfirmed": self.unconfirmed}
        packets = {"sent": dict(+self.sent), "asked": dict(+self.asked), "withheld": self.withheld}
        return {**counts, **packets, "refused": dict(self.refused)}


class Enforcer:
    """What is done about the orders of `table`."""

    def __init__(self, table: Table, guards: Guards, mode: Mode = "enforce") -> None:
        self.table = table
        self.guards = guards
        self.mode: Mode = mode
        self.tallies: dict[str, Tally] = {}
        self.unreadable = 0
        self._openers = Openers()
        self._watch = Watch()
        self._bucket = Bucket(PACKETS_PER_S, BURST_PACKETS)

    def process(self, packet: bytes, now_s: float, program: Collection[str] | None = None) -> list[Outgoing]:
        """The packets that answer one.

        `program` names the orders of the kernel filter that let it pass: with several filters, a packet that orders in
        two of them concern comes twice, and is answered by the one that has the first of the orders.
        """
        segment = maybe_segment(packet)
        if segment is None:
            self.unreadable += 1
            return []
        self._openers.learn(segment)
        action = self._maybe_ending(segment, now_s, program)
        if action is None:
            return []
        if segment.flags & RST:
            self._watch.reset(segment)
        if segment.flags & RST or (segment.window == OUR_WINDOW and segment.length == 0):
            return []  # a reset is never answered, and neither is a question of ours that is seen again
        tally = self._tally(action.id)
        if not answerable(segment):
            tally.refused[Refusal.NOT_ONE_HOST] += 1
            return []
        new, verdicts = self._watch.seen(segment, action.id, now_s)
        tally.matched += new
        self._count(verdicts)
        if self.mode == "observe":
            tally.withheld += 2
            return []
        packets = answers(segment, self._watch.ahead(segment))
        outgoing = self._sent(action, segment, packets, "sent", now_s)
        if len(outgoing) == len(packets):
            self._watch.answered(segment)
        return outgoing

    def judge(self, now_s: float) -> list[Outgoing]:
        """The packets that ask what became of connections that fell silent; of others, it is decided and counted.

        To be called every second or so, and before a report.
        """
        judged = self._watch.judged(now_s)
        self._count(judged.verdicts)
        holding = {action.id: action for action in self.table.in_force(now_s).actions}
        outgoing = []
        for action_id, segment in judged.to_ask:
            action = holding.get(action_id)
            if action is not None and self.guards.spares(action, segment) is None:
                outgoing += self._sent(action, segment, questions(segment), "asked", now_s)
        return outgoing

    def overlooked(self, now_s: float) -> None:
        """Packets that were to be shown were not. To be told before `judge`."""
        self._watch.overlooked(now_s)

    def unsent(self, outgoing: Outgoing) -> None:
        """What was given out for sending could not be sent. To be told before the next report."""
        tally = self._tally(outgoing.action_id)
        tally.counted(outgoing.kind)[outgoing.side] -= 1
        tally.refused[Refusal.UNSENT] += 1

    def report(self) -> dict[str, Tally]:
        """What was done since the last report, by order."""
        done, self.tallies = self.tallies, {}
        return done

    def _maybe_ending(self, segment: Segment, now_s: float, program: Collection[str] | None) -> Action | None:
        """The first order that ends this connection, if it is of the program; why others do not is counted if not."""
        one, other = segment.source, segment.destination
        refused: list[tuple[str, Refusal]] = []
        for action in self.table.in_force(now_s).candidates(one.address, other.address):
            if not action.concerns(segment.protocol, one, other):
                continue
            reason = self.guards.spares(action, segment)
            opener = one if action.direction == "all" else self._openers.maybe_opener(segment)
            if reason is None and opener is None:
                reason = Refusal.UNKNOWN_OPENER
            if reason is not None:
                refused.append((action.id, reason))
            elif opener is not None and action.opened_as_ordered(opener, other if opener == one else one):
                return action if program is None or action.id in program else None
        for action_id, reason in refused:
            if program is None or action_id in program:
                self._tally(action_id).refused[reason] += 1
        return None

    def _sent(
        self, action: Action, segment: Segment, packets: Iterable[Answer], kind: _Kind, now_s: float
    ) -> list[Outgoing]:
        """Those of the packets that the rate allows, counted."""
        tally = self._tally(action.id)
        outgoing = []
        for answer in packets:
            if self._bucket.take(now_s):
                side = _side(action, segment, answer)
                tally.counted(kind)[side] += 1
                end = segment.source if answer.to == "source" else segment.destination
                outgoing.append(Outgoing(answer.packet, end, action.id, kind, side))
            else:
                tally.refused[Refusal.RATE] += 1
        return outgoing

    def _tally(self, action_id: str) -> Tally:
        return self.tallies.setdefault(action_id, Tally())

    def _count(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.closed:
                self._tally(verdict.action_id).closed += 1
            elif self.mode == "enforce":
                self._tally(verdict.action_id).unconfirmed += 1


def _side(action: Action, segment: Segment, answer: Answer) -> _Side:
    """Which side of the order the answer goes to, whichever end of the segment that is."""
    ends = (segment.source, segment.destination)
    to, other = ends if answer.to == "source" else ends[::-1]
    return "source" if action.source.holds(to) and action.destination.holds(other) else "destination"
