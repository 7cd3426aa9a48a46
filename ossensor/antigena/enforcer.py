"""From a frame that a handle showed to the packets that go out for it, and the counts that are reported. Pure.

Invariant: nothing is sent but about a segment that an order in force concerns and no guard spares; each packet is
counted, under its order and end, or under the reason why it was not sent.

An answer is put on the link of the frame, in its VLAN and between its hardware addresses, because this host may have no
route to where it goes (a mirror port). Unless that frame would be addressed to this very interface: then the end is at
this host, or behind it when it is a router, and a frame that is sent there leaves and never comes back. Such an answer
goes through a raw IP socket, and the kernel delivers it, over loopback or by its routes. So do all on links that are
not Ethernet. Either needs CAP_NET_RAW alone. (Left: a list of this host's addresses. It changes, and knows no routers.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ossensor.ratelimit import Bucket

from .actions import Action, End
from .frames import framed
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


class Outgoing(NamedTuple):
    """A packet to send: a frame by the handle that showed the cause (`link`), or an IP packet by a raw socket."""

    how: Literal["link", "raw"]
    packet: bytes
    to: End


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

    def to_json(self) -> dict[str, Any]:
        """Fit for json.dumps; dataclasses.asdict would take the Counters apart."""
        counts = {"matched": self.matched, "closed": self.closed, "unconfirmed": self.unconfirmed}
        packets = {"sent": dict(self.sent), "asked": dict(self.asked), "withheld": self.withheld}
        return {**counts, **packets, "refused": dict(self.refused)}


class Enforcer:
    """What one worker does about the orders of `table`, at one interface.

    `hardware_address` is the interface's own, of six bytes; None where answers are not to be put on a link.
    """

    def __init__(
        self, table: Table, guards: Guards, hardware_address: bytes | None = None, mode: Mode = "enforce"
    ) -> None:
        self.table = table
        self.guards = guards
        self._hardware_address = hardware_address
        self.mode: Mode = mode
        self.tallies: dict[str, Tally] = {}
        self.unreadable = 0
        self._openers = Openers()
        self._watch = Watch()
        self._bucket = Bucket(PACKETS_PER_S, BURST_PACKETS)

    def process(
        self, data: bytes, linktype: int, now_s: float, program: Collection[str] | None = None
    ) -> list[Outgoing]:
        """The packets that answer a frame.

        `program` names the orders of the kernel filter that let it pass: with several filters, a frame that orders in
        two of them concern comes twice, and is answered by the one that has the first of the orders.
        """
        segment = maybe_segment(data, linktype)
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
        outgoing = self._sent(action, segment, answers(segment), tally.sent, now_s)
        if len(outgoing) == 2:
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
                outgoing += self._sent(action, segment, questions(segment), self._tally(action_id).asked, now_s)
        return outgoing

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
        self, action: Action, segment: Segment, packets: Iterable[Answer], counts: Counter[str], now_s: float
    ) -> list[Outgoing]:
        """Those of the packets that the rate allows, counted."""
        outgoing = []
        for answer in packets:
            if self._bucket.take(now_s):
                counts[_side(action, segment, answer)] += 1
                outgoing.append(self._outgoing(segment, answer))
            else:
                self._tally(action.id).refused[Refusal.RATE] += 1
        return outgoing

    def _outgoing(self, segment: Segment, answer: Answer) -> Outgoing:
        end = segment.source if answer.to == "source" else segment.destination
        if self._hardware_address and segment.link:
            frame = framed(segment.link, answer.packet, back=answer.to == "source")
            if not frame.startswith(self._hardware_address):
                return Outgoing("link", frame, end)
        return Outgoing("raw", answer.packet, end)

    def _tally(self, action_id: str) -> Tally:
        return self.tallies.setdefault(action_id, Tally())

    def _count(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.closed:
                self._tally(verdict.action_id).closed += 1
            elif self.mode == "enforce":
                self._tally(verdict.action_id).unconfirmed += 1


def _side(action: Action, segment: Segment, answer: Answer) -> Literal["source", "destination"]:
    """Which side of the order the answer goes to, whichever end of the segment that is."""
    ends = (segment.source, segment.destination)
    to, other = ends if answer.to == "source" else ends[::-1]
    return "source" if action.source.holds(to) and action.destination.holds(other) else "destination"
