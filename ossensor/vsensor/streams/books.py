"""What became of each packet that was to be streamed: counts in memory that both processes share and outlives either.

Invariant, as equalities of integers, when nothing is in hand:

    committed = announced + unannounced                                        (since the keeper's start)
    announced = taken                                                          (see notices.py)
    taken     = passed_on + idle + not_chosen + behind + unreadable + killed

And where there is a VXLAN output, of sensors that count right:

    passed_on <= vxlan_sent + vxlan_<each reason> <= passed_on + killed

VXLAN is counted first, and a process may be killed between the two. Of a section with more packets than its sensor
named, all are sent, and those named are counted above.

`announced = taken` holds once a streaming process has ended in order after the serving one, as at the keeper's stop.
Where it alone is asked to stop it may be off by one notice: one that the full channel refuses in that instant is
`killed` here, and its packets are announced again, or are `unannounced` in the end.

Every count has one writer: the serving process those of its own, the streaming one all others. A count is one aligned
8-byte store, so a kill leaves the old one or the new one. What a killed process had in hand may have been sent or
not; the streaming process that is next to count counts it as `killed`.
"""

from __future__ import annotations

import mmap
from enum import IntEnum, auto
from typing import Final


class Count(IntEnum):
    """Packets, except for readers, which are connections. Closed: a packet not sent for a reason not here is a bug."""

    # Owner: serving process.
    ANNOUNCED = auto()
    UNANNOUNCED = auto()  # it was killed between commit and notice, or the streaming process was deaf for very long
    STORED_BEFORE = auto()  # what the store held when the keeper began, and one; never shown
    # Owner: streaming process.
    TAKEN = auto()  # as far as this in ANNOUNCED the streaming process knows what became of each
    PASSED_ON = auto()  # read, and given to every output
    IDLE = auto()  # nobody was connected, and there is no VXLAN output
    NOT_CHOSEN = auto()  # of a sensor that --stream-sensor does not name
    BEHIND = auto()  # passed over because the streaming process was too far behind, or had no more time at a stop
    UNREADABLE = auto()  # the file was gone or damaged, or had fewer packets than its sensor said
    KILLED = auto()  # in hand when a process was killed
    VXLAN_SENT = auto()
    VXLAN_NOT_ETHERNET = auto()  # VXLAN carries nothing else
    VXLAN_TOO_LONG = auto()  # for the path's MTU where it may not be fragmented, or for any datagram
    VXLAN_OWN = auto()  # our own datagram, which a sensor on its way captured
    VXLAN_NO_ROOM = auto()  # the network took nothing for a while
    VXLAN_UNREACHABLE = auto()  # no route, or not allowed there
    READERS = auto()  # connections taken
    READERS_CUT_OFF = auto()  # of those, too slow
    READERS_REFUSED = auto()  # connections refused: there were enough
    READER_UNSENT = auto()  # packets that a reader who was cut off had still to get; counted for each of them
    READER_NO_PLACE = auto()  # packets for which the pcap format has no place


_ENDS: Final = (Count.PASSED_ON, Count.IDLE, Count.NOT_CHOSEN, Count.BEHIND, Count.UNREADABLE, Count.KILLED)


class Books:
    """All counts. Made before the processes are."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def __getitem__(self, count: Count) -> int:
        return self._counts[count]

    def add(self, count: Count, packets: int) -> None:
        self._counts[count] += packets

    def take(self, position: int, packets: int) -> bool:
        """Whether the notice of so many packets that ends at `position` in ANNOUNCED is news; it is counted now.

        It is none if a predecessor that was asked to stop counted it, because it was just being sent.
        """
        missed = position - packets - self[Count.TAKEN]
        if missed < 0:
            return not packets
        self.add(Count.TAKEN, missed + packets)
        self.add(Count.KILLED, missed)  # killed before this line, `inherit` counts these, too
        return True

    def inherit(self) -> int:
        """For a new streaming process: how many packets its predecessor had in hand when it died, now counted."""
        killed = self[Count.TAKEN] - sum(self[count] for count in _ENDS)
        self.add(Count.KILLED, killed)
        return killed

    def counts(self) -> dict[str, int]:
        """Every count that is not 0, by name."""
        return {count.name.lower(): self[count] for count in Count if self[count] and count is not Count.STORED_BEFORE}
