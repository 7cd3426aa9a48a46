"""What every child does first and last: heartbeat, signals as input, exit codes. Real forks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ossensor.childlog import ChildHandler, Listener
from ossensor.children import describe
from ossensor.confine.cell import Cell
from ossensor.confine.policy import Role
from ossensor.errors import Exit
from ossensor.logs import TextFormatter
from ossensor.workers.child import Birth, Heartbeat, Signals, live

FORK = multiprocessing.get_context("fork")
DEADLINE_S = 120.0  # that only a hang reaches
FLOOD = 2_000


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    word = Heartbeat()
    yield word
    word.close()


def test_a_new_heart_has_just_beaten() -> None:
    before_s = time.monotonic()
    heartbeat = Heartbeat()
    age_s = heartbeat.age_s

    assert 0.0 <= age_s <= time.monotonic() - before_s
    heartbeat.close()


def test_the_parent_sees_the_childs_beat_and_the_child_beats_nobody_elses(heartbeat: Heartbeat) -> None:
    other = Heartbeat()
    for word in (heartbeat, other):
        word._word[0] = time.monotonic_ns() - 3600_000_000_000
    pid = os.fork()
    if not pid:
        heartbeat.beat()
        os._exit(0)
    os.waitpid(pid, 0)

    assert heartbeat.age_s < 1800.0
    assert other.age_s >= 3600.0
    other.close()


def test_the_last_beat_outlives_the_child_that_was_killed(heartbeat: Heartbeat) -> None:
    pid = os.fork()
    if not pid:
        heartbeat._word[0] = 42
        signal.pause()
    until_s = time.monotonic() + DEADLINE_S
    while heartbeat._word[0] != 42 and time.monotonic() < until_s:
        os.sched_yield()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert heartbeat._word[0] == 42


class Said(logging.Handler):
    """What the supervisor would print."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def life(
    heartbeat: Heartbeat,
    work: Callable[[Signals], Exit],
    *,
    name: str = "oss-test",
    keep_fds: tuple[int, ...] = (),
    parent_pid: int | None = None,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> tuple[int, list[str]]:
    """The exit code of a child that lives for `work`, and what it logged."""
    said = Said()
    handler = ChildHandler(said, "child")
    ids = os.getuid(), os.getgid()
    birth = Birth(name, parent_pid or os.getpid(), *ids, handler, heartbeat, keep_fds, Cell(Role.CAPTURE, None))
    process = FORK.Process(target=live, args=(birth, work), name="oss-test", daemon=True)
    process.start()
    listener = Listener()
    listener.add(handler)
    assert process.pid is not None
    meanwhile(process.pid)
    process.join(DEADLINE_S)
    code = process.exitcode
    assert code is not None
    process.close()
    assert listener.wait_for_the_end(DEADLINE_S)
    # In a user namespace that maps one user there is no other to become, and the child says so.
    return code, [line for line in said.lines if "uid stays" not in line]


@pytest.mark.parametrize(
    "name", ["oss-cap-b\u00fcro0", "oss-cap-\u65e5\u672c\u8a9e"]
)  # the second is cut within a letter
def test_a_child_begins_whatever_the_interface_is_called(
    heartbeat: Heartbeat, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert life(heartbeat, lambda _: Exit.DRAINED, name=name) == (0, [])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("code", Exit)
def test_a_child_ends_with_the_code_that_its_work_returns(heartbeat: Heartbeat, code: Exit) -> None:
    assert life(heartbeat, lambda _: code) == (code.value, [])


def test_a_bug_ends_the_child_with_70_and_its_traceback_goes_to_standard_error(
    heartbeat: Heartbeat, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(_: Signals) -> Exit:
        raise KeyError("a bug of ours")

    assert life(heartbeat, work) == (70, [])
    said = capfd.readouterr().err.splitlines()
    assert (said[0], said[-1]) == ("Traceback (most recent call last):", "KeyError: 'a bug of ours'")


def test_a_failed_begin_is_a_bug_too_and_the_work_is_not_begun(
    heartbeat: Heartbeat, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError("prctl(PR_SET_NO_NEW_PRIVS) failed")

    monkeypatch.setattr("ossensor.workers.privileges.drop_everything", refuse)

    assert life(heartbeat, lambda _: Exit.DRAINED) == (70, [])
    assert capfd.readouterr().err.splitlines()[-1] == "OSError: prctl(PR_SET_NO_NEW_PRIVS) failed"


def test_what_a_child_logs_last_is_heard_before_it_leaves(heartbeat: Heartbeat) -> None:
    def work(_: Signals) -> Exit:
        for n in range(100):
            logging.getLogger("x").error("%d", n)
        return Exit.DRAINED

    code, lines = life(heartbeat, work)

    assert (code, [line.split()[-1] for line in lines]) == (0, [str(n) for n in range(100)])


def wait_for_sigterm(signals: Signals) -> Exit:
    assert signals.take() == set()
    os.write(READY[1], b"!")
    select.select([signals.fileno()], [], [], DEADLINE_S)
    taken = signals.take()
    return Exit.DRAINED if taken == {signal.SIGTERM} and signals.take() == set() else Exit.GAVE_UP


READY: list[int] = []


def test_sigterm_is_input_to_the_loop_and_ends_nothing_by_itself(heartbeat: Heartbeat) -> None:
    READY[:] = os.pipe()

    def terminate(pid: int) -> None:
        os.read(READY[0], 1)
        os.kill(pid, signal.SIGTERM)

    code, lines = life(heartbeat, wait_for_sigterm, keep_fds=(READY[1],), meanwhile=terminate)
    for fd in READY:
        os.close(fd)

    assert (code, lines) == (0, [])


def test_a_sigterm_in_a_flood_of_another_signal_is_heard_though_the_descriptor_is_full(heartbeat: Heartbeat) -> None:
    def work(_: Signals) -> Exit:
        signals = Signals(signal.SIGHUP, signal.SIGTERM)
        for _ in range(FLOOD):
            signal.raise_signal(signal.SIGHUP)
        full = os.read(signals.fileno(), 4096)
        for _ in range(FLOOD):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        heard = [signals.take(), signals.take()]
        return Exit.DRAINED if len(full) < FLOOD and heard == [{signal.SIGHUP, signal.SIGTERM}, set()] else Exit.GAVE_UP

    assert life(heartbeat, work) == (0, [])


def test_an_interrupt_typed_at_the_terminal_is_left_to_the_supervisor(heartbeat: Heartbeat) -> None:
    READY[:] = os.pipe()

    def interrupt(pid: int) -> None:
        os.read(READY[0], 1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(pid, number)

    code, lines = life(heartbeat, wait_for_sigterm, keep_fds=(READY[1],), meanwhile=interrupt)
    for fd in READY:
        os.close(fd)

    assert (code, lines) == (0, [])


def test_a_child_keeps_the_descriptors_on_its_list_and_its_own_and_no_others(heartbeat: Heartbeat) -> None:
    read, write = os.pipe()
    with Path("/dev/null").open("rb"):

        def work(signals: Signals) -> Exit:
            held = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208  pathlib's iterdir is no leaner
            handler = logging.getLogger().handlers[0]
            assert isinstance(handler, ChildHandler)
            log_fd = handler.sending.fileno()
            listing = {fd for fd in held if not Path(f"/proc/self/fd/{fd}").exists()}  # what held the listing itself
            wakeup = {signals.fileno(), signals._write.fileno()}
            strangers = held - listing - wakeup - {0, 1, 2, write, log_fd}
            return Exit.DRAINED if not strangers and {write, log_fd} <= held else Exit.GAVE_UP

        assert life(heartbeat, work, keep_fds=(write,)) == (0, [])
    os.close(read)
    os.close(write)


def test_a_child_whose_parent_died_before_it_could_ask_to_die_with_it_ends(heartbeat: Heartbeat) -> None:
    def work(_: Signals) -> Exit:
        return Exit.GAVE_UP

    assert life(heartbeat, work, parent_pid=1 if os.getppid() != 0 else 2) == (0, [])


def test_what_a_killed_child_is_said_to_have_died_of(heartbeat: Heartbeat) -> None:
    def work(_: Signals) -> Exit:
        signal.pause()
        return Exit.DRAINED

    code, _ = life(heartbeat, work, meanwhile=lambda pid: os.kill(pid, signal.SIGKILL))

    assert describe(code) == "signal 9 (out of memory?)"
