"""Log records: levels, both formats, and the way from a child that may be killed or hostile."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import pickle
import select
import signal
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from ossensor import logs
from ossensor.logs import ANTIGENA, CHUNK, INFO, PACKET, SEND, STATS, ChildHandler, JsonFormatter, TextFormatter, fields

FORK = multiprocessing.get_context("fork")
DEADLINE_S = 20.0
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
    """configure() is for a process of its own; here it shares one with pytest."""
    root = logging.getLogger()
    names = (None, "urllib3", "requests", "asyncio", "http_message_signatures")
    before = root.handlers[:], [logging.getLogger(name).level for name in names]
    yield
    root.handlers[:] = before[0]
    for name, level in zip(names, before[1], strict=True):
        logging.getLogger(name).setLevel(level)


def start_child(
    kept: Kept, work: Callable[[ChildHandler], None], name: str = "child"
) -> tuple[BaseProcess, ChildHandler]:
    """What spawn.py does, without the privileges."""
    handler = ChildHandler(kept, name)

    def live() -> None:
        try:
            handler.adopt()
            logging.getLogger().setLevel(PACKET)
            work(handler)
            handler.flush_briefly(5.0)
        finally:
            os._exit(0)

    process = FORK.Process(target=live, name=name, daemon=True)
    process.start()
    handler.listen()
    return process, handler


def finish(process: BaseProcess, handler: ChildHandler) -> None:
    """The child is gone and everything that it wrote has been read: no timing involved."""
    process.join(DEADLINE_S)
    assert process.exitcode is not None
    handler._receive_thread.join(DEADLINE_S)
    assert not handler._receive_thread.is_alive()
    process.close()


def from_child(work: Callable[[ChildHandler], None]) -> Kept:
    kept = Kept()
    finish(*start_child(kept, work))
    return kept


# -- levels and formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", range(6))
def test_a_debug_level_shows_exactly_its_own_lines_and_those_below(
    debug: int, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(debug, "text")
    for level in (logging.ERROR, logging.WARNING, INFO, STATS, SEND, ANTIGENA, CHUNK, PACKET, logging.DEBUG):
        log.log(level, "x")
    logs.flush_briefly()
    shown = [line.split()[1] for line in capfd.readouterr().err.splitlines()]

    always = ["ERROR", "WARNING", "INFO"]
    assert shown == always + ["STATS", "SEND", "ANTIGENA", "CHUNK", "PACKET"][:debug]


def test_configuring_twice_leaves_one_handler(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(0, "text")
    logs.configure(0, "json")
    log.info("once")
    logs.flush_briefly()

    assert len(capfd.readouterr().err.splitlines()) == 1


def test_libraries_speak_up_only_to_warn(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(5, "text")
    logging.getLogger("urllib3.connectionpool").info("chatter")
    logging.getLogger("urllib3.connectionpool").warning("trouble")
    logs.flush_briefly()

    assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == ["trouble"]


def record(**more: object) -> logging.LogRecord:
    values = {
        "levelno": INFO,
        "levelname": "INFO",
        "msg": "capturing %s",
        "args": ("eth0",),
        "created": 1_795_000_000.25,
        "msecs": 250.0,
        "process": 4711,
        "processName": "oss-cap-eth0",
        **more,
    }
    return logging.makeLogRecord(values)


def test_the_text_format_is_time_level_process_message_fields() -> None:
    text = TextFormatter().format(record(fields={"interface": "eth0", "packets": 3}))

    assert text == "2026-11-18T11:06:40.250Z INFO oss-cap-eth0: capturing eth0 interface=eth0 packets=3"


@pytest.mark.parametrize(
    "value,shown",
    [
        ("plain-1.5/x", "plain-1.5/x"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31m", '"\\u001b[31m"'),
    ],
)
def test_a_field_is_one_word_whatever_a_peer_put_into_it(value: str, shown: str) -> None:
    assert TextFormatter().format(record(fields={"why": value})).endswith(f"capturing eth0 why={shown}")


def test_the_json_format_is_one_object_a_line_with_the_fields_beside() -> None:
    text = JsonFormatter().format(record(fields={"interface": "eth\n0", "packets": 3, "path": Path("/x")}))

    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2026-11-18T11:06:40.250Z",
        "level": "INFO",
        "process": "oss-cap-eth0",
        "pid": 4711,
        "message": "capturing eth0",
        "interface": "eth\n0",
        "packets": 3,
        "path": "/x",
    }


BROKEN = "ValueError: invalid literal for int() with base 10: 'broken'"


def failed_record() -> logging.LogRecord:
    try:
        int("broken")
    except ValueError:
        return record(exc_info=sys.exc_info())
    raise AssertionError


def test_a_traceback_follows_the_text_and_stands_in_the_object() -> None:
    text = TextFormatter().format(failed_record())
    values = json.loads(JsonFormatter().format(failed_record()))

    first, *rest = text.splitlines()
    assert first.endswith("capturing eth0")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", BROKEN)
    assert values["traceback"].splitlines() == rest


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
    assert kept.lines[2].splitlines()[-1] == BROKEN


def test_a_child_speaks_through_nothing_but_its_own_handler() -> None:
    inherited = Kept()
    logging.getLogger().addHandler(inherited)

    kept = from_child(lambda _: log.warning("once"))

    assert (kept.messages(), inherited.messages()) == (["once"], [])


def test_every_record_is_received_or_counted_as_left_out() -> None:
    read, write = os.pipe()

    def work(handler: ChildHandler) -> None:
        handler._bucket = logs.Bucket(per_s=50.0, burst=100)
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
    assert sum(left_out) > 2500


def test_a_reader_that_stands_still_never_blocks_the_child_and_what_overflows_is_counted() -> None:
    kept = Kept()
    handler = ChildHandler(kept, "child")
    handler._bucket = logs.Bucket(per_s=1e9, burst=100_000)
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
    handler.listen()
    handler._receive_thread.join(DEADLINE_S)

    # The queue's semaphore is taken per record and given back by the reader: with no reader, exactly its size went in.
    assert refused == 5000 - logs._QUEUE_RECORDS
    assert len(kept.records) <= logs._QUEUE_RECORDS


def test_a_record_that_was_read_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_QUEUE_RECORDS", 3)
    read, write = os.pipe()

    class Acknowledging(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            os.write(write, b"!")

    def work(handler: ChildHandler) -> None:
        handler._bucket = logs.Bucket(per_s=1e9, burst=1)
        for n in range(20):
            log.info("%d", n)
            if not select.select([read], [], [], DEADLINE_S / 4)[0]:
                return
            os.read(read, 1)

    kept = Acknowledging()
    finish(*start_child(kept, work))
    os.close(read)
    os.close(write)

    assert kept.messages() == [str(n) for n in range(20)]


@pytest.mark.slow
def test_a_child_killed_while_it_logs_silences_nobody_and_leaves_nothing_behind() -> None:
    kept_other = Kept()
    go_read, go_write = os.pipe()

    def quiet(_: ChildHandler) -> None:
        for n in range(20):
            os.read(go_read, 1)
            log.info("%d", n)

    other, other_handler = start_child(kept_other, quiet, "other")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def noisy(handler: ChildHandler) -> None:
        handler._bucket = logs.Bucket(per_s=1e9, burst=1)
        while True:
            log.info("x" * 4000)

    for _ in range(20):
        kept = Kept()
        child, handler = start_child(kept, noisy, "noisy")
        until_s = time.monotonic() + DEADLINE_S
        while len(kept.records) < 5 and time.monotonic() < until_s:
            time.sleep(0.001)  # it logs hard now
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        finish(child, handler)
        assert {len(message) for message in kept.messages()} == {4000}  # none cut short, none mixed
        os.write(go_write, b"!")
    del child, handler, kept

    finish(other, other_handler)
    os.close(go_read)
    os.close(go_write)
    assert kept_other.messages() == [str(n) for n in range(20)]
    del other, other_handler
    # The other child took its reader with it, and its sentinel; the twenty left none.
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors - 2


# -- from a hostile child ---------------------------------------------------------------------------------------------


class Hostile:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def as_sent(*messages: bytes, honest_count: bool = True) -> Kept:
    """What the supervisor makes of these bytes in a child's pipe."""
    kept = Kept()
    handler = ChildHandler(kept, "child")
    for message in messages:
        if honest_count:
            handler.queue._sem.acquire()  # type: ignore[attr-defined]
        handler.queue._writer.send_bytes(message)  # type: ignore[attr-defined]
    handler.listen()
    handler._receive_thread.join(DEADLINE_S)
    assert not handler._receive_thread.is_alive()
    return kept


GOOD = pickle.dumps({"msg": "good", "levelno": INFO, "levelname": "INFO", "fields": {}})


@pytest.mark.parametrize("honest_count", [True, False], ids=["counted", "past the semaphore"])
def test_a_pickle_that_would_run_a_command_is_refused_and_the_next_record_is_read(
    tmp_path: Path, *, honest_count: bool
) -> None:
    marker = tmp_path / "executed"
    kept = as_sent(pickle.dumps(Hostile(f"touch {marker}")), GOOD, honest_count=honest_count)

    assert not marker.exists()
    assert len(kept.records) == 2
    assert kept.messages()[0].startswith("unreadable log record: ")
    if honest_count:
        assert kept.messages()[1] == "good"


def test_the_hostile_pickle_is_hostile(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(f"touch {marker}")))  # noqa: S301  so that the test above can fail

    assert marker.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "os.system", "logging.LogRecord", "collections.OrderedDict"]
)
def test_no_name_at_all_is_looked_up(name: str) -> None:
    module, attribute = name.rsplit(".", 1)
    message = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n."

    assert as_sent(message).messages() == [f"unreadable log record: a log record may not name {name}"]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x80",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps([1, 2]),
        pickle.dumps("text"),
        pickle.dumps({1: 2}),
        pickle.dumps({"msg": "x", "levelno": "high"}),
        pickle.dumps({"msg": "x", "fields": 7}),
        pickle.dumps({"msg": "x", "created": "now"}),
        pickle.dumps({"msg": "%s %s", "args": (1,)}),
        pickle.dumps({"msg": "x", "exc_info": (1, 2, 3)}),
    ],
)
def test_a_record_of_wrong_types_does_not_end_the_thread(message: bytes) -> None:
    assert as_sent(message, GOOD).messages()[-1] == "good"


def doubled(times: int) -> list[object]:
    """A list that is short as a pickle, which names what repeats, and long as a text."""
    nest: list[object] = ["x"]
    for _ in range(times):
        nest = [nest, nest]
    return nest


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"msg": "%5000000d", "args": (1,)}, id="arguments"),
        pytest.param({"msg": doubled(16)}, id="message"),
        pytest.param({"msg": "x", "fields": {"x": doubled(16)}}, id="field"),
        pytest.param({"msg": "x", "levelname": doubled(16)}, id="level"),
        pytest.param({"msg": "x", "processName": doubled(16)}, id="process"),
    ],
)
def test_a_small_record_cannot_be_made_to_expand(values: dict[str, object]) -> None:
    message = pickle.dumps({"levelname": "INFO", "levelno": INFO, **values})
    kept = as_sent(message, GOOD)

    assert len(message) < 400
    assert max(len(line) for line in kept.lines) < 64 << 10


def test_a_small_pickle_cannot_take_much_memory() -> None:
    bomb = b"Nr" + struct.pack("<I", 1 << 21) + b"."  # None, remembered as number two million; 2**31 is as short
    tracemalloc.start()
    try:
        logs._PlainUnpickler(io.BytesIO(bomb)).load()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20


def test_a_record_that_claims_a_gigabyte_ends_the_conversation_before_it_is_read() -> None:
    kept = Kept()
    handler = ChildHandler(kept, "child")
    read, write = os.pipe()

    def live() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        handler.queue._reader.close()  # type: ignore[attr-defined]  # the parent's is the only one then
        fd = handler.queue.write_fd()
        taken = os.write(fd, struct.pack("!i", 1 << 30))
        try:
            while taken < 32 << 20:
                taken += os.write(fd, bytes(1 << 16))
        except BrokenPipeError:
            pass
        os.write(write, struct.pack("<I", taken))
        os._exit(0)

    process = FORK.Process(target=live, daemon=True)
    process.start()
    handler.listen()
    finish(process, handler)
    (taken,) = struct.unpack("<I", os.read(read, 4))
    os.close(read)
    os.close(write)

    assert taken < 1 << 20
