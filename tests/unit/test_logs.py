"""Log records: levels, both formats, and the way from a child that may be killed or hostile."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ossensor import logs
from ossensor.logs import ANTIGENA, CHUNK, INFO, PACKET, SEND, STATS, JsonFormatter, TextFormatter

FORK = multiprocessing.get_context("fork")
DEADLINE_S = 120.0  # that only a hang reaches
log = logging.getLogger("ossensor.test")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_UNWRITTEN_S", DEADLINE_S)


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


def written() -> None:
    """Returns once what was logged has been written, however long a busy machine takes for it."""
    logs.flush_briefly()


# -- levels and formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", range(6))
def test_a_debug_level_shows_exactly_its_own_lines_and_those_below(
    debug: int, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(debug, "text")
    for level in (logging.ERROR, logging.WARNING, INFO, STATS, SEND, ANTIGENA, CHUNK, PACKET, logging.DEBUG):
        log.log(level, "x")
    written()
    shown = [line.split()[1] for line in capfd.readouterr().err.splitlines()]

    always = ["ERROR", "WARNING", "INFO"]
    assert shown == always + ["STATS", "SEND", "ANTIGENA", "CHUNK", "PACKET"][:debug]


def test_configuring_twice_leaves_one_handler(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(0, "text")
    logs.configure(0, "json")
    log.info("once")
    written()

    assert len(capfd.readouterr().err.splitlines()) == 1


def test_libraries_speak_up_only_to_warn_and_urllib3_whom_a_peer_can_make_warn_not_even_then(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure(5, "text")
    for name in ("asyncio", "urllib3.connectionpool"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble of %s", name)
        logging.getLogger(name).error("failure of %s", name)
    written()

    assert [line.split(": ")[-1] for line in capfd.readouterr().err.splitlines()] == [
        "trouble of asyncio",
        "failure of asyncio",
        "failure of urllib3.connectionpool",
    ]


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


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_read", [True, False])
def test_at_the_end_a_busy_machine_gets_more_time_than_a_reader_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, *, is_read: bool
) -> None:
    monkeypatch.setattr(logs, "_UNREAD_S", 0.05)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while not is_read:
            os.write(write, bytes(4096))
    lines: queue.Queue[str] = queue.Queue()
    lines.put("the last words")
    writer = threading.Timer(0.5, lines.task_done)  # it gets no processor before
    if is_read:
        writer.start()
    logs.wait_briefly(lines, write)

    assert lines.unfinished_tasks == (0 if is_read else 1)
    for fd in (read, write):
        os.close(fd)


def test_no_line_is_lost_where_standard_error_is_not_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    monkeypatch.setattr(logs, "_STDERR", write)
    outlet = logs.Outlet()
    outlet.start()
    said = [f"{n} {'x' * 4096}" for n in range(100)]  # several times what a pipe holds
    for text in said:
        outlet.emit(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    with os.fdopen(read, encoding="ascii") as reader, ThreadPoolExecutor(1) as pool:
        arrived = pool.submit(reader.read)
        outlet._lines.join()
        os.close(write)
        assert arrived.result().splitlines() == said
