"""The store: one thread that appends sections to files and commits them to the index, in groups.

Invariant: an append is answered STORED only after its bytes were flushed *and* its row was committed, in that order;
whatever else it is answered, it left nothing behind that a reader of the index can see.

One thread, because the order of appends is then the order of the queue, and one flush serves everything that came in
during the one before it. Steps, and what a crash after each leaves:

1. the section is written past the file's committed length   -> a tail that recovery cuts off
2. the file is flushed (fdatasync)                           -> the same
3. the rows are committed: THE COMMIT POINT                  -> stored; the sensor sends again and is told "present"
4. the sensor is answered
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ossensor.errors import Exit
from ossensor.transport.protocol import BatchId, Outcome, Stream

from .files import Files, Tail
from .index import Index, Row
from .layout import Layout
from .recovery import recover
from .retention import Limits
from .section import Span
from .tidying import Tidied, Tidying

_log = logging.getLogger(__name__)

# Bounds how long the first of a group waits for the last: 32 MiB is a tenth of a second on a slow SSD.
GROUP_BYTES: Final = 32 << 20
# While bodies are on their way that the same flush can serve, groups begin no more often than this: a flush and a
# commit take 0.7 ms of processor time [M] whatever they hold, and a batch of 1 MiB on its own 1.2. PostgreSQL has the
# same for its log (commit_delay, commit_siblings).
GROUP_S: Final = 0.01
_NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Append:
    """One section on its way to the disk."""

    batch: BatchId
    floor: int  # the stream's: sequences below it will not come any more
    packets: int
    section: bytes | bytearray
    books: str | None = None  # protocol.Account, as it was sent
    span: Span | None = None  # of the packets' times
    packed: bytes | bytearray | None = None  # the section as a zstd frame, where it came so
    done: Future[Outcome] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A batch that is stored came again, and is to be counted."""

    batch: BatchId
    done: Future[Outcome] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the housekeeping."""

    done: Future[Tidied] = field(default_factory=Future)


class Total(NamedTuple):
    """What was stored of one interface since the start."""

    packets: int
    bytes: int
    file: str


def die() -> None:
    """A bug in the writer: no request can be answered any more. The keeper starts a successor."""
    os._exit(Exit.INTERNAL)


def nobody_listens(_: list[Row]) -> None:
    """What a store does with news of its commits where there are no streams."""


class Store:
    """The files and the index of one collector. `append` may be called from any thread."""

    def __init__(
        self,
        layout: Layout,
        *,
        durable: bool = True,
        rotate_bytes: int = 1 << 30,
        rotate_s: float = math.inf,
        limits: Limits = _NO_LIMITS,
        clock_ns: Callable[[], int] = time.time_ns,
        on_crash: Callable[[], None] = die,
        on_commit: Callable[[list[Row]], None] = nobody_listens,
    ) -> None:
        self._index = Index(layout.index, durable=durable)
        self.recovery = recover(layout, self._index)
        self._files = Files(
            layout, self._index, durable=durable, rotate_bytes=rotate_bytes, clock_ns=clock_ns, rotate_s=rotate_s
        )
        self._tidying = Tidying(layout, self._index, self._files, limits, clock_ns)
        self._clock_ns = clock_ns
        self._on_crash = on_crash
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[Append | Repeat | Turn | None] = queue.SimpleQueue()
        self._doubtful: list[Tail] = []
        self._failing = False
        self._failed_s = -math.inf
        self._began_s = -math.inf  # the newest group
        # Said when the group is answered: nobody's answer waits for whoever reads the log.
        self._unsaid: list[tuple[int, str]] = []
        # To be set before the start; may be asked at any time, from the writer's thread.
        self.coming: Callable[[], int] = lambda: 0  # how many appends are known to be on their way
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, str], Total] = {}  # under the lock; written by the writer only
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def append(self, append: Append) -> Future[Outcome]:
        """Its outcome, later: STORED, PRESENT, OUT_OF_ORDER or STORE_FAILED."""
        self._queue.put(append)
        return append.done

    def repeat(self, batch: BatchId) -> Future[Outcome]:
        """PRESENT, once it was counted that this batch, which is stored, came again."""
        repeat = Repeat(batch)
        self._queue.put(repeat)
        return repeat.done

    def tidy(self) -> Future[Tidied]:
        """What was done by a turn of the housekeeping; to be called every few seconds, and at once while there is more.

        Not by the writer itself: a turn that nobody asked for has nobody to tell what it removed.
        """
        turn = Turn()
        self._queue.put(turn)
        return turn.done

    def close(self) -> None:
        """Returns when everything that was queued is answered and the files are closed."""
        self._queue.put(None)
        self._thread.join()

    def totals(self) -> dict[tuple[str, str], Total]:
        with self._lock:
            return dict(self._totals)

    def failed_within(self, seconds: float) -> bool:
        """Whether the disk did not take something, that recently, and has taken nothing since."""
        return self._failing and time.monotonic() - self._failed_s < seconds

    def _run(self) -> None:
        try:
            while self._commit(self._take()):
                pass
            self._files.close()
            self._index.close()
        except BaseException:  # noqa: BLE001 -- a thread has no caller to raise to: say it, then end the process
            traceback.print_exc()
            self._on_crash()

    def _take(self) -> list[Append | Repeat | Turn | None]:
        """Everything that waits or comes at once, at least one, and not much more than GROUP_BYTES."""
        group = [self._queue.get()]
        size = 0
        while group[-1] is not None:
            size += len(group[-1].section) if isinstance(group[-1], Append) else 0
            if size >= GROUP_BYTES:
                break
            patience_s = self._began_s + GROUP_S - time.monotonic() if self.coming() else 0.0
            try:
                group.append(self._queue.get(timeout=patience_s) if patience_s > 0 else self._queue.get_nowait())
            except queue.Empty:
                break
        self._began_s = time.monotonic()
        return group

    def _commit(self, taken: list[Append | Repeat | Turn | None]) -> bool:
        """Answers the group. False when the queue was closed."""
        # A request that was cancelled at shutdown is left out here; past this call it cannot be cancelled any more.
        going = [a for a in taken if a is not None and a.done.set_running_or_notify_cancel()]
        self._append([a for a in going if isinstance(a, Append)])
        if repeats := [a for a in going if isinstance(a, Repeat)]:
            self._count(repeats)
        for turn in going:
            if isinstance(turn, Turn):
                self._turn(turn)
        for level, line in self._unsaid:
            _log.log(level, line)
        self._unsaid.clear()
        return taken[-1] is not None

    def _count(self, repeats: list[Repeat]) -> None:
        # Before the answer, so that what a sensor was told is in the books. But the batch is stored whether its repeat
        # can be counted or not: an index that cannot be written is no reason to have it sent a third time.
        outcome = Outcome.PRESENT
        try:
            self._index.insist_on_name()
            self._index.count_repeats(repeat.batch for repeat in repeats)
        except OSError as e:  # what says that it is stored is gone
            self._complain(e)
            outcome = Outcome.STORE_FAILED
        except sqlite3.Error as e:
            self._complain(e)
        for repeat in repeats:
            repeat.done.set_result(outcome)

    def _turn(self, turn: Turn) -> None:
        if self._doubtful:
            # Rows of a failed commit may come back yet; what they name must not be closed, packed or removed.
            turn.done.set_result(Tidied())
            return
        try:
            self._index.insist_on_name()
        except OSError as e:  # files of these names may be another store's by now
            turn.done.set_result(Tidied(trouble=str(e)))
            return
        turn.done.set_result(self._tidying.turn(time.monotonic()))

    def _append(self, group: list[Append]) -> None:
        try:
            self._index.insist_on_name()
            self._heal()
            planned = self._plan(group)
        except (OSError, sqlite3.Error) as e:
            self._fail(group, e)
            planned = {}
        written: list[tuple[Append, Row, Tail]] = []
        for (sensor, interface), appends in planned.items():
            try:
                written += self._write(sensor, interface, appends)
            except (OSError, sqlite3.Error) as e:
                self._fail([a for a, _ in appends], e)
        if written:
            self._seal(written)

    def _plan(self, group: list[Append]) -> dict[tuple[str, str], list[tuple[Append, int]]]:
        """What may be written now, by file, each with the gap below it. Answers the rest.

        Order.place hands batches over in turn; this is where the turn is held against what was really committed, since
        a predecessor may have failed while its successor was already in the queue.
        """
        planned: dict[tuple[str, str], list[tuple[Append, int]]] = {}
        nexts: dict[Stream, int] = {}
        for append in group:
            stream, sequence = append.batch.stream, append.batch.sequence
            expected = nexts[stream] if stream in nexts else self._index.next(stream)
            if sequence != max(expected, append.floor):
                present = sequence < expected and self._index.has(append.batch)
                append.done.set_result(Outcome.PRESENT if present else Outcome.OUT_OF_ORDER)
                continue
            nexts[stream] = sequence + 1
            planned.setdefault((stream.sensor, stream.interface), []).append((append, sequence - expected))
        return planned

    def _write(self, sensor: str, interface: str, appends: list[tuple[Append, int]]) -> list[tuple[Append, Row, Tail]]:
        """The appends with the rows that will commit them, written and flushed. Raises with the file as it was."""
        tail = self._files.tail(sensor, interface)
        offset = tail.length
        now_ns = self._clock_ns()
        written = []
        try:
            for append, gap in appends:
                self._files.write(tail, append.section, offset)
                length = len(append.section)
                row = Row(
                    append.batch, gap, tail.file, offset, length, append.packets, now_ns, append.books, append.span
                )
                written.append((append, row, tail))
                offset += length
        except OSError:
            try:
                self._files.cut(tail)
            except OSError:
                self._files.abandon(sensor, interface)
            raise
        try:
            self._files.sync(tail)
        except OSError:
            # After a failed flush the kernel marks the pages clean: a second fdatasync would succeed and mean nothing
            # (the PostgreSQL fsync finding of 2018; fsync(2), "ERRORS"). What was committed before had its own flush.
            with contextlib.suppress(OSError):
                self._files.cut(tail)
            self._files.abandon(sensor, interface)
            raise
        return written

    def _seal(self, written: list[tuple[Append, Row, Tail]]) -> None:
        """Commits the rows and answers."""
        try:
            self._index.commit(row for _, row, _ in written)
        except sqlite3.Error as e:
            # The rows may yet turn up in the log (Index.settle), so the bytes stay until they cannot. Except when the
            # disk was full: then the log's last frame, the one that commits, was never written whole, and the room
            # that the bytes take may be all that the index lacks.
            self._doubtful += {tail.file: tail for _, _, tail in written}.values()
            if getattr(e, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                with contextlib.suppress(OSError):
                    self._cut_doubtful()
            self._fail([a for a, _, _ in written], e)
            return
        with self._lock:
            for append, row, tail in written:
                tail.length = row.offset + row.length
                key = (append.batch.stream.sensor, append.batch.stream.interface)
                before = self._totals.get(key, Total(0, 0, ""))
                self._totals[key] = Total(before.packets + row.packets, before.bytes + row.length, row.file)
        # What an answer says holds before it is given: who hears "stored" may ask for our health next.
        if self._failing:
            self._failing = False
            self._unsaid.append((logging.WARNING, "store: writing again"))
        for append, _, _ in written:
            append.done.set_result(Outcome.STORED)
        self._on_commit([row for _, row, _ in written])  # after the answers, which wait for nobody

    def _heal(self) -> None:
        """Before anything new: no failed commit can come back, and files end at their committed length again."""
        if not self._doubtful:
            return
        self._index.settle()
        self._cut_doubtful()

    def _cut_doubtful(self) -> None:
        while self._doubtful:
            self._files.cut(self._doubtful[-1])
            self._doubtful.pop()

    def _fail(self, appends: list[Append], error: OSError | sqlite3.Error) -> None:
        self._complain(error)
        for append in appends:
            if not append.done.done():
                append.done.set_result(Outcome.STORE_FAILED)

    def _complain(self, error: OSError | sqlite3.Error) -> None:
        self._failed_s = time.monotonic()
        if not self._failing:  # once for each outage, not once for each retry of each sensor
            self._failing = True
            self._unsaid.append((logging.ERROR, f"store: cannot write: {error}"))
