"""D5: each system call that the uploader makes fails, with each error that it plausibly can; the books balance.

Whether the uploader goes on or ends of it is its own affair: its successor finds every batch where it was. Left out is
what cannot fail for who asks rightly (futex, ioctl(FIONBIO), gettid, rt_sigprocmask, restart_syscall), and what the
allocator calls at moments of its own (mprotect, madvise, munmap), for which mmap stands.

Files it opens for its spool alone, below: with VSENSOR_TLS=key a handshake reads no certificates, so openat, newfstatat
and getdents64 are not made any more where a connection is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from harness import frames, proc
from harness.programs import UPLOADER, Sensor
from harness.tracer import Failing
from harness.world import World, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

PER_SECOND = 500
HIT_WITHIN_S = 20.0  # a call that is made is met at once; only one that is not, or a machine that stands still, waits
TRIES = 2
IN_SPOOL = 40_000
DEATHS_A_LIFE = 4  # the back-off after a fifth would take longer than the rest of the test
CHANGES = {"OSSENSOR_SECCOMP": "off", **unread_for(20)}
_LONG = bool(os.environ.get("OSSENSOR_CHAOS"))
_NTHS = (1, 2, 3) if _LONG else (1,)


def _nothing(_: World) -> None:
    """The call is made all the time."""


def _reconnect(world: World) -> None:
    """The call is made where a connection is: those that there are, are cut."""
    world.sensor.run("ss", "-K", "dst", "10.9.0.2")


def _another_interface(world: World) -> None:
    """The call is made where the slots of an interface are taken over."""
    if "cap1" in world.sensor.links():
        world.remove_link("cap1")
    world.add_link("cap1")


class Fault(NamedTuple):
    call: str
    error: str
    provoke: Callable[[World], None]
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.call}: {self.error} ({self.nth})"


_PLAN: Final = [
    ("poll", "ENOMEM EINTR", _nothing),
    ("read", "ECONNRESET ETIMEDOUT EIO EINTR", _nothing),
    ("write", "EPIPE ECONNRESET ENOBUFS EINTR", _nothing),
    ("recvfrom", "ENOMEM EINTR", _nothing),
    ("recvmsg", "ENOMEM EINTR", _nothing),
    ("sendmsg", "ENOBUFS EPIPE", _reconnect),
    ("sendto", "ENOBUFS EPIPE EINTR", _reconnect),
    ("socket", "EMFILE ENFILE ENOBUFS", _reconnect),
    ("connect", "ECONNREFUSED ETIMEDOUT ENETUNREACH EHOSTUNREACH EADDRNOTAVAIL", _reconnect),
    ("setsockopt", "ENOBUFS", _reconnect),
    ("getsockopt", "ENOBUFS", _reconnect),
    ("getsockname", "ENOBUFS", _reconnect),
    ("getpeername", "ENOTCONN", _reconnect),
    ("clone3", "EAGAIN ENOMEM", _reconnect),
    ("close", "EIO EINTR", _reconnect),
    ("mmap", "ENOMEM", _another_interface),
]


def _planned() -> list[Fault]:
    """In `make test` one error for each call."""
    return [
        Fault(call, error, provoke, nth)
        for nth in _NTHS
        for call, errors, provoke in _PLAN
        for error in errors.split()[: None if _LONG else 1]
    ]


def _strike(world: World, sensor: Sensor, fault: Fault) -> bool:
    """Whether the call was made, and failed."""
    pid, trace = sensor.one(UPLOADER), world.folder / "trace"
    trace.unlink(missing_ok=True)
    with Failing(pid, fault.call, fault.error, trace, nth=fault.nth) as failing:
        for _ in range(TRIES):
            fault.provoke(world)
            if proc.happened(failing.failed, HIT_WITHIN_S):
                return True
    return False


def _life(world: World, faults: deque[Fault], first: int) -> tuple[Sensor, int, list[tuple[Fault, bool, bool]]]:
    """A sensor that has stopped, how many frames were sent, and of each fault: whether it struck, and was the end."""
    sensor = world.start_sensor("cap0", changes=CHANGES)
    sender = world.sender("cap0", per_second=PER_SECOND, first=first)
    stored = world.stored_bytes("cap0")
    proc.eventually("it stores", lambda: world.stored_bytes("cap0") > stored)
    did, deaths = [], 0
    while faults and deaths < DEATHS_A_LIFE:
        fault = faults.popleft()
        struck = _strike(world, sensor, fault)
        before = world.stored_bytes("cap0")
        proc.eventually(f"it stores after {fault}", lambda: world.stored_bytes("cap0") > before)  # noqa: B023
        now = len(sensor.records("uploader died"))
        did.append((fault, struck, now > deaths))
        deaths = now
    sent = sender.stop()
    assert sensor.terminate()[0] == 0
    return sensor, sent, did


def test_d5_each_call_of_the_uploader_fails_and_nothing_is_lost(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    planned, first = _planned(), 0
    faults, did = deque(planned), []

    while faults:
        sensor, sent, met = _life(world, faults, first)
        books = sensor.books()
        assert (books["received"], books["delivered"], books["in_flight"]) == (sent, sent, 0)
        did += met
        first += sent

    missed = [str(fault) for fault, struck, _ in did if not struck]
    deadly = [str(fault) for fault, _, died in did if died]
    print(f"{len(planned)} failures planned, not met: {missed}; {first} frames; the uploader died of {deadly}")
    assert frames.verdict(range(first), sorted(world.stored_numbers("cap0"))) == ""
    assert len(missed) <= len(planned) // 10


_SPOOL: Final = [
    ("openat", "ENOSPC EMFILE EROFS EACCES"),
    ("write", "ENOSPC EIO EDQUOT"),
    ("fsync", "EIO ENOSPC EDQUOT"),
    ("rename", "EIO ENOSPC EROFS"),
    ("close", "EIO"),
    ("unlink", "EIO EROFS EBUSY"),
    ("lseek", "EIO"),
    ("mmap", "ENOMEM"),
]
_OF_READING = {"unlink", "lseek"}


@pytest.mark.skipif(not _LONG, reason="twenty seconds each: make chaos; fsync and rename: test_surroundings.py")
@pytest.mark.parametrize("call,error", [(call, error) for call, errors in _SPOOL for error in errors.split()])
def test_d5_each_call_of_the_spool_fails_and_nothing_is_lost(
    world: World, open_folder: Path, call: str, error: str
) -> None:
    world.add_link("cap0")
    folder = open_folder / f"spool-{call}-{error}"
    changes = {"OSSENSOR_SECCOMP": "off", "OSSENSOR_BUFFER_MB": "8", "OSSENSOR_BATCH_MS": "100"}
    changes["OSSENSOR_SPOOL_DIR"] = str(folder)
    sensor = world.start_sensor("cap0", changes=changes)
    if call in _OF_READING:
        world.send("cap0", IN_SPOOL)
        proc.eventually("some is in the spool", lambda: list(folder.glob("*.pcapng")))
    with Failing(sensor.one(UPLOADER), call, error, world.folder / "trace") as failing:
        if call in _OF_READING:
            world.start_vsensor()
        else:
            world.send("cap0", IN_SPOOL)
        assert proc.happened(failing.failed, proc.HANGS_S)
    if call not in _OF_READING:
        world.start_vsensor()
    proc.eventually("all is stored", lambda: world.holds("cap0", IN_SPOOL))

    assert sensor.terminate()[0] == 0
    books = sensor.books()
    print(f"{call} {error}: {books}; the uploader died {len(sensor.records('uploader died'))} times")
    assert frames.verdict(range(IN_SPOOL), world.stored_numbers("cap0")) == ""
    assert books["received"] == IN_SPOOL == books["delivered"] + books.get("spooled", 0)
