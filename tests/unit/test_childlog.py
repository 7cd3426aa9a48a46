"""The way of log records from a child that may be killed or hostile."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from ossensor import childlog
from ossensor.childlog import ChildHandler, Listener
from ossensor.logs import CHUNK, INFO, PACKET, JsonFormatter, TextFormatter, fields

FORK = multiprocessing.get_context("fork")
DEADLINE_S = 120.0  # that only a hang reaches
BROKEN = "ValueError: invalid literal for int() with base 10: 'broken'"
log = logging.getLogger("ossensor.test")


class Kept(logging.Handler):
    """Keeps records, as the supervisor's standard error would show them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.records.append(record)

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


def start_child(
    kept: Kept, work: Callable[[ChildHandler], None], name: str = "child", listener: Listener | None = None
) -> tuple[BaseProcess, Listener]:
    """What spawn.py does, without the privileges."""
    handler = ChildHandler(kept, "child")

    def live() -> None:
        try:
            handler.adopt()
            logging.getLogger().setLevel(PACKET)
            work(handler)
        finally:
            os._exit(0)

    process = FORK.Process(target=live, name=name, daemon=True)
    process.start()
    listener = listener or Listener()
    listener.add(handler)
    return process, listener


def finish(process: BaseProcess, listener: Listener) -> None:
    """The child is gone and everything that it wrote has been read: no timing involved."""
    process.join(DEADLINE_S)
    assert process.exitcode is not None
    assert listener.wait_for_the_end(DEADLINE_S)
    process.close()


def from_child(work: Callable[[ChildHandler], None]) -> Kept:
    kept = Kept()
    finish(*start_child(kept, work))
    return kept


# -- from a child -----------------------------------------------------------------------------------------------------


def test_records_of_a_child_arrive_in_order_with_level_fields_process_and_traceback() -> None:
    def work(_: ChildHandler) -> None:
        log.info("hello %s", "world", extra=fields(packets=3, share=0.5, path=Path("/x")))
        log.log(CHUNK, "100% plain")
        try:
            int("broken")
        except ValueError:
            log.critical("a bug", exc_info=True)

    kept = from_child(work)

    assert kept.messages() == ["hello world", "100% plain", "a bug"]
    assert [r.levelno for r in kept.records] == [INFO, CHUNK, logging.CRITICAL]
    assert vars(kept.records[0])["fields"] == {"packets": 3, "share": 0.5, "path": "/x"}
    assert {r.processName for r in kept.records} == {"child"}
    assert {r.process for r in kept.records} - {os.getpid()} == {kept.records[0].process}
    assert kept.lines[2].splitlines()[-1].strip() == BROKEN


def test_a_child_speaks_through_nothing_but_its_own_handler() -> None:
    inherited = Kept()
    logging.getLogger().addHandler(inherited)

    kept = from_child(lambda _: log.warning("once"))

    assert (kept.messages(), inherited.messages()) == (["once"], [])


def test_every_record_is_received_or_counted_as_left_out() -> None:
    read, write = os.pipe()

    def work(handler: ChildHandler) -> None:
        handler._bucket = childlog.Bucket(per_s=50.0, burst=100)
        for n in range(3000):
            log.info("%d", n)
        said = 3000
        until_s = time.monotonic() + DEADLINE_S
        while handler._bucket.refused and time.monotonic() < until_s:  # the next one through tells of them
            log.info("after")
            said += 1
        os.write(write, struct.pack("<I", said))

    kept = from_child(work)
    (said,) = struct.unpack("<I", os.read(read, 4))
    os.close(read)
    os.close(write)
    left_out = [count for r in kept.records if (count := vars(r)["fields"].get("records_left_out")) is not None]

    assert len(kept.records) + sum(left_out) == said
    assert kept.messages()[:100] == [str(n) for n in range(100)]
    assert sum(left_out) > 1000  # fifty a second get through, of what takes a tenth of one


def test_a_reader_that_stands_still_never_blocks_the_child_and_what_overflows_is_counted() -> None:
    kept = Kept()
    handler = ChildHandler(kept, "child")
    handler._bucket = childlog.Bucket(per_s=1e9, burst=100_000)
    read, write = os.pipe()

    def live() -> None:
        handler.adopt()
        logging.getLogger().setLevel(INFO)
        for _ in range(5000):
            log.info("x" * 200)
        os.write(write, struct.pack("<I", handler._bucket.refused))
        os._exit(0)

    process = FORK.Process(target=live, daemon=True)
    process.start()  # and nobody listens
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    process.close()
    (refused,) = struct.unpack("<I", os.read(read, 4))
    os.close(read)
    os.close(write)
    listener = Listener()
    listener.add(handler)
    assert listener.wait_for_the_end(DEADLINE_S)

    assert len(kept.records) == 5000 - refused
    assert 0 < len(kept.records) < 2000


def test_a_record_that_was_read_makes_room_for_another() -> None:
    read, write = os.pipe()

    class Acknowledging(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            os.write(write, b"!")

    def work(handler: ChildHandler) -> None:
        handler._bucket = childlog.Bucket(per_s=1e9, burst=1)
        for n in range(2000):
            log.info("%d", n)
            if not select.select([read], [], [], DEADLINE_S / 4)[0]:
                return
            os.read(read, 1)

    kept = Acknowledging()
    finish(*start_child(kept, work))
    os.close(read)
    os.close(write)

    assert kept.messages() == [str(n) for n in range(2000)]


def test_a_record_too_long_for_its_line_is_cut_and_says_so() -> None:
    kept = from_child(lambda _: log.info("%s", "ab" * 200_000, extra=fields(why="x" * 20_000, packets=1)))

    assert kept.messages() == ["ab" * 8000 + "... (400000 characters in all)"]
    assert vars(kept.records[0])["fields"] == {"why": "x" * 16_000 + "... (20000 characters in all)", "packets": 1}


def test_one_that_never_stops_does_not_keep_another_from_being_heard() -> None:
    both = threading.Event()

    class Waiting(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            assert both.wait(DEADLINE_S)
            super().emit(record)

    kept = Waiting()
    listener = Listener()
    for text, count in (("noisy", 100), ("quiet", 1)):
        handler = ChildHandler(kept, "child")
        for _ in range(count):
            handler.sending.send(encoded({"msg": text, "levelno": INFO, "levelname": "INFO"}))
        listener.add(handler)
    both.set()
    assert listener.wait_for_the_end(DEADLINE_S)

    assert kept.messages().count("noisy") == 100
    assert kept.messages().index("quiet") <= 2


@pytest.mark.slow
def test_a_child_killed_while_it_logs_silences_nobody_and_leaves_nothing_behind() -> None:
    kept_other = Kept()
    go_read, go_write = os.pipe()

    def quiet(_: ChildHandler) -> None:
        for n in range(20):
            os.read(go_read, 1)
            log.info("%d", n)

    other, other_listener = start_child(kept_other, quiet, "other")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def noisy(handler: ChildHandler) -> None:
        handler._bucket = childlog.Bucket(per_s=1e9, burst=1)
        while True:
            log.info("x" * 4000)

    noisy_listener = Listener()
    for _ in range(20):
        kept = Kept()
        child, listener = start_child(kept, noisy, "noisy", noisy_listener)
        until_s = time.monotonic() + DEADLINE_S
        while len(kept.records) < 5 and time.monotonic() < until_s:
            time.sleep(0.001)  # it logs hard now
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        finish(child, listener)
        assert {len(message) for message in kept.messages()} == {4000}  # none cut short, none mixed
        os.write(go_write, b"!")
    del child, listener, kept

    finish(other, other_listener)
    os.close(go_read)
    os.close(go_write)
    assert kept_other.messages() == [str(n) for n in range(20)]
    del other, other_listener
    # The other child took its line with it, and its sentinel; the twenty left nothing but what polls for them.
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors - 2 + 1


# -- from a hostile child ---------------------------------------------------------------------------------------------


def as_sent(*messages: bytes) -> Kept:
    """What the supervisor makes of these bytes from a child."""
    kept = Kept()
    handler = ChildHandler(kept, "child")
    for message in messages:
        handler.sending.send(message)
    listener = Listener()
    listener.add(handler)
    assert listener.wait_for_the_end(DEADLINE_S)
    return kept


def encoded(values: object) -> bytes:
    return json.dumps(values).encode()


GOOD = encoded({"msg": "good", "levelno": INFO, "levelname": "INFO", "fields": {}})


@pytest.mark.parametrize(
    "message,why",
    [
        (b"\x80", "'utf-8' codec can't decode byte 0x80 in position 0: invalid start byte"),
        (b"garbage", "Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
        (GOOD[:-1], "Expecting ',' delimiter: line 1 column 65 (char 64)"),
        (b"7" * 5000, "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
        (encoded(None), "not an object"),
        (encoded([1, 2]), "not an object"),
        (encoded("text"), "not an object"),
    ],
)
def test_what_is_no_record_is_said_to_be_none_and_the_next_is_read(message: bytes, why: str) -> None:
    first, second = as_sent(message, GOOD).messages()

    assert first.startswith(f"unreadable log record: {why}")
    assert second == "good"


@pytest.mark.parametrize(
    "values",
    [
        {"msg": "x", "levelno": "high"},
        {"msg": "x", "fields": 7},
        {"msg": "x", "fields": {"a": [1]}},
        {"msg": "x", "created": "now"},
        {"msg": "x", "created": 1e300},
        {"msg": "x", "msecs": float("inf")},
        {"msg": "%s %s", "args": [1]},
        {"msg": "x", "exc_info": [1, 2, 3]},
        {"msg": ["x"], "getMessage": "y"},
    ],
)
def test_a_record_of_wrong_types_does_not_end_the_thread(values: dict[str, object]) -> None:
    assert as_sent(encoded(values), GOOD).messages()[-1] == "good"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"msg": "%5000000d", "args": [1]}, id="arguments"),
        pytest.param({"msg": [["x"] * 5] * 5}, id="message"),
        pytest.param({"msg": "x", "fields": {"x": ["x"] * 50}}, id="field"),
        pytest.param({"msg": "x", "levelname": ["x"] * 50}, id="level"),
    ],
)
def test_nothing_but_text_and_numbers_is_shown(values: dict[str, object]) -> None:
    kept = as_sent(encoded({"levelname": "INFO", "levelno": INFO, **values}), GOOD)

    assert max(len(line) for line in kept.lines) < 120


def test_a_record_longer_than_any_of_ours_is_not_read_to_its_end() -> None:
    padded = GOOD[:-1] + b" " * childlog._RECORD_BYTES + b"}"

    (said,) = as_sent(padded).messages()

    assert said.startswith("unreadable log record: Expecting ',' delimiter")


FORGED = "2026-11-25T00:00:00.000Z INFO supervisor: all is well"


def test_no_child_can_write_a_line_in_anothers_name() -> None:
    forged = {
        "msg": f"x\n{FORGED}",
        "exc_text": f"a\n\x1b[2Jb\n{FORGED}",
        "processName": "supervisor",
        "levelname": "CRITICAL",
        "levelno": INFO,
        "fields": {"process": "supervisor", f"\n{FORGED}": 1},
    }
    kept = as_sent(encoded(forged))
    (record,) = kept.records
    in_json = json.loads(JsonFormatter().format(record))

    first, *trace = kept.lines[0].splitlines()
    assert first.endswith(rf'INFO child: x\n{FORGED} process=supervisor "\n{FORGED}"=1')
    assert (in_json["process"], in_json["level"]) == ("child", "INFO")
    assert trace == ["  a", r"  \u001b[2Jb", f"  {FORGED}"]


def test_a_level_that_is_text_is_none() -> None:
    kept = as_sent(encoded({"msg": "x", "levelno": f"x: y\n{FORGED}", "created": 0, "msecs": 0, "fields": {}}), GOOD)

    assert kept.lines[0] == "1970-01-01T00:00:00.000Z NOTSET child: x"
