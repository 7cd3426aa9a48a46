"""Notices and what becomes of them: every packet is counted once, whoever is deaf, behind, killed or gone."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from test_vsensor_kit import STREAM, payload, section

from ossensor.transport.protocol import BatchId
from ossensor.vsensor.index import Row
from ossensor.vsensor.streams import notices
from ossensor.vsensor.streams.books import Books, Count
from ossensor.vsensor.streams.feed import Feed
from ossensor.vsensor.streams.live import Pcapng, Piece
from ossensor.vsensor.streams.notices import Announcer, Notice, hear, heard_all
from ossensor.vsensor.streams.readers import Readers


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        other.setblocking(False)
        yield one, other


def row(file: str, offset: int, length: int = 100, packets: int = 1) -> Row:
    return Row(BatchId(STREAM, 0), 0, file, offset, length, packets, 0)


def received(channel: socket.socket) -> list[Notice]:
    found = []
    try:
        while True:
            found.append(Notice.decode(channel.recv(notices.LONGEST_BYTES)))
    except BlockingIOError:
        return found


def test_a_full_channel_delays_notices_and_loses_none(ends: tuple[socket.socket, socket.socket]) -> None:
    books = Books()
    announcer = Announcer(ends[0], books)
    for i in range(3000):
        announcer.committed([row("s/eth0/a", i * 100), row("s/eth1/b", i * 100, packets=2)])
    first = received(ends[1])
    announcer.retry()
    rest = received(ends[1])

    assert 100 < len(first) < 1000
    assert len(rest) == 2
    for file, packets in (("s/eth0/a", 1), ("s/eth1/b", 2)):
        mine = [n for n in first + rest if n.file == file]
        assert [n.start for n in mine] == [0, *(n.end for n in mine[:-1])]  # end to end, nothing twice
        assert (mine[-1].end, sum(n.packets for n in mine)) == (300_000, 3000 * packets)
    assert books[Count.ANNOUNCED] == 9000


def test_who_is_deaf_for_a_thousand_files_is_told_how_much_it_missed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    books = Books()
    announcer = Announcer(ends[0], books)
    for i in range(3000):
        announcer.committed([row(f"s/eth0/{i:04}", 0)])
    told = received(ends[1])
    announcer.retry()
    told += received(ends[1])
    while books[Count.ANNOUNCED] + books[Count.UNANNOUNCED] < 3000:
        announcer.retry()
        told += received(ends[1])

    assert books[Count.UNANNOUNCED] == 3000 - len(told) > 0
    assert told[-1].file == "s/eth0/2999"


def test_at_the_end_the_rest_is_told_as_soon_as_there_is_room_or_counted(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books()
    announcer = Announcer(ends[0], books)
    for i in range(2000):
        announcer.committed([row("s/eth0/a", i * 100)])
    monkeypatch.setattr(notices, "_LAST_S", 120.0)  # the reader may be slow to start
    deaf = books[Count.ANNOUNCED]
    reader = threading.Timer(0.05, lambda: received(ends[1]))
    reader.start()
    announcer.end()
    reader.join()
    told = books[Count.ANNOUNCED]
    for i in range(2000):
        announcer.committed([row("s/eth0/b", i * 100)])
    monkeypatch.setattr(notices, "_LAST_S", 0.1)  # nobody reads
    announcer.end()

    assert deaf < told == 2000
    assert books[Count.UNANNOUNCED] == 4000 - books[Count.ANNOUNCED] > 0


def test_a_commit_whose_process_was_killed_before_its_notice_is_counted(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    books = Books()
    first = Announcer(ends[0], books)
    first.begin(1000)  # from earlier runs
    first.committed([row("s/eth0/a", 0, packets=7)])
    second = Announcer(ends[0], books)
    second.begin(1000 + 7 + 3)
    third = Announcer(ends[0], books)
    third.begin(1000 + 7 + 3)

    assert (books[Count.ANNOUNCED], books[Count.UNANNOUNCED]) == (7, 3)
    assert "stored_before" not in books.counts()


class Killed(BaseException):
    """In place of SIGKILL, where it can be aimed."""


def killed_at(opcode: int, act: Callable[[], object]) -> bool:
    """Acts until so many opcodes of the streams' code have run. False when it came to its end before."""
    left = opcode

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal left
        if Path(frame.f_code.co_filename).parent != Path(notices.__file__).parent:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if not left:
                raise Killed
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


def hear_all(channel: socket.socket, books: Books) -> int:
    """Packets in the notices that are heard of; every output has been given them."""
    packets = sum(notice.packets for notice in hear(channel, books))
    books.add(Count.PASSED_ON, packets)
    return packets


def test_whoever_is_killed_at_whichever_opcode_every_packet_is_counted_once() -> None:
    for opcode in itertools.count():
        deaths = []
        for victim in ("sender", "receiver", "receiver that finds a gap"):
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with one, other:
                other.setblocking(False)
                books = Books()
                first = Announcer(one, books)
                first.begin(1000)
                rows = [row(f"s/eth0/{i}", 0, packets=1 << i) for i in range(3)]
                gap = 4 if "gap" in victim else 0  # counted by a sender that was killed then
                books.add(Count.ANNOUNCED, gap)
                tell = partial(first.committed, rows)
                listen = partial(hear_all, other, books)
                if victim == "sender":
                    deaths.append(killed_at(opcode, tell))
                else:
                    tell()
                    deaths.append(killed_at(opcode, listen))
                assert books.inherit() >= 0
                second = Announcer(one, books)
                second.begin(1000 + 7 + gap)
                listen()
                second.committed([row("s/eth1/0", 0, packets=8)])
                assert listen() == 8
                heard_all(books)

                announced = books[Count.ANNOUNCED]
                assert announced + books[Count.UNANNOUNCED] == 15 + gap, (victim, opcode)
                assert books[Count.TAKEN] == books[Count.PASSED_ON] + books[Count.KILLED] == announced, (victim, opcode)
        if not any(deaths):
            break

    assert opcode > 200


def test_what_was_counted_and_never_sent_is_found_missing_at_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    books = Books()
    announcer = Announcer(ends[0], books)
    announcer.committed([row("s/eth0/a", 0, packets=3)])
    books.add(Count.ANNOUNCED, 4)  # killed after this line
    assert hear_all(ends[1], books) == 3
    heard_all(books)

    assert books.counts() == {"announced": 7, "taken": 7, "passed_on": 3, "killed": 4}


def test_a_notice_that_a_predecessor_counted_at_its_stop_is_no_news() -> None:
    books = Books()
    books.add(Count.ANNOUNCED, 5)  # and it is not sent yet
    heard_all(books)

    assert not books.take(5, 5)
    assert books.take(4, 0)  # a section may hold no packet
    assert books.take(9, 4)
    assert books.counts() == {"announced": 5, "taken": 9, "killed": 5}


def write(root: Path, file: str, sections: list[bytes]) -> Notice:
    """A file of these sections of one packet each, and the notice that names them all."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(sections))
    return Notice(file, 0, path.stat().st_size, len(sections))


def drain(feed: Feed) -> list[bytes]:
    found = []
    while feed:
        if (one := feed.next()) is not None:
            feed.passed_on(1)
            found.append(one.data)
    return found


@pytest.fixture
def said() -> list[str]:
    return []


def make(root: Path, books: Books, said: list[str], *sensors: str, behind_bytes: int = 1 << 20) -> Feed:
    return Feed(root, books, sensors, lambda key, _: said.append(key), behind_bytes)


def test_sections_come_as_they_lie_in_the_files(tmp_path: Path, said: list[str]) -> None:
    sections = [section([payload(i, 60 + i)]) for i in range(5)]
    books = Books()
    feed = make(tmp_path, books, said)
    notice = write(tmp_path, "one/eth0/a", sections[:3])
    middle = len(sections[0])
    feed.add(notice._replace(end=middle, packets=1))
    feed.add(notice._replace(start=middle, packets=2))
    feed.add(write(tmp_path, "two/eth0/a", sections[3:]))

    assert drain(feed) == sections
    assert books.counts() == {"passed_on": 5}
    assert said == []


def test_who_is_too_far_behind_passes_over_the_oldest_also_in_the_middle_of_it(tmp_path: Path, said: list[str]) -> None:
    big = [section([payload(i, 10_000)]) for i in range(4)]
    books = Books()
    feed = make(tmp_path, books, said, behind_bytes=50_000)
    feed.add(write(tmp_path, "one/eth0/a", big))
    assert feed.next() is not None
    feed.passed_on(1)
    feed.add(write(tmp_path, "one/eth0/b", big[:2]))  # 60,000 bytes in all

    assert drain(feed) == big[:2]
    assert books.counts() == {"passed_on": 3, "behind": 3}
    assert said == ["behind"]


def test_what_nobody_wants_is_idle_and_another_sensors_is_not_chosen(tmp_path: Path, said: list[str]) -> None:
    books = Books()
    feed = make(tmp_path, books, said, "one")
    feed.add(write(tmp_path, "one/eth0/a", [section([payload(1)])] * 2))
    feed.add(write(tmp_path, "two/eth0/a", [section([payload(1)])]))
    assert feed.next() is not None
    feed.passed_on(1)
    feed.let_go(Count.IDLE)

    assert not feed
    assert books.counts() == {"passed_on": 1, "idle": 1, "not_chosen": 1}


@pytest.mark.parametrize("damage", ["gone", "short", "empty", "no section", "endless"])
def test_a_file_that_cannot_be_read_is_counted_and_the_next_is_read(
    tmp_path: Path, said: list[str], damage: str
) -> None:
    good = section([payload(1)])
    books = Books()
    feed = make(tmp_path, books, said)
    feed.add(write(tmp_path, "one/eth0/a", [good, section([payload(2)])]))
    path = tmp_path / "one/eth0/a"
    match damage:
        case "gone":
            path.unlink()
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "empty":
            path.write_bytes(b"")
        case "no section":
            path.write_bytes(good + bytes(len(good)))
        case "endless":
            path.write_bytes(good + good[:16] + b"\xff" * 7 + b"\x7f" + good[24:])
    feed.add(write(tmp_path, "one/eth0/b", [good]))
    before = [good] if damage in {"short", "no section", "endless"} else []

    assert drain(feed) == [*before, good]
    assert books.counts() == {"passed_on": 1 + len(before), "unreadable": 2 - len(before)}
    assert said == ["unreadable"]


def test_what_a_killed_process_had_in_hand_is_counted_by_its_successor_once() -> None:
    books = Books()
    books.add(Count.TAKEN, 10)
    books.add(Count.PASSED_ON, 4)
    books.add(Count.BEHIND, 1)

    assert books.inherit() == 5
    assert books.inherit() == 0
    assert books.counts() == {"taken": 10, "passed_on": 4, "behind": 1, "killed": 5}


def test_hung_readers_share_one_memory_and_too_many_are_refused() -> None:
    books = Books()
    readers = Readers(Pcapng("test"), books, limit_bytes=1 << 20, most=2)
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as clients:
        joined = []
        for _ in range(3):
            clients.enter_context(socket.create_connection(server.getsockname()))
            joined.append(readers.join(server.accept()[0], "peer"))
        slow = readers.give(Piece(bytes(16 << 20), 5, 0))
        held = {id(data.obj) for reader in readers.all for data, _ in reader._queue if len(data) > 1000}
        for reader in slow:
            readers.cut_off(reader)

    assert joined[2] is None
    assert slow == joined[:2]
    assert len(held) == 1
    assert books.counts() == {"readers": 2, "readers_cut_off": 2, "readers_refused": 1, "reader_unsent": 10}
    assert readers.all == []
